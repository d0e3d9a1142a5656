"""The verdict on a mixture for each benchmark, and the rows behind it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rm_workflow.artifacts import Built
from rm_workflow.catalog.models import Mixture, PairSet, Source, Split
from rm_workflow.preferences.mixture import Member, build_mixture
from rm_workflow.preferences.overlap import build_overlap, overlap_rows
from rm_workflow.preferences.pairs import build_pair_set
from rm_workflow_tests.preferences.raw_tables import RawRow, given, read, write_benchmark, write_raw

FILES = {"train": ["train.jsonl"], "test": ["test.jsonl"]}
LONG_REPLY = " ".join(f"word{number}" for number in range(40))
ROWS = [
    given("What is two plus two?", "four", "five", 1),
    given("What is two plus two?", "four", "six", 2),
    given("Name a river", LONG_REPLY, "The Rhine", 3),
    given("Which lake is the deepest?", "Baikal", "none", 4),
    given("And  WHICH lake is the largest?", "the Caspian Sea", "none", 5),
    given("and which lake is the largest?", "the Caspian Sea", "all", 6, file="test.jsonl"),
]


def compare(
    folder: Path, benchmarks: Mapping[str, Path], with_test: bool = False, rows: Sequence[RawRow] = ROWS, **fields
) -> tuple[Built, Path]:
    source = Source(path="somewhere", files=FILES, adapter="any", licence="MIT")
    raw = write_raw(folder / "raw", rows, "rivers")
    for name in ("pairs", "mixture", "overlap"):
        (folder / name).mkdir()
    pair_set = PairSet(source="rivers", candidates="given", rules=["identical_responses"])
    build_pair_set("rivers", pair_set, raw, folder / "pairs")
    member = Member("rivers", "rivers", source, folder / "pairs", raw)
    mixture = Mixture(pair_sets=["rivers"], split=Split(by="native"), **fields)
    build_mixture(mixture, [member], {}, folder / "mixture")
    built = build_overlap(mixture, folder / "mixture", [raw], benchmarks, with_test, folder / "overlap")
    assert all(check.passed for check in built.checks)
    return built, folder / "overlap"


def test_each_benchmark_has_a_verdict_with_its_numbers(tmp_path: Path):
    benchmarks = {
        "sums": write_benchmark(tmp_path / "sums", {"a": "WHAT is two plus two?", "b": "What is two plus three?"}),
        "replies": write_benchmark(tmp_path / "replies", {"r": "Something else"}, {"r": [LONG_REPLY, "short"]}),
        "birds": write_benchmark(tmp_path / "birds", {"x": "Name a bird"}),
        "marks": write_benchmark(tmp_path / "marks", {"x": "???"}),
    }
    built, folder = compare(tmp_path, benchmarks)
    found = built.facts["benchmarks"]
    assert {name: one["verdict"] for name, one in found.items()} == {
        "sums": "leaky",
        "replies": "leaky",
        "birds": "clean",
        "marks": "unknown",
    }
    assert found["sums"] == {
        "verdict": "leaky",
        "items": 2,
        "leaked_items": 1,
        "train_pairs": 2,
        "train_prompts": 1,
        "train_responses": 0,
    }
    assert (found["replies"]["train_pairs"], found["replies"]["train_responses"]) == (1, 1)
    rows = read(folder / "overlap.parquet")
    assert [(row["benchmark"], row["item_id"], row["side"], row["num_pairs"]) for row in rows] == [
        ("sums", "a", "prompt", 2),
        ("replies", "r", "response", 1),
    ]
    pairs = {pair["pair_id"]: pair for pair in read(tmp_path / "mixture/pairs.parquet")}
    assert all(pairs[row["pair_id"]]["split"] == "train" for row in rows)
    assert rows[1]["origin"] == "rivers:train.jsonl:3"
    assert rows[1]["span"] == LONG_REPLY[:300]


def test_the_mixtures_own_test_split_is_compared_where_it_is_scored(tmp_path: Path):
    built, folder = compare(tmp_path, {}, with_test=True)
    assert built.facts["benchmarks"]["test"]["verdict"] == "clean"
    assert read(folder / "overlap.parquet") == []
    assert overlap_rows(folder, 5) == []


def test_a_prompt_of_any_script_can_be_clean_and_a_hit_is_never_unknown(tmp_path: Path):
    benchmarks = {
        "absent": write_benchmark(tmp_path / "absent", {"a": "湖はどこですか?"}),
        "present": write_benchmark(tmp_path / "present", {"a": "Почему небо голубое?"}),
        "signs": write_benchmark(tmp_path / "signs", {"a": "?!"}),
    }
    asked = [given("почему  небо голубое?", "a", "b", 7), given("?!", "a", "b", 8)]
    built, _ = compare(tmp_path, benchmarks, rows=[*ROWS, *asked])
    found = {name: one["verdict"] for name, one in built.facts["benchmarks"].items()}
    assert found == {"absent": "clean", "present": "leaky", "signs": "leaky"}


def test_a_text_file_is_a_benchmark_like_others(tmp_path: Path):
    (tmp_path / "secret.txt").write_text("Which lake is the deepest?\nName a tree\n")
    file = str(tmp_path / "secret.txt")
    built, folder = compare(tmp_path, {}, decontaminate_files=[file], leak_policy="mark")
    assert built.facts["benchmarks"]["secret.txt"]["verdict"] == "leaky"
    (row,) = overlap_rows(folder, 5)
    assert (row["item_id"], row["kind"], row["origin"]) == ("line 1", "exact", "rivers:train.jsonl:4")
