"""``rmw evaluate`` through the real command line, on tiny random models and the embedded samples."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rm_workflow.cli.evaluate import _shown
from rm_workflow.evaluation import parts, score_file, scores
from rm_workflow.models import reward_model
from rm_workflow_tests.cli.conftest import Answer, Project
from rm_workflow_tests.evaluation.checkpoints import write_checkpoint
from rm_workflow_tests.evaluation.killing import kill_at, killed_in_a_fork
from rm_workflow_tests.hub.hub_server import OLD, FakeHub
from rm_workflow_tests.models.test_loading import write_published
from rm_workflow_tests.models.tiny import tiny_tokenizer, write_tiny_model

Rmw = Callable[..., Answer]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def home_with_benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def home(home_with_benchmarks: Path, project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that keeps its benchmarks from test to test; making them takes seconds."""
    monkeypatch.setenv("RMW_HOME", str(home_with_benchmarks))
    monkeypatch.setenv("DAGSTER_HOME", str(home_with_benchmarks / "dagster"))
    return home_with_benchmarks


def evaluate(rmw: Rmw, checkpoint: object, benchmark: str, *more: str) -> Answer:
    return rmw("evaluate", str(checkpoint), "--benchmark", benchmark, "--precision", "fp32", *more)


@pytest.mark.parametrize("benchmark", ["sample_rewardbench", "sample-rewardbench2"])
def test_aggregate_gives_the_same_numbers_from_the_exported_item_scores(
    rmw: Rmw, home: Path, checkpoint: Path, tmp_path: Path, benchmark: str
):
    out = tmp_path / "scores.jsonl"

    answer = evaluate(rmw, checkpoint, benchmark, "-o", str(out), "--json")

    assert answer.code == 0, answer.err
    evaluated = json.loads(answer.out)
    facts = evaluated.pop("evaluated")
    assert evaluated == json.loads(rmw("aggregate", benchmark, str(out), "--json").out)
    assert evaluated["missing_subsets"] == []
    assert facts["token_recipe"] == "stored"
    assert (facts["precision"], facts["device"], facts["layout"]) == ("fp32", "cpu", "shared")
    assert facts["tokens_computed"] < facts["tokens"]
    assert not list((home / "work").glob("evaluate/*"))


def test_a_person_reads_the_scores_and_how_they_came_about(rmw: Rmw, home: Path, tmp_path: Path):
    write_published(tmp_path / "model")

    answer = evaluate(rmw, tmp_path / "model", "sample_rewardbench", "--deterministic")

    assert answer.code == 0, answer.err
    assert "Chat Hard" in answer.out
    assert "GUESSED from the tokenizer's own chat template" in answer.out
    assert "fp32 on cpu" in answer.out
    assert "alone, deterministic" in answer.out


def test_a_model_of_the_mirror_is_known_by_its_hub_id(
    rmw: Rmw, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_published(tmp_path / "mirror" / "sfairXC" / "FsfairX-LLaMA3-RM-v0.1")
    monkeypatch.setenv("RMW_HUB_MIRROR", str(tmp_path / "mirror"))

    answer = evaluate(rmw, "hub:sfairXC/FsfairX-LLaMA3-RM-v0.1", "sample_rewardbench", "--json")

    assert answer.code == 0, answer.err
    facts = json.loads(answer.out)["evaluated"]
    assert (facts["checkpoint"], facts["token_recipe"]) == ("hub:sfairXC/FsfairX-LLaMA3-RM-v0.1", "published")


def test_an_evaluation_that_was_killed_goes_on(
    rmw: Rmw, home: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def score(out: Path) -> Answer:
        return evaluate(rmw, checkpoint, "sample_rewardbench", "--batch-tokens", "300", "-o", str(out), "--json")

    def killed_after_ten_passes(*arguments: Any, **options: Any) -> Any:
        nonlocal num_passes
        num_passes += 1
        kill_at(num_passes, 10)
        return rewards(*arguments, **options)

    monkeypatch.setattr(parts, "SECONDS_A_PART", 0.0)
    whole, resumed, num_passes, rewards = tmp_path / "whole", tmp_path / "resumed", 0, reward_model.hidden_states
    assert score(whole).code == 0
    with monkeypatch.context() as patch:
        patch.setattr(reward_model, "hidden_states", killed_after_ten_passes)
        killed_in_a_fork(lambda: score(resumed))
    assert not resumed.exists()

    answer = score(resumed)

    assert answer.code == 0, answer.err
    facts = json.loads(answer.out)["evaluated"]
    assert 0 < facts["num_continued"] < facts["num_sequences"]
    assert resumed.read_bytes() == whole.read_bytes()
    assert not list((home / "work").glob("evaluate/*"))


def test_a_person_reads_that_an_evaluation_was_taken_up():
    how = {"token_recipe": "stored", "layout": "padded", "deterministic": False, "precision": "fp32", "device": "cpu"}
    counts = {
        "tokens_computed": 9,
        "tokens": 20,
        "num_scored": 5,
        "num_sequences": 4,
        "truncated": 0,
        "rows_passed_over": 1,
    }
    facts = {**how, **counts, "with_special_tokens": 0, "responses_per_second": 2.0}

    shown = _shown({**facts, "num_continued": 3})
    assert (shown["taken up from an earlier run"], shown["speed"]) == ("3 of 4", "2.0 responses/s in this run")
    assert _shown({**facts, "num_continued": 4})["speed"] == "nothing was left to score"
    whole = _shown({**facts, "num_continued": 0})
    assert whole["speed"] == "2.0 responses/s"
    assert whole["rows of the benchmark that are no item"] == "1"
    assert "taken up from an earlier run" not in whole


def test_deterministic_scores_do_not_depend_on_the_order_of_the_file(
    rmw: Rmw, home: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(score_file, "CONVERSATIONS_AT_ONCE", 7)
    rows = [{"prompt": f"Name river {n % 3}.", "response": "The Danube. " * (1 + n % 5)} for n in range(30)]
    for name, given in (("there", rows), ("back", rows[::-1])):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in given))
        out = tmp_path / f"{name}.out"
        answer = rmw(
            "score", str(checkpoint), str(tmp_path / name), "-o", str(out), "--precision", "fp32", "--deterministic"
        )
        assert answer.code == 0, answer.err
    there, back = (
        [json.loads(line) for line in (tmp_path / f"{name}.out").read_text().splitlines()] for name in ("there", "back")
    )
    assert there == back[::-1]


def broken(folder: Path, fault: str) -> Path:
    """A checkpoint with one fault."""
    if fault == "no head":
        return write_tiny_model(folder, tiny_tokenizer())
    if fault == "pickles":
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        torch.save({}, folder / "pytorch_model.bin")
        return folder
    return write_published(
        folder, num_labels=2 if fault == "two labels" else 1, pad_token_id=None if fault == "no pad token" else 3
    )


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("no head", "has no reward head"),
        ("two labels", "the head has 2 labels"),
        ("no pad token", "pad_token_id is missing"),
        ("pickles", "only pickled weights"),
    ],
)
def test_a_checkpoint_that_is_no_reward_model_is_told_in_one_sentence(
    rmw: Rmw, home: Path, tmp_path: Path, fault: str, said: str
):
    answer = evaluate(rmw, broken(tmp_path / "model", fault), "sample_rewardbench")

    assert answer.code == 1
    assert said in answer.err.splitlines()[-1]
    assert answer.err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("./gone", "there is no such folder"),
        ("gone_checkpoint", "no such folder and no such asset"),
        ("hub:gone", "is no model id; write hub:org/name"),
    ],
)
def test_a_name_that_is_no_checkpoint_is_told(rmw: Rmw, home: Path, name: str, said: str):
    assert said in evaluate(rmw, name, "sample_rewardbench").error


@pytest.mark.parametrize(
    ("benchmark", "said"),
    [("sample_rewardbnch", "did you mean 'sample_rewardbench'?"), ("test", "`rmw run RECIPE` scores it")],
)
def test_a_name_that_is_no_benchmark_is_told(rmw: Rmw, home: Path, checkpoint: Path, benchmark: str, said: str):
    assert said in evaluate(rmw, checkpoint, benchmark).error


def test_a_reply_longer_than_the_window_is_told_with_its_item(rmw: Rmw, home: Path, project: Project, checkpoint: Path):
    row = {"id": 0, "subset": "math-prm", "prompt": "Hi", "chosen": "Yes.", "rejected": "No. " * 600}
    rows = project.folder / "bench"
    rows.mkdir()
    (rows / "test.jsonl").write_text(json.dumps(row) + "\n")
    (project.folder / "catalog" / "benchmarks.yaml").write_text(
        f"long: {{path: {rows}, files: {{test: [test.jsonl]}}, scoring: rewardbench, licence: CC0-1.0}}"
    )

    answer = evaluate(rmw, checkpoint, "long")

    assert answer.code == 1
    assert "is longer than the model's window of 512 tokens" in answer.err.splitlines()[-1]


def test_a_benchmark_file_of_ones_own_that_changed_is_read_again(
    rmw: Rmw, home: Path, project: Project, checkpoint: Path
):
    rows = project.folder / "mine"
    rows.mkdir()
    (project.folder / "catalog" / "benchmarks.yaml").write_text(
        f"mine: {{path: {rows}, files: {{test: [pairs.jsonl]}}, scoring: preferences, licence: CC0-1.0}}"
    )
    pair = {"prompt": "Name a river.", "chosen": "The Danube.", "rejected": "No."}
    same = {**pair, "rejected": pair["chosen"]}
    evaluated = []
    for lines in ([pair, same], [pair, {**pair, "prompt": "Name a lake."}, same]):
        (rows / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        evaluated.append(json.loads(evaluate(rmw, checkpoint, "mine", "--json").out))

    assert [found["n"] for found in evaluated] == [1, 2]
    assert [found["evaluated"]["rows_passed_over"] for found in evaluated] == [1, 1]


@pytest.fixture
def model_hub(fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> FakeHub:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = write_published(tmp_path / "published")
    fake_hub.put(OLD, {path.name: path.read_bytes() for path in folder.iterdir()}, "models/org/tiny")
    shutil.rmtree(folder)
    return fake_hub


def test_a_model_comes_from_the_hub_at_a_locked_commit(rmw: Rmw, home: Path, model_hub: FakeHub):
    answer = evaluate(rmw, "hub:org/tiny", "sample_rewardbench", "--json")

    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["evaluated"]["checkpoint"] == f"hub:org/tiny@{OLD}"


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model_is_told_with_its_licence_page(rmw: Rmw, home: Path, model_hub: FakeHub, status: int):
    model_hub.refusal = (status, "GatedRepo")

    error = evaluate(rmw, "hub:org/gated", "sample_rewardbench").error

    assert "checkpoint hub:org/gated: the model is gated; accept its licence at" in error
    assert "https://huggingface.co/org/gated" in error


def test_two_evaluations_of_the_same_at_once_are_refused_and_no_half_file_is_left(
    rmw: Rmw, home: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "scores.jsonl"
    of_yesterday = '{"id": "1", "scores": [0.5]}\n'
    out.write_text(of_yesterday)
    answers: list[Answer] = []

    def second_in_between(path: Path, rows: Any) -> None:
        monkeypatch.undo()
        monkeypatch.setenv("RMW_HOME", str(home))
        monkeypatch.setenv("DAGSTER_HOME", str(home / "dagster"))
        answers.append(evaluate(rmw, checkpoint, "sample_rewardbench"))
        path.write_text("half a fi")
        raise OSError("disk full")

    monkeypatch.setattr(scores, "write_score_file", second_in_between)

    evaluate(rmw, checkpoint, "sample_rewardbench", "-o", str(out))

    assert answers[0].code == 1
    assert "is being evaluated on sample_rewardbench by another process already" in answers[0].err
    assert out.read_text() == of_yesterday
    assert list(tmp_path.glob(".*")) == []
