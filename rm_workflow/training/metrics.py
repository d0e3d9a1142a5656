"""Figures of training, one line for each logging step, weighted by pairs and never a mean of batch means.

A line of ``metrics.jsonl``::

    {"step": 5, "epoch": 0.27, "loss": 0.6712, "accuracy": 0.59, "margin": 0.041, "learning_rate": 0.0002,
     "grad_norm": 1.92, "pairs": 64, "tokens": 9120, "seconds": 11.8, "steps_per_second": 0.34, "pairs_per_second": 5.4,
     "tokens_per_second": 773.0, "useful_share": 0.96, "micro_batches": 1.2, "mfu": null, "memory_gb": 2.9,
     "total_pairs": 80, "elapsed": 14.9, "judged": 64, "sources": {"hh": {"accuracy": 0.59, "pairs": 64}}}

All figures but ``step``, ``epoch``, ``learning_rate``, ``grad_norm``, ``memory_gb`` (the most so far), ``total_pairs``
and ``elapsed`` are over the pairs since the line before. Where a step counts responses, prompts or blocks of solutions
(``training.batch_unit``), responses, prompts or solutions are called pairs here too; ``ResponseTrainer.item_losses``
says what their margin is, above 0 where the reward is right. Accuracy and margin, of a source too, are over those of
which that can be told (``judged``), and null where there are none; of solutions they and the loss are over the labels.
``tokens`` are those of both sides without padding, as if nothing were shared; ``useful_share`` is the share of computed
positions that are no padding; ``micro_batches`` is the mean number that a step was accumulated from; ``mfu`` is
explained in ``speed.py``.
"""

import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rm_workflow.training.speed import Speed, peak_memory_gb

# Fields of a window that several processes add up; they make their steps together.
COUNTED = ("correct", "judged", "pairs", "tokens", "filled", "computed", "micro_batches")
ADDED = ("weighted_loss", "weight", "margin", *COUNTED)


@dataclass
class Window:
    """Sums over the pairs since the last logging step."""

    weighted_loss: float = 0.0
    weight: float = 0.0
    margin: float = 0.0
    correct: int = 0
    judged: int = 0
    pairs: int = 0
    tokens: int = 0
    filled: int = 0
    computed: int = 0
    micro_batches: int = 0
    steps: int = 0
    largest_margin: float = 0.0
    by_source: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))

    def add(
        self,
        num_items: int,
        weighted_loss: float,
        weight: float,
        margins: Sequence[float],
        sources: Sequence[str],
        tokens: int,
        filled: int,
        computed: int,
    ) -> None:
        """Add one micro-batch.

        Args:
            num_items: its pairs.
            weighted_loss: sum of weight x loss over its pairs, or over the labels of its solutions.
            margins: [pairs], or [labels], reward of chosen - reward of rejected; a tie counts as wrong. NaN where no
                reward is right or wrong.
            tokens: tokens of both sides without padding.
            filled: positions that were computed and are no padding.
            computed: positions that were computed.
        """
        self.weighted_loss += weighted_loss
        self.weight += weight
        self.tokens += tokens
        self.filled += filled
        self.computed += computed
        self.micro_batches += 1
        self.pairs += num_items
        for margin, source in zip(margins, sources, strict=True):
            if math.isnan(margin):
                continue
            self.margin += margin
            self.largest_margin = max(self.largest_margin, abs(margin))
            self.correct += margin > 0
            self.judged += 1
            self.by_source[source][0] += margin > 0
            self.by_source[source][1] += 1

    def means(self) -> dict[str, Any]:
        """Return loss, accuracy and margin of these pairs, overall and by source."""
        return {
            "loss": self.weighted_loss / self.weight,
            "accuracy": self.correct / self.judged if self.judged else None,
            "margin": self.margin / self.judged if self.judged else None,
            "judged": self.judged,
            "sources": {
                name: {"accuracy": correct / pairs, "pairs": pairs}
                for name, (correct, pairs) in sorted(self.by_source.items())
            },
        }

    def stored(self) -> dict[str, Any]:
        """Return the fields as JSON takes them."""
        return {**vars(self), "by_source": {name: [*sums] for name, sums in self.by_source.items()}}


def window_of(stored: dict[str, Any]) -> Window:
    """Return the window whose fields were stored as JSON."""
    window = Window(**{name: value for name, value in stored.items() if name != "by_source"})
    window.by_source.update({name: [*sums] for name, sums in stored["by_source"].items()})
    return window


def merged(windows: Sequence[Window]) -> Window:
    """Return what processes that each computed a share of the same steps counted together."""
    total = Window()
    for window in windows:
        for name in ADDED:
            setattr(total, name, getattr(total, name) + getattr(window, name))
        total.steps = max(total.steps, window.steps)
        total.largest_margin = max(total.largest_margin, window.largest_margin)
        for source, sums in window.by_source.items():
            both = zip(total.by_source[source], sums, strict=True)
            total.by_source[source] = [ours + theirs for ours, theirs in both]
    return total


class Progress:
    """Writes each logging step to a file, to stderr and to whoever else listens; of several processes one does."""

    def __init__(
        self,
        file: Path,
        num_steps: int,
        num_pairs: int,
        tell: Callable[[str], None] | None = None,
        unit: str = "pairs",
        is_silent: bool = False,
    ) -> None:
        self.file = file
        self.is_silent = is_silent
        self.num_steps = num_steps
        self.num_pairs = num_pairs
        self.tell = tell
        self.unit = unit
        self.window = Window()
        self.total_pairs = 0
        self.total_tokens = 0
        self.speed: Speed | None = None
        self.records: list[dict[str, Any]] = []
        self.started = self.last = time.monotonic()

    def start(self) -> None:
        """Start the clock: what comes before is not training."""
        if not self.is_silent:
            self.file.write_text("", "utf-8")
        self.started = self.last = time.monotonic()

    def counters(self) -> dict[str, Any]:
        """Return what a resumed run must go on counting from, as JSON takes it, without the lines already written."""
        now = time.monotonic()
        return {
            "window": self.window.stored(),
            "total_pairs": self.total_pairs,
            "total_tokens": self.total_tokens,
            "elapsed": now - self.started,
            "since_last_line": now - self.last,
        }

    def go_on(self, counters: dict[str, Any], lines: str) -> None:
        """Take over the counters and lines of a run that was ended; the time in between is not counted."""
        now = time.monotonic()
        self.window = window_of(counters["window"])
        self.total_pairs, self.total_tokens = counters["total_pairs"], counters["total_tokens"]
        self.started, self.last = now - counters["elapsed"], now - counters["since_last_line"]
        self.records = [json.loads(line) for line in lines.splitlines()]
        if not self.is_silent:
            self.file.write_text(lines, "utf-8")

    def say(self, text: str) -> None:
        """Print a line on stderr and pass it on."""
        if self.is_silent:
            return
        # A parent that was killed leaves a broken pipe, and the state must still be written.
        with suppress(BrokenPipeError):
            print(text, file=sys.stderr, flush=True)
        if self.tell:
            self.tell(text)

    def record(self, step: int, learning_rate: float, grad_norm: float) -> dict[str, Any]:
        """Close the window at ``step`` and write its line."""
        now = time.monotonic()
        seconds = max(now - self.last, 1e-9)
        window, self.window, self.last = self.window, Window(), now
        self.total_pairs += window.pairs
        self.total_tokens += window.tokens
        row = {
            "step": step,
            "epoch": self.total_pairs / self.num_pairs,
            **window.means(),
            "learning_rate": learning_rate,
            "grad_norm": grad_norm,
            "pairs": window.pairs,
            "tokens": window.tokens,
            "seconds": seconds,
            "steps_per_second": window.steps / seconds,
            "pairs_per_second": window.pairs / seconds,
            "tokens_per_second": window.tokens / seconds,
            "useful_share": window.filled / window.computed,
            "micro_batches": window.micro_batches / window.steps,
            "mfu": self.speed.mfu(window.filled / seconds) if self.speed else None,
            "memory_gb": peak_memory_gb(self.speed.device) if self.speed else None,
            "total_pairs": self.total_pairs,
            "elapsed": now - self.started,
        }
        self.records.append(row)
        if not self.is_silent:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, allow_nan=False) + "\n")
            self.say(self._line(row))
        return row

    def _line(self, row: dict[str, Any]) -> str:
        remaining = row["elapsed"] / row["step"] * (self.num_steps - row["step"])
        mfu = "" if row["mfu"] is None else f"  MFU {row['mfu']:.1%}"
        memory = "" if row["memory_gb"] is None else f"  {row['memory_gb']:.1f} GB"
        return (
            f"step {row['step']}/{self.num_steps}  loss {row['loss']:.4f}  accuracy {_fixed(row['accuracy'])}  "
            f"margin {_fixed(row['margin'])}  lr {row['learning_rate']:.2e}  grad norm {row['grad_norm']:.2f}  "
            f"{row['steps_per_second']:.2f} steps/s  {row['pairs_per_second']:.1f} {self.unit}/s  "
            f"{row['tokens_per_second']:.0f} tokens/s  {row['useful_share']:.0%} useful{mfu}{memory}  "
            f"ETA {clock(remaining)}"
        )


def _fixed(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def clock(seconds: float) -> str:
    """Return a duration as ``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
