"""The counts of a recipe's data, stage by stage, in the shape of ``rmw counts --json``."""

from collections.abc import Mapping
from typing import Any

Facts = Mapping[str, Mapping[str, Any]]

# Stage -> the keys that are printed, the first of which is what came in.
SHAPES = {
    "sources": ("rows", "used", "dropped"),
    "pair_sets": ("candidates", "kept", "dropped", "published"),
    "mixtures": ("candidates", "kept", "dropped", "train", "test"),
    "tokens": ("pairs", "kept", "dropped"),
}


def counts(raw: Facts, pair_sets: Facts, mixtures: Facts, tokens: Facts | None) -> dict[str, Any]:
    """Return the funnel of a recipe's data.

    Args:
        raw: source name -> facts of its artifact; the other stages likewise. ``tokens`` is None before training.

    Returns:
        ``{"sources": {name: {"rows", "used", "dropped": {rule: n}}}, "pair_sets": ..., "mixtures": ..., "tokens"}``.
    """
    stages: dict[str, Facts | None] = {
        "sources": raw,
        "pair_sets": pair_sets,
        "mixtures": mixtures,
        "tokens": tokens,
    }
    return {
        stage: None if named is None else {name: _pick(facts, SHAPES[stage]) for name, facts in named.items()}
        for stage, named in stages.items()
    }


def _pick(facts: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: facts[key] for key in keys}


def funnel(counted: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row for what came into each stage and one for each rule: stage, name, rule, before, dropped, after.

    Args:
        counted: what ``counts`` returns.
    """
    return [
        {"stage": stage, "name": name, **step}
        for stage, keys in SHAPES.items()
        for name, facts in (counted[stage] or {}).items()
        for step in _steps(facts, keys[0])
    ]


def _steps(facts: Mapping[str, Any], incoming: str) -> list[dict[str, Any]]:
    left = facts[incoming]
    steps = [{"rule": incoming, "before": left, "dropped": 0, "after": left}]
    for rule, dropped in facts["dropped"].items():
        steps.append({"rule": rule, "before": left, "dropped": dropped, "after": left - dropped})
        left -= dropped
    return steps
