"""Saves what a run needs to go on as if it had never ended, and takes it up again.

Of several processes the first writes and finds the states, with what the others send it, and all go on together.

A state belongs to the moment between two optimiser steps. When a signal comes within a step, the step is given up and
the state of the moment before it is written: weights and optimizer have not moved yet, and what has (random generators
and counters, both small) was copied when the step began.
"""

import base64
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.optimizer import AcceleratedOptimizer
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from trl.trainer.reward_trainer import RewardTrainer

from rm_workflow.durable_files import write_whole
from rm_workflow.errors import UserError
from rm_workflow.keys import content_id, file_sha256
from rm_workflow.training import distributed, process, training_state, whole_states
from rm_workflow.training.memory import MOMENTS
from rm_workflow.training.metrics import Progress
from rm_workflow.training.run_config import keyed
from rm_workflow.training.tensor_files import pack, unpack, write_safetensors
from rm_workflow.training.training_state import STATES, StoredState

WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.safetensors"
PROGRESS = "progress.json"
METRICS = "metrics.jsonl"
RESUMES = "resumes.json"

# However often it is asked for, saving takes at most this share of the time.
LARGEST_OVERHEAD = 0.02
# What is lost where the state after the last step is not written, in times of what writing it takes.
WORTH_A_STATE = 10
# Of hashing and writing, until a first state was measured; README has 220 to 280 MB/s on a small machine.
BYTES_PER_SECOND = 100e6


@dataclass
class Schedule:
    """When a state is due, by ``training.save``.

    Attributes:
        step: last step with a state.
        saved_at: when its writing ended, by ``time.monotonic``.
        cost: seconds that its writing took.
        costs: seconds of all states of this process.
    """

    minutes: float | None
    steps: int | None
    keep: int
    step: int = 0
    saved_at: float = field(default_factory=time.monotonic)
    cost: float = 0.0
    costs: list[float] = field(default_factory=list)

    def is_due(self, step: int, now: float) -> bool:
        """Tell whether a state is due after ``step``: by steps exactly, by time never above ``LARGEST_OVERHEAD``."""
        if self.steps and step % self.steps == 0:
            return True
        if self.minutes is None:
            return False
        return now - self.saved_at >= max(60 * self.minutes, self.cost / LARGEST_OVERHEAD)

    def is_worth(self, now: float, num_bytes: int) -> bool:
        """Tell whether losing the steps since the last state would cost more than ``WORTH_A_STATE`` states do.

        Args:
            num_bytes: of a state.
        """
        return now - self.saved_at >= WORTH_A_STATE * self.expected_seconds(num_bytes)

    def expected_seconds(self, num_bytes: int) -> float:
        """Return how long writing a state of so many bytes takes: as the last one, or by a guess where none was."""
        return self.cost or num_bytes / BYTES_PER_SECOND

    def saved(self, step: int, started: float, ended: float) -> None:
        """Note a state that was written."""
        self.step, self.saved_at, self.cost = step, ended, ended - started
        self.costs.append(self.cost)


class AskForState(TrainerCallback):
    """Asks for a state after the steps at which one is due."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock, and log as often as this start was told; a state says how often it was before."""
        state.logging_steps = int(args.logging_steps)
        self.schedule.step, self.schedule.saved_at = state.global_step, time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for a state; that after the last step is written at the end (``save_finished``)."""
        is_due = state.global_step < state.max_steps and self.schedule.is_due(state.global_step, time.monotonic())
        # The clocks of several processes differ.
        if distributed.largest(int(is_due)):
            control.should_save = True


class ResumableTrainer(RewardTrainer):
    """A trainer whose states are safetensors and JSON, whole or not there.

    Attributes:
        out: folder whose ``states/`` it writes to.
        identity: what a state must have been written for; see ``run_identity``.
    """

    out: Path
    identity: str
    progress: Progress
    schedule: Schedule
    moment: dict[str, Any] | None = None

    def kept_beside(self) -> dict[str, Any]:
        """Return what a subclass must find again, as JSON takes it."""
        return {}

    def take_up(self, kept: Mapping[str, Any]) -> None:
        """Take up what ``kept_beside`` returned."""

    def best_steps(self) -> set[int]:
        """Return the steps whose best weights must stay."""
        return set()

    def enter_step(self) -> None:
        """Remember the moment between two steps, before this one draws or counts anything."""
        self.moment = {"rng": rng_state(), "counters": self.progress.counters()}

    def leave_step(self) -> None:
        """Forget it: from here on weights and optimizer move."""
        self.moment = None

    def save_state(self) -> None:
        """Write the state after the last whole step, unless it is there."""
        step = self.state.global_step
        if step in (0, self.schedule.step):
            return
        started = time.monotonic()
        moment = self.moment or {"rng": rng_state(), "counters": self.progress.counters()}
        moments = distributed.gathered(moment)
        assert isinstance(self.optimizer, AcceleratedOptimizer)
        weights = whole_states.trained_tensors(self.accelerator.unwrap_model(self.model))
        optimizer = whole_states.optimizer_state(self.optimizer.optimizer)
        self.write_folder(
            training_state.state_name(step), lambda folder: self._fill(folder, moments, weights, optimizer)
        )
        self.schedule.saved(step, started, time.monotonic())
        self.tell_grace()

    @property
    def is_finished(self) -> bool:
        """Tell whether no step is left to make."""
        return self.state.global_step >= self.args.max_steps

    def save_finished(self) -> None:
        """Write the state after the last step, from which the same command goes straight to saving and proving.

        Where it is neither due nor worth the time (``Schedule.is_worth``), as in a short run, none is written.
        """
        schedule, now = self.schedule, time.monotonic()
        is_due = schedule.is_due(self.state.global_step, now) or schedule.is_worth(now, self.num_state_bytes())
        # The clocks of several processes differ.
        if distributed.largest(int(is_due)):
            self.save_state()

    def tell_grace(self) -> None:
        """Let a signal wait as long as a state takes."""
        process.ENDING.saving_seconds = self.schedule.expected_seconds(self.num_state_bytes())

    def num_state_bytes(self) -> int:
        """Return about how many bytes a state has: the trained weights, and Adam's two numbers for each."""
        trained = [p for p in self.accelerator.unwrap_model(self.model).parameters() if p.requires_grad]
        return (1 + MOMENTS) * sum(int(p.numel()) * int(p.element_size()) for p in trained)

    def save_between_steps(self) -> None:
        """Write the state of the moment before a step that failed.

        Not where the optimizer had begun to move the weights, of which some may have moved and others not. Nor among
        several processes: the others are on their way through the pass, in the last of a step (of ``fsdp`` in each)
        within an exchange of gradients that this one has left, and can be met nowhere. They end when it does, and the
        run goes on from the last state by time.
        """
        if self.moment is not None and distributed.size() == 1:
            self.save_state()

    def write_folder(self, name: str, fill: Callable[[Path], None]) -> None:
        """Let the first process write a folder of ``states/`` and remove those that are no longer needed."""

        def write() -> None:
            training_state.write_state(self.out / STATES, name, fill)
            training_state.prune(self.out / STATES, self.schedule.keep, self._best_steps_in_use())

        distributed.first_does(write)

    def _best_steps_in_use(self) -> set[int]:
        states = training_state.kept_states(self.out / STATES, self.schedule.keep)
        return self.best_steps().union(*map(_best_steps_of, states))

    def _fill(
        self,
        folder: Path,
        moments: Sequence[Mapping[str, Any]],
        weights: Mapping[str, Tensor],
        optimizer: Mapping[str, Any],
    ) -> None:
        write_safetensors(folder / WEIGHTS, weights)
        tensors: dict[str, Tensor] = {}
        assert self.lr_scheduler is not None
        progress = {
            "identity": self.identity,
            "versions": {"torch": torch.__version__},
            "step": self.state.global_step,
            "optimizer": pack(optimizer, tensors, "optimizer"),
            "schedule": pack(self.lr_scheduler.state_dict(), tensors, "schedule"),
            # The steps are a function of content and seed, so the sampler's position is one number.
            "sampler": {"steps": self.state.global_step},
            "counters": moments[0]["counters"],
            # Each process counts its share of the steps.
            "windows": [moment["counters"]["window"] for moment in moments],
            "best_steps": sorted(self.best_steps()),
            "is_finished": self.is_finished,
            "beside": self.kept_beside(),
        }
        write_safetensors(folder / OPTIMIZER, tensors)
        (folder / PROGRESS).write_text(json.dumps(progress), "utf-8")
        for number, moment in enumerate(moments):
            (folder / f"rng_{number}.json").write_text(json.dumps(moment["rng"]), "utf-8")
        (folder / METRICS).write_bytes(self.progress.file.read_bytes())
        self.state.save_to_json(str(folder / TRAINER_STATE_NAME))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        # The last line of metrics comes after this moment, and ``save_finished`` after that.
        if not self.is_finished:
            self.save_state()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        whole_states.load_trained(self.accelerator.unwrap_model(self.model), Path(resume_from_checkpoint) / WEIGHTS)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        assert isinstance(self.optimizer, AcceleratedOptimizer)
        assert self.lr_scheduler is not None
        folder = Path(checkpoint)
        tensors = load_file(folder / OPTIMIZER)
        progress = json.loads((folder / PROGRESS).read_text("utf-8"))
        whole_states.load_optimizer(self.optimizer.optimizer, unpack(progress["optimizer"], tensors))
        self.lr_scheduler.load_state_dict(unpack(progress["schedule"], tensors))
        self._take_up_progress(folder)

    def _take_up_progress(self, folder: Path) -> None:
        progress = json.loads((folder / PROGRESS).read_text("utf-8"))
        window = distributed.window_of_this_process(progress["windows"])
        self.progress.go_on({**progress["counters"], "window": window}, (folder / METRICS).read_text("utf-8"))
        self.take_up(progress["beside"])

    def take_up_finished(self, folder: Path) -> None:
        """Take up the state of a run that had made its last step, without training on."""
        self._load_from_checkpoint(str(folder))
        self._take_up_progress(folder)
        self.state = TrainerState.load_from_json(str(folder / TRAINER_STATE_NAME))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        file = Path(checkpoint or "") / f"rng_{self.args.process_index}.json"
        # A process that was not there before keeps what its seed gave it.
        with suppress(FileNotFoundError):
            set_rng_state(json.loads(file.read_text("utf-8")))


def _best_steps_of(state: StoredState) -> set[int]:
    try:
        return set(state.read(PROGRESS)["best_steps"])
    except (OSError, ValueError, KeyError, TypeError):
        # Damaged since it was written; what is wrong with it is told when a run wants to go on from it.
        return set()


def rng_state() -> dict[str, Any]:
    """Return the state of every random generator that training may draw from, as JSON takes it."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state = {
        "python": [version, numbers, gauss],
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, cached],
        "torch": _text(torch.get_rng_state()),
    }
    if torch.cuda.is_available():
        state["cuda"] = _text(torch.cuda.get_rng_state())
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Set every random generator to what ``rng_state`` returned."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(_tensor(state["torch"]))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(_tensor(state["cuda"]))


def _text(state: Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _tensor(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)


def run_identity(run_config: Mapping[str, Any], tokens: Path, base: Path) -> str:
    """Return what a state must have been written for: what decides the result of a run config, tokens, base by size."""
    files = sorted((path.name, path.stat().st_size) for path in base.glob("*.safetensors"))
    data = {file.name: file_sha256(file) for file in sorted(tokens.glob("*.parquet"))}
    return content_id({"run_config": keyed(run_config), "tokens": data, "base": files})


def find_state(trainer: ResumableTrainer) -> StoredState | None:
    """Return the newest whole state of this very run, the same in all processes, and note that the run goes on from it.

    Raises:
        UserError: the folder holds a state of another run.
    """
    return distributed.first_does(lambda: _find_state(trainer))


def _find_state(trainer: ResumableTrainer) -> StoredState | None:
    states = trainer.out / STATES
    training_state.sweep(states)
    found = training_state.newest_whole(states, trainer.progress.say)
    if found is None:
        return None
    progress = found.read(PROGRESS)
    if progress["identity"] != trainer.identity:
        raise UserError(
            f"{states} holds the states of another run (run config, tokens or base differ); name another --out, or "
            "delete that folder"
        )
    trainer.progress.say(f"resuming after step {found.step}, from {found.folder.name}")
    if progress["versions"]["torch"] != torch.__version__:
        trainer.progress.say(
            f"note: the state was written with torch {progress['versions']['torch']} and this is {torch.__version__}, "
            "so steps may differ in their last digits"
        )
    _note_resume(states, found.step)
    return found


def _note_resume(states: Path, step: int) -> None:
    write_whole(states / RESUMES, json.dumps([*resumed_from(states.parent), step]))


def resumed_from(out: Path) -> list[int]:
    """Return the steps from which the run in ``out`` was resumed, in the order of its starts; none where damaged."""
    try:
        steps: list[int] = json.loads((out / STATES / RESUMES).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return []
    return steps
