"""The page of a recipe: its funnel by source and rule, pair counts over time, its runs and which of them is main."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rm_workflow.artifacts import Artifact
from rm_workflow.catalog import sweeps
from rm_workflow.catalog.models import TEST, Recipe
from rm_workflow.catalog.names import nearest
from rm_workflow.errors import UserError
from rm_workflow.evaluation.promotion import main_of
from rm_workflow.evaluation.run_table import SETTINGS, newest_runs, run_rows
from rm_workflow.lineage import questions
from rm_workflow.pages import addresses
from rm_workflow.pages.site import Bar, Link, NotFoundError, Row, Site
from rm_workflow.reporting.words import artifact_name, fraction, interval, number

KEPT = "kept"
# A person sees a change at one glance in so many versions.
MOST_VERSIONS = 40


def recipe_page(site: Site, name: str) -> dict[str, Any]:
    """Return what the page of a recipe shows.

    Raises:
        NotFoundError: the catalogue has no such recipe.
        UserError: it cannot be used.
    """
    if name in site.catalog.refused:
        raise UserError(site.catalog.refused[name])
    if name not in site.catalog.recipes:
        raise NotFoundError(f"there is no recipe {name!r}; {nearest(name, site.catalog.recipes)}")
    recipe = site.catalog.recipes[name]
    site.lineage.catch_up()
    latest = [site.store.latest(f"{data.data_name}_mixture") for data in sweeps.shared_data(recipe)]
    metric = recipe.promoting.metric if recipe.promoting else TEST
    main = main_of(site.store, name)
    return {
        "name": name,
        "description": recipe.description,
        "base": recipe.base,
        "objective": recipe.objective,
        "mixtures": [_data(site, mixture) for mixture in latest if mixture],
        "metric": metric,
        "runs": _runs(site, recipe, metric, main),
        "main": site.checkpoint_link(main) if main else None,
    }


def _data(site: Site, mixture: Artifact) -> dict[str, Any]:
    """Return the funnel of one mixture's latest version, and its counts over the runs."""
    versions = questions.funnel(site.lineage, mixture.asset)
    steps = [row for row in versions if row["mixture_version"] == mixture.version]
    return {
        "name": mixture.asset,
        "version": artifact_name(mixture.id),
        "funnel": [_step(site, row) for row in steps],
        "over_time": _over_time(site, mixture.asset),
    }


def _step(site: Site, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return one asset of the funnel: what came in, then what each rule dropped of each source and what was kept."""
    counted = questions.counts_over_runs(site.lineage, row["asset"])
    latest = [one for one in counted if one["version"] == row["version"]]
    last = max((one["sequence"] for one in latest), default=None)
    rows = [one for one in latest if one["sequence"] == last and (one["num_rows"] or one["rule"] == KEPT)]
    whole = max(row["came_in"] or 0, *(one["num_rows"] for one in rows), 1)
    return {
        "asset": row["asset"],
        "came_in": "not known" if row["came_in"] is None else number(row["came_in"]),
        "kept": number(row["kept"] or 0),
        "rows": [
            {
                "source": one["source"],
                "rule": one["rule"],
                "rows": number(one["num_rows"]),
                "": Bar(one["num_rows"] / whole, KEPT if one["rule"] == KEPT else "dropped"),
            }
            for one in rows
        ],
    }


def _over_time(site: Site, asset: str) -> list[Row]:
    """Return how many rows were kept of each source by the latest versions, oldest first.

    Runs one after the other that had the same version are one row.
    """
    kept = questions.counts_over_runs(site.lineage, asset, rule=KEPT)
    by_run: dict[int, list[Row]] = {}
    for row in kept:
        by_run.setdefault(row["sequence"], []).append(row)
    stretches = [list(runs) for _, runs in groupby(by_run.values(), key=lambda rows: rows[0]["version"])]
    latest = stretches[-MOST_VERSIONS:]
    most = max((sum(row["num_rows"] for row in runs[0]) for runs in latest), default=0) or 1
    return [_version(runs[0], len(runs), most) for runs in latest]


def _version(rows: Sequence[Row], num_runs: int, most: int) -> Row:
    total = sum(row["num_rows"] for row in rows)
    return {
        "when": f"{rows[0]['recorded']:%Y-%m-%d %H:%M}",
        "version": artifact_name(f"{rows[0]['asset']}@{rows[0]['version']}").partition("@")[2],
        "runs": number(num_runs),
        "rows": number(total),
        "": Bar(total / most),
        "by source": ", ".join(f"{row['source']} {number(row['num_rows'])}" for row in rows),
    }


def _runs(site: Site, recipe: Recipe, metric: str, main: str | None) -> list[Row]:
    rows = run_rows(newest_runs(site.store, recipe), [metric])[metric]
    varied = [name for name in SETTINGS if len({row[name] for row in rows}) > 1]
    return [_run_row(row, varied, metric, main) for row in rows]


def _run_row(row: Row, settings: Sequence[str], metric: str, main: str | None) -> Row:
    checkpoint, scored = row["checkpoint"], row["score"] is not None
    return {
        "run": row["run"],
        **{name: number(row[name]) if row[name] is not None else "" for name in settings},
        "score": Link(fraction(row["score"]), addresses.benchmark(checkpoint, metric)) if scored else "",
        "95 % interval": interval(row),
        "n": number(row["n"]) if row["n"] else "",
        "train data": row["contamination"] or "",
        "state": row["state"],
        "checkpoint": _version_link(checkpoint) if checkpoint else "",
        "main": "main" if checkpoint and checkpoint == main else "",
    }


def _version_link(checkpoint: str) -> Link:
    return Link(artifact_name(checkpoint).partition("@")[2], addresses.checkpoint(checkpoint))
