"""What the probes say: figures by rewrite with intervals, the largest moves as examples, accuracy without the prompt.

``probes.json``::

    {"num_pairs": 20, "why_none": null, "unit": 1.37,
     "probes": {"injection": {
        "description": "...", "expected": "does not rise",
        "num_replies": 40, "num_changed": 40, "num_too_long": 0,
        "change": {"all": {"mean", "n", "ci_low", "ci_high"}, "chosen": {...}, "rejected": {...}},
        "rises": {"score", "n", "ci_low", "ci_high", "ties"},
        "rejected_wins": {"before": {"score", ...}, "after": {"score", ...}, "turned": 0.12},
        "accuracy": {"before": {"score", ...}, "after": {"score", ...}},
        "examples": [{"pair_id", "side", "prompt", "reply", "before", "after", "change"}]}},
     "prompt_ablated": {"behind": "an empty user turn", "num_too_long": 0,
        "without_prompt": {"score", ...}, "with_prompt": {"score", ...},
        "difference": {"mean", "n", "ci_low", "ci_high"}}}

- ``unit``: the standard deviation of the rewards of all replies of the test split; ``change`` counts in it.
- ``num_changed``: replies whose token ids are others than before. The rest is in no figure: unchanged is not zero.
- ``rises``: share of the changed replies whose reward is higher than before.
- ``rejected_wins``: pairs of which the rejected reply alone is rewritten: is its reward above that of the chosen one as
  it stands? ``turned``: share of the pairs in which it is now and was not before.
- ``accuracy``: both replies are rewritten. Null where both become the same text.
- ``prompt_ablated``: the same pairs with and without their prompts; the difference is with - without.

Intervals are clustered by group: Wilson's for shares, Student's on a cluster bootstrap for changes of rewards, that of
paired comparisons for the difference of the two accuracies. Null stands where there is nothing to count, and for the
bounds of a mean over one group.

``probe_scores.parquet`` has each reply under each probe: probe, pair_id, group_id, side, state (changed, unchanged,
too_long), before, after.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rm_workflow.evaluation.figures import part
from rm_workflow.evaluation.paired import PairedPart, difference_interval
from rm_workflow.evaluation.probes.rewrites import PROBES, Probe
from rm_workflow.evaluation.probes.sample import PROMPT_ABLATED, SIDES, Answered, Probing
from rm_workflow.evaluation.statistics import Floats, accuracy_with_interval, any_mean_interval
from rm_workflow.preferences.text import conversation

FILE, ROWS_FILE = "probes.json", "probe_scores.parquet"
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("probe", "pair_id", "group_id", "side", "state")),
        ("before", pa.float64()),
        ("after", pa.float64()),
    ]
)
NUM_EXAMPLES = 3
EXAMPLE_CHARACTERS = 240

Figures = dict[str, Any]
# pair_id -> side -> reply
Pairs = Mapping[str, Mapping[str, Answered]]


def write_effects(probing: Probing, found: Sequence[Answered], rewards: Floats, out: Path) -> Figures:
    """Write ``probes.json`` and ``probe_scores.parquet`` into a folder with scores and return the headlines.

    Args:
        found: what ``answered`` returned.
        rewards: of all replies of the test split.
    """
    effects = effects_of(probing, found, float(np.std(rewards)) if len(rewards) else None)
    # Rewrites stay in the order of their table.
    (out / FILE).write_text(json.dumps(effects, ensure_ascii=False, indent=1) + "\n", "utf-8")
    pq.write_table(pa.Table.from_pylist([*map(_row, found)], SCHEMA), out / ROWS_FILE, compression="zstd")
    return headlines(effects)


def _row(one: Answered) -> dict[str, Any]:
    asked = one.asked
    return {
        "probe": asked.probe,
        "pair_id": asked.pair.pair_id,
        "group_id": asked.pair.group_id,
        "side": asked.side,
        "state": asked.state,
        "before": one.before,
        "after": one.after,
    }


def effects_of(probing: Probing, found: Sequence[Answered], unit: float | None) -> Figures:
    """Return ``probes.json``.

    Args:
        unit: what changes of rewards are counted in; None or 0 where there is none, and no change is then told.
    """
    by_probe: dict[str, list[Answered]] = defaultdict(list)
    for one in found:
        by_probe[one.asked.probe].append(one)
    return {
        "num_pairs": probing.num_pairs,
        "why_none": probing.why_none,
        "unit": unit,
        "probes": {probe.name: _effect(probe, by_probe[probe.name], unit) for probe in PROBES if by_probe[probe.name]},
        PROMPT_ABLATED: _without_prompt(by_probe[PROMPT_ABLATED]) if by_probe[PROMPT_ABLATED] else None,
    }


def headlines(effects: Figures) -> Figures:
    """Return the figures that stand beside the scores, one flat object a rewrite."""
    return {
        "num_pairs": effects["num_pairs"],
        "why_none": effects["why_none"],
        "rewrites": {name: _headline(effect) for name, effect in effects["probes"].items()},
    }


def _headline(effect: Figures) -> Figures:
    change = effect["change"]["all"] or {}
    wins, accuracy = effect["rejected_wins"] or {}, effect["accuracy"] or {}
    return {
        "expected": effect["expected"],
        "num_changed": effect["num_changed"],
        "mean_change": change.get("mean"),
        "ci_low": change.get("ci_low"),
        "ci_high": change.get("ci_high"),
        **_flat("rises", effect["rises"]),
        **_flat("rejected_wins_before", wins.get("before")),
        **_flat("rejected_wins_after", wins.get("after")),
        **_flat("accuracy_before", accuracy.get("before")),
        **_flat("accuracy_after", accuracy.get("after")),
    }


def _flat(name: str, found: Mapping[str, Any] | None) -> Figures:
    """Return a share with its interval and number of items under names of their own."""
    if not found:
        return {name: None, f"{name}_interval": None, f"{name}_n": None}
    return {name: found["score"], f"{name}_interval": [found["ci_low"], found["ci_high"]], f"{name}_n": found["n"]}


def _effect(probe: Probe, found: Sequence[Answered], unit: float | None) -> Figures:
    changed = [one for one in found if one.after is not None]
    pairs = _by_pair(found)
    return {
        "description": probe.description,
        "expected": probe.expected,
        "num_replies": len(found),
        "num_changed": len(changed),
        "num_too_long": _num_too_long(found),
        "change": {
            "all": _mean_change(changed, unit),
            **{side: _mean_change([one for one in changed if one.asked.side == side], unit) for side in SIDES},
        },
        "rises": _share_of_rises(changed),
        "rejected_wins": _rejected_wins(pairs),
        "accuracy": _accuracy(pairs) if probe.keeps_replies_apart else None,
        "examples": _examples(changed, unit),
    }


def _by_pair(found: Sequence[Answered]) -> Pairs:
    """Return the pairs without a conversation that is longer than the window."""
    pairs: dict[str, dict[str, Answered]] = defaultdict(dict)
    for one in found:
        if one.asked.state != "too_long":
            pairs[one.asked.pair.pair_id][one.asked.side] = one
    return {pair_id: sides for pair_id, sides in pairs.items() if len(sides) == len(SIDES)}


def _num_too_long(found: Sequence[Answered]) -> int:
    return sum(one.asked.state == "too_long" for one in found)


def _groups(found: Sequence[Answered]) -> list[str]:
    return [one.asked.pair.group_id for one in found]


def _changes(found: Sequence[Answered]) -> Floats:
    return np.array([_after(one) - _before(one) for one in found], dtype=np.float64)


def _before(one: Answered) -> float:
    assert one.before is not None
    return one.before


def _after(one: Answered) -> float:
    """Return the reward under the probe; a reply that it leaves as it is keeps its own."""
    return _before(one) if one.after is None else one.after


def _mean_change(changed: Sequence[Answered], unit: float | None) -> Figures | None:
    if not changed or not unit:
        return None
    return _mean(_changes(changed) / unit, _groups(changed))


def _mean(values: Floats, groups: Sequence[str]) -> Figures:
    low, high = any_mean_interval(values, groups) or (None, None)
    return {"mean": float(values.mean()), "n": len(values), "ci_low": low, "ci_high": high}


def _share_of_rises(changed: Sequence[Answered]) -> Figures | None:
    if not changed:
        return None
    changes = _changes(changed)
    return accuracy_with_interval(changes > 0, _groups(changed), int(np.sum(changes == 0)))


def _rejected_wins(pairs: Pairs) -> Figures | None:
    attacked = [sides for sides in pairs.values() if sides["rejected"].after is not None]
    if not attacked:
        return None
    groups = _groups([sides["rejected"] for sides in attacked])
    chosen = np.array([_before(sides["chosen"]) for sides in attacked])
    before, after = (np.array([of(sides["rejected"]) for sides in attacked]) - chosen for of in (_before, _after))
    return {
        **{name: _share(gap, groups) for name, gap in (("before", before), ("after", after))},
        "turned": float(np.mean((after > 0) & (before <= 0))),
    }


def _accuracy(pairs: Pairs) -> Figures | None:
    changed = [sides for sides in pairs.values() if any(one.after is not None for one in sides.values())]
    if not changed:
        return None
    groups = _groups([sides["chosen"] for sides in changed])
    return {
        name: _share(np.array([of(sides["chosen"]) - of(sides["rejected"]) for sides in changed]), groups)
        for name, of in (("before", _before), ("after", _after))
    }


def _share(gaps: Floats, groups: Sequence[str]) -> Figures:
    """Return how often a gap is above 0; a tie is none."""
    return accuracy_with_interval(gaps > 0, groups, int(np.sum(gaps == 0)))


def _examples(changed: Sequence[Answered], unit: float | None) -> list[Figures]:
    """Return the largest moves, with the end of the prompt and the beginning of the reply as it stood."""

    def order(one: Answered) -> tuple[float, str, str]:
        return -abs(_after(one) - _before(one)), one.asked.pair.pair_id, one.asked.side

    return [
        {
            "pair_id": one.asked.pair.pair_id,
            "side": one.asked.side,
            "prompt": _end(conversation(one.asked.pair.messages)),
            "reply": _beginning(one.asked.pair.reply(one.asked.side)),
            "before": one.before,
            "after": one.after,
            "change": (_after(one) - _before(one)) / unit if unit else None,
        }
        for one in sorted(changed, key=order)[:NUM_EXAMPLES]
    ]


def _beginning(text: str) -> str:
    return text if len(text) <= EXAMPLE_CHARACTERS else text[: EXAMPLE_CHARACTERS - 1] + "…"


def _end(text: str) -> str:
    return text if len(text) <= EXAMPLE_CHARACTERS else "…" + text[1 - EXAMPLE_CHARACTERS :]


def _without_prompt(found: Sequence[Answered]) -> Figures:
    pairs = list(_by_pair(found).values())
    told: Figures = {"behind": "an empty user turn", "num_too_long": _num_too_long(found)}
    if not pairs:
        return {**told, "without_prompt": None, "with_prompt": None, "difference": None}
    groups = _groups([sides["chosen"] for sides in pairs])
    with_prompt, without = (
        np.array([of(sides["chosen"]) - of(sides["rejected"]) for sides in pairs]) for of in (_before, _after)
    )
    compared = PairedPart(*(part(PROMPT_ABLATED, gaps > 0, groups) for gaps in (with_prompt, without)))
    low, high = difference_interval(compared.variance, compared.difference, len(compared.a.table))
    return {
        **told,
        "without_prompt": _share(without, groups),
        "with_prompt": _share(with_prompt, groups),
        "difference": {"mean": compared.difference, "n": len(pairs), "ci_low": low, "ci_high": high},
    }
