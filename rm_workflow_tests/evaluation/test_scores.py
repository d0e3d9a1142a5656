import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rm_workflow.artifacts import Built
from rm_workflow.catalog.models import Benchmark, Evaluation
from rm_workflow.errors import UserError
from rm_workflow.evaluation.benchmarks import build_benchmark
from rm_workflow.evaluation.benchmarks.rewardbench import SUBSETS
from rm_workflow.evaluation.scorer import Scorer
from rm_workflow.evaluation.scores import build_scores
from rm_workflow.hub import SourceFile
from rm_workflow.keys import file_sha256
from rm_workflow_tests.evaluation.checkpoints import write_checkpoint

REPLIES = ["The Danube.", "No.", "Yes, the river is long.", "Paris"]
RB2 = [
    {"id": "0", "prompt": "Name a river.", "chosen": [REPLIES[0]], "rejected": REPLIES[1:], "subset": "Math"},
    {"id": "ref:0", "prompt": "Which capital?", "chosen": ["Paris"], "rejected": ["No.", "Yes."], "subset": "Ties"},
    {"id": "tied:0", "prompt": "Name any river.", "chosen": REPLIES[:1] * 2, "rejected": ["No."], "subset": "Ties"},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A tokens artifact of six pairs, four of them test; two test pairs share their chosen reply."""
    folder = tmp_path_factory.mktemp("tokens")
    encoder = Scorer.load(model).encoder
    encoded = {reply: encoder.encode([{"role": "user", "content": "Name a river."}], reply) for reply in REPLIES}
    responses = [
        {"response_id": f"r{i}", "input_ids": encoded[reply].input_ids, "prompt_length": encoded[reply].prompt_length}
        for i, reply in enumerate(REPLIES)
    ]
    sides = [("r0", "r1"), ("r0", "r2"), ("r1", "r2"), ("r3", "r1"), ("r2", "r3"), ("r1", "r3")]
    pairs = [
        {
            "pair_id": f"p{i}",
            "chosen_id": chosen,
            "rejected_id": rejected,
            "source": "hh" if i % 2 else "shp",
            "group_id": f"g{i // 2}",
            "split": "test" if i < 4 else "train",
        }
        for i, (chosen, rejected) in enumerate(sides)
    ]
    pq.write_table(pa.Table.from_pylist(responses), folder / "responses.parquet")
    pq.write_table(pa.Table.from_pylist(pairs), folder / "pairs.parquet")
    return folder


def benchmark_folder(folder: Path, name: str, scoring: str, rows: list[dict]) -> Path:
    folder.mkdir()
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    described = Benchmark(path="somewhere", files={"test": [path.name]}, scoring=scoring, licence="CC0")
    build_benchmark(name, described, [SourceFile("test", path.name, path, path.name, file_sha256(path))], folder)
    return folder


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("benchmarks")
    v1 = [
        {"id": i, "subset": subset, "prompt": f"Question {i}?", "chosen": REPLIES[i % 4], "rejected": "Yes."}
        for i, subset in enumerate(SUBSETS)
    ]
    v2 = [row | {"num_correct": len(row["chosen"])} for row in RB2]
    return {
        "sample_rewardbench": benchmark_folder(folder / "v1", "sample_rewardbench", "rewardbench", v1),
        "sample_rewardbench2": benchmark_folder(folder / "v2", "sample_rewardbench2", "rewardbench2", v2),
    }


def build(model: Path, tokens: Path, benchmarks: dict[str, Path], out: Path, batch_tokens: int = 4096) -> Built:
    evaluation = Evaluation(evaluate_on=["test", *benchmarks], batch_tokens=batch_tokens, precision="fp32")
    out.mkdir(exist_ok=True)
    return build_scores(model, tokens, benchmarks, evaluation, "cpu", out)


def test_test_split_and_benchmarks_get_headlines_of_the_contract(
    model: Path, tokens: Path, benchmarks: dict[str, Path], tmp_path: Path
):
    built = build(model, tokens, benchmarks, tmp_path)

    scores = built.facts["scores"]
    assert set(scores) == {"test", "sample_rewardbench", "sample_rewardbench2"}
    keys = {"score", "n", "ci_low", "ci_high", "ties", "pick_longer", "pick_shorter", "per_source"}
    assert keys <= set(scores["test"])
    assert scores["test"]["n"] == 4
    assert set(scores["test"]["per_source"]) == {"hh", "shp"}
    assert scores["sample_rewardbench"]["n"] == 23
    assert scores["sample_rewardbench"]["ci_low"] <= scores["sample_rewardbench"]["score"]
    assert scores["sample_rewardbench2"] == {"score": None, "n": 3, "ci_low": None, "ci_high": None, "ties": None}
    assert sum(built.facts["margin_histogram"]["counts"]) == 4
    assert [(check.name, check.passed) for check in built.checks] == [
        ("no_score_is_missing_or_nan", True),
        ("rows_expected_equal_rows_scored", True),
    ]


def test_null_baselines_compare_characters_of_the_replies(
    model: Path, tokens: Path, benchmarks: dict[str, Path], tmp_path: Path
):
    built = build(model, tokens, {}, tmp_path)

    rows = pq.read_table(tmp_path / "test_pairs.parquet").to_pylist()
    template_tail = rows[0]["chosen_length"] - len(REPLIES[0])
    assert [row["chosen_length"] - template_tail for row in rows] == [len(REPLIES[i]) for i in (0, 0, 1, 3)]
    assert built.facts["scores"]["test"]["pick_longer"] == 0.5


def test_item_scores_are_those_of_the_scorer(model: Path, tokens: Path, benchmarks: dict[str, Path], tmp_path: Path):
    build(model, tokens, benchmarks, tmp_path)

    items = pq.read_table(benchmarks["sample_rewardbench2"] / "items.parquet").to_pylist()
    item = next(item for item in items if item["subset"] == "Math")
    scores = {
        (row["item_id"], row["response_id"]): row["score"]
        for row in pq.read_table(tmp_path / "item_scores.parquet").to_pylist()
    }
    expected, _ = Scorer.load(model).score_texts([([{"role": "user", "content": "Name a river."}], r) for r in REPLIES])
    assert [scores[item["item_id"], response] for response in item["response_ids"]] == pytest.approx(list(expected))


def test_details_hold_every_subset(model: Path, tokens: Path, benchmarks: dict[str, Path], tmp_path: Path):
    build(model, tokens, benchmarks, tmp_path)

    details = json.loads((tmp_path / "scores.json").read_text())
    assert set(details["sample_rewardbench"]["sections"]) == {"Chat", "Chat Hard", "Safety", "Reasoning"}
    assert details["sample_rewardbench2"]["subsets"]["Ties"]["n"] == 2
    assert details["sample_rewardbench2"]["missing_subsets"] == ["Factuality", "Precise IF", "Safety", "Focus"]


def test_a_response_that_stands_in_several_items_is_scored_once(
    model: Path, tokens: Path, benchmarks: dict[str, Path], tmp_path: Path
):
    facts = build(model, tokens, benchmarks, tmp_path).facts

    # The test split's prompt and replies are those of one RewardBench 2 item, and tied:0 names one reply twice.
    assert facts["num_scored"] == 8 + 2 * 23 + 4 + 3 + 3
    assert facts["num_sequences"] == 4 + 2 * 23 + 3 + 2


def test_scoring_again_gives_identical_files(model: Path, tokens: Path, benchmarks: dict[str, Path], tmp_path: Path):
    for out in ("first", "second"):
        build(model, tokens, benchmarks, tmp_path / out)

    for name in ("item_scores.parquet", "test_pairs.parquet", "scores.json"):
        assert file_sha256(tmp_path / "first" / name) == file_sha256(tmp_path / "second" / name)


def test_a_reply_above_max_length_is_scored_in_a_benchmark_and_a_prompt_above_the_window_is_cut(
    model: Path, tokens: Path, tmp_path: Path
):
    rows = [
        {"id": 0, "subset": "math-prm", "prompt": "Name a river. " * 200, "chosen": "Yes.", "rejected": "No. " * 50},
        {"id": 1, "subset": "math-prm", "prompt": "Hi<|im_end|>", "chosen": "Yes.", "rejected": "No."},
    ]
    folder = benchmark_folder(tmp_path / "bench", "bench", "rewardbench", rows)

    facts = build(model, tokens, {"bench": folder}, tmp_path / "out").facts

    assert facts["truncated"] == 2
    assert facts["with_special_tokens"] == 2


def test_a_reply_above_the_window_is_refused_with_its_item(model: Path, tokens: Path, tmp_path: Path):
    rows = [{"id": 0, "subset": "math-prm", "prompt": "Hi", "chosen": "Yes.", "rejected": "No. " * 600}]
    folder = benchmark_folder(tmp_path / "bench", "bench", "rewardbench", rows)

    with pytest.raises(
        UserError, match=r"reply of item .* \(subset math-prm\) is longer than the model's window of 512"
    ):
        build(model, tokens, {"bench": folder}, tmp_path / "out")


def test_a_model_that_gives_nan_fails_the_check_and_has_no_scores(tokens: Path, tmp_path: Path):
    broken = write_checkpoint(tmp_path / "model")
    from safetensors.torch import load_file, save_file

    weights = load_file(broken / "model.safetensors")
    weights["score.weight"] = torch.full_like(weights["score.weight"], float("nan"))
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})

    built = build(broken, tokens, {}, tmp_path / "out")

    check = built.checks[0]
    assert (check.name, check.passed) == ("no_score_is_missing_or_nan", False)
    assert check.metadata["not_finite"] == 8
    assert check.metadata["first"] == "test p0 r0"
    assert built.facts["scores"] == {}


def test_a_mixture_without_test_pairs_is_refused(model: Path, tokens: Path, tmp_path: Path):
    table = pq.read_table(tokens / "pairs.parquet")
    pq.write_table(table.filter(np.array(table["split"]) == "train"), tmp_path / "pairs.parquet")
    pq.write_table(pq.read_table(tokens / "responses.parquet"), tmp_path / "responses.parquet")

    with pytest.raises(UserError, match="the mixture has no test pair"):
        build(model, tmp_path, {}, tmp_path / "out")
