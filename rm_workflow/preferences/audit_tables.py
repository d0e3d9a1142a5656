"""The measures of an audit as tables, for the command line and the web UI."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from rm_workflow.preferences.findings import CONTRADICTION_RULES, DUPLICATE_RULES

# Upper limits of the columns; they are edges of the finer histograms.
WORD_LIMITS = (8, 32, 128, 512, 2048)
TOKEN_LIMITS = (128, 256, 512, 1024, 2048, 4096)

Row = dict[str, Any]
Facts = Mapping[str, Any]


def tables(facts: Facts) -> dict[str, list[Row]]:
    """Return title -> rows; a table without rows is left out.

    Args:
        facts: of an audit's artifact.
    """
    stages = ["sources"]
    if [one["pairs"] for one in facts["sources"].values()] != [one["pairs"] for one in facts["pair_sets"].values()]:
        stages.append("pair_sets")
    measured = {
        f"{stage}: {title}": [{"name": name, **row(one)} for name, one in facts[stage].items()]
        for stage in stages
        for title, row in (("pairs", _pairs), ("length of replies", _length), ("repeats and contradictions", _repeats))
    }
    sources = facts["sources"].items()
    found = {
        **measured,
        "words of replies": _word_bins(facts["lengths"]),
        "replies that only refuse or are empty": [
            {"name": name, **_refusals(one)} for name, one in sources if any(_refusals(one).values())
        ],
        "phrases that lean most to the chosen side": _phrases(facts["sources"]),
        "score gaps": [{"name": name, **one["score_gap"]} for name, one in sources if one["score_gap"]],
        "what sources share": _overlap(facts["overlap"]),
        "conflicts between sources": facts["conflicts"]["between"],
        "examples of conflicts": facts["conflicts"]["examples"],
        "marks of templates": [_marker(one) for one in facts["markers"]],
        "licences": [dict(entry) for entry in facts["licences"]["terms"]],
    }
    return {title: rows for title, rows in found.items() if rows}


def overlap_matrix(facts: Facts, what: str) -> tuple[list[str], list[list[float]]]:
    """Return the sources and, row by row, the share of its texts that each other source holds too.

    Args:
        what: ``first_turns`` or ``responses``.
    """
    names = list(facts["sources"])
    shared = {(o["source"], o["other_source"]): o["shared"] for o in facts["overlap"] if o["what"] == what}
    return names, [[shared.get((name, other), 0) / shared[name, name] for other in names] for name in names]


def _pairs(one: Facts) -> Row:
    return {
        **{key: one[key] for key in ("pairs", "train", "test", "prompts", "pairs_per_prompt")},
        "most of a prompt": one["most_pairs_of_a_prompt"],
    }


def _length(one: Facts) -> Row:
    length = one["length"]
    return {
        "words chosen": f"{length['chosen_words']:.1f}",
        "rejected": f"{length['rejected_words']:.1f}",
        "difference (median)": _difference(length["difference_words"]),
        "in characters": _difference(length["difference_characters"]),
        "chosen longer": share_text(length["chosen_longer"]),
        "same length": length["same_length"],
    }


def _difference(difference: Mapping[str, float]) -> str:
    return f"{difference['mean']:+.1f} ({difference['median']:+g})"


def _repeats(one: Facts) -> Row:
    dropped = one["dropped"]
    return {
        "candidates": one["candidates"],
        "dropped: duplicates": sum(dropped.get(rule, 0) for rule in DUPLICATE_RULES),
        "contradictions": sum(dropped.get(rule, 0) for rule in CONTRADICTION_RULES),
        "kept: pairs": one["pairs"],
        "repeated": one["repeated_pairs"],
        "contradicting": one["contradicting_pairs"],
        "same text": one["same_text"],
    }


def _refusals(one: Facts) -> Row:
    return {
        f"{side} {what}": one[key][side]
        for what, key in (("refuses", "refusals"), ("is empty", "empty"))
        for side in ("chosen", "rejected")
    }


def _word_bins(lengths: Facts) -> list[Row]:
    """Return, for each source and side, the share of replies between one limit and the next."""
    return [
        {"name": name, "side": side, **_shares(lengths["edges"], counts, WORD_LIMITS)}
        for name, sides in lengths["counts"].items()
        for side, counts in sides.items()
    ]


def token_bins(histograms: Mapping[str, Mapping[str, Sequence[int]]]) -> list[Row]:
    """Return, for each source, the share of conversations between one number of tokens and the next.

    Args:
        histograms: source -> ``edges`` (both ends of all bins) and ``counts``, as the tokens' artifact has them.
    """
    return [
        {"name": name, **_shares(one["edges"][1:], one["counts"], TOKEN_LIMITS)} for name, one in histograms.items()
    ]


def _shares(upper_ends: Sequence[int], counts: Sequence[int], limits: Sequence[int]) -> Row:
    """Return shares by limit; counts beyond the last upper end are those with more."""
    total = sum(counts) or 1
    below = [0, *(sum(n for end, n in zip(upper_ends, counts, strict=False) if end <= limit) for limit in limits)]
    steps = zip(limits, itertools.pairwise(below), strict=True)
    columns = {f"to {limit:,}": (after - before) / total for limit, (before, after) in steps}
    return {**columns, "more": 1 - below[-1] / total}


def share_text(share: Mapping[str, float]) -> str:
    """Return a share with its interval: ``0.547 (0.531 to 0.563)``."""
    return f"{share['share']:.3f} ({share['ci_low']:.3f} to {share['ci_high']:.3f})"


def _phrases(sources: Mapping[str, Facts]) -> list[Row]:
    """Return the strongest phrase of each source, first of the source where it leans most."""
    # An audit of an earlier version has none.
    found = [(name, one["phrase"]) for name, one in sources.items() if one.get("phrase")]
    return [
        {
            "name": name,
            "phrase": repr(phrase["phrase"]),
            "groups: in chosen alone": phrase["chosen"],
            "in rejected alone": phrase["rejected"],
            "share at least": phrase["ci_low"],
            "by length alone": phrase["expected"],
        }
        for name, phrase in sorted(found, key=lambda entry: (entry[1]["expected"] - entry[1]["ci_low"], entry[0]))
    ]


def _overlap(overlap: Sequence[Facts]) -> list[Row]:
    """Return the pairs of sources that share something, each once."""
    rows: dict[tuple[str, str], Row] = {}
    for one in overlap:
        names = (one["source"], one["other_source"])
        if names[0] < names[1]:
            empty = {"source": names[0], "other source": names[1], "first_turns": 0, "responses": 0}
            rows.setdefault(names, empty)[one["what"]] = one["shared"]
    return list(rows.values())


def _marker(one: Facts) -> Row:
    return {**one, "marker": repr(one["marker"]), "pair_ids": "\n".join(one["pair_ids"])}
