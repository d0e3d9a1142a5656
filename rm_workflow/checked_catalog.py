"""The catalogue as commands and Dagster load it.

Adapters, rules and scoring rules are known only here, above where YAML is read.
"""

from pathlib import Path

from rm_workflow.catalog.loading import load_catalog
from rm_workflow.catalog.models import Catalog, PairSet, Source
from rm_workflow.evaluation.benchmarks import check_benchmark
from rm_workflow.preferences.adapters import check_gives_pairs, check_source
from rm_workflow.preferences.pairs import check_pair_set
from rm_workflow.settings import Settings


def load_checked_catalog(settings: Settings, extra_recipe: Path | None = None) -> Catalog:
    """Read the catalogue and check that every source, every rule and every benchmark can be run.

    Args:
        extra_recipe: a recipe file outside the catalogue, see ``load_catalog``.

    Raises:
        UserError: the first problem found, with file and line.
    """
    return load_catalog(settings, extra_recipe, check_source, _check_pair_set, check_benchmark)


def _check_pair_set(name: str, pair_set: PairSet, source: Source) -> None:
    check_pair_set(name, pair_set)
    check_gives_pairs(name, pair_set.source, source)
