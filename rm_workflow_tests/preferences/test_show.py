"""Rows as a person reads them, and the fate of one pair or row."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from rm_workflow.artifacts import Artifact
from rm_workflow.catalog.models import Mixture, PairSet, Source, Split
from rm_workflow.errors import UserError
from rm_workflow.preferences import show
from rm_workflow.preferences.mixture import Member, build_mixture
from rm_workflow.preferences.pairs import build_pair_set
from rm_workflow.preferences.response_mixture import ResponsePart, build_response_mixture
from rm_workflow.preferences.trace import trace
from rm_workflow_tests.preferences.raw_tables import (
    DROPPED,
    RawRow,
    Shown,
    given,
    rated,
    read,
    vote,
    write,
    write_benchmark,
    write_raw,
)

TURNS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "What | now?\nTell me"},
]
BROKEN = {
    "stage": "row",
    "source": "talks",
    "file": "train.jsonl",
    "row": 9,
    "slots": [],
    "rule": "broken_line",
    "reason": "the row cannot be read",
    "excerpt": "not json",
}


@dataclass(frozen=True)
class Data:
    """Two sources, a pair set of each, and a mixture of both."""

    raws: list[Path]
    talks: Path
    ratings: Path
    mixture: Path
    artifacts: dict[str, list[Artifact]]


def artifact(asset: str, folder: Path, *rules: str) -> Artifact:
    files = {path.name: {} for path in folder.iterdir()}
    return Artifact(asset, "1", folder, {"facts": {"dropped": dict.fromkeys(rules, 0)}, "files": files})


def write_tokens(folder: Path, mixture: Path) -> Path:
    """Write the tables of tokens that drop the pair of row 10 as too long and have the pair of row 11 in test."""
    folder.mkdir()
    pairs = read(mixture / "pairs.parquet")
    kept = [{"pair_id": p["pair_id"], "split": "test" if p["row"] == 11 else "train"} for p in pairs if p["row"] != 10]
    write(folder / "pairs.parquet", kept, pa.schema([("pair_id", pa.string()), ("split", pa.string())]))
    (long,) = (pair for pair in pairs if pair["row"] == 10)
    drop = {**{name: long[name] for name in ("source", "file", "row", "pair_id")}, "rule": "too_long", "stage": "pair"}
    write(folder / "dropped.parquet", [drop], DROPPED)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("data")
    talks = write_raw(
        folder / "raw_talks",
        [
            RawRow(TURNS, [Shown("chosen", "good <b>"), Shown("rejected", "bad")], 1),
            given("Same", "equal", "equal", 2),
            given("Leaked", "yes", "no", 3),
            *(given(f"More {i}", "yes", "no", 10 + i) for i in range(10)),
        ],
        "talks",
    )
    write(talks / "dropped.parquet", [BROKEN], DROPPED)
    scored = [("best", {"quality": 3}), ("middle", {"quality": 2}), ("also middle", {"quality": 2})]
    ratings = write_raw(folder / "raw_ratings", [rated("Rate", scored, 1)], "ratings")
    outs = {name: folder / name for name in ("pairs_talks", "pairs_ratings", "mix")}
    for out in outs.values():
        out.mkdir()
    given_set = PairSet(source="talks", candidates="given", rules=["identical_responses"])
    rated_set = PairSet(source="ratings", candidates="rated", score=["quality"], rules=["equal_score"])
    build_pair_set("talks", given_set, talks, outs["pairs_talks"])
    build_pair_set("ratings", rated_set, ratings, outs["pairs_ratings"])
    source = Source(path="x", files={"train": ["train.jsonl"]}, adapter="x", licence="MIT")
    members = [
        Member("talks", "talks", source, outs["pairs_talks"], talks),
        Member("ratings", "ratings", source, outs["pairs_ratings"], ratings),
    ]
    mixture = Mixture(pair_sets=["talks", "ratings"], split=Split(by="native"), decontaminate_against=["bench"])
    build_mixture(mixture, members, {"bench": write_benchmark(folder / "bench", {"i": "LEAKED"})}, outs["mix"])
    artifacts = {
        "raw": [artifact("raw_talks", talks, "broken_line"), artifact("raw_ratings", ratings)],
        "pairs": [
            artifact("pairs_talks", outs["pairs_talks"], "identical_responses"),
            artifact("pairs_ratings", outs["pairs_ratings"], "equal_score"),
        ],
        "mixture": [artifact("some_mixture", outs["mix"], "leak")],
        "tokens": [artifact("some_tokens", write_tokens(folder / "tokens", outs["mix"]), "too_long")],
    }
    return Data([talks, ratings], outs["pairs_talks"], outs["pairs_ratings"], outs["mix"], artifacts)


def test_kept_pairs_are_shown_with_their_texts(data: Data):
    rows = show.kept_rows(data.mixture, data.raws, 99)
    assert len(rows) == 13
    turns = next(row for row in rows if row["origin"] == "talks:train.jsonl:1")
    assert turns["prompt"] == "user: Hi\n\nassistant: Hello!\n\nuser: What | now?\nTell me"
    assert (turns["chosen"], turns["rejected"], turns["chosen_score"], turns["split"]) == (
        "good <b>",
        "bad",
        None,
        "train",
    )
    best = [row for row in show.kept_rows(data.ratings, data.raws[1:], 9) if row["rejected"] == "middle"]
    assert [(row["prompt"], row["chosen"], row["chosen_score"], row["rejected_score"]) for row in best] == [
        ("Rate", "best", 3.0, 2.0)
    ]


def test_the_same_rows_are_shown_each_time_and_fewer_are_the_first_of_them(data: Data):
    rows = show.kept_rows(data.mixture, data.raws, 9)
    assert show.kept_rows(data.mixture, data.raws, 9) == rows
    assert show.kept_rows(data.mixture, data.raws, 3) == rows[:3]
    assert [row["origin"] for row in rows] != sorted(row["origin"] for row in rows)


def test_rows_of_a_source_come_with_all_their_responses(data: Data):
    (row,) = show.kept_rows(data.raws[1], data.raws[1:], 5)
    assert row["prompt"] == "Rate"
    assert [(one["slot"], one["text"], one["ratings"]) for one in row["responses"]] == [
        ("0", "best", {"quality": 3.0}),
        ("1", "middle", {"quality": 2.0}),
        ("2", "also middle", {"quality": 2.0}),
    ]
    assert "[1] (quality 2) middle" in show.as_text([row])


def test_dropped_pairs_are_shown_with_rule_reason_and_texts(data: Data):
    (equal,) = show.dropped_rows(data.ratings, data.raws[1:], 5)
    assert (equal["rule"], equal["chosen"], equal["rejected"]) == ("equal_score", "middle", "also middle")
    (leak,) = show.dropped_rows(data.mixture, data.raws, 5)
    assert (leak["rule"], leak["prompt"], leak["chosen"], leak["rejected"]) == ("leak", "Leaked", "yes", "no")
    assert leak["detail"] == "bench/i (made 0): exact, user turn 1, 100 % of its words, characters 0 to 6: Leaked"
    assert show.dropped_rows(data.mixture, data.raws, 5, "sample") == []
    assert show.dropped_rows(data.mixture, data.raws, 5, "leak") == [leak]


def test_a_row_that_could_not_be_used_is_shown_by_its_excerpt(data: Data):
    (row,) = show.dropped_rows(data.raws[0], data.raws[:1], 5)
    assert (row["rule"], row["excerpt"], row["prompt"]) == ("broken_line", "not json", None)
    assert "excerpt: not json" in show.as_text([row])


def test_every_rule_has_its_turn_among_few_rows(tmp_path: Path):
    rows = [given(f"Same {i}", "x", "x", i) for i in range(20)]
    rows += [given("Twice", "a", "b", 100 + i) for i in range(2)]
    raw = write_raw(tmp_path / "raw", rows)
    out = tmp_path / "out"
    out.mkdir()
    pair_set = PairSet(source="src", candidates="given", rules=["identical_responses", "exact_duplicate"])
    build_pair_set("x", pair_set, raw, out)
    assert [row["rule"] for row in show.dropped_rows(out, [raw], 3)] == [
        *("exact_duplicate", "identical_responses", "identical_responses")
    ]


def test_a_drop_that_names_a_twin_says_where_it_stands_and_how_it_differs(tmp_path: Path):
    rows = [given("Twice", "a", "b", 1), given("Twice", "a", "b", 2), given("Not sure", "a", "b", 3)]
    rows += [given("Not sure", "b", "a", 4)]
    raw = write_raw(tmp_path / "raw", rows)
    out = tmp_path / "out"
    out.mkdir()
    rules = ["exact_duplicate", "contradictory"]
    build_pair_set("x", PairSet(source="src", candidates="given", rules=rules), raw, out)
    (repeated,) = show.dropped_rows(out, [raw], 9, "exact_duplicate")
    assert (repeated["origin"], repeated["twin"]) == ("src:train.jsonl:2", "src:train.jsonl:1")
    assert (repeated["twin_chosen"], repeated["twin_rejected"]) == (None, None)
    opposed = {row["origin"]: row for row in show.dropped_rows(out, [raw], 9, "contradictory")}
    assert opposed["src:train.jsonl:3"]["twin"] == "src:train.jsonl:4"
    assert opposed["src:train.jsonl:4"]["twin"] == "src:train.jsonl:3"
    assert (opposed["src:train.jsonl:3"]["twin_chosen"], opposed["src:train.jsonl:3"]["twin_rejected"]) == ("b", "a")


def test_a_detail_that_names_no_pair_has_no_twin(data: Data):
    (leak,) = show.dropped_rows(data.mixture, data.raws, 5)
    assert leak["twin"] is None
    tokens = data.artifacts["tokens"][0].folder
    assert [row["twin"] for row in show.dropped_rows(tokens, data.raws, 5)] == [None]


def test_markdown_is_one_line_a_row_cut_and_escaped(data: Data):
    turns = [row for row in show.kept_rows(data.talks, data.raws[:1], 99) if row["origin"].endswith(":1")]
    long = [{**turns[0], "rejected": "word " * 200}]
    header, _, line = show.as_markdown(long).split("\n")
    assert "chosen_score" not in header
    assert "What \\| now? Tell me" in line
    assert "good &lt;b>" in line
    assert line.count("word") < 50
    assert show.as_markdown([]) == "none"


def pair_id(folder: Path, row: int) -> str:
    return next(pair["pair_id"] for pair in read(folder / "pairs.parquet") if pair["row"] == row)


def test_a_kept_pair_is_traced_to_its_mixtures(data: Data):
    kept = pair_id(data.talks, 1)
    found = trace(kept, data.artifacts)
    assert found["prompt"].startswith("user: Hi")
    assert (found["pair_id"], found["chosen"], found["rejected"]) == (kept, "good <b>", "bad")
    assert (found["source"], found["file"], found["row"]) == ("talks", "train.jsonl", 1)
    assert (found["drops"], found["dropped_by"], found["reason"]) == ([], None, None)
    assert (found["pair_sets"], found["mixtures"]) == (["pairs_talks"], ["some_mixture"])
    assert found["trained_on"] == ["some_tokens"]


def test_a_pair_that_was_too_long_for_the_tokens_says_so(data: Data):
    found = trace(pair_id(data.talks, 10), data.artifacts)
    assert [(drop["asset"], drop["rule"]) for drop in found["drops"]] == [("some_tokens", "too_long")]
    assert (found["dropped_by"], found["mixtures"], found["trained_on"]) == ("too_long", ["some_mixture"], [])


def test_a_test_pair_is_trained_on_by_nobody(data: Data):
    found = trace(pair_id(data.talks, 11), data.artifacts)
    assert (found["drops"], found["mixtures"], found["trained_on"]) == ([], ["some_mixture"], [])


def test_a_pair_that_the_mixture_dropped_says_so(data: Data):
    found = trace(pair_id(data.talks, 3), data.artifacts)
    assert (found["chosen"], found["rejected"], found["dropped_by"], found["mixtures"]) == ("yes", "no", "leak", [])
    assert [(drop["asset"], drop["rule"], drop["reason"]) for drop in found["drops"]] == [
        ("some_mixture", "leak", "a user turn of its prompt is a benchmark prompt")
    ]
    assert found["reason"] == found["drops"][0]["reason"]
    assert found["pair_sets"] == ["pairs_talks"]


def test_a_pair_that_its_pair_set_dropped_is_found_by_id_and_by_row(data: Data):
    dropped = read(data.talks / "dropped.parquet")[0]["pair_id"]
    for target in (dropped, "train.jsonl:2", "talks:train.jsonl:2"):
        found = trace(target, data.artifacts)
        assert (found["pair_id"], found["chosen"], found["rejected"]) == (dropped, "equal", "equal")
        assert (found["dropped_by"], found["pair_sets"]) == ("identical_responses", [])


def test_a_labelled_response_that_makes_no_pair_is_traced_to_what_trains_on_it(tmp_path: Path):
    raw = write_raw(tmp_path / "raw", [RawRow("2+3?", [Shown("0", "5", outcome=1)], 1)], "one")
    source = Source(path="p", files={"train": ["train.jsonl"]}, adapter="outcome_turn", licence="MIT")
    mixed = Mixture(kind="responses", responses=["one"], split=Split(by="native"))
    (tmp_path / "mixture").mkdir()
    build_response_mixture(mixed, [ResponsePart(mixed.responses[0], source, raw)], {}, tmp_path / "mixture")
    (label,) = read(tmp_path / "mixture" / "labelled.parquet")
    # Tokens say of a label its id and split too.
    shutil.copytree(tmp_path / "mixture", tmp_path / "tokens")
    artifacts = {kind: [artifact(f"some_{kind}", tmp_path / kind)] for kind in ("raw", "mixture", "tokens")}
    for target in ("train.jsonl:1", label["label_id"]):
        found = trace(target, artifacts)
        assert (found["labels"], found["mixtures"], found["pairs"]) == ([label["label_id"]], ["some_mixture"], [])
        assert (found["response"], found["trained_on"]) == ("5", ["some_tokens"])


def test_a_row_of_several_pairs_lists_them(data: Data):
    found = trace("ratings:train.jsonl:1", data.artifacts)
    assert (found["pair_id"], found["chosen"], found["prompt"]) == (None, None, "Rate")
    assert len(found["pairs"]) == 3
    assert [(drop["rule"], drop["pair_id"] in found["pairs"]) for drop in found["drops"]] == [("equal_score", True)]
    assert found["mixtures"] == ["some_mixture"]


def test_drops_of_one_row_stand_in_the_order_of_the_rules_then_of_pair_ids(tmp_path: Path):
    scored = [(text, {"quality": rating}) for text, rating in zip("abcde", (9, 9, 9, 4, 3), strict=True)]
    raw = write_raw(tmp_path / "raw", [rated("Rate", scored, 1)])
    out = tmp_path / "out"
    out.mkdir()
    rules = [{"score_ratio": {"min": 1.5}}, "equal_score", {"cap": {"max_pairs": 2}}]
    pair_set = PairSet(source="src", candidates="rated", score=["quality"], rules=rules)
    built = build_pair_set("x", pair_set, raw, out)
    assert built.facts["dropped"] == {"score_ratio": 1, "equal_score": 3, "cap": 4}
    pairs = artifact("pairs_x", out, *built.facts["dropped"])
    found = trace("train.jsonl:1", {"raw": [artifact("raw_src", raw)], "pairs": [pairs], "mixture": [], "tokens": []})
    assert [drop["rule"] for drop in found["drops"]] == ["score_ratio", *["equal_score"] * 3, *["cap"] * 4]
    assert found["dropped_by"] == "score_ratio"
    ids = [drop["pair_id"] for drop in found["drops"]]
    assert ids[1:4] == sorted(ids[1:4])
    assert ids[4:] == sorted(ids[4:])


def test_each_row_of_one_response_is_traced_to_all_its_pairs(tmp_path: Path):
    rows = [
        rated("Rate", [(text, {"quality": value})], row) for row, (text, value) in enumerate([("a", 3), ("b", 2)], 1)
    ]
    raw = write_raw(tmp_path / "raw", [*rows, rated("Rate", [("c", {"quality": 2})], 3)])
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    pair_set = PairSet(source="src", candidates="rated_prompt", score=["quality"], rules=["equal_score"])
    build_pair_set("x", pair_set, raw, pairs)
    artifacts = {"raw": [artifact("raw_src", raw)], "pairs": [artifact("pairs_x", pairs, "equal_score")]}
    found = [trace(f"train.jsonl:{row}", {**artifacts, "mixture": [], "tokens": []}) for row in (1, 2, 3)]
    assert [len(one["pairs"]) for one in found] == [2, 2, 2]
    assert [one["row"] for one in found] == [1, 2, 3]
    assert [[drop["rule"] for drop in one["drops"]] for one in found] == [[], ["equal_score"], ["equal_score"]]
    assert set(found[1]["pairs"]) & set(found[2]["pairs"]) == {found[2]["drops"][0]["pair_id"]}


def test_each_vote_is_traced_to_the_pair_that_it_was_summed_to(tmp_path: Path):
    votes = [("yes", "no", 1), ("no", "yes", 2), ("yes", "no", 3), ("yes", "never", 4)]
    raw = write_raw(tmp_path / "raw", [vote("Vote", *one) for one in votes])
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    build_pair_set(
        "x", PairSet(source="src", candidates="voted", score=["preference"], rules=["equal_score"]), raw, pairs
    )
    artifacts = {"raw": [artifact("raw_src", raw)], "pairs": [artifact("pairs_x", pairs, "equal_score")]}
    found = [trace(f"train.jsonl:{row}", {**artifacts, "mixture": [], "tokens": []}) for row in (1, 2, 3, 4)]
    assert [one["pair_sets"] for one in found] == [["pairs_x"]] * 4
    assert found[0]["pair_id"] == found[1]["pair_id"] == found[2]["pair_id"] != found[3]["pair_id"]
    assert [(one["row"], one["chosen"], one["rejected"]) for one in found[:3]] == [(n, "yes", "no") for n in (1, 2, 3)]


def test_a_row_with_a_pair_of_its_own_is_not_traced_to_that_of_an_equal_row(tmp_path: Path):
    raw = write_raw(tmp_path / "raw", [given("Hi", "yes", "no", row) for row in (1, 2)])
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    build_pair_set("x", PairSet(source="src", candidates="given", rules=["exact_duplicate"]), raw, pairs)
    artifacts = {"raw": [artifact("raw_src", raw)], "pairs": [artifact("pairs_x", pairs, "exact_duplicate")]}
    found = [trace(f"train.jsonl:{row}", {**artifacts, "mixture": [], "tokens": []}) for row in (1, 2)]
    assert [(len(one["pairs"]), one["dropped_by"]) for one in found] == [(1, None), (1, "exact_duplicate")]


def test_a_broken_row_is_traced_by_its_line(data: Data):
    found = trace("train.jsonl:9", data.artifacts)
    assert (found["pair_id"], found["prompt"], found["excerpt"]) == (None, None, "not json")
    assert (found["dropped_by"], found["reason"]) == ("broken_line", "the row cannot be read")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("train.jsonl:1", "stands in the sources ratings, talks; name one of them: ratings:train.jsonl:1"),
        ("0" * 32, "stands in no raw, pairs or mixture asset"),
        ("train.jsonl:77", "stands in no raw, pairs or mixture asset"),
        ("train.jsonl", r"neither a pair_id \(32 hex digits\) nor FILE:ROW"),
    ],
)
def test_what_cannot_be_traced_is_told_in_one_sentence(data: Data, target: str, message: str):
    with pytest.raises(UserError, match=message):
        trace(target, data.artifacts)


def test_tracing_in_an_empty_home_says_what_to_do():
    with pytest.raises(UserError, match="materialize a recipe first"):
        trace("0" * 32, {"raw": [], "pairs": [], "mixture": [], "tokens": []})


def test_marks_are_shown_where_a_rule_left_some(tmp_path: Path):
    raw = write_raw(tmp_path / "raw", [given("Hi", "a", "b", 1), given("Hi", "b", "a", 2), given("Ho", "a", "b", 3)])
    (tmp_path / "pairs").mkdir()
    pair_set = PairSet(source="src", candidates="given", rules=[{"contradictory": {"keep": "marked"}}])
    build_pair_set("x", pair_set, raw, tmp_path / "pairs")
    rows = show.kept_rows(tmp_path / "pairs", [raw], 9)
    assert {row["origin"][-1]: row["marks"] for row in rows} == {"1": "contradictory", "2": "contradictory", "3": None}
    assert show.as_text(rows).count("marks: contradictory") == 2
