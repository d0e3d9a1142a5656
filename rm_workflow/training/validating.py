"""Evaluation while a run trains, on train pairs that are held out: by source, for the best weights and the early stop.

A line of ``validation.jsonl``::

    {"step": 50, "loss": 0.612, "accuracy": 0.66, "margin": 0.21, "pairs": 200, "sources": {"hh": {"accuracy": 0.66,
     "pairs": 200}}, "seconds": 4.1, "is_best": true}
"""

import json
import time
from collections.abc import Mapping
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rm_workflow.training import distributed, training_state
from rm_workflow.training.held_out import Positions
from rm_workflow.training.metrics import Window
from rm_workflow.training.resuming import WEIGHTS, ResumableTrainer
from rm_workflow.training.tensor_files import write_safetensors
from rm_workflow.training.training_state import STATES
from rm_workflow.training.whole_states import load_trained, trained_tensors

VALIDATION = "validation.jsonl"


class AskForValidation(TrainerCallback):
    """Asks for an evaluation every so many steps and after the last one."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask where it is due."""
        if state.global_step % self.steps == 0 or state.global_step >= state.max_steps:
            control.should_evaluate = True


class ValidatedTrainer(ResumableTrainer):
    """A trainer that evaluates on held-out pairs, keeps the best weights and stops when they no longer improve.

    Attributes:
        held_out: positions of the pairs that are held out.
        validation: ``training.validation`` of the run config, or None.
        validations: what each evaluation gave.
    """

    held_out: Positions
    validation: Mapping[str, Any] | None
    validations: list[dict[str, Any]]

    @property
    def best(self) -> dict[str, Any] | None:
        """Return the best evaluation so far; of equal ones the first."""
        return next((row for row in reversed(self.validations) if row["is_best"]), None)

    @property
    def has_stopped_early(self) -> bool:
        """Tell whether the last ``patience`` evaluations brought nothing better, with steps left to make."""
        if self.state.global_step >= self.args.max_steps:
            return False
        patience = self.validation and self.validation["patience"]
        latest = self.validations[-patience:] if patience else []
        return len(latest) == patience and not any(row["is_best"] for row in latest)

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
        self.control.should_evaluate = False
        # All decide by the same figures; their clocks differ.
        row = distributed.gathered(self.validate())[0]
        self._note(row)
        self._track(row)
        if row["is_best"] and self._keeps_best:
            self._write_best(row["step"])
        self.progress.say(
            f"validation after step {row['step']}: loss {row['loss']:.4f}  accuracy {row['accuracy']:.3f} on "
            f"{row['pairs']} held-out pairs{'  (best so far)' if row['is_best'] else ''}"
        )
        if self.has_stopped_early:
            self.progress.say(f"stopping early: nothing better in {self.validation['patience']} evaluations")  # type: ignore[index]
            self.control.should_training_stop = True
        return {}

    @property
    def _keeps_best(self) -> bool:
        return bool(self.validation and self.validation["keep_best"])

    def validate(self) -> dict[str, Any]:
        """Return loss, accuracy and margin on the held-out pairs, in the precision of training."""
        started = time.monotonic()
        self.progress.window, of_training = Window(), self.progress.window
        model = self.accelerator.unwrap_model(self.model).eval()
        try:
            with torch.no_grad():
                rows = [{"pair": int(position)} for position in self.held_out]
                for batch in self.data_collator(rows)["micro_batches"]:
                    self.compute_loss(model, self._prepare_inputs(batch))  # type: ignore[no-untyped-call]
            window = distributed.summed_window(self.progress.window)
        finally:
            self.progress.window = of_training
        row = {"step": self.state.global_step, **window.means(), "pairs": window.pairs}
        return {**row, "seconds": time.monotonic() - started, "is_best": self._is_better(row)}

    def _is_better(self, row: Mapping[str, Any]) -> bool:
        assert self.validation is not None
        if self.best is None:
            return True
        if self.validation["metric"] == "accuracy":
            return bool(row["accuracy"] > self.best["accuracy"])
        return bool(row["loss"] < self.best["loss"])

    def _note(self, row: dict[str, Any]) -> None:
        self.validations.append(row)
        self._write_validations()

    def _track(self, row: Mapping[str, Any]) -> None:
        """Send an evaluation to the trackers under the names that transformers gives such figures."""
        if not self.args.report_to:
            return
        names = ("loss", "accuracy", "margin", "pairs", "seconds")
        figures = {f"eval_{name}": row[name] for name in names}
        figures |= {f"eval_{name}_accuracy": found["accuracy"] for name, found in row["sources"].items()}
        super().log(figures)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)

    def _write_validations(self) -> None:
        if self.progress.is_silent:
            return
        lines = [json.dumps(row, allow_nan=False) + "\n" for row in self.validations]
        (self.out / VALIDATION).write_text("".join(lines), "utf-8")

    def _write_best(self, step: int) -> None:
        weights = trained_tensors(self.accelerator.unwrap_model(self.model))
        self.write_folder(training_state.best_name(step), lambda folder: write_safetensors(folder / WEIGHTS, weights))

    def load_best(self) -> None:
        """Go back to the best weights where they are kept and are not the last ones."""
        if not self._keeps_best or self.best is None or self.best["step"] == self.state.global_step:
            return
        step = self.best["step"]
        folder = distributed.first_does(lambda: training_state.whole_best(self.out / STATES, step))
        if folder is None:
            self.progress.say(f"note: the weights after step {self.best['step']} are damaged; the last ones are saved")
            return
        load_trained(self.accelerator.unwrap_model(self.model), folder / WEIGHTS)
        self.progress.say(f"the weights after step {self.best['step']}, the best, are saved")

    @property
    def is_finished(self) -> bool:
        """Tell whether no step is left to make, all being made or the run having stopped early."""
        return super().is_finished or self.has_stopped_early

    def kept_beside(self) -> dict[str, Any]:
        """Return the evaluations."""
        return {"validations": self.validations}

    def take_up(self, kept: Mapping[str, Any]) -> None:
        """Take up the evaluations."""
        self.validations = list(kept["validations"])
        if self.validations:
            self._write_validations()

    def best_steps(self) -> set[int]:
        """Return the step of the best weights."""
        return {self.best["step"]} if self.best and self._keeps_best else set()
