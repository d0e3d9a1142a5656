"""A run that is ended and goes on equals one that is not, bit for bit."""

import itertools
import json
import os
import random
import sys
import time
from contextlib import suppress

import numpy as np
import pytest
import torch

from rm_workflow.errors import UserError
from rm_workflow.training import building, checkpoint, process, resuming, training_state
from rm_workflow.training.metrics import Progress
from rm_workflow_tests.training import toy

NUM_STEPS = 50
# Of 8 of the 22 pairs, the last one short. Dropout draws in each step, and the schedule moves the learning rate.
VALUES = {
    "lora": {"r": 4, "alpha": 8, "dropout": 0.2, "target_modules": ["q_proj"]},
    "epochs": 4.4,
    "schedule": "cosine",
    "warmup": 0.1,
    "weight_decay": 0.01,
    "micro_batch_tokens": 400,
    "logging_steps": 4,
}


class Run:
    """One folder and every process that works in it."""

    def __init__(self, tiny_base, encoder, tokens, pairs, out, **values):
        self.config = toy.resolved(toy.recipe(**{**VALUES, **values}), encoder, 22)
        self.base, self.encoder, self.tokens, self.pairs, self.out = tiny_base, encoder, tokens, pairs, out
        self.out.mkdir(exist_ok=True)
        self.said = []
        # step -> what it saw and did, the last time it was run to its end
        self.trace = {}

    def start(self, stop_in=None):
        """Run until the end, or until a signal comes within the step ``stop_in``; return the trainer."""
        progress = Progress(self.out / "metrics.jsonl", self.config["num_steps"], 22, self.said.append)
        identity = resuming.run_identity(self.config, self.tokens, self.base)
        trainer = building.make_trainer(self.config, self.encoder, self.pairs, self.base, progress, self.out, identity)
        stock_loss, stock_step = trainer.compute_loss, trainer.training_step

        def compute_loss(*arguments, **named):
            if trainer.state.global_step + 1 == stop_in:
                # Noted within the step: the rest of its micro-batches is not computed.
                process.ENDING.asked = 15
            return stock_loss(*arguments, **named)

        def training_step(model, inputs, *rest):
            loss = stock_step(model, inputs, *rest)
            ids = [batch["pair"].tolist() for batch in inputs["micro_batches"]]
            rate = trainer.lr_scheduler.get_last_lr()
            draws = [torch.get_rng_state().sum().item(), random.getstate()[1][-1], np.random.get_state()[2]]
            self.trace[trainer.state.global_step + 1] = [loss.item().hex(), ids, rate, draws]
            return loss

        trainer.compute_loss, trainer.training_step = compute_loss, training_step
        progress.start()
        if stop_in is None:
            checkpoint.run_to_the_end(trainer)
        else:
            with pytest.raises(process.Terminated):
                checkpoint.run_to_the_end(trainer)
        return trainer

    @property
    def lines(self):
        return metrics_of(self.out)


def metrics_of(out):
    clocks = {"seconds", "elapsed", "memory_gb", "mfu"}
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [{k: v for k, v in line.items() if k not in clocks and "per_second" not in k} for line in lines]


def weights_of(trainer):
    return {name: tensor.clone() for name, tensor in trainer.trained_model.state_dict().items()}


@pytest.fixture(scope="module")
def make_run(tiny_base, encoder, tokens, pairs, tmp_path_factory):
    def make(**values):
        return Run(tiny_base, encoder, tokens, pairs, tmp_path_factory.mktemp("run"), **values)

    return make


@pytest.fixture(scope="module")
def whole(make_run):
    """A run that nothing ended, and its weights."""
    run = make_run()
    weights = weights_of(run.start())
    return run, weights


def assert_equal_runs(run, trainer, whole):
    other, weights = whole
    assert run.trace == other.trace
    assert run.lines == other.lines
    found = weights_of(trainer)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_a_run_ended_again_and_again_equals_one_that_was_not(make_run, whole):
    run = make_run()
    stops = [2, 6, 7, 13]
    ended_after = []
    for stop in stops:
        run.start(stop_in=stop)
        ended_after.append(max(run.trace))
    # The signal comes within the first micro-batch of a step; the last step has no other, so it is finished.
    assert ended_after == [1, 5, 6, 13]
    trainer = run.start()
    assert_equal_runs(run, trainer, whole)
    assert resuming.resumed_from(run.out) == ended_after


@pytest.mark.slow
def test_a_run_ended_in_each_of_its_50_steps_equals_one_that_was_not(make_run):
    values = {"epochs": 18.1, "micro_batch_tokens": 200}
    never = make_run(**values)
    weights = weights_of(never.start())
    assert len(never.trace) == NUM_STEPS
    run = make_run(**values)
    done = 0
    while done < NUM_STEPS - 1:
        # One more step, and the one after it is given up.
        run.start(stop_in=done + 2)
        done = max(run.trace)
    assert_equal_runs(run, run.start(), (never, weights))
    assert len(resuming.resumed_from(run.out)) > NUM_STEPS * 0.9


def test_a_full_fine_tuning_goes_on_from_a_state_of_the_schedule_as_it_was(make_run):
    values = {"lora": None, "epochs": 3, "learning_rate": 1e-3, "micro_batch_tokens": 200}
    never = make_run(**values)
    weights = weights_of(never.start())
    run = make_run(**values, save={"minutes": None, "steps": 2, "keep": 3})
    run.start(stop_in=6)
    # What SIGKILL leaves: the states of the schedule alone.
    assert sorted(path.name for path in (run.out / "states").iterdir()) == [
        "step_00000002",
        "step_00000004",
        "step_00000005",
    ]
    flip_bit(run.out / "states/step_00000005/optimizer.safetensors")
    run.said.clear()
    trainer = run.start()
    assert run.said[0] == (
        "the training state step_00000005 is not used, because the sha256 of optimizer.safetensors is not what was "
        "written; trying the one before"
    )
    assert run.said[1] == "resuming after step 4, from step_00000004"
    assert_equal_runs(run, trainer, (never, weights))
    states = {path.name for path in (run.out / "states").iterdir()}
    assert states == {"step_00000004", "step_00000006", "step_00000008", "resumes.json"}


def flip_bit(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_a_state_is_safetensors_and_json_alone(make_run, monkeypatch):
    import pickle

    def refuse(*arguments, **named):
        raise AssertionError("something was pickled")

    for module, name in ((pickle, "dump"), (pickle, "dumps"), (torch, "save"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    run = make_run()
    run.start(stop_in=3)
    run.start(stop_in=5)
    files = {path.name for path in (run.out / "states/step_00000004").iterdir()}
    assert {name.rsplit(".", 1)[1] for name in files} == {"safetensors", "json", "jsonl"}
    with (run.out / "states/step_00000004/progress.json").open(encoding="utf-8") as file:
        progress = json.load(file)
    assert progress["sampler"] == {"steps": 4}
    assert progress["counters"]["total_pairs"] == 32
    for name in files:
        if name.endswith(".json"):
            json.loads((run.out / "states/step_00000004" / name).read_text("utf-8"))


def test_a_signal_before_the_first_step_writes_nothing(make_run):
    run = make_run()
    run.start(stop_in=1)
    assert training_state.kept_states(run.out / "states", 1) == []


def test_the_states_of_another_run_are_refused(make_run, whole):
    run = make_run()
    run.start(stop_in=3)
    other = make_run(weight_decay=0.02)
    other.out = run.out
    with pytest.raises(UserError, match="holds the states of another run"):
        other.start()
    assert training_state.kept_states(run.out / "states", 1)[0].step == 2


def test_a_run_goes_on_after_a_change_of_how_it_is_made(make_run, whole):
    never, _ = whole
    run = make_run()
    run.start(stop_in=6)
    how = {"micro_batch_tokens": 200, "layout": "padded", "logging_steps": 1, "save": {"steps": 9, "keep": 1}}
    other = make_run(**how)
    other.out = run.out
    trainer = other.start()
    assert resuming.resumed_from(run.out) == [5]
    assert [line["step"] for line in other.lines] == [1, 4, *range(6, 14)]
    # Dropout draws other masks, so what is equal is what was trained on.
    trained = {step: sorted(itertools.chain(*batches)) for step, (_, batches, *_) in other.trace.items()}
    of_whole = {step: sorted(itertools.chain(*batches)) for step, (_, batches, *_) in never.trace.items()}
    assert trained == {step: of_whole[step] for step in range(6, 14)}
    assert trainer.progress.total_pairs == 97
    assert trainer.schedule.keep == 1


def test_random_generators_come_back_through_json():
    state = json.loads(json.dumps(resuming.rng_state()))
    drawn = [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(2).tolist()]
    resuming.set_rng_state(state)
    again = [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(2).tolist()]
    assert drawn == again


def test_saving_by_time_never_takes_more_than_its_share():
    schedule = resuming.Schedule(minutes=1, steps=None, keep=2, saved_at=0.0)
    assert not schedule.is_due(1, 59.9)
    assert schedule.is_due(2, 60.0)
    # A state that took 3 s to write is worth 150 s of training.
    schedule.saved(2, 60.0, 63.0)
    assert not schedule.is_due(3, 63.0 + 149.0)
    assert schedule.is_due(4, 63.0 + 150.0)


def test_the_last_state_is_written_where_losing_it_would_cost_more_than_ten_of_it():
    schedule = resuming.Schedule(minutes=10, steps=None, keep=2, saved_at=0.0)
    # 1 GB takes 10 s, as long as nothing was measured.
    assert not schedule.is_worth(99.0, 10**9)
    assert schedule.is_worth(100.0, 10**9)
    schedule.saved(2, 100.0, 103.0)
    assert not schedule.is_worth(103.0 + 29.0, 10**9)
    assert schedule.is_worth(103.0 + 30.0, 10**9)


def test_a_run_too_short_to_be_worth_a_state_writes_none(make_run, monkeypatch):
    monkeypatch.setattr(resuming, "WORTH_A_STATE", 1e9)
    run = make_run()
    run.start()
    assert training_state.kept_states(run.out / "states", 1) == []


def test_the_grace_of_a_signal_grows_with_what_a_state_takes(make_run, monkeypatch):
    monkeypatch.setattr(process, "ENDING", process.Ending())
    # Weights and Adam's two numbers for each: as a model of 7B weights, by the guess before a first state.
    monkeypatch.setattr(resuming.ResumableTrainer, "num_state_bytes", lambda trainer: 85 * 10**9)
    seen, stock = [], resuming.ResumableTrainer._fill

    def fill(*arguments):
        seen.append(process.ENDING.grace_seconds)
        stock(*arguments)

    monkeypatch.setattr(resuming.ResumableTrainer, "_fill", fill)
    trainer = make_run(save={"minutes": None, "steps": 1, "keep": 1}).start()
    assert seen[0] == 4 * 850
    # From the first state on as it was measured.
    assert seen[1] == process.SAVING_GRACE_SECONDS
    assert process.ENDING.saving_seconds == trainer.schedule.cost < 20


def test_a_damaged_older_state_and_a_damaged_note_of_resumes_end_no_run(make_run):
    run = make_run(save={"minutes": None, "steps": 2, "keep": 3})
    run.start(stop_in=6)
    (run.out / "states/step_00000002/progress.json").write_text("{", "utf-8")
    (run.out / "states/resumes.json").write_text("[4", "utf-8")
    assert run.start().state.global_step == 13
    assert resuming.resumed_from(run.out) == [5]


def test_a_state_is_weights_and_two_numbers_for_each(make_run):
    trainer = make_run(lora=None, save={"minutes": None, "steps": 3, "keep": 1}, epochs=1).start()
    state = training_state.kept_states(trainer.out / "states", 1)[0].folder
    size = sum(file.stat().st_size for file in state.glob("*.safetensors"))
    assert trainer.num_state_bytes() == pytest.approx(size, rel=0.1)


def test_saving_by_steps_is_exact():
    schedule = resuming.Schedule(minutes=None, steps=5, keep=2, saved_at=0.0)
    assert [step for step in range(1, 16) if schedule.is_due(step, 1e9)] == [5, 10, 15]


def test_the_clock_of_a_resumed_run_goes_on_without_the_time_between(tmp_path):
    progress = Progress(tmp_path / "metrics.jsonl", 10, 22)
    progress.started -= 100.0
    counters = json.loads(json.dumps(progress.counters()))
    later = Progress(tmp_path / "metrics.jsonl", 10, 22)
    later.go_on(counters, "")
    assert time.monotonic() - later.started == pytest.approx(100.0, abs=1.0)


def test_a_broken_pipe_to_a_killed_parent_does_not_stop_the_run_before_its_state_is_written(tmp_path, monkeypatch):
    told = []
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", buffering=1) as broken:
        monkeypatch.setattr(sys, "stderr", broken)
        with pytest.raises(BrokenPipeError):
            print("a line", file=broken, flush=True)
        Progress(tmp_path / "metrics.jsonl", 10, 22, told.append).say("step 1/10")
        monkeypatch.undo()
        with suppress(BrokenPipeError):
            broken.close()
    assert told == ["step 1/10"]
