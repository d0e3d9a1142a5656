"""A generator in this process: a tiny model that learns one solution by heart, and what it samples."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rm_workflow.annotation.local import LocalGenerator
from rm_workflow.annotation.rollouts import Problem, build_rollouts
from rm_workflow.annotation.step_labels import build_step_labels
from rm_workflow.errors import UserError
from rm_workflow_tests.annotation.conftest import annotation
from rm_workflow_tests.models.tiny import tiny_tokenizer, write_tiny_model

SOLUTION = "add one\nThe answer is: {gold}</s>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model that has learnt to solve ``0 + 1?`` and ``1 + 1?``, and nothing else."""
    folder, tokenizer = tmp_path_factory.mktemp("model"), tiny_tokenizer()
    write_tiny_model(folder, tokenizer)
    model = AutoModelForCausalLM.from_pretrained(str(folder))
    texts = [f"{number} + 1?\n{SOLUTION.format(gold=number + 1)}" for number in range(2)]
    rows = [tokenizer(text)["input_ids"] for text in texts]
    assert len({len(row) for row in rows}) == 1
    ids = torch.tensor(rows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(str(folder))
    return folder


def generator(folder: Path, **fields) -> LocalGenerator:
    return LocalGenerator(folder, annotation(**{"max_tokens": 40, "temperature": 0.3, **fields}), "cpu", "fp32")


def test_a_trained_generator_s_solutions_become_labels(folder: Path, problems: list[Problem], tmp_path: Path):
    asked = annotation(max_tokens=40, temperature=0.3)
    for name in ("work", "rollouts", "out"):
        (tmp_path / name).mkdir()
    learnt = [problem for problem in problems if problem.gold in "12"]
    build_rollouts(learnt, asked, generator(folder), tmp_path / "work", tmp_path / "rollouts")
    built = build_step_labels("mine", learnt, tmp_path / "rollouts", asked, tmp_path / "out")
    assert built.facts["num_labels"]["outcome"]["1"] == 4
    assert built.facts["num_labels"]["hard"] == {"1": 8}
    assert built.facts["grader"]["graded"] > 4


def test_a_text_ends_at_the_end_token_at_a_stop_string_or_at_the_most_tokens(folder: Path):
    (whole,), (cut,), (stopped,) = (
        generator(folder, **fields).complete(["1 + 1?\n"], 1, seed=0)[0]
        for fields in ({}, {"max_tokens": 3}, {"stop": ["The"]})
    )
    assert (whole.text, whole.finished) == ("add one\nThe answer is: 2", True)
    assert not cut.finished
    assert whole.text.startswith(cut.text)
    assert (stopped.text, stopped.finished) == ("add one\n", True)


def test_samples_depend_on_the_prompt_and_the_seed_alone(folder: Path):
    hot = generator(folder, temperature=3.0, batch_size=2)
    one = hot.complete(["1 + 1?\n"], 4, seed=0)
    torch.manual_seed(99)
    state = torch.random.get_rng_state()
    assert hot.complete(["1 + 1?\n"], 4, seed=0) == one
    assert torch.equal(torch.random.get_rng_state(), state)
    assert hot.complete(["1 + 1?\n"], 4, seed=1) != one
    assert len({sample.text for sample in one[0]}) > 1


def test_prompts_of_different_lengths_in_one_batch_do_not_disturb_each_other(folder: Path):
    cold = generator(folder, temperature=0.01)
    prompts = ["The", "Name a river. " * 8, "1 + 1?\n"]
    together = cold.complete(prompts, 1, seed=0)
    assert together == [cold.complete([prompt], 1, seed=0)[0] for prompt in prompts]


def test_a_folder_without_a_model_and_a_prompt_that_is_too_long_are_told(folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"annotation\.generator model is no causal model"):
        generator(tmp_path)
    with pytest.raises(UserError, match=r"has \d+ tokens, and annotation\.generator model reads 512"):
        generator(folder).complete(["one " * 600], 1, seed=0)
