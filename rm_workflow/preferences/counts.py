"""The counts of a recipe's data, stage by stage, in the shape of ``rmw counts --json``."""

from collections.abc import Iterator, Mapping
from typing import Any

from rm_workflow.catalog.models import Catalog, Recipe, Source

Facts = Mapping[str, Mapping[str, Any]]

# Stage -> the keys that are printed, the first of which is what came in.
SHAPES = {
    "sources": ("rows", "used", "dropped"),
    "pair_sets": ("candidates", "kept", "dropped", "published"),
    "mixtures": ("candidates", "kept", "dropped", "train", "test"),
    "tokens": ("pairs", "kept", "dropped"),
}
# What the tokens of a mixture count.
KINDS = ("pairs", "responses", "trajectories")


def counts(raw: Facts, pair_sets: Facts, mixtures: Facts, tokens: Facts | None) -> dict[str, Any]:
    """Return the funnel of a recipe's data.

    Args:
        raw: source name -> facts of its artifact, of labels by rollouts too; the other stages likewise. ``tokens`` is
            None before training.

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
        stage: None if named is None else {name: _pick(facts, _shape(stage, facts)) for name, facts in named.items()}
        for stage, named in stages.items()
    }


def _shape(stage: str, facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys of a stage; the tokens of a mixture of responses or trajectories count these."""
    if stage == "tokens":
        return (next(kind for kind in KINDS if kind in facts), *SHAPES[stage][1:])
    return SHAPES[stage]


def _pick(facts: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: facts[key] for key in keys}


def with_published(
    counted: Mapping[str, Any], raw: Facts, recipe: Recipe, mixture: str, catalog: Catalog
) -> dict[str, Any]:
    """Return counts with what publishers state beside them, the difference (ours - published) and why they may differ.

    Each source gets ``splits`` (``{split: {"rows", "published", "published_difference"}}``), each pair set and the
    mixture ``published``, ``published_difference`` and ``published_note``. A pair set's published count is compared
    with what is kept, a recipe's with the train pairs. What is not published is None.

    Args:
        raw: source name -> facts of its artifact.
        mixture: asset that ``recipe.published`` is about.
    """
    sources = {
        # What a recipe labels by rollouts stands in no catalogue.
        name: {**facts, "splits": _splits(catalog.sources[name], raw[name]["files"]) if name in raw else {}}
        for name, facts in counted["sources"].items()
    }
    pair_sets = {
        name: {**facts, **_beside(facts["kept"], facts["published"], catalog.pair_sets[name].published_note)}
        for name, facts in counted["pair_sets"].items()
    }
    told = recipe.published
    mixtures = {
        name: {**facts, **_beside(facts["train"], *((told.num_pairs, told.note) if name == mixture else (None, "")))}
        for name, facts in counted["mixtures"].items()
    }
    return {**counted, "sources": sources, "pair_sets": pair_sets, "mixtures": mixtures}


def _splits(source: Source, rows: Mapping[str, int]) -> dict[str, dict[str, int | None]]:
    looked_up = source.lookup.split if source.lookup else None
    read = {split: sum(rows[file] for file in files) for split, files in source.files.items() if split != looked_up}
    published = {split: source.published_rows.get(split) for split in read}
    return {
        split: {
            "rows": number,
            "published": published[split],
            "published_difference": _difference(number, published[split]),
        }
        for split, number in read.items()
    }


def _beside(ours: int, published: int | None, note: str) -> dict[str, Any]:
    return {
        "published": published,
        "published_difference": _difference(ours, published),
        "published_note": note or None,
    }


def _difference(ours: int, published: int | None) -> int | None:
    return None if published is None else ours - published


def beside_published(counted: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row for each count that something is published about: name, what, ours, published, difference, note.

    A note that several rows share is told once.

    Args:
        counted: what ``with_published`` returns.
    """
    rows = [row for row in _compared(counted) if row["published"] is not None or row["note"]]
    told: set[str | None] = {None}
    for row in rows:
        if row["note"] in told:
            row["note"] = row["note"] and "as above"
        told.add(row["note"])
    return rows


def _compared(counted: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, facts in counted["sources"].items():
        for split, rows in facts["splits"].items():
            yield _row(name, f"rows of {split}", rows["rows"], rows)
    for name, facts in counted["pair_sets"].items():
        yield _row(name, "pairs kept", facts["kept"], facts)
    for name, facts in counted["mixtures"].items():
        yield _row(name, "train pairs", facts["train"], facts)


def _row(name: str, what: str, ours: int, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "what": what,
        "ours": ours,
        "published": facts["published"],
        "difference": facts["published_difference"],
        "note": facts.get("published_note"),
    }


def funnel(counted: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row for what came into each stage and one for each rule: stage, name, rule, before, dropped, after.

    Args:
        counted: what ``counts`` returns.
    """
    return [
        {"stage": stage, "name": name, **step}
        for stage in SHAPES
        for name, facts in (counted[stage] or {}).items()
        for step in _steps(facts, _shape(stage, facts)[0])
    ]


def _steps(facts: Mapping[str, Any], incoming: str) -> list[dict[str, Any]]:
    left = facts[incoming]
    steps = [{"rule": incoming, "before": left, "dropped": 0, "after": left}]
    for rule, dropped in facts["dropped"].items():
        steps.append({"rule": rule, "before": left, "dropped": dropped, "after": left - dropped})
        left -= dropped
    return steps
