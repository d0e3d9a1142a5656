import json
from pathlib import Path

import pytest

from rm_workflow.artifacts import Built
from rm_workflow.catalog.models import Benchmark
from rm_workflow.errors import UserError
from rm_workflow.evaluation.benchmarks import build_benchmark, pairs, preferences
from rm_workflow.evaluation.items import FieldError, ScoredItem
from rm_workflow.evaluation.stored import rows_of_items
from rm_workflow.hub import SourceFile
from rm_workflow.keys import file_sha256

TRANSCRIPT = {
    "chosen": "\n\nHuman: Name a river.\n\nAssistant: The Danube.",
    "rejected": "\n\nHuman: Name a river.\n\nAssistant: No.",
}
NAMED = {"prompt": "Name a river.", "chosen": "The Danube.", "rejected": "No.", "source": "mine", "id": 4}
USER = [{"role": "user", "content": "Name a river."}]
MESSAGES = {
    "chosen": [*USER, {"role": "assistant", "content": "The Danube."}],
    "rejected": [*USER, {"role": "assistant", "content": "No."}],
}


@pytest.mark.parametrize("row", [TRANSCRIPT, MESSAGES, NAMED], ids=["transcript", "messages", "prompt"])
def test_a_row_of_each_form_becomes_the_same_item(row: dict):
    item = preferences.read_item({**row, "split": "test"})

    assert (item.messages, item.responses) == (USER, ["The Danube.", "No."])
    assert item.subset == row.get("source", "test")


def test_pairs_on_one_question_share_a_group_and_scored_rows_are_those_of_pairs():
    other = {key: text + "\n\nHuman: And a lake?\n\nAssistant: Garda." for key, text in TRANSCRIPT.items()}
    other["rejected"] = other["chosen"] + " It is large."
    items = [preferences.read_item({**row, "split": "test"}) for row in (TRANSCRIPT, other)]

    rows = [preferences.scored_row(ScoredItem(item.subset, [1.0, 0.0], item.num_correct, item.meta)) for item in items]

    assert rows[0]["group"] == rows[1]["group"]
    assert rows[0]["id"] != rows[1]["id"]
    assert pairs.aggregate(rows)["subsets"]["test"]["n"] == 2


def build(tmp_path: Path, rows: list[dict]) -> Built:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    entry = Benchmark(path="somewhere", files={"test": [path.name]}, scoring="preferences", licence="CC0")
    files = [SourceFile("test", path.name, path, path.name, file_sha256(path))]
    return build_benchmark("mine", entry, files, tmp_path)


def test_rows_that_are_no_pair_are_passed_over_and_counted(tmp_path: Path):
    same = {**TRANSCRIPT, "rejected": TRANSCRIPT["chosen"]}
    elsewhere = {**TRANSCRIPT, "rejected": "\n\nHuman: Name a lake.\n\nAssistant: No."}

    built = build(tmp_path, [TRANSCRIPT, same, elsewhere])

    assert built.checks[0].metadata == {"rows": 3, "items": 1, "passed_over": 2}


def test_a_row_that_cannot_be_read_is_told_with_its_place(tmp_path: Path):
    with pytest.raises(UserError, match=r"rows.jsonl: row 2: a list of messages is expected"):
        build(tmp_path, [TRANSCRIPT, {"chosen": 3, "rejected": "No.", "prompt": "Name a river."}])
    with pytest.raises(FieldError, match="mend the row"):
        preferences.read_item({"prompt": "Name a river.", "chosen": 3, "rejected": "No.", "split": "test"})


def test_a_pair_that_stands_twice_is_two_items_with_names_of_their_own(tmp_path: Path):
    build(tmp_path, [TRANSCRIPT, TRANSCRIPT])

    metas = [json.loads(row["meta"]) for row in table(tmp_path / "items.parquet")]
    items = {str(n): ScoredItem("test", [1.0, 0.0], 1, meta) for n, meta in enumerate(metas)}
    names = [row["id"] for row in rows_of_items("preferences", items).rows.values()]

    assert len(set(names)) == 2
    assert pairs.aggregate(list(rows_of_items("preferences", items).rows.values()))["n"] == 2


def table(path: Path) -> list[dict]:
    import pyarrow.parquet as pq

    return list(pq.read_table(path).to_pylist())


def test_the_test_files_of_hh_are_read_as_pairs(shared_rows: Path, tmp_path: Path):
    folder = shared_rows / "hub/Anthropic/hh-rlhf"
    names = ("base", "online", "rejection_sampled")
    paths = [folder / f"helpful-{name.replace('_', '-')}" / "test.jsonl.gz" for name in names]
    files = [
        SourceFile(name, path.name, path, path.name, file_sha256(path)) for name, path in zip(names, paths, strict=True)
    ]
    entry = Benchmark(path="somewhere", files={name: ["x"] for name in names}, scoring="preferences", licence="MIT")

    built = build_benchmark("hh_helpful", entry, files, tmp_path)

    counted = built.checks[0].metadata
    assert built.checks[0].passed
    assert counted["items"] > 0.9 * counted["rows"]
    assert set(built.facts["subsets"]) == set(names)
