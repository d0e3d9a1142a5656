"""Flat files of a mixture: the pairs that are trained on, with their texts, in forms that other tools load."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from rm_workflow.artifacts import Artifact
from rm_workflow.catalog.models import Mixture, PairSet, Source, Split
from rm_workflow.errors import UserError
from rm_workflow.preferences import croissant
from rm_workflow.preferences.export import export_mixture
from rm_workflow.preferences.mixture import Member, build_mixture
from rm_workflow.preferences.pairs import build_pair_set
from rm_workflow_tests.preferences import test_response_mixture, test_trajectory_mixture
from rm_workflow_tests.preferences.raw_tables import RawRow, Shown, given, rated, read, write_raw

TURNS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "And now?"},
]
FILES = {"train": ["train.jsonl"], "test": ["test.jsonl"]}


def mixed(folder: Path, rows: Sequence[RawRow], candidates: str = "given", **of_pair_set: Sequence[str]) -> list[Path]:
    """Make a mixture of one source; returns its folder and that of its raw rows."""
    raw = write_raw(folder / "raw", rows, "talks")
    for name in ("pairs", "mix"):
        (folder / name).mkdir()
    build_pair_set(
        "talks", PairSet(source="talks", candidates=candidates, rules=[], **of_pair_set), raw, folder / "pairs"
    )
    source = Source(path="x", files=FILES, adapter="x", licence="MIT")
    mixture = Mixture(pair_sets=["talks"], split=Split(by="native"))
    build_mixture(mixture, [Member("talks", "talks", source, folder / "pairs", raw)], {}, folder / "mix")
    return [folder / "mix", raw]


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    rows = [
        RawRow(TURNS, [Shown("chosen", "good <b>"), Shown("rejected", "bad")], 1),
        given("More", "yes", "no", 2),
        given("Test", "right", "wrong", 3, "test.jsonl"),
    ]
    return mixed(tmp_path_factory.mktemp("talks"), rows)


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    rows = [rated("Rate", [("best", {"quality": 3}), ("worst", {"quality": 1})], 1)]
    return mixed(tmp_path_factory.mktemp("ratings"), rows, "rated", score=["quality"])


def loaded(out: Path, cache: Path) -> Mapping[str, datasets.Dataset]:
    found: Mapping[str, datasets.Dataset] = load_dataset(str(out), cache_dir=str(cache))
    return found


def test_pairs_are_written_as_trl_reads_them(talks: list[Path], tmp_path: Path):
    mix, raw = talks

    num_rows = export_mixture(mix, [raw], tmp_path / "out", "trl")

    rows = loaded(tmp_path / "out", tmp_path / "cache")
    assert num_rows == {"train": 2, "test": 1} == {split: len(found) for split, found in rows.items()}
    turns = next(row for row in rows["train"] if len(row["prompt"]) > 1)
    assert turns["prompt"] == TURNS
    assert turns["chosen"] == [{"role": "assistant", "content": "good <b>"}]
    assert turns["rejected"] == [{"role": "assistant", "content": "bad"}]
    ids = {pair["pair_id"]: pair["split"] for pair in read(mix / "pairs.parquet")}
    assert {row["pair_id"]: split for split, found in rows.items() for row in found} == ids
    assert "margin" not in rows["train"].column_names


def test_the_standard_form_has_whole_conversations(talks: list[Path], tmp_path: Path):
    mix, raw = talks

    export_mixture(mix, [raw], tmp_path / "out", "standard")

    (row,) = loaded(tmp_path / "out", tmp_path / "cache")["test"]
    question = {"role": "user", "content": "Test"}
    assert row["chosen"] == [question, {"role": "assistant", "content": "right"}]
    assert row["rejected"] == [question, {"role": "assistant", "content": "wrong"}]
    assert "prompt" not in row


def test_trl_trains_on_what_was_exported(talks: list[Path], tmp_path: Path):
    from trl import RewardConfig, RewardTrainer

    from rm_workflow_tests.models.tiny import tiny_tokenizer, write_tiny_model

    mix, raw = talks
    export_mixture(mix, [raw], tmp_path / "out", "trl")
    model = write_tiny_model(tmp_path / "model", tiny_tokenizer())
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    config = RewardConfig(
        output_dir=str(tmp_path / "trained"), max_steps=1, use_cpu=True, report_to="none", save_strategy="no"
    )

    trainer = RewardTrainer(
        str(model),
        args=config,
        train_dataset=loaded(tmp_path / "out", tmp_path / "cache")["train"],
        processing_class=tokenizer,
    )

    assert trainer.train().global_step == 1


def test_a_margin_is_the_difference_of_the_scores_and_only_there_when_asked_for(ratings: list[Path], tmp_path: Path):
    mix, raw = ratings

    export_mixture(mix, [raw], tmp_path / "out", margin=True)

    (row,) = pq.read_table(tmp_path / "out/train.parquet").to_pylist()
    assert (row["chosen_score"], row["rejected_score"], row["margin"]) == (3.0, 1.0, 2.0)
    assert not (tmp_path / "out/test.parquet").exists()


def test_pairs_without_scores_have_no_margin(talks: list[Path], tmp_path: Path):
    mix, raw = talks

    with pytest.raises(UserError, match=r"mixture .*: pairs without scores \(3 of talks\) have no margin; leave out"):
        export_mixture(mix, [raw], tmp_path / "out", margin=True)

    assert not (tmp_path / "out").exists()


def test_a_pair_that_an_epoch_shows_twice_stands_twice(tmp_path: Path):
    rows = [given("More", "yes", "no", 2), given("Test", "a", "b", 3, "test.jsonl")]
    raw = write_raw(tmp_path / "raw", rows, "talks")
    for name in ("pairs", "mix"):
        (tmp_path / name).mkdir()
    build_pair_set("talks", PairSet(source="talks", candidates="given", rules=[]), raw, tmp_path / "pairs")
    mixture = Mixture(pair_sets=[{"talks": {"repeat": 2}}], split=Split(by="native"))
    source = Source(path="x", files=FILES, adapter="x", licence="MIT")
    member = Member("talks", "talks", source, tmp_path / "pairs", raw)
    build_mixture(mixture, [member], {}, tmp_path / "mix")

    assert export_mixture(tmp_path / "mix", [raw], tmp_path / "out") == {"train": 2, "test": 1}


def test_labelled_responses_come_with_their_labels(tmp_path: Path):
    row = test_response_mixture.solved("2 + 3?", [("5", 1.0), ("6", 0.0)], 1)
    test_response_mixture.mix(tmp_path, {"sums": [row]}, {"sums": {}})

    export_mixture(tmp_path / "out", [tmp_path / "sums"], tmp_path / "flat", "labelled")

    rows = pq.read_table(tmp_path / "flat/train.parquet").to_pylist()
    labels = {row["completion"][0]["content"]: row["labels"] for row in rows}
    assert labels == {"5": [{"key": "outcome", "value": 1.0}], "6": [{"key": "outcome", "value": 0.0}]}
    assert all(row["prompt"] == [{"role": "user", "content": "2 + 3?"}] for row in rows)


def test_solutions_come_step_by_step_with_null_where_a_step_has_no_label(tmp_path: Path):
    test_trajectory_mixture.mix(tmp_path, {"sums": [test_trajectory_mixture.solved("2 + 3?", [1, None, 0])]})

    export_mixture(tmp_path / "out", [tmp_path / "sums"], tmp_path / "flat", "labelled")

    (row,) = pq.read_table(tmp_path / "flat/train.parquet").to_pylist()
    assert (row["completions"], row["labels"]) == (["a0", "\na1", "\na2"], [1.0, None, 0.0])
    assert "".join(row["completions"]) == "a0\na1\na2"


def test_a_form_that_a_mixture_does_not_have_is_refused_with_the_one_it_has(talks: list[Path], tmp_path: Path):
    mix, raw = talks
    with pytest.raises(UserError, match="it holds pairs and no labelled response; take --format trl or standard"):
        export_mixture(mix, [raw], tmp_path / "out", "labelled")

    test_trajectory_mixture.mix(tmp_path, {"sums": [test_trajectory_mixture.solved("2 + 3?", [1, 0])]})
    with pytest.raises(UserError, match="it has nothing to write as trl; take --format labelled"):
        export_mixture(tmp_path / "out", [tmp_path / "sums"], tmp_path / "flat")
    assert not (tmp_path / "flat").exists()


def test_a_folder_with_something_in_it_is_left_alone(talks: list[Path], tmp_path: Path):
    mix, raw = talks
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")

    with pytest.raises(UserError, match="out is there and not an empty folder; name a new one"):
        export_mixture(mix, [raw], tmp_path / "out")

    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


# In a process of its own, as absl's logging keeps the stderr that pytest takes away.
READ_CROISSANT = """
import json, sys
import mlcroissant
dataset = mlcroissant.Dataset(jsonld=sys.argv[1])
issues = dataset.metadata.ctx.issues
rows = [{name: str(value) for name, value in row.items()} for row in dataset.records("test")]
told = [*issues.errors, *issues.warnings]
print(json.dumps({"issues": told, "rows": rows, "description": dataset.metadata.description}))
"""


def test_the_croissant_metadata_is_valid_and_reads_the_rows(talks: list[Path], tmp_path: Path):
    mix, raw = talks
    out = tmp_path / "out"
    export_mixture(mix, [raw], out)
    made = Artifact("some_mixture", "0a1b2c3d4e5f60718293a4b5c6d7e8f9", mix, {"created": "2026-11-22T00:00:00+00:00"})

    croissant.write(out, made, {"talks": "MIT"})

    command = [sys.executable, "-c", READ_CROISSANT, str(out / "croissant.json")]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    (row,) = found["rows"]
    assert row["test/prompt"] == str([{"test/prompt/role": b"user", "test/prompt/content": b"Test"}])
    assert row["test/chosen"] == str([{"test/chosen/role": b"assistant", "test/chosen/content": b"right"}])
    assert found["issues"] == []
    assert made.id in found["description"]
    assert "talks (MIT)" in found["description"]
