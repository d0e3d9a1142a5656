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
# By what the reward of a good model does.
PROBE_COLOURS = {"unchanged": KEPT_COLOUR, "does not rise": DROPPED_COLOUR, "falls": "#a8483b"}
PROBE_WORDS = {"unchanged": "should be near 0", "does not rise": "should not be above 0", "falls": "should be below 0"}
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


def scores_with_nulls(rows: Sequence[tuple[str, Mapping[str, Any], Sequence[float]]], title: str) -> bytes:
    """Draw scores as points with their 95 % intervals, and as ticks what baselines that read nothing reach.

    Args:
        rows: (name, score object, scores of its baselines), all fractions.
    """
    figure, axes = _figure(7, 1.0 + 0.36 * max(len(rows), 2))
    for position, (_, score, nulls) in enumerate(rows):
        low, high = (float(score["score"] if score.get(end) is None else score[end]) for end in ("ci_low", "ci_high"))
        axes.plot([low, high], [position, position], color=KEPT_COLOUR, linewidth=2, label="95 % interval")
        axes.plot([score["score"]], [position], "o", color=KEPT_COLOUR, label="score")
        if nulls:
            axes.plot(nulls, [position] * len(nulls), "|", color=DROPPED_COLOUR, markersize=12, label="baselines")
        axes.text(max([high, *nulls]), position, f"  {score['score']:.3f}", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=8)
    axes.invert_yaxis()
    lowest = [end for _, score, nulls in rows for end in (score["score"], score.get("ci_low") or 1, *nulls)]
    axes.set_xlim(min([0.4, *lowest]) - 0.03, 1.1)
    axes.set_title(title, fontsize=9)
    shown = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(shown.values(), shown.keys(), fontsize=7, loc="outside lower center", ncols=3, frameon=False)
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


def scores_against(
    panels: Mapping[str, Sequence[tuple[str, float, float]]], label: str, title: str, columns: int = 3
) -> bytes:
    """Draw scores on several benchmarks, a panel each, against one and the same other score.

    Args:
        panels: name of the benchmark -> (name of the point, its score there, the other score).
        label: name of the other score.
    """
    rows = -(-len(panels) // columns)
    figure, _ = _figure(3.2 * min(columns, len(panels)), 0.4 + 2.8 * rows)
    figure.clear()
    for number, (name, points) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, min(columns, len(panels)), number)
        axes.plot([x for _, x, _ in points], [y for _, _, y in points], "o", color=KEPT_COLOUR, markersize=4)
        for key, x, y in points:
            axes.annotate(key, (x, y), fontsize=5, xytext=(2, 2), textcoords="offset points")
        axes.set_title(name, fontsize=8)
        axes.tick_params(labelsize=6)
        if (number - 1) % columns == 0:
            axes.set_ylabel(label, fontsize=7)
    figure.suptitle(title, fontsize=9)
    return _png(figure)


def reliability(bins: Sequence[Mapping[str, Any]], title: str) -> bytes:
    """Draw accuracy over confidence, with the number of pairs in each bin below.

    Args:
        bins: ``low``, ``high``, ``confidence``, ``accuracy`` and ``n`` of each bin that holds pairs.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0.5, 1], [0.5, 1], color="grey", linewidth=0.8, linestyle="--", label="calibrated")
    confidences, accuracies = [found["confidence"] for found in bins], [found["accuracy"] for found in bins]
    upper.plot(confidences, accuracies, "o-", color=KEPT_COLOUR, linewidth=1.2, markersize=4, label="measured")
    upper.set_ylabel("share right", fontsize=8)
    upper.legend(fontsize=7, frameon=False)
    widths = [found["high"] - found["low"] for found in bins]
    lows, numbers = [found["low"] for found in bins], [found["n"] for found in bins]
    lower.bar(lows, numbers, width=widths, align="edge", color=DROPPED_COLOUR, edgecolor="white", linewidth=0.4)
    lower.set_ylabel("pairs", fontsize=8)
    lower.set_xlabel("confidence max(p, 1 - p)", fontsize=8)
    lower.set_xlim(0.5, 1)
    for axes in (upper, lower):
        axes.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=9)
    return _png(figure)


def reward_changes(rewrites: Mapping[str, Mapping[str, Any]], title: str) -> bytes:
    """Draw by how much each rewrite of replies moves the reward, as points with their 95 % intervals.

    Args:
        rewrites: name -> ``mean_change``, ``ci_low``, ``ci_high`` (None where they are not known), ``num_changed`` and
            ``expected``, what the reward of a good model does.
    """
    shown = {name: one for name, one in rewrites.items() if one["mean_change"] is not None}
    figure, axes = _figure(7, 1.0 + 0.34 * max(len(shown), 2))
    for position, one in enumerate(shown.values()):
        colour = PROBE_COLOURS[one["expected"]]
        if one["ci_low"] is not None:
            axes.plot([one["ci_low"], one["ci_high"]], [position, position], color=colour, linewidth=2)
        axes.plot([one["mean_change"]], [position], "o", color=colour)
    # Figures stand in a column of their own, so that no interval is written over.
    for position, one in enumerate(shown.values()):
        told = f"{one['mean_change']:+.2f}, n {one['num_changed']}"
        axes.text(1.02, position, told, va="center", fontsize=8, transform=axes.get_yaxis_transform())
    axes.axvline(0, color="grey", linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(shown)), [name.replace("_", " ") for name in shown], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("mean change of the reward, in standard deviations of the test split's rewards", fontsize=8)
    axes.set_title(title, fontsize=9)
    for expected, told in PROBE_WORDS.items():
        axes.plot([], [], "o-", color=PROBE_COLOURS[expected], label=told)
    figure.legend(fontsize=7, loc="outside lower center", ncols=3, frameon=False)
    return _png(figure)


def accuracy_over_n(result: Mapping[str, Any], title: str) -> bytes:
    """Draw accuracy over the number of candidates: a line for each method, with its 95 % intervals.

    Args:
        result: what the rule best_of_n makes of scored rows.
    """
    figure, axes = _figure(7.6, 4.4)
    sizes = list(map(int, result["n"]))
    lines = [(name, _over_n(result["n"], *key), _over_n(result["intervals"], *key)) for name, key in _methods(result)]
    for place, (name, values, intervals) in enumerate(lines):
        # Side by side, so that no interval hides another.
        moved = [size * 2 ** (0.03 * (place - (len(lines) - 1) / 2)) for size in sizes]
        below = [value - one["ci_low"] for value, one in zip(values, intervals, strict=True)]
        above = [one["ci_high"] - value for value, one in zip(values, intervals, strict=True)]
        axes.errorbar(
            moved,
            values,
            (below, above),
            fmt=REFERENCE_STYLES.get(name, "o-"),
            label=name.replace("_", " "),
            color=f"C{place % 10}",
            linewidth=1.3,
            elinewidth=0.7,
            markersize=3,
        )
    for name, null in result["nulls"].items():
        if name.startswith("strongest_generator"):
            label = name.replace("_", " ")
            axes.axhline(null["score"], color="grey", linewidth=1, linestyle=(0, (5, 2)), label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, list(map(str, sizes)), fontsize=7)
    axes.minorticks_off()
    axes.set_xlabel("candidates", fontsize=8)
    axes.set_ylabel("share of problems right", fontsize=8)
    axes.grid(alpha=0.3)
    axes.set_title(title, fontsize=9)
    figure.legend(fontsize=7, loc="outside right upper", frameon=False)
    return _png(figure)


# Lines that no score decides; those of the first n candidates of a file, one draw, are left out.
REFERENCE_STYLES = {"pass": "x--", "majority": "s:", "longest": "^:"}
ONE_DRAW = "_prefix"


def _methods(result: Mapping[str, Any]) -> list[tuple[str, tuple[str, ...]]]:
    """Return the name of each line, and the keys of its figure at one n."""
    found: list[tuple[str, tuple[str, ...]]] = []
    for figure, value in next(iter(result["n"].values())).items():
        if figure.endswith(ONE_DRAW):
            continue
        parts = value if isinstance(value, Mapping) else {None: value}
        found += [((f"{figure}, {part}", (figure, part)) if part else (figure, (figure,))) for part in parts]
    return found


def _over_n(by_size: Mapping[str, Any], figure: str, part: str | None = None) -> list[Any]:
    return [found[figure][part] if part else found[figure] for found in by_size.values()]


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


def counts_over_runs(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw a panel for each asset and source: a line for what was kept and one for each rule, over the runs.

    Args:
        rows: asset, source, rule ('kept' for what no rule dropped), recorded (a time) and num_rows, oldest first.
    """
    from matplotlib.figure import Figure

    panels: dict[tuple[str, str], dict[str, list[tuple[str, int]]]] = {}
    for row in rows:
        lines = panels.setdefault((row["asset"], row["source"]), {})
        lines.setdefault(row["rule"], []).append((f"{row['recorded']:%m-%d %H:%M}", row["num_rows"]))
    num_rows = max(1, -(-len(panels) // HISTOGRAMS_A_ROW))
    figure = Figure(figsize=(5.4 * HISTOGRAMS_A_ROW, 0.5 + 2.8 * num_rows), layout="constrained")
    for index, ((asset, source), lines) in enumerate(panels.items()):
        axes = figure.add_subplot(num_rows, HISTOGRAMS_A_ROW, index + 1)
        for rule, points in lines.items():
            width = 2.0 if rule == "kept" else 1.0
            numbers = [number for _, number in points]
            axes.plot(range(len(points)), numbers, "o-", markersize=3, linewidth=width, label=rule)
        times = [time for time, _ in next(iter(lines.values()))]
        step = max(1, len(times) // 6)
        axes.set_xticks(range(0, len(times), step), times[::step], fontsize=6, rotation=20)
        axes.tick_params(axis="y", labelsize=7)
        axes.set_ylim(bottom=0)
        axes.set_title(f"{asset}: {source}", fontsize=8)
        axes.legend(fontsize=6, frameon=False)
        axes.grid(alpha=0.3)
    figure.suptitle("rows kept and dropped by rule, run after run", fontsize=9)
    return _png(figure)
