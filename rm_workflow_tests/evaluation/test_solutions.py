"""Outcome and process models: all steps in one pass against one pass a step, and where their scores go."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer

from rm_workflow.catalog.models import Benchmark, Evaluation, TokenRecipe
from rm_workflow.errors import UserError
from rm_workflow.evaluation import stored
from rm_workflow.evaluation.benchmarks import build_benchmark
from rm_workflow.evaluation.score_file import Tally, read_lines, score_lines
from rm_workflow.evaluation.scorer import Scorer
from rm_workflow.evaluation.scores import build_scores, evaluate_benchmark
from rm_workflow.evaluation.steps import aggregate, step_accuracy, step_ends
from rm_workflow.hub import SourceFile
from rm_workflow.keys import file_sha256
from rm_workflow.models.readout import KINDS
from rm_workflow.training.solution_tokens import build_solution_tokens
from rm_workflow_tests.evaluation.checkpoints import CHATML, write_solution_model
from rm_workflow_tests.training.toy_solutions import OBJECTIVES, Solved, solved, write_mixture

TOLERANCE = 1e-5
PROBLEM = [{"role": "user", "content": "What is 2 + 3 - 1?"}]
# Candidates of one problem: some begin with the same steps, and formulas hold the signs of verdicts.
CANDIDATES = [
    "Step 1: 2 + 3 = 5.\nStep 2: 5 - 1 = 4.\nYes.",
    "Step 1: 2 + 3 = 5.\nStep 2: 5 - 1 = 3.\nNo.",
    "Step 1: 2 + 3 = 5.\nStep 2: 5 - 1 = 4.\nThe capital of France.",
    "Step 1: 2 + 3 - 1 = +",
    "-",
]


@pytest.fixture(scope="module", params=OBJECTIVES)
def objective(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(objective, tmp_path_factory) -> Path:
    return write_solution_model(tmp_path_factory.mktemp(objective), objective)


def one_by_one(folder: Path, objective: str, text: str) -> list[float]:
    """Return the scores of the steps as published evaluators take them: one forward pass for each, by transformers."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    steps = text.split("\n")
    if objective == "token_prm":
        model = AutoModelForTokenClassification.from_pretrained(folder).eval()
        whole = tokenizer.apply_chat_template([*PROBLEM, {"role": "assistant", "content": text}], tokenize=False)
        scores = []
        for number in range(1, len(steps) + 1):
            upto = whole[: whole.rindex(text) + len("\n".join(steps[:number]))]
            ids = tokenizer(upto, add_special_tokens=False, return_tensors="pt").input_ids
            scores.append(torch.sigmoid(model(input_ids=ids).logits[0, -1, 0]).item())
        return scores
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    parts = [text] if objective == "generative_orm" else steps
    turns: list[dict[str, str]] = []
    scores = []
    for number, part in enumerate(parts):
        content = f"{PROBLEM[0]['content']} {part}" if number == 0 else part
        turns += [{"role": "user", "content": content}]
        both = [
            tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": sign}])["input_ids"]
            for sign in "+-"
        ]
        (place,) = [place for place, (a, b) in enumerate(zip(*both, strict=True)) if a != b]
        logits = model(input_ids=torch.tensor([both[0][:place]])).logits[0, -1]
        scores.append(torch.softmax(logits[[both[0][place], both[1][place]]], 0)[0].item())
        turns += [{"role": "assistant", "content": "+"}]
    return scores


@pytest.mark.parametrize("layout", [None, "shared", "packed", "padded", "alone"])
def test_one_pass_gives_the_scores_of_one_pass_a_step(layout, objective, model):
    scorer = Scorer.load(model, layout=layout, batch_tokens=150)
    prepared = scorer.prepare([(PROBLEM, text) for text in CANDIDATES])
    found = scorer.score_reads([row.input_ids for row in prepared], [row.reads for row in prepared])
    expected = [one_by_one(model, objective, text) for text in CANDIDATES]
    assert [len(steps) for steps in found] == [len(steps) for steps in expected]
    assert np.concatenate(found) == pytest.approx(np.concatenate(expected), abs=TOLERANCE)
    # Not all the same, which every layout would get right.
    assert np.ptp(np.concatenate(expected)) > 0.05


def test_what_candidates_begin_with_is_computed_once_and_equal_ones_are_scored_once(objective, model):
    scorer = Scorer.load(model)
    texts = [f"{CANDIDATES[0]} {n % 6}" for n in range(12)]
    prepared = scorer.prepare([(PROBLEM, text) for text in texts])
    lengths = {tuple(row.input_ids): len(row.input_ids) for row in prepared}
    found = scorer.score_reads([row.input_ids for row in prepared], [row.reads for row in prepared])
    assert scorer.layout == "shared"
    assert len(lengths) == 6
    assert scorer.num_computed < 0.5 * sum(lengths.values())
    for first, second in zip(found[:6], found[6:], strict=True):
        assert np.array_equal(first, second)


def test_a_scoring_that_was_killed_goes_on_with_the_steps_that_it_has(model, tmp_path):
    from rm_workflow.evaluation.parts import Parts

    scorer = Scorer.load(model, layout="padded", batch_tokens=1)
    prepared = scorer.prepare([(PROBLEM, text) for text in CANDIDATES])
    ids, reads = [row.input_ids for row in prepared], [row.reads for row in prepared]
    expected = scorer.score_reads(ids, reads)
    computed, scorer.num_computed = scorer.num_computed, 0
    scorer.score_reads(ids[:2], reads[:2], parts=Parts(tmp_path))
    again = scorer.score_reads(ids, reads, parts=Parts(tmp_path))
    assert scorer.num_computed == computed
    assert all(np.array_equal(a, b) for a, b in zip(expected, again, strict=True))


def test_a_text_without_marked_steps_is_cut_at_paragraphs_or_lines():
    assert step_ends("One.\nTwo. \n\n") == [4, 9]
    assert step_ends("One.\nstill\n\nTwo.") == [10, 16]
    assert step_ends("One.") == [4]
    assert step_ends(" ") == []


def test_an_empty_reply_is_no_best_reply_of_a_process_model(objective, model):
    scorer = Scorer.load(model, "cpu", "fp32")
    talk = [{"role": "user", "content": "1+1?"}]
    scores, _ = scorer.score_texts([(talk, "1+1=2.\nThe answer is: 2"), (talk, ""), (talk, " \n ")])
    assert all(0 < score < 1 for score in scores[:1])
    if scorer.readout.is_stepwise:
        assert scores[1:].tolist() == [0.0, 0.0]
    else:
        assert all(0 < score < 1 for score in scores)


def test_a_problem_that_is_too_long_is_cut_and_no_step_is_lost(objective, tmp_path):
    recipe = CHATML.model_copy(update={"max_length": 90, "over_length": "truncate_prompt_left"})
    scorer = Scorer.load(write_solution_model(tmp_path, objective, recipe=recipe))
    long = [{"role": "user", "content": "The river is long. " * 40}]
    rows = scorer.prepare([(long, "Yes.\nNo."), (PROBLEM, "The river is long. " * 40)])
    assert (len(rows[0].input_ids), rows[0].truncated, rows[0].problem) == (90, True, None)
    whole = scorer.in_window([(long, "Yes.\nNo.")])[0]
    assert len(rows[0].reads) == len(whole.reads) == (1 if objective == "generative_orm" else 2)
    cut = len(whole.input_ids) - 90
    assert [place - cut for place in whole.reads] == list(rows[0].reads)
    assert "tokens" in rows[1].problem


def test_an_adapter_gives_the_scores_of_the_merged_model(objective, model, tmp_path, monkeypatch):
    monkeypatch.setenv("RMW_HOME", str(tmp_path / "home"))
    auto = AutoModelForCausalLM if KINDS[objective] == "signs" else AutoModelForTokenClassification
    wrapped = get_peft_model(
        auto.from_pretrained(model), LoraConfig(r=2, init_lora_weights=False, target_modules="all-linear")
    )
    wrapped.save_pretrained(str(tmp_path / "adapter"))
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": str(model)})
    )
    for name in ("readout.json", "token_recipe.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model / name, tmp_path / "adapter" / name)
    merged = tmp_path / "model"
    shutil.copytree(model, merged)
    wrapped.merge_and_unload().save_pretrained(str(merged))
    asked = [(PROBLEM, text) for text in CANDIDATES]
    found, _ = Scorer.load(tmp_path / "adapter").score_texts(asked)
    expected, _ = Scorer.load(merged).score_texts(asked)
    before, _ = Scorer.load(model).score_texts(asked)
    assert found == pytest.approx(expected, abs=TOLERANCE)
    assert np.abs(found - before).max() > 0.01


def test_a_published_model_is_known_by_its_name_and_its_verdicts_by_its_tokenizer(tmp_path):
    model = write_solution_model(tmp_path / "m", "generative_prm")
    expected, _ = Scorer.load(model).score_texts([(PROBLEM, CANDIDATES[0])])
    (model / "readout.json").unlink()
    with pytest.raises(UserError, match=r"no reward head .* readout.json with"):
        Scorer.load(model)
    (model / "token_recipe.json").unlink()
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "pad_token_id": None}))
    named = Scorer.load(model, hub_id="RLHFlow/Llama3.1-8B-PRM-Mistral-Data")
    assert (named.readout.objective, named.recipe_origin) == ("generative_prm", "published")
    assert named.score_texts([(PROBLEM, CANDIDATES[0])])[0] == pytest.approx(expected, abs=TOLERANCE)
    outcome = Scorer.load(model, hub_id="RLHFlow/Llama3.1-8B-ORM-Deepseek-Data")
    assert outcome.readout.objective == "generative_orm"
    assert len(outcome.prepare([(PROBLEM, CANDIDATES[0])])[0].reads) == 1


def test_a_readout_of_another_tokenizer_is_refused(tmp_path):
    model = write_solution_model(tmp_path / "m", "generative_prm")
    stated = json.loads((model / "readout.json").read_text())
    (model / "readout.json").write_text(json.dumps({**stated, "sign_ids": stated["sign_ids"][::-1]}))
    with pytest.raises(UserError, match=r"sign_ids is .* and the tokenizer has"):
        Scorer.load(model)
    (model / "readout.json").write_text(json.dumps({**stated, "objective": "prm"}))
    with pytest.raises(UserError, match="objective is 'prm'; write one of"):
        Scorer.load(model)
    (model / "readout.json").write_text(json.dumps({"objective": "generative_prm"}))
    assert Scorer.load(model).readout.sign_ids == tuple(stated["sign_ids"])


# --- where scores go


def best_of_n(folder: Path) -> Path:
    folder.mkdir()
    path = folder / "rows.jsonl"
    row = {"prompt": PROBLEM[0]["content"], "answers": CANDIDATES, "label": [1, 0, 0, 0, 0]}
    path.write_text(json.dumps(row) + "\n")
    described = Benchmark(
        path="x", files={"test": [path.name]}, scoring="best_of_n", licence="CC0", step_separator="\n"
    )
    build_benchmark("bon", described, [SourceFile("test", path.name, path, path.name, file_sha256(path))], folder)
    return folder


def test_a_candidate_set_gets_the_scores_of_all_steps(objective, model, tmp_path):
    scorer = Scorer.load(model)
    evaluated = evaluate_benchmark(scorer, "bon", best_of_n(tmp_path / "bon"), tmp_path / "work")
    (row,) = evaluated.rows
    assert row["scale"] == "probability"
    expected = [one_by_one(model, objective, text) for text in CANDIDATES]
    for candidate, steps in zip(row["candidates"], expected, strict=True):
        given = [candidate["score"]] if objective == "generative_orm" else candidate["step_scores"]
        assert given == pytest.approx(steps, abs=TOLERANCE)
    assert set(evaluated.result["n"]) == {"1", "2", "4", "5"}


@pytest.mark.parametrize("paired", [True, False])
def test_the_test_split_is_scored_by_its_pairs_and_its_steps(paired, objective, model, tmp_path):
    kind = "responses" if objective == "generative_orm" else "trajectories"
    tests = [
        Solved("Which?", ["Yes. 1 + 1", "No. 2 - 1"], [1.0, 0.0], "test"),
        Solved("Which?" if paired else "What?", ["Yes. 3", "Yes. 4", "Yes."], [1.0, None, 1.0], "test"),
    ]
    mixture, raw = write_mixture(tmp_path, [*solved(3), *tests], kind)
    for name in ("tokens", "out"):
        (tmp_path / name).mkdir()
    tokens = tmp_path / "tokens"
    build_solution_tokens(mixture, [raw], model, TokenRecipe(template="chatml"), tokens, objective, kind)
    benchmarks = {"bon": best_of_n(tmp_path / "bon")}
    built = build_scores(model, tokens, [raw], benchmarks, Evaluation(precision="fp32"), "cpu", tmp_path / "out")
    assert all(check.passed for check in built.checks), built.checks
    table = pq.read_table(tmp_path / "out" / "test_steps.parquet").to_pylist()
    assert sorted(row["label"] for row in table) == ([0, 1] if objective == "generative_orm" else [0, 1, 1, 1])
    headline = built.facts["scores"]["test"]
    assert headline["outcomes" if objective == "generative_orm" else "steps"]["n"] == len(table)
    assert headline["n"] == (1 if paired else len(table))
    scorer = Scorer.load(model)
    (texts,) = [[scorer.prepare([(one.messages, one.text)], [one.step_ends])[0] for one in tests]]
    expected = scorer.score_reads([row.input_ids for row in texts], [row.reads for row in texts])
    by_response = {}
    for row in table:
        by_response.setdefault(row["response_id"], {})[row["step"]] = row["score"]
    wanted = {0: expected[0][0], 1: expected[0][-1]} if len(expected[0]) > 1 else {0: expected[0][0]}
    assert any(found == pytest.approx(wanted, abs=TOLERANCE) for found in by_response.values())
    items = stored.scored_items(tmp_path / "out", "bon", benchmarks["bon"])
    (item,) = items.values()
    assert item.scale == "probability"
    if objective == "generative_orm":
        assert item.step_scores is None
    else:
        assert item.scores == pytest.approx([np.mean(steps) for steps in item.step_scores])


def test_lines_come_back_with_the_scores_of_their_steps(objective, model):
    rows = [
        {"prompt": PROBLEM[0]["content"], "response": CANDIDATES[0]},
        {"prompt": PROBLEM[0]["content"], "steps": CANDIDATES[0].split("\n")},
        {"prompt": PROBLEM[0]["content"], "steps": [" "]},
    ]
    scorer, out, tally = Scorer.load(model), io.BytesIO(), Tally()
    lines = read_lines(json.dumps(row).encode() + b"\n" for row in rows)
    score_lines(scorer, lines, out, "in", True, tally, aggregator="min")
    plain, stepped, bad = (json.loads(line) for line in out.getvalue().splitlines())
    expected = one_by_one(model, objective, CANDIDATES[0])
    for row in (plain, stepped):
        assert row["score"] == pytest.approx(min(expected), abs=TOLERANCE)
        assert ("step_scores" in row) == (objective != "generative_orm")
        assert row.get("step_scores", expected) == pytest.approx(expected, abs=TOLERANCE)
    assert bad["score"] is None
    assert "only white space" in bad["error"]


# --- figures


def test_one_score_of_the_steps_is_named_by_its_aggregator():
    steps = [0.5, 0.25, 1.0]
    found = {name: aggregate(steps, name) for name in ("min", "last", "product", "mean")}
    assert found == pytest.approx({"min": 0.25, "last": 1.0, "product": 0.125, "mean": 1.75 / 3})
    assert aggregate([-3.0]) == -3.0


def test_a_model_that_says_right_of_every_step_is_no_better_than_chance():
    labels, groups = np.array([1.0] * 18 + [0.0] * 2), [n // 4 for n in range(20)]
    found = step_accuracy(labels, np.full(20, 0.9), groups)
    assert (found["score"], found["accuracy"]) == (0.5, 0.9)
    assert found["right"] == {"accuracy": 1.0, "n": 18}
    assert found["wrong"] == {"accuracy": 0.0, "n": 2}
    perfect = step_accuracy(labels, np.where(labels > 0, 0.9, 0.1), groups)
    assert perfect["score"] == 1.0
    assert 0 < perfect["ci_low"] < perfect["ci_high"] == 1.0
    assert step_accuracy(labels[:5], labels[:5], groups[:5])["score"] is None
