import json
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rm_workflow.artifacts import Built
from rm_workflow.catalog.models import Benchmark, Evaluation, Probes
from rm_workflow.errors import UserError
from rm_workflow.evaluation import benchmarks as rules
from rm_workflow.evaluation import parts
from rm_workflow.evaluation.benchmarks import build_benchmark
from rm_workflow.evaluation.benchmarks.rewardbench import SUBSETS
from rm_workflow.evaluation.progress import Progress
from rm_workflow.evaluation.scorer import Scorer
from rm_workflow.evaluation.scores import build_scores, score_work
from rm_workflow.evaluation.sequences import Work
from rm_workflow.hub import SourceFile
from rm_workflow.keys import file_sha256
from rm_workflow.preferences.tables import OCCURRENCES, PROMPTS, RESPONSES
from rm_workflow_tests.evaluation.checkpoints import write_checkpoint
from rm_workflow_tests.evaluation.killing import kill_at, killed_in_a_fork
from rm_workflow_tests.preferences.raw_tables import write

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
    texts = [{"response_id": f"r{i}", "prompt_id": "q", "text": reply} for i, reply in enumerate(REPLIES)]
    prompt = {"prompt_id": "q", "messages": [{"role": "user", "content": "Name a river."}]}
    (folder / "raw").mkdir()
    write(folder / "raw/prompts.parquet", [prompt], PROMPTS)
    write(folder / "raw/responses.parquet", texts, RESPONSES)
    write(folder / "raw/occurrences.parquet", [], OCCURRENCES)
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


def build(
    model: Path,
    tokens: Path,
    benchmarks: dict[str, Path],
    out: Path,
    batch_tokens: int = 4096,
    work: Path | None = None,
    progress: Progress | None = None,
    deterministic: bool = False,
    num_probed: int = 0,
    on_test: bool = True,
) -> Built:
    evaluation = Evaluation(
        evaluate_on=[*(["test"] if on_test else []), *benchmarks],
        batch_tokens=batch_tokens,
        precision="fp32",
        deterministic=deterministic,
        probes=Probes(num_pairs=num_probed, num_prompt_ablated=num_probed),
    )
    out.mkdir(exist_ok=True)
    return build_scores(model, tokens, [tokens / "raw"], benchmarks, evaluation, "cpu", out, progress, work)


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
    assert built.facts["analysis"]["test"]["flip_holds"] is True
    assert 0 < built.facts["analysis"]["sample_rewardbench"]["pick_longer"] < 1
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
        build(model, tokens, benchmarks, tmp_path / out, num_probed=3)

    names = ("item_scores.parquet", "test_pairs.parquet", "scores.json", "analysis.json")
    for name in (*names, "probes.json", "probe_scores.parquet"):
        assert file_sha256(tmp_path / "first" / name) == file_sha256(tmp_path / "second" / name)


def test_a_killed_build_goes_on_where_it_was_and_gives_identical_files(
    model: Path, tokens: Path, benchmarks: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(parts, "SECONDS_A_PART", 0.0)
    build(model, tokens, benchmarks, tmp_path / "whole", 100, num_probed=2)
    work = tmp_path / "work"

    def killed() -> None:
        kill = lambda done, total: kill_at(done, total // 2)  # noqa: E731
        build(model, tokens, benchmarks, tmp_path / "killed", 100, work, kill, num_probed=2)

    killed_in_a_fork(killed)
    assert not list((tmp_path / "killed").iterdir())
    facts = build(model, tokens, benchmarks, tmp_path / "resumed", 100, work, num_probed=2).facts

    assert 0 < facts["num_continued"] < facts["num_sequences"]
    names = {path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file()}
    assert len(names) == 9
    for name in names:
        assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_speed_of_a_resumed_scoring_counts_what_this_run_scored(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    scorer, work = Scorer.load(model, layout="alone"), Work()
    for number in (0, 1, 1):
        work.add("test", "pair", str(number), [number + 1, 2])
    score_work(scorer, Work(work.sequences[:1], work.keys[:1], work.reads[:1]), tmp_path)
    ticks = count(step=2)
    monkeypatch.setattr("rm_workflow.evaluation.scores.time", SimpleNamespace(perf_counter=lambda: next(ticks)))

    values, facts = score_work(scorer, work, tmp_path)
    _, again = score_work(scorer, work, tmp_path)

    assert (len(values), facts["num_continued"]) == (3, 1)
    assert (facts["seconds"], facts["responses_per_second"]) == (2, 1.0)
    assert (again["num_continued"], again["responses_per_second"]) == (2, 0.0)


def test_score_files_give_the_figures_of_the_build(
    model: Path, tokens: Path, benchmarks: dict[str, Path], tmp_path: Path
):
    built = build(model, tokens, benchmarks, tmp_path)

    for name, scoring in (("test", "pairs"), ("sample_rewardbench", "rewardbench")):
        lines = (tmp_path / "score_files" / f"{name}.jsonl").read_text().splitlines()
        rule = rules.rule(scoring)
        headline = rule.headline(rule.aggregate([json.loads(line) for line in lines]))
        assert headline is not None
        expected = built.facts["scores"][name]
        assert {key: headline[key] for key in ("score", "n", "ci_low", "ci_high", "ties")}.items() <= expected.items()


def test_probes_are_scored_in_the_same_call_and_stay_out_of_the_item_scores(model: Path, tokens: Path, tmp_path: Path):
    plain = build(model, tokens, {}, tmp_path / "plain").facts
    facts = build(model, tokens, {}, tmp_path / "probed", num_probed=3).facts

    assert (plain["num_scored"], plain["num_probed"], facts["num_scored"]) == (8, 0, 8 + facts["num_probed"])
    rows = pq.read_table(tmp_path / "probed/probe_scores.parquet").to_pylist()
    changed = [row for row in rows if row["state"] == "changed"]
    # beside each rewritten reply and each without its prompt, six replies as they stand
    assert facts["num_probed"] == len(changed) + 6
    assert pq.read_table(tmp_path / "probed/item_scores.parquet")["benchmark"].unique().to_pylist() == ["test"]
    (row,) = [row for row in rows if (row["probe"], row["pair_id"], row["side"]) == ("repeated", "p3", "chosen")]
    river = [{"role": "user", "content": "Name a river."}]
    expected, _ = Scorer.load(model).score_texts([(river, "Paris"), (river, "Paris\n\nParis")])
    assert [row["before"], row["after"]] == pytest.approx(list(expected), abs=1e-5)
    assert facts["probes"]["rewrites"]["repeated"]["num_changed"] == 6
    assert facts["scores"]["test"]["score"] == plain["scores"]["test"]["score"]


def test_accuracy_without_the_prompt_is_a_null_of_the_test_split(model: Path, tokens: Path, tmp_path: Path):
    facts = build(model, tokens, {}, tmp_path, num_probed=3).facts

    nothing = [{"role": "user", "content": ""}]
    scores, _ = Scorer.load(model).score_texts([(nothing, reply) for reply in REPLIES])
    pairs = {"p0": (0, 1), "p1": (0, 2), "p2": (1, 2), "p3": (3, 1)}
    rows = pq.read_table(tmp_path / "probe_scores.parquet").to_pylist()
    sampled = {row["pair_id"] for row in rows if row["probe"] == "prompt_ablated"}
    right = [scores[chosen] > scores[rejected] for name, (chosen, rejected) in pairs.items() if name in sampled]
    null = json.loads((tmp_path / "analysis.json").read_text())["test"]["nulls"]["prompt_ablated"]
    assert set(null) == {"score", "n", "ci_low", "ci_high", "ties"}
    assert (null["n"], null["score"]) == (3, pytest.approx(sum(right) / 3))
    assert facts["analysis"]["test"]["prompt_ablated"] == null["score"]


def test_where_the_test_split_is_not_scored_nothing_is_probed_and_it_is_said(
    model: Path, tokens: Path, benchmarks: dict[str, Path], tmp_path: Path
):
    facts = build(model, tokens, benchmarks, tmp_path, num_probed=3, on_test=False).facts

    assert (facts["num_probed"], facts["probes"]["rewrites"]) == (0, {})
    assert "test split is not scored" in facts["probes"]["why_none"]
    assert json.loads((tmp_path / "probes.json").read_text())["prompt_ablated"] is None


def test_a_deterministic_build_says_so(model: Path, tokens: Path, tmp_path: Path):
    facts = build(model, tokens, {}, tmp_path, deterministic=True).facts

    assert (facts["deterministic"], facts["layout"], facts["token_recipe"]) == (True, "alone", "stored")


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
