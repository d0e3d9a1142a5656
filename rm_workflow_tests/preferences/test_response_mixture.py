"""Labelled responses of sources: rules counted, prompts whole on one side, ranks exact, pairs made of ranks."""

import hashlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as given_examples
from hypothesis import strategies as st

from rm_workflow.artifacts import Built
from rm_workflow.catalog.models import Mixture, Sample, Source, Split
from rm_workflow.errors import UserError
from rm_workflow.keys import content_id
from rm_workflow.preferences.audit import build_audit
from rm_workflow.preferences.labelled_mixture import MOST_PAIRED
from rm_workflow.preferences.overlap import build_overlap
from rm_workflow.preferences.response_mixture import RULES, ResponsePart, build_response_mixture
from rm_workflow.preferences.show import dropped_rows, kept_rows
from rm_workflow_tests.preferences.raw_tables import RawRow, Shown, rated, read, write_benchmark, write_raw

FILES = {"train": ["train.jsonl"], "test": ["test.jsonl"]}
H = {"ratings": ["h"]}
HC = {"ratings": ["h", "c"]}


def solved(prompt: str, answers: Sequence[tuple[str, float | None]], row: int, file: str = "train.jsonl") -> RawRow:
    return RawRow(prompt, [Shown(str(i), text, outcome=value) for i, (text, value) in enumerate(answers)], row, file)


def mix(
    folder: Path,
    rows: Mapping[str, Sequence[RawRow]],
    uses: Mapping[str, Mapping] | None = None,
    benchmarks: Mapping[str, Path] | None = None,
    **fields,
) -> tuple[Built, list[dict], list[dict]]:
    uses, benchmarks = uses or dict.fromkeys(rows, H), benchmarks or {}
    parts = [{name: dict(use)} if use else name for name, use in uses.items()]
    mixture = Mixture(
        kind="responses",
        responses=parts,
        decontaminate_against=list(benchmarks),
        **{"split": Split(by="native"), **fields},
    )
    source = Source(path="somewhere", files=FILES, adapter="any", licence="MIT")
    out = folder / "out"
    out.mkdir(parents=True)
    of = [
        ResponsePart(use, source, write_raw(folder / use.name, rows[use.name], use.name)) for use in mixture.responses
    ]
    built = build_response_mixture(mixture, of, benchmarks, out)
    return built, read(out / "labelled.parquet"), read(out / "dropped.parquet")


def by_text(rows: Sequence[dict], prompt: str, texts: Sequence[str]) -> dict[str, dict]:
    prompt_id = rated(prompt, [], 0).prompt_id
    names = {content_id([prompt_id, text]): text for text in texts}
    return {names[row["response_id"]]: row for row in rows if row["response_id"] in names}


def test_a_response_has_the_mean_of_the_ratings_it_has_and_a_rank_among_those_of_its_prompt(tmp_path: Path):
    answers = [("a", {"h": 4, "c": 3}), ("b", {"h": 3.5}), ("c", {"c": 1, "style": 9}), ("d", {"style": 5})]
    built, labelled, dropped = mix(tmp_path, {"one": [rated("Hi", answers, 1)]}, {"one": HC})
    found = by_text(labelled, "Hi", "abcd")
    assert {text: (row["score"], row["rank"]) for text, row in found.items()} == {
        "a": (3.5, 1),
        "b": (3.5, 1),
        "c": (1.0, 2),
    }
    assert dict(found["a"]["values"]) == {"h": 4, "c": 3}
    assert dict(found["c"]["values"]) == {"c": 1}
    assert [(drop["rule"], drop["stage"], drop["slots"], drop["excerpt"]) for drop in dropped] == [
        ("rating", "response", ["3"], "d")
    ]
    assert list(built.facts["dropped"]) == list(RULES)
    assert all(check.passed for check in built.checks)


def test_outcome_labels_are_taken_where_no_rating_is_named(tmp_path: Path):
    rows = [solved("2+3?", [("5", 1), ("6", 0), ("who knows", None)], 1), solved("2+4?", [("6", 1)], 2)]
    built, labelled, _ = mix(tmp_path, {"one": rows}, {"one": {}})
    assert {text: (row["score"], row["rank"]) for text, row in by_text(labelled, "2+3?", ["5", "6"]).items()} == {
        "5": (1.0, 1),
        "6": (0.0, 2),
    }
    assert dict(labelled[0]["values"]).keys() == {"outcome"}
    assert (built.facts["kept"], built.facts["dropped"]["rating"]) == (3, 1)


def test_an_empty_response_is_dropped_alone(tmp_path: Path):
    rows = [solved("2+3?", [("5", 1), (" \n\u3000", 0), ("6", 0), ("\u200b", 0)], 1)]
    built, labelled, dropped = mix(tmp_path, {"one": rows}, {"one": {}})
    assert [(drop["rule"], drop["slots"], drop["row"]) for drop in dropped] == [("empty_message", ["1"], 1)]
    assert (built.facts["candidates"], built.facts["kept"], len(labelled)) == (4, 3, 3)


def test_a_repeated_response_stays_once_and_one_with_two_labels_not_at_all(tmp_path: Path):
    rows = [
        rated("Hi", [("a", {"h": 4}), ("b", {"h": 2}), ("c", {"h": 1})], 1),
        rated("Hi", [("a", {"h": 4}), ("b", {"h": 3}), ("b", {"h": 2})], 2),
    ]
    _, labelled, dropped = mix(tmp_path, {"one": rows})
    assert by_text(labelled, "Hi", "abc").keys() == {"a", "c"}
    assert len(labelled) == 2
    assert [(drop["row"], drop["rule"], drop["slots"]) for drop in dropped] == [
        (1, "contradictory", ["1"]),
        (2, "contradictory", ["1"]),
        (2, "exact_duplicate", ["0"]),
        (2, "exact_duplicate", ["2"]),
    ]
    assert dropped[0]["detail"] == "2, 3"
    assert dropped[2]["detail"] == by_text(labelled, "Hi", "a")["a"]["label_id"]


def test_prompts_without_a_ranking_are_dropped_where_the_mixture_asks_for_rankings(tmp_path: Path):
    rows = [
        rated("Hi", [("a", {"h": 4}), ("b", {"h": 4})], 1),
        rated("Ho", [("a", {"h": 4})], 2),
        rated("He", [("a", {"h": 4}), ("b", {"h": 2})], 3),
    ]
    built, _, dropped = mix(tmp_path / "ranked", {"one": rows}, {"one": {"ratings": ["h"], "ranked": True}})
    assert [(drop["row"], drop["rule"]) for drop in dropped] == [
        (1, "equal_score"),
        (1, "equal_score"),
        (2, "equal_score"),
    ]
    assert built.facts["kept"] == 2
    built, _, _ = mix(tmp_path / "all", {"one": rows}, {"one": {"ratings": ["h"]}})
    assert (built.facts["kept"], built.facts["dropped"]["equal_score"]) == (5, 0)


def test_a_response_that_two_sources_rate_is_kept_by_the_first(tmp_path: Path):
    rows = {"b": [rated("Hi", [("x", {"h": 4})], 1)], "a": [rated("Hi", [("x", {"h": 1}), ("y", {"h": 2})], 5)]}
    _, labelled, dropped = mix(tmp_path, rows)
    assert {text: row["source"] for text, row in by_text(labelled, "Hi", "xy").items()} == {"x": "b", "y": "a"}
    assert [(drop["source"], drop["rule"], drop["reason"]) for drop in dropped] == [
        ("a", "duplicate_across_sources", "the same response has a label in source b")
    ]


def test_train_responses_of_a_group_in_test_are_dropped_and_counted(tmp_path: Path):
    rows = [
        rated("hi  THERE", [("a", {"h": 4}), ("b", {"h": 2})], 1),
        rated("Ho", [("a", {"h": 4})], 2),
        rated("Hi there", [("c", {"h": 4})], 1, file="test.jsonl"),
    ]
    _, labelled, dropped = mix(tmp_path, {"one": rows})
    assert [(drop["row"], drop["rule"], drop["reason"]) for drop in dropped] == [
        (1, "group_in_test", "its group of prompts has responses in test")
    ] * 2
    assert sorted((row["split"], row["row"]) for row in labelled) == [("test", 1), ("train", 2)]


@pytest.mark.parametrize("policy", ["drop", "mark"])
def test_the_guard_of_pairs_guards_responses(tmp_path: Path, policy: str):
    rows = [rated("What is two plus two?", [("4", {"h": 4}), ("5", {"h": 1})], 1), rated("Ho", [("a", {"h": 4})], 2)]
    bench = {"bench": write_benchmark(tmp_path / "bench", {"item-7": "what is  two plus two?"})}
    built, labelled, dropped = mix(tmp_path, {"one": rows}, benchmarks=bench, leak_policy=policy)
    details = (
        [drop["detail"] for drop in dropped] if policy == "drop" else [row["leak"] for row in labelled if row["leak"]]
    )
    assert len(details) == 2
    assert all(detail.startswith("bench/item-7 (made 0): exact, user turn 1") for detail in details)
    assert built.facts["dropped"]["leak"] == (2 if policy == "drop" else 0)
    assert built.facts["marked"] == (0 if policy == "drop" else 2)
    assert built.facts["leaks"] == {"bench": {"prompts": 1, "responses": 0}}
    assert all(check.passed for check in built.checks)


def test_the_overlap_of_a_mixture_of_responses_names_its_labels(tmp_path: Path):
    rows = [rated("What is two plus two?", [("4", {"h": 4}), ("5", {"h": 1})], 1)]
    bench = {"bench": write_benchmark(tmp_path / "bench", {"item-7": "What is two plus two?"})}
    _, labelled, _ = mix(tmp_path, {"one": rows})
    mixture = Mixture(kind="responses", responses=[{"one": H}], split=Split(by="native"))
    (tmp_path / "overlap").mkdir()
    built = build_overlap(mixture, tmp_path / "out", [tmp_path / "one"], bench, False, tmp_path / "overlap")
    assert built.facts["benchmarks"]["bench"]["verdict"] == "leaky"
    assert built.facts["benchmarks"]["bench"]["train_pairs"] == 2
    (hit,) = read(tmp_path / "overlap" / "overlap.parquet")
    assert hit["pair_id"] in {row["label_id"] for row in labelled}
    assert all(check.passed for check in built.checks)


def test_the_audit_measures_the_pairs_that_the_labels_make_and_counts_their_candidates(tmp_path: Path):
    mix(tmp_path, {"one": [rated("Hi", [("a", {"h": 4}), ("b b b", {"h": 2}), ("c", {})], 1)]})
    (tmp_path / "audit").mkdir()
    built = build_audit(
        tmp_path / "out",
        {},
        [tmp_path / "one"],
        {"commercial_use": "yes", "generators_not_stated": []},
        tmp_path / "audit",
    )
    found = built.facts["sources"]["one"]
    assert (found["pairs"], found["length"]["chosen_words"], found["length"]["rejected_words"]) == (1, 1.0, 3.0)
    assert (found["candidates"], found["dropped"]) == (3, {"rating": 1})
    assert all(check.passed for check in built.checks)


def test_a_sample_takes_whole_train_prompts_by_content(tmp_path: Path):
    rows = [rated(f"Prompt {i}", [(f"{i}a", {"h": 4}), (f"{i}b", {"h": 2})], i) for i in range(20)]
    rows += [rated(f"Test {i}", [("a", {"h": 4})], i, file="test.jsonl") for i in range(3)]
    built, labelled, dropped = mix(tmp_path, {"one": rows}, sample=Sample(train_prompts=7, seed=2))
    prompts = sorted({row.prompt_id for row in rows[:20]}, key=lambda prompt: content_id(["sample", 2, prompt]))
    assert {row["prompt_id"] for row in labelled if row["split"] == "train"} == set(prompts[:7])
    assert (built.facts["train"], built.facts["test"], built.facts["dropped"]["sample"]) == (14, 3, 26)
    assert {drop["reason"] for drop in dropped} == {"its prompt is not among the 7 sampled train prompts"}


def test_repeat_and_weight_are_those_of_the_source(tmp_path: Path):
    rows = {name: [rated(f"{name} {i}", [(f"{i}", {"h": 4})], i) for i in range(2)] for name in ("one", "two")}
    uses = {"one": {**H, "repeat": 3}, "two": {**H, "loss_weight": 0.25}}
    built, labelled, _ = mix(tmp_path, rows, uses)
    assert {(row["source"], row["repeat"], row["weight"]) for row in labelled} == {("one", 3, 1.0), ("two", 1, 0.25)}
    assert built.facts["train_per_epoch"] == 8


def test_pairs_are_made_of_responses_of_one_prompt_and_source_with_different_ranks(tmp_path: Path):
    rows = {
        "one": [rated("Hi", [("a", {"h": 4}), ("b", {"h": 2}), ("c", {"h": 2})], 3)],
        "two": [rated("Hi", [("d", {"h": 1})], 1)],
    }
    built, labelled, _ = mix(tmp_path, rows)
    ids = {text: row["response_id"] for text, row in by_text(labelled, "Hi", "abcd").items()}
    pairs = read(tmp_path / "out" / "pairs.parquet")
    assert by_text(labelled, "Hi", "d")["d"]["rank"] == 1  # two sources' ratings are not compared
    assert {(pair["chosen_id"], pair["rejected_id"]) for pair in pairs} == {(ids["a"], ids["b"]), (ids["a"], ids["c"])}
    first = pairs[0]
    assert (first["chosen_score"], first["rejected_score"], first["split"], first["row"]) == (4.0, 2.0, "train", 3)
    assert first["pair_key"] == content_id([first["prompt_id"], first["chosen_id"], first["rejected_id"]])
    assert first["pair_id"] == content_id([first["pair_key"], "one", 0])
    assert (built.facts["train_pairs"], built.facts["test_pairs"]) == (2, 0)


def test_many_responses_of_a_prompt_make_no_more_pairs_than_those_of_eight(tmp_path: Path):
    rows = [
        rated("Hi", [(f"answer {i}", {"h": i}) for i in range(40)], 1),
        rated("T", [("a", {"h": 1})], 1, "test.jsonl"),
    ]
    built, labelled, _ = mix(tmp_path, {"one": rows})
    pairs = read(tmp_path / "out" / "pairs.parquet")
    paired = {pair[side] for pair in pairs for side in ("chosen_id", "rejected_id")}
    known = sorted(
        (row["response_id"] for row in labelled if row["split"] == "train"),
        key=lambda one: content_id(["pairs", 0, one]),
    )
    assert paired == set(known[:MOST_PAIRED])
    assert len(pairs) == 28
    assert built.facts["kept"] == 41


def test_kept_and_dropped_responses_are_shown(tmp_path: Path):
    mix(tmp_path, {"one": [rated("Hi", [("a", {"h": 4, "c": 3}), ("b", {})], 1)]}, {"one": HC})
    (kept,) = kept_rows(tmp_path / "out", [tmp_path / "one"], 5)
    assert (kept["prompt"], kept["response"], kept["labels"], kept["rank"]) == ("Hi", "a", "h 4, c 3", 1)
    (dropped,) = dropped_rows(tmp_path / "out", [tmp_path / "one"], 5)
    assert (dropped["rule"], dropped["response"], dropped["chosen"], dropped["rejected"]) == ("rating", "b", None, None)


@pytest.mark.parametrize(
    ("use", "words"),
    [
        ({"ratings": ["help"]}, "no response of source 'one' has the rating 'help'; name some of: c, h"),
        ({}, "source 'one' has no outcome labels; name ratings of it"),
    ],
)
def test_labels_that_a_source_does_not_have_are_refused(tmp_path: Path, use, words):
    with pytest.raises(UserError, match=words):
        mix(tmp_path, {"one": [rated("Hi", [("a", {"h": 4, "c": 1})], 1)]}, {"one": use})


def test_a_mixture_without_train_responses_is_refused(tmp_path: Path):
    rows = [rated("Hi", [("a", {"h": 4})], 1, file="test.jsonl")]
    with pytest.raises(UserError, match=r"no train responses: 1 candidates, 1 of them test, .*its sources"):
        mix(tmp_path, {"one": rows})


RATING = st.none() | st.integers(0, 3) | st.sampled_from([0.1, 0.2, 0.3])
SHOWN = st.lists(st.tuples(st.sampled_from("abcde"), RATING, RATING), min_size=1, max_size=6)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given_examples(st.lists(st.tuples(st.sampled_from(["P", "Q", "R"]), SHOWN, st.booleans()), min_size=1, max_size=5))
def test_whatever_the_labels_nothing_vanishes_and_ranks_are_those_of_exact_means(tmp_path_factory, made):
    rows = [rated("anchor", [("good", {"h": 1, "c": 1})], 99)]
    for number, (prompt, shown, is_test) in enumerate(made):
        ratings = [(text, {k: v for k, v in (("h", h), ("c", c)) if v is not None}) for text, h, c in shown]
        rows.append(rated(prompt, ratings, number, "test.jsonl" if is_test else "train.jsonl"))
    folder = tmp_path_factory.mktemp("mix")
    built, labelled, dropped = mix(folder, {"one": rows}, {"one": HC})
    assert all(check.passed for check in built.checks)
    assert len(labelled) + len(dropped) == sum(len(row.responses) for row in rows)
    for prompt_id in {row["prompt_id"] for row in labelled}:
        of_prompt = [(row, exact_mean(row["values"])) for row in labelled if row["prompt_id"] == prompt_id]
        for (one, mean), (other, other_mean) in combinations(of_prompt, 2):
            assert (one["rank"] < other["rank"], one["rank"] == other["rank"]) == (
                mean > other_mean,
                mean == other_mean,
            )


def exact_mean(values: Sequence[tuple[str, float]]) -> Fraction:
    return sum((Fraction(str(value)) for _, value in values), Fraction()) / len(values)


def test_a_rerun_gives_the_same_bytes(tmp_path: Path):
    rows = [rated(f"Prompt {i % 9}", [(f"{i}{j}", {"h": (i * j) % 5, "c": j}) for j in range(4)], i) for i in range(30)]
    rows.append(rated("Test", [("a", {"h": 1})], 1, "test.jsonl"))
    hashes = []
    for name, order in (("first", 1), ("second", -1)):
        mix(tmp_path / name, {"one": rows[::order]}, sample=Sample(train_prompts=5))
        files = sorted((tmp_path / name / "out").iterdir())
        hashes.append({file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files})
    assert hashes[0] == hashes[1]
