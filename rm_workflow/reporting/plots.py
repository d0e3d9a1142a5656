"""Plots as PNG bytes. matplotlib is imported inside, so that loading definitions stays fast."""

import io
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KEPT_COLOUR = "#3b6ea8"
DROPPED_COLOUR = "#d9a441"
HISTOGRAMS_A_ROW = 2
CURVES = (
    ("loss", "loss"),
    ("accuracy", "accuracy (strict)"),
    ("margin", "margin r(chosen) - r(rejected)"),
    ("learning_rate", "learning rate"),
    ("grad_norm", "gradient norm"),
    ("tokens_per_second", "tokens per second, no padding"),
)


def funnel(steps: Sequence[tuple[str, int, int]], title: str) -> bytes:
    """Draw what each rule dropped.

    Args:
        steps: (name of the rule, number dropped by it, number left after it), in the order of the rules.
    """
    figure, axes = _figure(7, 0.6 + 0.34 * max(len(steps), 2))
    names = [name for name, _, _ in steps]
    left = [after for _, _, after in steps]
    dropped = [number for _, number, _ in steps]
    positions = range(len(steps))
    axes.barh(positions, left, color=KEPT_COLOUR, label="kept")
    axes.barh(positions, dropped, left=left, color=DROPPED_COLOUR, label="dropped here")
    for position, (_, number, after) in enumerate(steps):
        text = f" {after:,}" + (f"  (-{number:,})" if number else "")
        axes.text(after + number, position, text, va="center", fontsize=8)
    axes.set_yticks(list(positions), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, max((a + b for a, b in zip(left, dropped, strict=True)), default=1) * 1.25 or 1)
    axes.set_title(title, fontsize=9)
    figure.legend(fontsize=7, loc="outside lower center", ncols=2, frameon=False)
    return _png(figure)


def training_curves(
    metrics: Sequence[Mapping[str, Any]], title: str, validations: Sequence[Mapping[str, Any]] = ()
) -> bytes:
    """Draw the figures of training over optimiser steps, with those on held-out pairs where there are any.

    Args:
        metrics: lines of ``metrics.jsonl``.
        validations: lines of ``validation.jsonl``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    for index, (name, label) in enumerate(CURVES):
        axes = figure.add_subplot(3, 2, index + 1)
        for rows, colour, what in ((metrics, KEPT_COLOUR, "training"), (validations, DROPPED_COLOUR, "held out")):
            points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.2, label=what)
        if len(axes.get_lines()) > 1:
            axes.legend(fontsize=6, frameon=False)
        axes.set_title(label, fontsize=8)
        axes.set_xlabel("step", fontsize=7)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    figure.suptitle(title, fontsize=9)
    return _png(figure)


def histogram(edges: Sequence[float], counts: Sequence[int], label: str, title: str) -> bytes:
    """Draw a histogram from its ``len(counts) + 1`` bin edges."""
    figure, axes = _figure(6, 2.6)
    widths = [right - left for left, right in itertools.pairwise(edges)]
    axes.bar(edges[:-1], counts, width=widths, align="edge", color=KEPT_COLOUR, edgecolor="white", linewidth=0.4)
    axes.set_xlabel(label, fontsize=8)
    axes.set_title(title, fontsize=9)
    return _png(figure)


def length_histograms(lengths: Mapping[str, Any], title: str) -> bytes:
    """Draw, for each source, the shares of chosen and rejected replies by number of words.

    Args:
        lengths: ``edges`` (upper ends of the bins) and ``counts`` (source -> side -> number in each bin, the last one
            above the last edge).
    """
    from matplotlib.figure import Figure

    counts = lengths["counts"]
    labels = [*map(str, lengths["edges"]), "more"]
    rows = -(-len(counts) // HISTOGRAMS_A_ROW)
    figure = Figure(figsize=(4.2 * HISTOGRAMS_A_ROW, 0.6 + 2 * rows), layout="constrained")
    for index, (name, sides) in enumerate(counts.items()):
        axes = figure.add_subplot(rows, HISTOGRAMS_A_ROW, index + 1)
        for side, colour in (("chosen", KEPT_COLOUR), ("rejected", DROPPED_COLOUR)):
            total = sum(sides[side]) or 1
            axes.step(
                range(len(labels)), [number / total for number in sides[side]], where="mid", color=colour, label=side
            )
        axes.set_xticks(range(0, len(labels), 3), labels[::3], fontsize=7)
        axes.tick_params(labelsize=7)
        axes.set_title(name, fontsize=8)
    if counts:
        figure.axes[0].legend(fontsize=7, frameon=False)
    figure.suptitle(f"{title}: share of replies with up to so many", fontsize=9)
    return _png(figure)


def matrix(names: Sequence[str], shares: Sequence[Sequence[float]], title: str) -> bytes:
    """Draw shares from 0 to 1, one row and one column a name."""
    side = 2.2 + 0.45 * len(names)
    figure, axes = _figure(side + 1.2, side)
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    for row, values in enumerate(shares):
        for column, value in enumerate(values):
            text = f"{value:.3f}" if 0 < value < 0.1 else f"{value:.2g}"
            axes.text(
                column, row, text, ha="center", va="center", fontsize=6, color="white" if value > 0.6 else "black"
            )
    axes.set_xticks(range(len(names)), names, fontsize=7, rotation=40, ha="right")
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_title(title, fontsize=8)
    return _png(figure)


def scores_with_intervals(rows: Sequence[tuple[str, float, float, float]], title: str) -> bytes:
    """Draw scores as points with their 95 % intervals.

    Args:
        rows: (name, score, ci_low, ci_high), all fractions.
    """
    figure, axes = _figure(7, 0.8 + 0.34 * max(len(rows), 2))
    for position, (_, score, low, high) in enumerate(rows):
        axes.plot([low, high], [position, position], color=KEPT_COLOUR, linewidth=2)
        axes.plot([score], [position], "o", color=KEPT_COLOUR)
        axes.text(high, position, f"  {score:.3f}", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [name for name, _, _, _ in rows], fontsize=8)
    axes.axvline(0.5, color="grey", linewidth=0.8, linestyle="--")
    axes.invert_yaxis()
    axes.set_xlim(min([0.4, *(low for _, _, low, _ in rows)]) - 0.02, 1.1)
    axes.set_title(title, fontsize=9)
    return _png(figure)


def _figure(width: float, height: float) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.tick_params(labelsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
