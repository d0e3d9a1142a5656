"""The audit's SQL against the same measures in plain Python, row by row."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from duckdb.func import PythonUDFType
from hypothesis import given as given_examples
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rm_workflow.artifacts import Built
from rm_workflow.catalog.loading import load_catalog
from rm_workflow.catalog.models import Mixture, PairSet, Source, Split
from rm_workflow.evaluation.statistics import mean_interval
from rm_workflow.hub import resolve_files
from rm_workflow.preferences import audit
from rm_workflow.preferences.mixture import Member, build_mixture
from rm_workflow.preferences.normalise import normalise
from rm_workflow.preferences.pairs import build_pair_set
from rm_workflow.preferences.raw import build_raw
from rm_workflow.settings import load_settings
from rm_workflow_tests.preferences.raw_tables import RawRow, Shown, given, rated, read, write_raw

LICENCES = {"commercial_use": "yes", "summary": "fine", "generators_not_stated": [], "terms": [], "attributions": []}
SIDES = ("prompt", "chosen", "rejected")
HOSTILE = [
    *("a  b", " a b ", "a\tb\n\nc", "a" + " " * 40 + "b", "\n", "a\x0bb", "a\x1cb\x1fc", "a\x0cb\r\nc"),
    *(
        "Ａ　b",
        "a\u00a0b",
        "a\u2028b\u2029c",
        "\u200fשלום",
        "e\u0301  É",
        "ß\x85x",
        "½ cup",
        "NUL\0 x",
        "  \u3000 ",
        "[INST] a",
    ),
]


@dataclass(frozen=True)
class Audited:
    """A mixture, what it was made from, and its audit."""

    mixture: Path
    raws: list[Path]
    pair_sets: dict[str, Path]
    out: Path

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        return self.build().facts

    def build(self) -> Built:
        self.out.mkdir(exist_ok=True)
        return audit.build_audit(self.mixture, self.pair_sets, self.raws, LICENCES, self.out)


def audited(folder: Path, sets: Mapping[str, tuple[PairSet, Source, Path]]) -> Audited:
    """Put raw folders through their rules into one mixture."""
    members = []
    for name, (pair_set, source, raw) in sets.items():
        pairs = folder / f"pairs_{name}"
        pairs.mkdir()
        build_pair_set(name, pair_set, raw, pairs)
        members.append(Member(name, pair_set.source, source, pairs, raw))
    mixture = folder / "mixture"
    mixture.mkdir()
    build_mixture(Mixture(pair_sets=list(sets), split=Split(by="native")), members, {}, mixture)
    return Audited(mixture, [one.raw for one in members], {one.pair_set: one.pairs for one in members}, folder / "out")


def by_hand(folder: Path, sources: Mapping[str, Sequence[RawRow]], rules: Sequence[str] = ()) -> Audited:
    """Return an audit of given pairs, one pair set a source."""
    files = Source(path="x", files={"train": ["train.jsonl"], "test": ["test.jsonl"]}, adapter="x", licence="MIT")
    sets = {}
    for name, rows in sources.items():
        pair_set = PairSet(source=name, candidates="given", rules=[*rules, "identical_responses"])
        sets[name] = (pair_set, files, write_raw(folder / f"raw_{name}", rows, name))
    return audited(folder, sets)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    folder = tmp_path_factory.mktemp("samples")
    settings = load_settings()
    catalog = load_catalog(settings)
    sets = {}
    for name in ("sample_dialogues", "sample_ratings"):
        source = catalog.sources[name]
        raw = folder / f"raw_{name}"
        raw.mkdir()
        build_raw(name, source, resolve_files(source, settings), raw)
        sets[name] = (catalog.pair_sets[name], source, raw)
    return audited(folder, sets)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    one = [given(f"P {i}", text, f"no {text}", i) for i, text in enumerate(HOSTILE)]
    one += [given(text, "yes indeed", "no", 100 + i) for i, text in enumerate(HOSTILE)]
    later = [
        {"role": "user", "content": "P 0"},
        {"role": "assistant", "content": "?"},
        {"role": "user", "content": "!"},
    ]
    one += [RawRow(later, [Shown("chosen", "later"), Shown("rejected", "never")], 200)]
    two = [given(f"p  {i}", f"NO  {text}", text, i) for i, text in enumerate(HOSTILE)]
    one += [given("Tested", "[INST] yes", "no", 300, "test.jsonl")]
    return by_hand(tmp_path_factory.mktemp("hostile"), {"one": one, "two": two})


def texts_of(found: Audited) -> tuple[dict[str, Any], dict[str, str]]:
    prompts = {row["prompt_id"]: row["messages"] for raw in found.raws for row in read(raw / "prompts.parquet")}
    responses = {row["response_id"]: row["text"] for raw in found.raws for row in read(raw / "responses.parquet")}
    return prompts, responses


def pairs_of(found: Audited) -> Iterator[dict[str, Any]]:
    """Yield the mixture's pairs with their texts and what these become when compared."""
    prompts, responses = texts_of(found)
    for pair in read(found.mixture / "pairs.parquet"):
        messages = prompts[pair["prompt_id"]]
        chosen, rejected = responses[pair["chosen_id"]], responses[pair["rejected_id"]]
        yield {
            **pair,
            "prompt": "\0".join(message["content"] for message in messages),
            "chosen": chosen,
            "rejected": rejected,
            "prompt_key": tuple((message["role"], normalise(message["content"])) for message in messages),
            "turn": next(normalise(message["content"]) for message in messages if message["role"] == "user"),
            "keys": (normalise(chosen), normalise(rejected)),
            "words": (len(normalise(chosen).split()), len(normalise(rejected).split())),
            "gap": None if pair["chosen_score"] is None else pair["chosen_score"] - pair["rejected_score"],
        }


def expected(pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the measures of one source's pairs."""
    differences = [pair["words"][0] - pair["words"][1] for pair in pairs]
    characters = [len(pair["chosen"]) - len(pair["rejected"]) for pair in pairs]
    labels = Counter((pair["prompt_key"], *pair["keys"]) for pair in pairs if pair["keys"][0] != pair["keys"][1])
    return {
        "pairs": len(pairs),
        "train": sum(pair["split"] == "train" for pair in pairs),
        "test": sum(pair["split"] == "test" for pair in pairs),
        "prompts": len({pair["prompt_key"] for pair in pairs}),
        "most_pairs_of_a_prompt": max(Counter(pair["prompt_key"] for pair in pairs).values()),
        "same_text": sum(pair["keys"][0] == pair["keys"][1] for pair in pairs),
        "repeated_pairs": sum(number - 1 for number in labels.values()),
        "contradicting_pairs": sum(n for (prompt, a, b), n in labels.items() if (prompt, b, a) in labels),
        "difference_words": {"mean": mean(differences), "median": median(differences)},
        "difference_characters": {"mean": mean(characters), "median": median(characters)},
        "longer": mean(difference > 0 for difference in differences),
        "same_length": mean(difference == 0 for difference in differences),
        "gaps": [pair["gap"] for pair in pairs if pair["gap"] is not None],
    }


@pytest.fixture(params=["samples", "hostile"])
def found(request: pytest.FixtureRequest) -> Audited:
    fixture: Audited = request.getfixturevalue(request.param)
    return fixture


def grouped(found: Audited) -> dict[str, list[dict[str, Any]]]:
    sources: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for pair in pairs_of(found):
        sources[pair["source"]].append(pair)
    return dict(sorted(sources.items()))


def test_the_measures_are_those_of_plain_python(found: Audited):
    facts = found.facts
    sources = grouped(found)
    assert list(facts["sources"]) == list(sources)
    for name, pairs in sources.items():
        want, have = expected(pairs), facts["sources"][name]
        for key in ("pairs", "train", "test", "prompts", "most_pairs_of_a_prompt", "same_text"):
            assert have[key] == want[key], key
        for key in ("repeated_pairs", "contradicting_pairs"):
            assert have[key] == want[key], key
        length = have["length"]
        for key in ("difference_words", "difference_characters"):
            assert length[key] == pytest.approx(want[key])
        assert length["chosen_longer"]["share"] == pytest.approx(want["longer"])
        assert length["same_length"] == pytest.approx(want["same_length"])
        assert length["chosen_longer"]["n"] == want["pairs"]
        if want["gaps"]:
            gap = have["score_gap"]
            assert (gap["pairs"], gap["mean"]) == (len(want["gaps"]), pytest.approx(mean(want["gaps"])))
            assert (gap["least"], gap["median"], gap["most"]) == pytest.approx(
                (min(want["gaps"]), median(want["gaps"]), max(want["gaps"]))
            )
        else:
            assert have["score_gap"] is None


def test_the_intervals_are_clustered_by_group(samples: Audited):
    facts = samples.facts
    for name, pairs in grouped(samples).items():
        values = np.array([float(pair["words"][0] > pair["words"][1]) for pair in pairs])
        low, high = mean_interval(values, [pair["group_id"] for pair in pairs])
        longer = facts["sources"][name]["length"]["chosen_longer"]
        assert (longer["ci_low"], longer["ci_high"]) == pytest.approx((low, high), abs=0.004)


def test_the_overlap_of_sources_is_that_of_plain_python(found: Audited):
    facts = found.facts
    turns = {name: {pair["turn"] for pair in pairs} for name, pairs in grouped(found).items()}
    replies = {name: {key for pair in pairs for key in pair["keys"]} for name, pairs in grouped(found).items()}
    want = {
        (what, one, other): len(keys[one] & keys[other])
        for what, keys in (("first_turns", turns), ("responses", replies))
        for one in keys
        for other in keys
    }
    have = {(row["what"], row["source"], row["other_source"]): row["shared"] for row in facts["overlap"]}
    assert have == {key: number for key, number in want.items() if number}


def test_the_conflicts_between_sources_are_those_of_plain_python(found: Audited):
    facts = found.facts
    labels = {
        name: {(pair["prompt_key"], *pair["keys"]) for pair in pairs if pair["keys"][0] != pair["keys"][1]}
        for name, pairs in grouped(found).items()
    }
    want = {
        (one, other): sum((prompt, b, a) in labels[other] for prompt, a, b in labels[one])
        for one, other in combinations(labels, 2)
    }
    have = {(row["source"], row["other_source"]): row["conflicts"] for row in facts["conflicts"]["between"]}
    assert have == {names: number for names, number in want.items() if number}
    assert len(read(found.out / "conflicts.parquet")) == facts["conflicts"]["num_conflicts"] == sum(want.values())


def test_the_lengths_are_binned_as_plain_python_does(found: Audited):
    lengths = found.facts["lengths"]
    for name, pairs in grouped(found).items():
        for side, index in (("chosen", 0), ("rejected", 1)):
            words = [pair["words"][index] for pair in pairs]
            ends = [-1, *lengths["edges"], max(words) + lengths["edges"][-1]]
            want = [sum(low < n <= high for n in words) for low, high in pairwise(ends)]
            assert lengths["counts"][name][side] == want


def test_marks_of_templates_are_counted_by_source_and_side(hostile: Audited):
    facts = hostile.facts
    want = Counter(
        (marker, pair["source"], side)
        for pair in pairs_of(hostile)
        for side in SIDES
        for marker in audit.MARKERS
        if marker in pair[side]
    )
    assert want
    assert {(m["marker"], m["source"], m["side"]): m["pairs"] for m in facts["markers"]} == want
    ids = {pair["pair_id"]: pair for pair in pairs_of(hostile)}
    for one in facts["markers"]:
        assert all(one["marker"] in ids[pair_id][one["side"]] for pair_id in one["pair_ids"])


def test_every_mark_is_found_on_every_side(tmp_path: Path):
    rows = []
    for number, marker in enumerate(audit.MARKERS):
        rows += [given(f"Q{number}", f"good {marker} x", "bad", 3 * number + 1)]
        rows += [given(f"R{number}", "good", f"bad{marker}", 3 * number + 2)]
        rows += [given(f"S{number}{marker}?", "good", "bad", 3 * number + 3)]
    facts = by_hand(tmp_path, {"one": rows}).facts
    found = {(one["marker"], one["side"]): one["pairs"] for one in facts["markers"]}
    assert found == {(marker, side): 1 for marker in audit.MARKERS for side in SIDES}


TEXT = st.text(alphabet=" \t\n\r\x0b\x1c aAbBÉß\u00a0\u3000Ａ", max_size=30)


@hypothesis_settings(max_examples=25, deadline=None)
@given_examples(st.lists(TEXT, min_size=1, max_size=60))
def test_sql_normalises_as_python_does(texts: list[str]):
    with duckdb.connect() as con:
        con.create_function("normalise", audit._normalise_column, ["varchar"], "varchar", type=PythonUDFType.ARROW)
        read_table = pa.table({"n": range(len(texts)), "text": pa.array(texts, pa.string())})
        con.register("read", read_table)
        rows = con.execute(f"with {audit.NORMALISED} select normalised from normalised order by n").fetchall()
    assert [row[0] for row in rows] == [normalise(text) for text in texts]


def test_opposite_labels_repeats_and_conflicts_are_found_across_case_and_spaces(tmp_path: Path):
    one = [given("Hi", "good", "bad", 1), given("hi ", "GOOD", "bad", 2), given("Hi", "bad", "good ", 3)]
    two = [given("HI", "Bad", "good", 1), given("Ho", "good", "bad", 2)]
    facts = by_hand(tmp_path, {"one": one, "two": two}).facts
    measured = facts["sources"]["one"]
    assert (measured["prompts"], measured["repeated_pairs"], measured["contradicting_pairs"]) == (1, 1, 3)
    assert facts["conflicts"]["num_conflicts"] == 1
    (example,) = facts["conflicts"]["examples"]
    assert (example["source"], example["other_source"]) == ("one", "two")
    sentences = [found["sentence"] for found in facts["findings"]]
    assert "one and two label 1 pair in opposite ways" in sentences
    assert "3 of 3 pairs of one stand beside one with the opposite label, which cannot be learnt" in sentences


def test_drops_of_pair_sets_and_mixture_stand_beside_what_is_left(tmp_path: Path):
    rows = [given("Hi", "good", "bad", 1), given("Hi", "good", "bad", 2), given("Ho", "x", "x", 3)]
    audit_of = by_hand(tmp_path, {"one": rows, "two": [rows[0], given("New", "a", "b", 9)]})
    facts = audit_of.facts
    assert facts["sources"]["one"]["candidates"] == 3
    assert facts["sources"]["one"]["dropped"] == {"identical_responses": 1}
    assert facts["sources"]["one"]["repeated_pairs"] == 1
    assert facts["sources"]["two"]["dropped"] == {"duplicate_across_sources": 1}
    assert facts["pair_sets"]["two"]["dropped"] == {}


def test_pair_sets_of_one_source_are_measured_apart_and_together(tmp_path: Path):
    responses = [("best of all", {"a": 3, "b": 1}), ("middle", {"a": 2, "b": 2}), ("least", {"a": 1, "b": 3})]
    raw = write_raw(tmp_path / "raw", [rated("Rate", responses, 1)], "src")
    source = Source(path="x", files={"train": ["train.jsonl"]}, adapter="x", licence="MIT")
    sets = {
        name: (PairSet(source="src", candidates="rated", score=[name], rules=["equal_score"]), source, raw)
        for name in ("a", "b")
    }
    facts = audited(tmp_path, sets).facts
    assert {name: one["pairs"] for name, one in facts["pair_sets"].items()} == {"a": 3, "b": 3}
    assert facts["pair_sets"]["a"]["length"]["chosen_longer"]["share"] == pytest.approx(2 / 3)
    assert facts["sources"]["src"]["pairs"] == 6
    assert facts["sources"]["src"]["contradicting_pairs"] == 6
    assert facts["pair_sets"]["a"]["contradicting_pairs"] == 0


def test_refusals_are_shares_of_each_side(tmp_path: Path):
    refusal = "I'm sorry, but I can't help with that."
    rows = [given(f"Q{i}", "Here it is.", refusal, i) for i in range(30)]
    rows += [given("R", refusal, "Here it is.", 40), given("S", "An answer.", "Another one.", 41)]
    facts = by_hand(tmp_path, {"one": rows}).facts
    refusals = facts["sources"]["one"]["refusals"]
    assert (refusals["chosen"], refusals["rejected"]) == (1 / 32, 30 / 32)
    assert (refusals["lean"]["share"], refusals["lean"]["n"]) == (1 / 31, 31)
    (sentence,) = [found["sentence"] for found in facts["findings"] if found["about"] == "refusals"]
    assert sentence.startswith("a mere refusal loses against an answer in 97 %")


def test_two_runs_write_the_same_bytes(hostile: Audited):
    files = ("conflicts.parquet", "markers.parquet")
    first, bytes_first = hostile.build().facts, [(hostile.out / name).read_bytes() for name in files]
    second, bytes_second = hostile.build().facts, [(hostile.out / name).read_bytes() for name in files]
    assert first == second
    assert bytes_first == bytes_second


def test_a_pair_whose_text_is_missing_fails_the_check(tmp_path: Path):
    found = by_hand(tmp_path, {"one": [given("Hi", "good", "bad", 1), given("Ho", "good", "bad", 2)]})
    write_raw(found.raws[0], [RawRow("Hi", [Shown("chosen", "good"), Shown("rejected", "bad")], 1)], "one")
    (check,) = found.build().checks
    assert not check.passed
    assert dict(check.metadata) == {"pairs": 2, "measured": 1}
