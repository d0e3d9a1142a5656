"""Coverage of the 95 % intervals by simulation: how often an interval holds the truth that the data were drawn from.

Truths run from 0.55 to 0.97, n from 100. Kinds: independent items; groups whose rows go right or wrong together;
RewardBench 2 (mean of six, scores drawn for every reply) with the sizes of its six subsets and with small ones;
RewardBench (mean of four sections); means of subsets of 1 to 6 items; the difference of two checkpoints on the same
items, alone and as a composite.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import end
from rm_workflow.evaluation import statistics
from rm_workflow.evaluation.benchmarks import rewardbench, rewardbench2
from rm_workflow.evaluation.compare import Comparison
from rm_workflow.evaluation.composite import measured_mean, weighted_mean
from rm_workflow.evaluation.figures import Parts, part

TRUTHS = (0.55, 0.65, 0.75, 0.85, 0.93, 0.97)
RESAMPLES = 1_000  # fewer than in use, which makes bounds noisier and coverage, if anything, lower
WITHIN_GROUP = 0.3  # correlation of the results of one group
RB2_SIZES = dict(zip(rewardbench2.SUBSETS, (475, 160, 183, 450, 495, 102), strict=True))
SMALL_RB2_SIZES = dict.fromkeys(rewardbench2.SUBSETS, 20)
RB1_SIZES = {
    subset: 447 if subset == "math-prm" else size
    for sizes in rewardbench.SECTIONS.values()
    for subset, size in sizes.items()
}

REASONING_WEIGHTS = tuple(rewardbench.SECTIONS["Reasoning"].values())
TIES_REPLIES = {"ref": (1, 3), "tied": (3, 3)}  # correct and wrong replies to a prompt
PAIRS_OF_TRUTH = 200_000

Interval = tuple[float, float]
Generator = np.random.Generator


@dataclass(frozen=True)
class Kind:
    """One kind of data.

    Attributes:
        draw: (generator, p) -> the truth and the interval of one data set.
        costly: one data set takes a tenth of a second or more.
    """

    name: str
    draw: Callable[[Generator, float], tuple[float, Interval]]
    costly: bool = False


def proportion(n: int) -> Callable[[Generator, float], tuple[float, Interval]]:
    def draw(generator: Generator, p: float) -> tuple[float, Interval]:
        return p, statistics.mean_interval((generator.random(n) < p).astype(float))

    return draw


def clustered(groups: int, sizes: Sequence[int]) -> Callable[[Generator, float], tuple[float, Interval]]:
    def draw(generator: Generator, p: float) -> tuple[float, Interval]:
        spread = (1 - WITHIN_GROUP) / WITHIN_GROUP
        accuracies = generator.beta(p * spread, (1 - p) * spread, groups)
        names = np.repeat(np.arange(groups), np.resize(sizes, groups))
        results = (generator.random(len(names)) < accuracies[names]).astype(float)
        return p, statistics.mean_interval(results, list(names))

    return draw


def rewardbench2_overall(sizes: dict[str, int]) -> Callable[[Generator, float], tuple[float, Interval]]:
    """Correct replies score N(mu, 1), wrong ones N(0, 1); the truth is the overall of very many such items."""

    def draw(generator: Generator, p: float) -> tuple[float, Interval]:
        mean = mean_of_correct(p)
        found = rewardbench2.aggregate(list(rewardbench2_rows(generator, mean, sizes)))["overall_interval"]
        return rewardbench2_truth(p), (found["ci_low"], found["ci_high"])

    return draw


@cache
def mean_of_correct(p: float) -> float:
    """Return mu such that N(mu, 1) beats three N(0, 1) with probability p."""
    from scipy.integrate import quad
    from scipy.optimize import brentq
    from scipy.stats import norm

    def beats(mu: float) -> float:
        return float(quad(lambda x: norm.pdf(x - mu) * norm.cdf(x) ** 3, -9, 14)[0])

    return float(brentq(lambda mu: beats(mu) - p, -1, 8))


@cache
def rewardbench2_truth(p: float) -> float:
    """Return the expected overall: p in five subsets, and Ties, by its formula, over very many pairs of prompts."""
    generator, mean = np.random.default_rng(1), mean_of_correct(p)
    correct = {kind: generator.normal(mean, 1, (PAIRS_OF_TRUTH, num)) for kind, (num, _) in TIES_REPLIES.items()}
    wrong = {kind: generator.normal(0, 1, (PAIRS_OF_TRUTH, num)) for kind, (_, num) in TIES_REPLIES.items()}
    gaps = {kind: correct[kind].min(axis=1) - wrong[kind].max(axis=1) for kind in TIES_REPLIES}
    within, both = np.ptp(correct["tied"], axis=1), np.minimum(gaps["ref"], gaps["tied"])
    right = 0.3 * np.mean(gaps["tied"] > 0) + 0.3 * np.mean(gaps["ref"] > 0)
    apart = 0.2 * np.mean(gaps["tied"] > within) + 0.2 * np.mean(both > within)
    return float(5 * p + right + apart + 0.01 * np.mean(np.tanh(both / within - 1))) / 6


def rewardbench2_rows(generator: Generator, mean: float, sizes: dict[str, int]) -> Iterator[dict[str, Any]]:
    for subset, size in sizes.items():
        if subset == rewardbench2.TIES:
            yield from ties_rows(generator, mean, size // 2)
            continue
        scores = generator.normal(size=(size, 4))
        scores[:, 0] += mean
        for number, values in enumerate(scores.tolist()):
            yield {"id": number, "subset": subset, "scores": values, "num_correct": 1}


def ties_rows(generator: Generator, mean: float, pairs: int) -> Iterator[dict[str, Any]]:
    for kind, (num_correct, num_wrong) in TIES_REPLIES.items():
        scores = generator.normal(size=(pairs, num_correct + num_wrong))
        scores[:, :num_correct] += mean
        for number, values in enumerate(scores.tolist()):
            yield {"id": f"{kind}:{number}", "subset": "Ties", "scores": values, "num_correct": num_correct}


def rewardbench_overall(generator: Generator, p: float) -> tuple[float, Interval]:
    rows = [
        {"id": number, "subset": subset, "score_chosen": float(right), "score_rejected": 0.5}
        for subset, size in RB1_SIZES.items()
        for number, right in enumerate(generator.random(size) < p)
    ]
    found = rewardbench.aggregate(rows)["overall_intervals"]["sections_mean"]
    return p, (found["ci_low"], found["ci_high"])


def mean_of_subsets(
    num: int, size: int, weights: Sequence[float] = ()
) -> Callable[[Generator, float], tuple[float, Interval]]:
    """Few items a subset, where many subsets are all right and have no spread of their own."""

    def draw(generator: Generator, p: float) -> tuple[float, Interval]:
        results = (generator.random((num, size)) < p).astype(float)
        measured = [measured_mean(subset) for subset in results]
        found = weighted_mean(list(zip(weights or [1.0] * num, measured, strict=True)))
        return p, (found["ci_low"], found["ci_high"])

    return draw


def difference(sizes: Sequence[int], share: float) -> Callable[[Generator, float], tuple[float, Interval]]:
    """A has accuracy p; B answers a share of the items anew with p - 0.05, so that few or many items differ."""

    def draw(generator: Generator, p: float) -> tuple[float, Interval]:
        sides: tuple[list[np.ndarray[Any, Any]], ...] = ([], [])
        for size in sizes:
            first, anew = generator.random(size) < p, generator.random(size) < p - 0.05
            sides[0].append(first)
            sides[1].append(np.where(generator.random(size) < share, anew, first))
        weights = {str(place): 1.0 for place in range(len(sizes))}
        a, b = (
            Parts({str(place): part(str(place), right) for place, right in enumerate(side)}, (), weights)
            for side in sides
        )
        found = Comparison(a, b).interval(weights)
        return share * 0.05, found

    return draw


KINDS = (
    Kind("100 items", proportion(100)),
    Kind("300 items", proportion(300)),
    Kind("1,000 items", proportion(1_000)),
    Kind("100 groups of 4", clustered(100, [4])),
    Kind("150 groups of 1 to 8", clustered(150, [1, 2, 8, 1, 3])),
    Kind("RewardBench 2, mean of six, 1,865 items", rewardbench2_overall(RB2_SIZES), costly=True),
    Kind("RewardBench 2, mean of six, 120 items", rewardbench2_overall(SMALL_RB2_SIZES), costly=True),
    Kind("RewardBench, mean of four sections, 2,985 items", rewardbench_overall, costly=True),
    Kind("mean of 23 subsets of 1", mean_of_subsets(23, 1)),
    Kind("mean of 23 subsets of 3", mean_of_subsets(23, 3)),
    Kind("sections of 5 subsets of 6", mean_of_subsets(5, 6)),
    Kind("seven subsets of 6, one weighs half", mean_of_subsets(7, 6, REASONING_WEIGHTS)),
    Kind("difference, 100 items, a tenth answered anew", difference([100], 0.1)),
    Kind("difference, 300 items, half answered anew", difference([300], 0.5)),
    Kind("difference, mean of five subsets, 358 items", difference([100, 95, 95, 28, 40], 0.3)),
    Kind("difference, mean of 23 subsets of 1", difference([1] * 23, 0.5)),
)


def coverage(kind: Kind, p: float, repeats: int, seed: int = 0) -> float:
    """Return the share of data sets whose interval holds the truth."""
    generator = np.random.default_rng([seed, round(1000 * p), len(kind.name)])
    held = 0
    for _ in range(repeats):
        truth, (low, high) = kind.draw(generator, p)
        held += low <= truth <= high
    return held / repeats


def main(repeats: int = 400, costly_repeats: int = 100) -> None:
    print(f"\ncoverage of 95 % intervals in percent, {repeats} data sets each ({costly_repeats} where marked *)")
    print(f"{'':52}" + "".join(f"{f'p {p:.2f}':>8}" for p in TRUTHS) + f"{'mean':>8}")
    means = []
    with mock.patch.object(statistics, "RESAMPLES", RESAMPLES):
        for kind in KINDS:
            found = [coverage(kind, p, costly_repeats if kind.costly else repeats) for p in TRUTHS]
            means.append(float(np.mean(found)))
            shown = "".join(f"{100 * share:8.1f}" for share in [*found, means[-1]])
            print(f"{kind.name + (' *' if kind.costly else ''):52}{shown}", flush=True)
    print(f"{'mean of all':52}{100 * np.mean(means):{8 * (len(TRUTHS) + 1)}.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--costly-repeats", type=int, default=100)
    asked = parser.parse_args()
    main(asked.repeats, asked.costly_repeats)
    end()
