"""The plan of a sweep: what its runs have in common, what they differ in, and each run's own cost."""

from collections.abc import Mapping, Sequence
from typing import Any

# What each run is told by, beside its key.
OF_RUN = (
    *("learning_rate", "epochs", "num_pairs", "num_steps", "num_tokens"),
    *("num_processes", "memory_gb", "hours", "scoring_hours"),
)
# What follows from the sources: that of the run with the most.
OF_SOURCES = ("licences", "test_problems", "annotation")
# Figures that add up over runs; all else that differs is listed.
SUMMED = ("hours", "scoring_hours")


def plan_of_sweep(plans: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return CONTRACT's ``plan`` shape for several runs: a value that differs is the list of its values.

    ``runs`` is their number, ``hours`` their sum (None where one is not known), and ``by_run`` the figures of each.

    Args:
        plans: key -> what ``plan`` returned for the run.
    """
    listed = list(plans.values())
    merged = {name: _merged(name, [one[name] for one in listed]) for name in listed[0]}
    widest = max(listed, key=lambda one: len(one["sources"]))
    merged |= {name: widest[name] for name in OF_SOURCES}
    by_run = [{"run": key, **{name: one[name] for name in OF_RUN}} for key, one in plans.items()]
    return {**merged, "runs": len(listed), "by_run": by_run}


def _merged(name: str, values: Sequence[Any]) -> Any:
    if name in SUMMED:
        return None if None in values else sum(values)
    told_apart = [value for place, value in enumerate(values) if value not in values[:place]]
    if len(told_apart) == 1:
        return told_apart[0]
    if all(isinstance(value, list) for value in told_apart):
        return list(dict.fromkeys(entry for value in told_apart for entry in value))
    # What is made of parts is that of the run with the most.
    if all(isinstance(value, Mapping) for value in told_apart):
        return max(told_apart, key=lambda parts: sum(part for part in parts.values() if isinstance(part, int | float)))
    return told_apart


def most(value: Any) -> float | None:
    """Return the largest of the values that runs differ in, or the one that they share; None where none is known."""
    known = [one for one in (value if isinstance(value, list) else [value]) if one is not None]
    return max(known, default=None)
