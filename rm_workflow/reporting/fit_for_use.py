"""Which uses of a reward model the evidence supports, by stated rules.

No oracle: a rule compares one measured figure with one threshold and says why it was chosen. A rule holds where the
whole interval of the figure lies on the right side of the threshold, does not hold where it lies on the other side, and
is undecided where the threshold lies within: a lucky sample supports nothing, a small one condemns nothing. A figure
without an interval may be off by any amount, so its rule is undecided too. A use is
``supported`` where all its rules hold, ``not supported`` where one does not; else there is ``no evidence`` where a
figure was never measured, and the use is ``undecided`` where a rule is.

Where train pairs hold items of a benchmark and its score is not one of the other items alone, all of them count as wins
that the model owes to the leak: their share is taken off the lower end of the interval before it is compared. Figures
of the analysis leave such items out. Where nobody looked, the score supports nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from rm_workflow.reporting.evidence import BEST_OF_N, TEST, Evidence
from rm_workflow.reporting.tables import PROMPT_ABLATED, change

Verdict = Literal["supported", "not supported", "undecided", "no evidence"]
Outcome = Literal["holds", "does not hold", "undecided", "not measured"]

# What choosing at random reaches, by scoring rule; RewardBench 2 has 4 replies an item, and about 0.22 on Ties.
CHANCE = {TEST: 0.5, "pairs": 0.5, "rewardbench": 0.5, "rewardbench2": 0.25}
BEST_OF_4 = "rewardbench2"

USES = {
    "best_of_n": "choosing the best of N replies",
    "filtering": "keeping or dropping pairs by their margin",
    "policy_training": "training a policy by reinforcement learning",
}


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        of: what it is, as words.
        leaked: share of the items that train pairs hold, taken off before it is compared.
        is_worse_than_chance: the whole interval lies below what choosing at random reaches, half of the ties of pairs
            given to it: the model knows something and says the opposite.
    """

    of: str
    value: float
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = None
    leaked: float = 0.0
    is_worse_than_chance: bool = False


@dataclass(frozen=True)
class Rule:
    """One condition of one use.

    Attributes:
        figure: key into what ``figures`` returns.
        side: on which side of the threshold the figure, with its interval, must lie.
        threshold: a number, or the key of another figure.
        why: why this figure and this threshold.
    """

    use: str
    figure: str
    side: Literal["above", "at most"]
    threshold: float | str
    why: str


BEATS_NULLS = "a model that is no better than always taking the longer (or shorter) reply has learnt nothing else"
NOT_LENGTH = (
    "the best of N is an extreme, so that a model which follows length takes ever longer replies as N grows; where the "
    "better reply is the shorter one it must still be right more often than a coin"
)
CHOOSES = (
    "of all figures here, only this one chooses among several replies; over 113 reward models it went with the gain of "
    "best-of-16 (r = 0.87, arXiv 2506.01937); the threshold is what rules that read nothing reach"
)
CALIBRATED = (
    "a threshold on the margin keeps the share of right labels that it promises only where probabilities are right; "
    "0.05 means that pairs kept at 0.90 are right between 0.85 and 0.95"
)
GOLD = (
    "no score on stored replies says how a policy will exploit a reward: in arXiv 2506.01937 a reward model with 72.9 "
    "on RewardBench 2 trained a policy to 54.5 and one with 55.6, of the policy's own lineage, to 60.7; needed is a "
    "second judge's reward on the policy's own replies, above that of the start"
)

RULES = (
    Rule("best_of_n", "test_accuracy", "above", "test_null", BEATS_NULLS),
    Rule("best_of_n", "shorter_accuracy", "above", 0.5, NOT_LENGTH),
    Rule("best_of_n", "best_of_4", "above", "best_of_4_null", CHOOSES),
    Rule("filtering", "test_accuracy", "above", "test_null", BEATS_NULLS),
    Rule("filtering", "ece", "at most", 0.05, CALIBRATED),
    Rule("policy_training", "test_accuracy", "above", "test_null", BEATS_NULLS),
    Rule("policy_training", "shorter_accuracy", "above", 0.5, NOT_LENGTH),
    Rule("policy_training", "gold_gain", "above", 0.0, GOLD),
)

# |Spearman| from which a correlation is called moderate (Cohen, Statistical Power Analysis, 1988).
MODERATE_CORRELATION = 0.3
# As in CALIBRATED.
CALIBRATION_ERROR = 0.05
# Share of exact ties from which a score says more about rounding than about preference.
TIES = 0.01
# Change of a mean, in standard deviations, up to which Cohen (1988) calls an effect small.
SMALL_EFFECT = 0.2


def fit_for_use(evidence: Evidence) -> dict[str, Any]:
    """Return the verdict on every use, the rules behind it and the warnings.

    Returns:
        ``{"uses": [{"use", "title", "verdict", "rules": [{"figure", "value", "ci_low", "ci_high", "n", "leaked",
        "side", "threshold", "outcome", "is_worse_than_chance", "why"}]}], "warnings": [{"name", "sentence"}]}``; a
        number that was not measured is None.
    """
    measured = figures(evidence)
    uses = []
    for use, title in USES.items():
        rules = [judge(rule, measured) for rule in RULES if rule.use == use]
        uses.append(
            {"use": use, "title": title, "verdict": verdict([rule["outcome"] for rule in rules]), "rules": rules}
        )
    return {"uses": uses, "warnings": [*_warnings(evidence, measured)]}


def verdict(outcomes: list[Outcome]) -> Verdict:
    """Return the verdict on a use from the outcomes of its rules.

    >>> verdict(["holds", "not measured"]), verdict(["does not hold", "not measured"]), verdict(["holds"])
    ('no evidence', 'not supported', 'supported')
    """
    if "does not hold" in outcomes:
        return "not supported"
    if "not measured" in outcomes:
        return "no evidence"
    return "undecided" if "undecided" in outcomes else "supported"


def judge(rule: Rule, measured: Mapping[str, Figure | None]) -> dict[str, Any]:
    """Return a rule with the figure that it looks at and its outcome."""
    figure = measured.get(rule.figure)
    limit = measured.get(rule.threshold) if isinstance(rule.threshold, str) else None
    threshold = limit.value if limit else rule.threshold if isinstance(rule.threshold, float) else None
    return {
        "figure": figure.of if figure else NOT_MEASURED[rule.figure],
        "value": figure.value if figure else None,
        "ci_low": figure.ci_low if figure else None,
        "ci_high": figure.ci_high if figure else None,
        "n": figure.n if figure else None,
        "leaked": figure.leaked if figure else None,
        "side": rule.side,
        "threshold": threshold,
        "outcome": _outcome(rule.side, figure, threshold),
        "is_worse_than_chance": bool(figure and figure.is_worse_than_chance),
        "why": rule.why,
    }


def _outcome(side: str, figure: Figure | None, threshold: float | None) -> Outcome:
    if figure is None or threshold is None:
        return "not measured"
    if figure.ci_low is None or figure.ci_high is None:
        return "undecided"
    low = figure.ci_low - figure.leaked
    if low <= threshold < figure.ci_high:
        return "undecided"
    return "holds" if (low > threshold) == (side == "above") else "does not hold"


# What a rule's figure is called where it was not measured.
NOT_MEASURED = {
    "test_accuracy": "accuracy on the test split",
    "shorter_accuracy": "accuracy on test pairs whose chosen reply is the shorter one",
    "best_of_4": (
        "best-of-N score (on a benchmark that was not generated here, scored by the rule best_of_n or that of "
        "RewardBench 2)"
    ),
    "ece": "calibration error on the test split",
    "gold_gain": "gain of a second judge's reward on the policy's own replies",
}


def figures(evidence: Evidence) -> dict[str, Figure | None]:
    """Return every figure that rules and warnings look at; one that was not measured is None."""
    best_of_4 = _best_of_4(evidence)
    chance = _chance(evidence, best_of_4) if best_of_4 else 0.0
    return {
        "test_accuracy": _scored(evidence, TEST, NOT_MEASURED["test_accuracy"], CHANCE[TEST]),
        "test_null": _null(evidence, TEST, CHANCE[TEST]) if TEST in evidence.headlines else None,
        "shorter_accuracy": _part_of_test(evidence, NOT_MEASURED["shorter_accuracy"], "length", "chosen_shorter"),
        "longer_accuracy": _part_of_test(
            evidence, "accuracy on test pairs whose chosen reply is the longer one", "length", "chosen_longer"
        ),
        "best_of_4": _scored(evidence, best_of_4, _best_words(evidence, best_of_4), chance) if best_of_4 else None,
        "best_of_4_null": _null(evidence, best_of_4, chance) if best_of_4 else None,
        "ece": _ece(evidence),
        # Nothing measures it yet: it needs replies of a policy and a second judge.
        "gold_gain": None,
    }


def _best_of_4(evidence: Evidence) -> str | None:
    """Return the benchmark on which the model chooses among several replies; none that was generated here.

    Candidates whose answers are right or wrong come first, then the one with the most items.
    """
    real = [name for name in evidence.headlines if name not in evidence.generated]
    rules = {name: evidence.details.get(name, {}).get("scoring") for name in real}
    scored = [name for name, rule in rules.items() if rule in (BEST_OF_N, BEST_OF_4)]
    return max(scored, key=lambda name: (rules[name] == BEST_OF_N, evidence.headlines[name]["n"], name), default=None)


def _best_words(evidence: Evidence, benchmark: str) -> str:
    num = evidence.details[benchmark]["best_of_n_score"]["candidates"] if benchmark in evidence.best_of_n else 4
    return f"best-of-{num:,} score on {benchmark}"


def _chance(evidence: Evidence, benchmark: str) -> float:
    """Return what a random choice reaches."""
    if benchmark in evidence.best_of_n:
        return float(evidence.best_of_n[benchmark]["n"]["1"]["pass"])
    return CHANCE[BEST_OF_4]


def _scored(evidence: Evidence, benchmark: str, of: str, chance: float) -> Figure | None:
    found = evidence.headlines.get(benchmark)
    if not found or not _is_verdict_known(evidence, benchmark):
        return None
    leaked = 0.0 if evidence.is_of_clean_items(benchmark) else leaked_share(evidence, benchmark)
    figure = _figure(of, found, leaked)
    # The accuracy of pairs is strict, so that ties alone may hold it below a coin; several replies that tie share.
    half_of_ties = (found.get("ties") or 0) / found["n"] / 2 if benchmark == TEST and found.get("n") else 0.0
    is_worse = found.get("ci_high") is not None and found["ci_high"] + half_of_ties < chance
    return replace(figure, is_worse_than_chance=is_worse) if figure else None


def _part_of_test(evidence: Evidence, of: str, *keys: str) -> Figure | None:
    found = evidence.test_analysis(*keys) if _is_verdict_known(evidence, TEST) else None
    return _figure(of, found, 0.0) if found else None


def _is_verdict_known(evidence: Evidence, benchmark: str) -> bool:
    """Tell whether train pairs were compared with the benchmark; a score without that supports nothing."""
    return (evidence.overlap.get(benchmark) or {}).get("verdict") in ("clean", "leaky")


def _figure(of: str, score: Mapping[str, Any], leaked: float) -> Figure | None:
    if score.get("score") is None:
        return None
    return Figure(of, score["score"], score.get("ci_low"), score.get("ci_high"), score.get("n"), leaked)


def _null(evidence: Evidence, benchmark: str, chance: float) -> Figure:
    # A model that judges the replies alone may judge them well, so its own score without prompts is no threshold.
    nulls = (value for name, value in evidence.nulls(benchmark).items() if name != PROMPT_ABLATED)
    best = max([chance, *nulls])
    return Figure("the best baseline that reads nothing", best)


def _ece(evidence: Evidence) -> Figure | None:
    """Return the calibration error after the temperature, which was fitted on other pairs, else without it."""
    calibration = (evidence.test_analysis("calibration") or {}) if _is_verdict_known(evidence, TEST) else {}
    for key, words in (("ece_after_temperature", " after fitting a temperature on other pairs"), ("ece", "")):
        if calibration.get(key) is not None:
            low, high = calibration[f"{key}_interval"]
            n = calibration["n" if key == "ece" else "n_evaluated"]
            return Figure(NOT_MEASURED["ece"] + words, calibration[key], low, high, n)
    return None


def leaked_share(evidence: Evidence, benchmark: str) -> float:
    """Return the share of a benchmark's items that train pairs hold; 0 where the verdict is unknown."""
    found = evidence.overlap.get(benchmark) or {}
    return found["leaked_items"] / found["items"] if found.get("items") else 0.0


def _warnings(evidence: Evidence, measured: Mapping[str, Figure | None]) -> Iterator[dict[str, str]]:
    for name, warn in WARNINGS.items():
        yield from ({"name": name, "sentence": sentence} for sentence in warn(evidence, measured))


def _policy_lineage(evidence: Evidence, measured: Mapping[str, Figure | None]) -> Iterator[str]:
    yield (
        f"Reward models steer policies of their own lineage best (arXiv 2506.01937). This one was trained from "
        f"{evidence.about['base']}; take the recipe rather than the checkpoint for a policy from another base."
    )


def _prompt_distribution(evidence: Evidence, measured: Mapping[str, Figure | None]) -> Iterator[str]:
    if not evidence.headlines:
        yield "It was not evaluated at all."
    elif set(evidence.headlines) == {TEST}:
        sources = ", ".join(evidence.about["sources"])
        yield (
            f"It was tested on pairs of the sources that it was trained on alone ({sources}); how it judges other "
            "prompts is not known."
        )
    else:
        yield "Prompts of a use that differ from those of the test sets were not measured."


def _length_bias(evidence: Evidence, measured: Mapping[str, Figure | None]) -> Iterator[str]:
    shorter, longer = measured["shorter_accuracy"], measured["longer_accuracy"]
    correlation = evidence.test_analysis("length", "spearman_margin_length")
    if shorter is None and correlation is None:
        yield "Length bias was not measured beyond the two baselines that pick by length."
    if correlation is not None and abs(correlation) >= MODERATE_CORRELATION:
        yield (
            f"Margins go with the difference of lengths (Spearman {correlation:+.2f}, from {MODERATE_CORRELATION} on "
            "called moderate): compare replies of like length."
        )
    if shorter and longer and None not in (shorter.ci_high, longer.ci_low) and longer.ci_low > shorter.ci_high:  # type: ignore[operator]
        yield (
            f"It is right on {longer.value:.3f} of the pairs whose chosen reply is longer and on {shorter.value:.3f} "
            "where it is shorter, with intervals that do not meet."
        )


def _calibration(evidence: Evidence, measured: Mapping[str, Figure | None]) -> Iterator[str]:
    ece = measured["ece"]
    if ece is None:
        yield "Calibration was not measured: a margin is an order, not a probability."
    elif ece.ci_high is not None and ece.ci_high > CALIBRATION_ERROR:
        yield (
            f"Probabilities from margins may be off by up to {ece.ci_high:.3f} on average ({ece.of}: {ece.value:.3f}, "
            f"interval {ece.ci_low:.3f} to {ece.ci_high:.3f}, n {ece.n:,}): set no threshold by them."
        )


def _leaks(evidence: Evidence, measured: Mapping[str, Figure | None]) -> Iterator[str]:
    for name, found in evidence.overlap.items():
        if found["verdict"] == "leaky":
            told = "its score leaves them out" if evidence.is_of_clean_items(name) else "its score may be too high"
            yield (
                f"{found['leaked_items']:,} of {found['items']:,} {'prompts' if name == TEST else 'items'} of {name} "
                f"have a text that train pairs hold: "
                f"{told}."
            )
        elif found["verdict"] != "clean":
            yield f"Whether train pairs hold items of {name} is not known, so its score supports nothing here."
    for name, found in evidence.overlap_unscored.items():
        if found["verdict"] == "leaky":
            yield (
                f"{found['leaked_items']:,} of {found['items']:,} items of {name} stand in its training data: a score "
                "on them supports nothing."
            )
    for name, source in evidence.about["sources"].items():
        if source.get("test_problems"):
            yield f"Of its source {name} it is known that {source['test_problems']}: a score on these supports nothing."


def _generated(evidence: Evidence, measured: Mapping[str, Figure | None]) -> Iterator[str]:
    if evidence.generated:
        yield (
            f"Rows of {', '.join(evidence.generated)} were generated by rm_workflow itself: what holds on them need "
            "not hold on texts that people or other models wrote."
        )


def _selection(evidence: Evidence, measured: Mapping[str, Figure | None]) -> Iterator[str]:
    for benchmark, number in evidence.selected_by.items():
        yield (
            f"This checkpoint was chosen among {number} runs by its score on {benchmark}, so that this score is too "
            "high for it; the other benchmarks tell more."
        )
    if evidence.num_scored and evidence.num_scored > 1 and not evidence.selected_by:
        yield (
            f"{evidence.num_scored} checkpoints of this recipe were scored on the same sets; if this one was chosen by "
            "these scores, they are too high for it."
        )


def _ties(evidence: Evidence, measured: Mapping[str, Figure | None]) -> Iterator[str]:
    for name, found in evidence.headlines.items():
        if found.get("ties") and found["ties"] > TIES * found["n"]:
            yield f"{found['ties']:,} of {found['n']:,} items of {name} are exact ties, by which a score says nothing."


def _flip(evidence: Evidence, measured: Mapping[str, Figure | None]) -> Iterator[str]:
    if evidence.test_analysis("flip", "holds") is False:
        yield "With the sides swapped, accuracy is not 1 - accuracy - ties: the scores depend on more than the texts."


def _rounding(evidence: Evidence, measured: Mapping[str, Figure | None]) -> Iterator[str]:
    difference = (evidence.result.get("reload") or {}).get("bf16_max_difference")
    margin = (evidence.headlines.get(TEST) or {}).get("mean_margin")
    if difference and margin and difference > abs(margin):
        yield (
            f"Loaded in bf16, rewards differ by up to {difference:.2f}, more than the mean margin of {margin:.2f}: "
            "score in float32."
        )


def _moved(evidence: Evidence, *expected: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield the mean change of rewards, where its interval is known, and the description of each rewrite.

    Args:
        expected: what the rewrites asked for should do to a reward.
    """
    for one in evidence.rewrites.values():
        moved = one["change"]["all"]
        if one["expected"] in expected and moved and moved["ci_low"] is not None:
            yield moved, one["description"]


def _rewarded_rewrites(evidence: Evidence, measured: Mapping[str, Figure | None]) -> Iterator[str]:
    """Warn of what should not raise a reward and does, with the whole of its interval above 0."""
    for moved, description in _moved(evidence, "does not rise", "falls"):
        if moved["ci_low"] > 0:
            yield (
                f"Rewards rise by {change(moved)} standard deviations (n {moved['n']:,}) where they should not: "
                f"{description}"
            )


def _kept_rewards(evidence: Evidence, measured: Mapping[str, Figure | None]) -> Iterator[str]:
    """Warn of what should lower a reward and is not known to: its interval does not lie below 0."""
    for moved, description in _moved(evidence, "falls"):
        if moved["ci_low"] <= 0 <= moved["ci_high"]:
            yield (
                f"Rewards do not clearly fall (they move by {change(moved)} standard deviations, n {moved['n']:,}) "
                f"where they should: {description}"
            )


def _moved_by_form(evidence: Evidence, measured: Mapping[str, Figure | None]) -> Iterator[str]:
    """Warn of what keeps the meaning and moves rewards, with the whole of its interval beyond a small effect."""
    for moved, description in _moved(evidence, "unchanged"):
        if max(moved["ci_low"], -moved["ci_high"]) > SMALL_EFFECT:
            yield (
                f"Rewards move by {change(moved)} standard deviations (n {moved['n']:,}; above {SMALL_EFFECT} is more "
                f"than a small effect) where the meaning stays: {description}"
            )


def _prompt_ignored(evidence: Evidence, measured: Mapping[str, Figure | None]) -> Iterator[str]:
    """Warn where accuracy with the prompt is not above that without it with the whole interval of the difference."""
    found = evidence.probes.get(PROMPT_ABLATED)
    if found and found["difference"] and found["difference"]["ci_low"] <= 0:
        yield (
            f"Without the prompt it is right on {found['without_prompt']['score']:.3f}, with it on "
            f"{found['with_prompt']['score']:.3f} of the same {found['difference']['n']:,} pairs, not distinguishable "
            "or worse: it may judge replies without reading what was asked."
        )


# Name of a warning -> what says it, or says nothing.
WARNINGS = {
    "policy_lineage": _policy_lineage,
    "prompt_distribution": _prompt_distribution,
    "length_bias": _length_bias,
    "calibration": _calibration,
    "contamination": _leaks,
    "generated_rows": _generated,
    "selected_on_test": _selection,
    "ties": _ties,
    "flip": _flip,
    "rewarded_rewrites": _rewarded_rewrites,
    "kept_rewards": _kept_rewards,
    "moved_by_form": _moved_by_form,
    "prompt_ignored": _prompt_ignored,
    "precision": _rounding,
}
