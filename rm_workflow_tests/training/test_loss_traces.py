"""Whole runs in every layout against padded rows: the loss of each step is the same but for rounding.

The learning rate is that of full tuning in published recipes. Adam divides a gradient by its own size, so a weight
whose gradient is all rounding moves by the learning rate in either direction: at 1e-4 traces part ten times sooner, and
what they then show is Adam, not the layout.
"""

import json

import pytest

from rm_workflow.models.tokens import Encoder
from rm_workflow.training import building
from rm_workflow.training.data import load_pairs
from rm_workflow.training.metrics import Progress
from rm_workflow_tests.models.tiny import tiny_tokenizer, write_tiny_model
from rm_workflow_tests.training import toy
from rm_workflow_tests.training.test_trainer import make_trainer

FAMILIES = ("llama", "qwen2", "mistral", "gemma")
LAYOUTS = ("packed", "shared", "kwise")
TOLERANCE = 1e-5
VALUES = {"learning_rate": 1e-5, "batch_size": 12, "grouping": "prompts", "logging_steps": 1}
NUM_STEPS = 200
NUM_STEPS_OF_SMOLLM2 = 10


def trace(trainer, layout, num_steps):
    trainer.args.max_steps = num_steps
    trainer.train()
    assert trainer.layout == layout
    losses = [record["loss"] for record in trainer.progress.records]
    assert len(losses) == num_steps
    return losses


def largest_difference(ours, theirs):
    return max(abs(one - other) for one, other in zip(ours, theirs, strict=True))


@pytest.fixture(scope="module")
def pairs_of_prompts(encoder, tmp_path_factory):
    return load_pairs(toy.write_tokens(tmp_path_factory.mktemp("tokens"), encoder, toy.rows_of_prompts(*[4] * 6, 2, 3)))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("family", FAMILIES)
def test_200_steps_of_a_tiny_model_have_the_losses_of_padded_rows(family, encoder, pairs_of_prompts, tmp_path, capsys):
    base = write_tiny_model(tmp_path / "base", tiny_tokenizer(adds_bos=False), family)
    if family == "mistral":
        # Its window is what tells it from Llama; here it is shorter than most conversations.
        config = json.loads((base / "config.json").read_text("utf-8"))
        (base / "config.json").write_text(json.dumps({**config, "sliding_window": 24}), "utf-8")
    values = {**VALUES, "epochs": 70, "micro_batch_tokens": 1024}
    padded, *others = (
        trace(make_trainer(base, encoder, pairs_of_prompts, tmp_path, layout=layout, **values), layout, NUM_STEPS)
        for layout in ("padded", *LAYOUTS)
    )
    found = {name: largest_difference(losses, padded) for name, losses in zip(LAYOUTS, others, strict=True)}
    with capsys.disabled():
        print(f"\n{family}: loss {padded[0]:.4f} to {padded[-1]:.4f}, {found}")
    # Otherwise equal traces would say nothing of gradients.
    assert padded[-1] < padded[0] - 0.01
    assert max(found.values()) <= TOLERANCE


@pytest.mark.slow(seconds=110)
@pytest.mark.timeout(1800)
def test_10_steps_of_smollm2_have_the_losses_of_padded_rows(smollm2_folder, tmp_path, capsys):
    encoder = Encoder.load(smollm2_folder, toy.TOKENS)
    # Three replies to a short question: what a step costs is the model, not its tokens.
    rows = [{**row, "prompt": row["prompt"][1]} for row in toy.rows_of_prompts(3, 3)]
    pairs = load_pairs(toy.write_tokens(tmp_path / "tokens", encoder, rows))
    values = {**VALUES, "epochs": 6, "batch_size": 3, "micro_batch_tokens": 512}

    def of(layout):
        # With the head that runs are given: one of ordinary size makes rewards of 30, whose last bit is 2e-6.
        config = toy.resolved(toy.recipe(layout=layout, **values), encoder, len(pairs), keys=pairs)
        progress = Progress(tmp_path / "metrics.jsonl", config["num_steps"], len(pairs))
        trainer = building.make_trainer(config, encoder, pairs, smollm2_folder, progress, tmp_path)
        progress.start()
        return trace(trainer, layout, NUM_STEPS_OF_SMOLLM2)

    padded, *others = (of(layout) for layout in ("padded", *LAYOUTS))
    found = {name: largest_difference(losses, padded) for name, losses in zip(LAYOUTS, others, strict=True)}
    with capsys.disabled():
        print(f"\nSmolLM2-135M: loss {padded[0]:.4f} to {padded[-1]:.4f}, {found}")
    assert max(found.values()) <= TOLERANCE
