"""``analysis.json`` of a scores artifact: calibration, length, nulls and the flip test, from the files beside it.

::

    {"test": {"calibration": {...}, "length": {...}, "nulls": {"pick_longer", "pick_shorter", "prompt_ablated"},
              "flip": {"accuracy", "flipped", "ties", "holds"}, "margin": {"edges", "counts", "mean", "median"}},
     "<benchmark>": {"nulls": {"pick_longer", "pick_shorter"}, "length": {...}}}

Items that leaked into the train pairs are left out, ``leaked_left_out`` of them; what leaked whole is absent. A null
that was not measured is null; ``prompt_ablated`` is the score of some test pairs without their prompts, its n says of
how many (``probes.json``). A benchmark has ``length`` where its items are one chosen and one rejected reply; elsewhere
``length`` holds the correlation of reward and length alone.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rm_workflow.evaluation import benchmarks as rules
from rm_workflow.evaluation import bias, stored
from rm_workflow.evaluation.calibration import calibration
from rm_workflow.evaluation.items import ScoredItem
from rm_workflow.evaluation.probes import effects, sample
from rm_workflow.evaluation.statistics import Floats
from rm_workflow.evaluation.test_split import ScoredPairs, margin_histogram, read_pairs

FILE = "analysis.json"
Analysis = dict[str, Any]


def write_analysis(
    folder: Path, benchmarks: Mapping[str, Path], leaked: Mapping[str, Sequence[str]] | None = None
) -> Analysis:
    """Write ``analysis.json`` into a folder with item scores and return its headline figures by benchmark.

    Args:
        folder: holds ``item_scores.parquet`` and, where the test split was scored, ``test_pairs.parquet`` and, where it
            was probed, ``probes.json``.
        benchmarks: name -> folder of a benchmark artifact that was scored.
        leaked: items by benchmark, pair ids for the test split, that are left out.
    """
    leaked, found = leaked or {}, {}
    if (folder / stored.TEST_PAIRS).is_file():
        all_pairs = read_pairs(folder / stored.TEST_PAIRS)
        pairs = all_pairs.without(leaked.get(stored.TEST, ()))
        if pairs.pair_ids:
            part = of_test_split(pairs, _prompt_ablated(folder / effects.FILE))
            found[stored.TEST] = {**part, "leaked_left_out": len(all_pairs.pair_ids) - len(pairs.pair_ids)}
    for name, benchmark in sorted(benchmarks.items()):
        scored = stored.scored_items(folder, name, benchmark)
        left_out = set(leaked.get(name, ()))
        kept = {item: scored[item] for item in scored if item not in left_out}
        if kept:
            lengths = stored.reply_lengths(benchmark)
            part = of_benchmark(stored.scoring_of(benchmark), kept, lengths)
            found[name] = {**part, "leaked_left_out": len(scored) - len(kept)}
    (folder / FILE).write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", "utf-8")
    return {name: headlines(part) for name, part in found.items()}


def _prompt_ablated(probes: Path) -> Analysis | None:
    found = json.loads(probes.read_text("utf-8"))[sample.PROMPT_ABLATED] if probes.is_file() else None
    return found and found["without_prompt"]


def of_test_split(pairs: ScoredPairs, prompt_ablated: Analysis | None = None) -> Analysis:
    """Return the analysis of the test split from its scored pairs.

    Args:
        prompt_ablated: the score of some of the pairs without their prompts.
    """
    chosen, rejected, chosen_length, rejected_length = (
        np.asarray(column, dtype=np.float64)
        for column in (pairs.score_chosen, pairs.score_rejected, pairs.chosen_lengths, pairs.rejected_lengths)
    )
    groups = pairs.groups
    margins: Floats = chosen - rejected
    return {
        "calibration": calibration(margins, groups),
        "length": bias.length_figures(chosen, rejected, chosen_length, rejected_length, groups),
        "nulls": {**bias.split_nulls(chosen_length, rejected_length, groups), "prompt_ablated": prompt_ablated},
        "flip": bias.flip_test(chosen, rejected),
        "margin": {
            **margin_histogram(margins.tolist()),
            "mean": float(margins.mean()),
            "median": float(np.median(margins)),
        },
    }


def of_benchmark(scoring: str, scored: Mapping[str, ScoredItem], lengths: Mapping[str, ScoredItem]) -> Analysis:
    """Return the analysis of a benchmark from its items with scores.

    Args:
        lengths: these items and maybe others, with lengths of replies as their scores.
    """
    lengths = {name: lengths[name] for name in scored}
    rewards = np.array([score for item in scored.values() for score in item.scores])
    characters = np.array([length for name in scored for length in lengths[name].scores])
    are_pairs = getattr(rules.rule(scoring), "CHOSEN_FIRST", True)
    pairs = [name for name, item in scored.items() if are_pairs and len(item.scores) == 2 and item.num_correct == 1]
    length: Analysis = {"spearman_reward_length": bias.spearman(rewards, characters)}
    if len(pairs) == len(scored):
        chosen, rejected = np.array([scored[name].scores for name in pairs]).T
        of_chosen, of_rejected = np.array([lengths[name].scores for name in pairs]).T
        # Where several pairs come from one prompt, the rule's rows say so by their group.
        groups = [scored[name].meta.get("group", name) for name in pairs]
        length = bias.length_figures(chosen, rejected, of_chosen, of_rejected, groups)
    return {"nulls": bias.benchmark_nulls(scoring, lengths), "length": length}


def headlines(found: Analysis) -> Analysis:
    """Return the figures of one benchmark's analysis that stand beside its score, each a number or null."""
    length, nulls, calibrated = found["length"], found["nulls"], found.get("calibration")
    shown = {name: _score(nulls.get(name)) for name in ("pick_longer", "pick_shorter", "prompt_ablated")}
    shown |= {name: _score(length.get(name)) for name in ("chosen_longer", "chosen_shorter")}
    shown |= {name: length.get(name) for name in ("spearman_margin_length", "spearman_reward_length")}
    if calibrated:
        shown |= {name: calibrated[name] for name in CALIBRATION_SHOWN}
    if "flip" in found:
        shown["flip_holds"] = found["flip"]["holds"]
    return shown


CALIBRATION_SHOWN = ("ece", "brier", "nll", "temperature", "ece_before_temperature", "ece_after_temperature")


def _score(found: Mapping[str, Any] | None) -> float | None:
    return found["score"] if found else None
