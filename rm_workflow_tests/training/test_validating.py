"""Evaluation on held-out pairs while a run trains."""

import json
import shutil

import pytest
import torch
from transformers import TrainerCallback

from rm_workflow.catalog.models import Validation
from rm_workflow.models.reward_model import rewards
from rm_workflow.training import building, checkpoint, held_out
from rm_workflow.training.layouts import padded_batch
from rm_workflow.training.metrics import Progress
from rm_workflow_tests.training import toy

HELD_OUT = {"share": 0.3, "steps": 2}


def make(tiny_base, encoder, tokens, pairs, out, validation, **values):
    facts = held_out.facts_for_training(tokens, {}, Validation(**validation))
    recipe = toy.recipe(validation=validation, head_init_std=0.5, **values)
    config = toy.resolved(recipe, encoder, facts["train_per_epoch"], validation=facts["validation"])
    said = []
    progress = Progress(out / "metrics.jsonl", config["num_steps"], config["num_train_pairs"], said.append)
    positions = held_out.split(tokens, Validation(**validation))
    trainer = building.make_trainer(config, encoder, pairs, tiny_base, progress, out, "", positions)
    progress.start()
    return trainer, said


def test_what_is_held_out_is_never_trained_on_and_evaluated_by_source(tiny_base, encoder, tokens, pairs, tmp_path):
    trainer, said = make(tiny_base, encoder, tokens, pairs, tmp_path, HELD_OUT, epochs=3)
    held = trainer.held_out.tolist()
    assert not {position for step in trainer.steps for position in step} & set(held)
    row = trainer.validate()
    inputs = padded_batch(pairs, held, encoder.pad_token_id)
    with torch.no_grad():
        chosen, rejected = rewards(trainer.model.eval(), inputs["input_ids"], inputs["end_index"]).chunk(2)
    weight = inputs["weight"]
    loss = (weight * -torch.nn.functional.logsigmoid(chosen - rejected)).sum() / weight.sum()
    assert row["loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert row["accuracy"] == pytest.approx((chosen > rejected).float().mean().item())
    assert row["pairs"] == len(held) == sum(source["pairs"] for source in row["sources"].values())
    assert trainer.progress.window.pairs == 0
    trainer.train()
    steps = [json.loads(line)["step"] for line in (tmp_path / "validation.jsonl").read_text("utf-8").splitlines()]
    assert steps == [2, 4, trainer.state.max_steps] == [2, 4, 6]
    assert any(line.startswith("validation after step 2: loss") for line in said)
    # The evaluation counts for nothing in the figures of training.
    assert trainer.progress.total_pairs == 3 * (22 - len(held))


def test_trackers_get_the_figures_of_an_evaluation(tiny_base, encoder, tokens, pairs, tmp_path):
    seen, evaluated = [], []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            seen.extend((state.global_step, logs) for name in logs if name == "eval_loss")

        def on_evaluate(self, args, state, control, metrics=None, **kwargs):
            evaluated.append(metrics)

    trainer, _ = make(tiny_base, encoder, tokens, pairs, tmp_path, HELD_OUT, epochs=1)
    trainer.add_callback(Tracker())
    trainer.train()
    assert seen == evaluated == []
    trainer, _ = make(tiny_base, encoder, tokens, pairs, tmp_path, HELD_OUT, epochs=1)
    trainer.args.report_to = ["a tracker"]
    trainer.add_callback(Tracker())
    trainer.train()
    assert [step for step, _ in seen] == [row["step"] for row in trainer.validations] == [2]
    for (_, logs), metrics, row in zip(seen, evaluated, trainer.validations, strict=True):
        assert logs["eval_loss"] == metrics["eval_loss"] == row["loss"]
        assert (logs["eval_accuracy"], logs["eval_pairs"]) == (row["accuracy"], row["pairs"])
        assert logs["eval_odd_accuracy"] == row["sources"]["odd"]["accuracy"]


def test_validation_changes_nothing_of_the_training(tiny_base, encoder, tokens, pairs, tmp_path):
    lora = {"r": 4, "alpha": 8, "dropout": 0.2, "target_modules": ["q_proj"]}
    weights = []
    for number, steps in enumerate((1, 1000)):
        (tmp_path / str(number)).mkdir()
        validation = {**HELD_OUT, "steps": steps, "keep_best": False}
        trainer, _ = make(tiny_base, encoder, tokens, pairs, tmp_path / str(number), validation, lora=lora, epochs=2)
        trainer.train()
        weights.append({name: tensor.clone() for name, tensor in trainer.model.state_dict().items()})
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def scripted(trainer, losses):
    """Let the evaluations give these losses."""
    stock, given = trainer.validate, iter(losses)

    def validate():
        row = {**stock(), "loss": next(given)}
        return {**row, "is_best": trainer._is_better(row)}

    trainer.validate = validate


def test_the_best_weights_are_saved_and_the_run_stops_when_nothing_better_comes(
    tiny_base, encoder, tokens, pairs, tmp_path
):
    validation = {**HELD_OUT, "patience": 2}
    trainer, said = make(tiny_base, encoder, tokens, pairs, tmp_path, validation, epochs=20, logging_steps=3)
    scripted(trainer, [0.6, 0.5, 0.5, 0.7, 0.1])
    at_best = {}
    stock = trainer._write_best

    def write_best(step):
        stock(step)
        at_best.update({name: tensor.clone() for name, tensor in trainer.model.state_dict().items()})

    trainer._write_best = write_best
    checkpoint.run_to_the_end(trainer)
    # Better at 2 and 4, equal at 6, worse at 8.
    assert trainer.state.global_step == 8
    assert trainer.has_stopped_early
    assert trainer.best["step"] == 4
    assert trainer.progress.records[-1]["step"] == 8
    assert not torch.equal(trainer.model.state_dict()["score.weight"], at_best["score.weight"])
    trainer.load_best()
    assert all(torch.equal(tensor, at_best[name]) for name, tensor in trainer.model.state_dict().items())
    assert said[-1] == "the weights after step 4, the best, are saved"
    assert {path.name for path in (tmp_path / "states").iterdir()} == {"best_00000004", "step_00000008"}


def test_a_run_that_made_all_its_steps_has_not_stopped_early(tiny_base, encoder, tokens, pairs, tmp_path):
    trainer, said = make(tiny_base, encoder, tokens, pairs, tmp_path, {**HELD_OUT, "patience": 2}, epochs=3)
    scripted(trainer, [0.5, 0.6, 0.7])
    checkpoint.run_to_the_end(trainer)
    assert trainer.state.global_step == trainer.state.max_steps == 6
    assert not trainer.has_stopped_early
    assert not any("stopping early" in line for line in said)


def test_a_resumed_run_remembers_its_evaluations_and_its_best_weights(tiny_base, encoder, tokens, pairs, tmp_path):
    validation, values = {**HELD_OUT, "patience": 3}, {"epochs": 20, "save": {"minutes": None, "steps": 5, "keep": 2}}
    losses = [0.6, 0.5, 0.55, 0.58, 0.59]

    def run(losses):
        trainer, said = make(tiny_base, encoder, tokens, pairs, tmp_path, validation, **values)
        scripted(trainer, losses)
        checkpoint.run_to_the_end(trainer)
        trainer.load_best()
        seen = [[row["step"], row["loss"], row["is_best"], row["accuracy"]] for row in trainer.validations]
        return seen, trainer.state.global_step, trainer.model.state_dict()["score.weight"].tolist(), said

    *whole, _ = run(losses)
    assert [row[0] for row in whole[0]] == [2, 4, 6, 8, 10]
    states = {path.name for path in (tmp_path / "states").iterdir()}
    assert states == {"best_00000004", "step_00000005", "step_00000010"}
    # The state of the last step says that the run had stopped, so nothing is trained on and nothing evaluated.
    *again, said = run([])
    assert again == whole
    assert said[-1] == "the weights after step 4, the best, are saved"
    # That of step 5 knows of the evaluations at 2 and 4.
    shutil.rmtree(tmp_path / "states/step_00000010")
    *again, _ = run(losses[2:])
    assert again == whole


def test_accuracy_can_choose(tiny_base, encoder, tokens, pairs, tmp_path):
    trainer, _ = make(tiny_base, encoder, tokens, pairs, tmp_path, {**HELD_OUT, "metric": "accuracy"})
    rows = [{"loss": 0.5, "accuracy": 0.6}, {"loss": 0.6, "accuracy": 0.7}, {"loss": 0.1, "accuracy": 0.7}]
    trainer.validations = []
    for row in rows:
        trainer.validations.append({**row, "is_best": trainer._is_better(row)})
    assert [row["is_best"] for row in trainer.validations] == [True, True, False]


def test_damaged_best_weights_are_told_and_the_last_ones_stay(tiny_base, encoder, tokens, pairs, tmp_path):
    trainer, said = make(tiny_base, encoder, tokens, pairs, tmp_path, HELD_OUT, epochs=3)
    scripted(trainer, [0.1, 0.2, 0.3])
    trainer.train()
    (tmp_path / "states/best_00000002/weights.safetensors").write_bytes(b"")
    last = trainer.model.state_dict()["score.weight"].clone()
    trainer.load_best()
    assert said[-1] == "note: the weights after step 2 are damaged; the last ones are saved"
    assert torch.equal(trainer.model.state_dict()["score.weight"], last)
