"""Do the margins mean what they say? p = sigmoid(r(chosen) - r(rejected)) against what is right.

Confidence is folded: max(p, 1 - p), which lies in [0.5, 1] whichever side stands first, and a pair is right if
r(chosen) > r(rejected). Expected calibration error over equal-width bins (Guo et al. 2017, arXiv 1706.04599)::

    ECE = sum_b n_b / n |accuracy_b - confidence_b|          15 bins on [0.5, 1]
    Brier = mean (p - 1)^2          NLL = mean log(1 + exp(-margin)), the Bradley-Terry loss

Absolute values add up chance: a perfectly calibrated model shows an ECE of about 0.09 on 200 pairs and 0.04 on 1,000.
Hence its interval. With D_b = sum (right - confidence) / n over bin b, ECE = sum |D_b|, and by the triangle inequality
the ECE of endless data is at most sum |D_b - its own| away. The interval reaches as far as the 97.5th percentile of
that distance, the larger one of two: over a bootstrap of groups, and over draws of a perfectly calibrated model with
the same confidences, in which all rows of a group go right together. The second counts where few pairs, or pairs that
are all right, show no spread of their own.

The scale of rewards is free, so models are compared after a temperature T that minimises the NLL of margin / T. It is
fitted on one half of the groups and judged on the other; a keyed hash of the group decides the half.
"""

import zlib
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rm_workflow.evaluation.statistics import Floats, bootstrap_sums
from rm_workflow.keys import content_id

NUM_BINS = 15
HALVES_KEY = "temperature"
CHANCE_DRAWS = 1000


def calibration(margins: Sequence[float] | Floats, groups: Sequence[Hashable]) -> dict[str, Any]:
    """Return reliability bins, ECE, Brier, NLL, and the temperature of one half with what it does to the other.

    Args:
        margins: r(chosen) - r(rejected) of each pair, at least one.
        groups: what stays on one side when the pairs are halved.

    Returns:
        ``num_bins``, ``bins`` (those with pairs), ``n``, ``ece``, ``ece_interval``, ``brier``, ``nll`` of all pairs;
        ``temperature`` with ``n_fit``; ``ece_before_temperature``, ``ece_after_temperature``,
        ``ece_after_temperature_interval``, ``nll_before_temperature`` and ``nll_after_temperature`` of the
        ``n_evaluated`` others. Null where a half is empty or no finite temperature is best. Intervals are [low, high].
    """
    values: Floats = np.asarray(margins, dtype=np.float64)
    fitted_on = first_half(groups)
    fit, judged = values[fitted_on], values[~fitted_on]
    found = temperature(fit) if len(fit) and len(judged) else None
    other_groups = [group for group, is_fit in zip(groups, fitted_on, strict=True) if not is_fit]
    return {
        "num_bins": NUM_BINS,
        "bins": reliability(values),
        "n": len(values),
        "ece": ece(values),
        "ece_interval": ece_interval(values, groups),
        "brier": brier(values),
        "nll": nll(values),
        "temperature": found,
        "ece_before_temperature": ece(judged) if found else None,
        "ece_after_temperature": ece(judged / found) if found else None,
        "ece_after_temperature_interval": ece_interval(judged / found, other_groups) if found else None,
        "nll_before_temperature": nll(judged) if found else None,
        "nll_after_temperature": nll(judged / found) if found else None,
        "n_fit": len(fit),
        "n_evaluated": len(judged),
    }


def first_half(groups: Sequence[Hashable]) -> NDArray[np.bool_]:
    """Return for each row whether its group falls into the half that the temperature is fitted on."""
    falls = {group: int(content_id([HALVES_KEY, str(group)]), 16) % 2 == 0 for group in set(groups)}
    return np.array([falls[group] for group in groups], dtype=bool)


def confidence(margins: Floats) -> Floats:
    """Return max(p, 1 - p) with p = sigmoid(margin)."""
    with np.errstate(over="ignore"):
        folded: Floats = 1 / (1 + np.exp(-np.abs(margins)))
    return folded


def reliability(margins: Floats, num_bins: int = NUM_BINS) -> list[dict[str, float]]:
    """Return the bins that hold pairs: ``low``, ``high``, mean ``confidence``, ``accuracy`` and ``n``.

    A bin holds low <= confidence < high, the last one its upper end too.
    """
    folded, right = confidence(margins), margins > 0
    index = _bin_of(folded, num_bins)
    width = 0.5 / num_bins
    return [
        {
            "low": 0.5 + place * width,
            "high": 0.5 + (place + 1) * width,
            "confidence": float(folded[index == place].mean()),
            "accuracy": float(right[index == place].mean()),
            "n": int(np.sum(index == place)),
        }
        for place in map(int, np.unique(index))
    ]


def _bin_of(folded: Floats, num_bins: int) -> NDArray[np.int64]:
    return np.minimum(((folded - 0.5) * 2 * num_bins).astype(np.int64), num_bins - 1)


def ece(margins: Floats, num_bins: int = NUM_BINS) -> float:
    """Return the expected calibration error."""
    bins = reliability(margins, num_bins)
    return sum(found["n"] * abs(found["accuracy"] - found["confidence"]) for found in bins) / len(margins)


def ece_interval(margins: Floats, groups: Sequence[Hashable], num_bins: int = NUM_BINS) -> list[float]:
    """Return the 95 % interval of the expected calibration error, [low, high], clustered by group."""
    folded = confidence(margins)
    _, of_group = np.unique([str(group) for group in groups], return_inverse=True)
    gaps = np.zeros((int(of_group.max()) + 1, num_bins + 1))
    np.add.at(gaps, (of_group, _bin_of(folded, num_bins)), (margins > 0) - folded)
    gaps[:, num_bins] = np.bincount(of_group)
    drawn = bootstrap_sums(gaps, "calibration")
    own = gaps[:, :num_bins].sum(axis=0) / len(margins)
    distance = np.abs(drawn[:, :num_bins] / drawn[:, num_bins:] - own).sum(axis=1)
    by_chance = _chance_errors(folded, of_group, num_bins)
    reach, found = max(float(np.quantile(of, 0.975)) for of in (distance, by_chance)), ece(margins, num_bins)
    return [max(0.0, found - reach), min(1.0, found + reach)]


def _chance_errors(folded: Floats, of_group: NDArray[np.int64], num_bins: int) -> Floats:
    """Return the errors that a perfectly calibrated model shows by chance, shape [CHANCE_DRAWS]."""
    generator = np.random.default_rng(zlib.crc32(b"chance"))
    in_bin = np.eye(num_bins)[_bin_of(folded, num_bins)]
    errors = []
    for _ in range(CHANCE_DRAWS):
        right = generator.random(int(of_group.max()) + 1)[of_group] < folded
        errors.append(np.abs((right - folded) @ in_bin).sum() / len(folded))
    return np.array(errors)


def brier(margins: Floats) -> float:
    """Return mean (p - 1)^2, where 0.25 says nothing and 0 is certain and right."""
    with np.errstate(over="ignore"):
        return float(np.mean((1 / (1 + np.exp(margins))) ** 2))


def nll(margins: Floats) -> float:
    """Return mean log(1 + exp(-margin)), in nats."""
    return float(np.mean(np.logaddexp(0, -margins)))


def temperature(margins: Floats) -> float | None:
    """Return the T > 0 that minimises the NLL of margins / T.

    The NLL is convex in 1/T, so its slope has one zero. None where it has none: with no wrong pair ever smaller T are
    better, and where the margins sum to 0 or less ever larger ones.
    """
    from scipy.optimize import brentq
    from scipy.special import expit

    if margins.min() >= 0 or margins.sum() <= 0:
        return None

    def slope(inverse: float) -> float:
        return float(np.mean(-margins * expit(-inverse * margins)))

    high = 1 / float(np.abs(margins).max())
    while slope(high) < 0:
        high *= 2
    return 1 / float(brentq(slope, 0.0, high, xtol=1e-14, rtol=1e-12))
