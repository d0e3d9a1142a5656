"""The catalogue as commands and Dagster load it.

Adapters, rules and scoring rules are known only here, above where YAML is read.
"""

import json
import logging
from pathlib import Path

from rm_workflow.catalog.loading import load_catalog, resolve_recipe
from rm_workflow.catalog.models import Catalog, PairSet, Source
from rm_workflow.catalog.schema import Known, schemas
from rm_workflow.durable_files import replaced
from rm_workflow.evaluation import benchmarks
from rm_workflow.evaluation.benchmarks import check_benchmark
from rm_workflow.preferences import adapters, rules
from rm_workflow.preferences.adapters import check_gives_pairs, check_source
from rm_workflow.preferences.pairs import check_pair_set
from rm_workflow.settings import Settings

logger = logging.getLogger("rm_workflow")


def load_checked_catalog(
    settings: Settings, extra_recipe: Path | None = None, wanted: str | None = None, *, warn: bool = True
) -> Catalog:
    """Read the catalogue and check that every source, every rule and every benchmark can be run.

    Recipes with a mistake are left out.

    Args:
        extra_recipe: a recipe file outside the catalogue, see ``load_catalog``.
        wanted: the recipe that all is about, by its name or its file; no warning is given where it is left out itself.
        warn: of each recipe that is left out; False for who shows them.

    Raises:
        UserError: the first problem found outside of recipes or in the one that is wanted, with file and line.
    """
    catalog = load_catalog(settings, extra_recipe, check_source, _check_pair_set, check_benchmark)
    if wanted is not None:
        resolve_recipe(catalog, wanted)
    for sentence in catalog.refused.values() if warn else ():
        logger.warning("warning: this recipe is left out: %s", sentence)
    return catalog


def _check_pair_set(name: str, pair_set: PairSet, source: Source) -> None:
    check_pair_set(name, pair_set)
    check_gives_pairs(name, pair_set.source, source)


def write_schemas(folder: Path, catalog: Catalog | None) -> list[Path]:
    """Write the JSON schemas of the catalogue's YAML files into a folder and return the files.

    Args:
        catalog: whose names are offered; with None no names but those of adapters, rules and scoring rules are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = Known(
        adapters=adapters.names(),
        rules=rules.parameter_types(),
        scorings=benchmarks.names_with_data(),
        sources=list(catalog.sources) if catalog else (),
        pair_sets=list(catalog.pair_sets) if catalog else (),
        benchmarks=list(catalog.benchmarks) if catalog else (),
        recipes=list(catalog.recipes) if catalog else (),
    )
    written = []
    for file, schema in schemas(known).items():
        with replaced(folder / file) as draft:
            draft.write_text(json.dumps(schema, indent=1, ensure_ascii=False) + "\n", "utf-8")
        written.append(folder / file)
    return written
