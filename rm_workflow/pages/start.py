"""The start page: who stands where on which benchmark, and the recipes with their data."""

from collections.abc import Mapping
from typing import Any

from rm_workflow.catalog import sweeps
from rm_workflow.catalog.models import Recipe
from rm_workflow.evaluation.promotion import main_of
from rm_workflow.evaluation.standings import boards
from rm_workflow.pages import addresses
from rm_workflow.pages.site import Link, Row, Site
from rm_workflow.reporting import tables
from rm_workflow.reporting.words import artifact_name, number

# What an empty home begins with: sample rows, and minutes on a CPU.
FIRST_RECIPE = "quickstart"


def start(site: Site) -> dict[str, Any]:
    """Return what the start page shows: the leaderboard of each benchmark that was scored here, and all recipes."""
    shown = {
        heading: [_standing(cells, row) for cells, row in zip(tables.leaderboard(own, ""), own, strict=True)]
        for name, rows in site.leaderboard().items()
        if any(not row["published"] for row in rows)
        for heading, own in boards(name, rows).items()
    }
    rows = [row for recipe in site.catalog.recipes.values() for row in _recipe_rows(site, recipe)]
    made = [row for row in rows if row["mixture"]]
    others = [Link(name, addresses.recipe(name)) for name in site.catalog.recipes]
    return {
        "boards": shown,
        "recipes": made,
        "others": [one for one in others if one not in _links(made)],
        "first_job": addresses.job(FIRST_RECIPE),
        "refused": [{"recipe": name, "why": why} for name, why in site.catalog.refused.items()],
    }


def _standing(shown: Row, row: Mapping[str, Any]) -> Row:
    """Return a row of the leaderboard whose checkpoint leads to its rows on the benchmark."""
    cells = {name: cell for name, cell in shown.items() if name}
    if row["published"]:
        return cells
    return {
        **cells,
        "checkpoint": Link(str(cells["checkpoint"]), addresses.checkpoint(row["checkpoint"])),
        "score": Link(str(cells["score"]), addresses.benchmark(row["checkpoint"], row["benchmark"])),
    }


def _recipe_rows(site: Site, recipe: Recipe) -> list[Row]:
    """Return a row for each data of a recipe."""
    main = main_of(site.store, recipe.name)
    rows = []
    for data in sweeps.shared_data(recipe):
        asset = f"{data.data_name}_mixture"
        # Most recipes were never run; to look for their events would take as long as for those that were.
        mixture = site.store.latest(asset) if (site.store.artifacts / asset).is_dir() else None
        facts = mixture.facts if mixture else {}
        rows.append(
            {
                "recipe": Link(recipe.name, addresses.recipe(recipe.name)),
                "mixture": artifact_name(mixture.id) if mixture else "",
                "made": mixture.manifest["created"][:10] if mixture else "",
                **{name: number(facts[name]) if name in facts else "" for name in ("kept", "train", "test")},
                "main": site.checkpoint_link(main) if main else "",
            }
        )
    return rows


def _links(rows: list[Row]) -> list[Link]:
    return [row["recipe"] for row in rows]
