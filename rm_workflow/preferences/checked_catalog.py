"""The catalogue as commands and Dagster load it: adapters and rules are known only here, above where YAML is read."""

from pathlib import Path

from rm_workflow.catalog.loading import load_catalog
from rm_workflow.catalog.models import Catalog
from rm_workflow.preferences.adapters import check_source
from rm_workflow.preferences.pairs import check_pair_set
from rm_workflow.settings import Settings


def load_checked_catalog(settings: Settings, extra_recipe: Path | None = None) -> Catalog:
    """Read the catalogue and check that every source and every rule can be run.

    Args:
        extra_recipe: a recipe file outside the catalogue, see ``load_catalog``.

    Raises:
        UserError: the first problem found, with file and line.
    """
    return load_catalog(settings, extra_recipe, check_source, check_pair_set)
