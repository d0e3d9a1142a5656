"""How every asset runs: plan -> request -> reuse or build -> publish -> materialization with metadata."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from rm_workflow.artifacts import (
    Artifact,
    ArtifactStore,
    Built,
    Check,
    CheckFailedError,
    ExternalFile,
    Request,
    prepare_home,
)
from rm_workflow.assets.flow import Flow, Planned
from rm_workflow.catalog.loading import override_recipe
from rm_workflow.catalog.models import Catalog, Recipe
from rm_workflow.code_versions import CODE_VERSIONS
from rm_workflow.errors import UserError
from rm_workflow.hub import SourceFile
from rm_workflow.lineage.store import LineageStore
from rm_workflow.settings import Settings, load_settings

OWNER = "team:reward-modeling"
MAX_METADATA_CHARACTERS = 4_000

logger = logging.getLogger("rm_workflow")

Events = Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]
Metadata = dict[str, Any]


class RecipeSettings(dg.ConfigurableResource[Any]):
    """Changes to the recipe for this run alone; a run with changes never becomes the latest of an asset's name."""

    overrides: dict[str, Any] = Field(
        default={},
        description="Dotted paths of the recipe and their values, for instance {'training.learning_rate': 1e-5}.",
    )


@dataclass(frozen=True)
class Workplace:
    """What an asset body works with in one run."""

    settings: Settings
    catalog: Catalog
    store: ArtifactStore
    lineage: LineageStore
    overrides: Mapping[str, Any]

    @property
    def flow(self) -> Flow:
        """Return the data flow of the catalogue."""
        return Flow(self.catalog)

    @property
    def overridden(self) -> bool:
        """Return whether this run changed its recipe."""
        return bool(self.overrides)

    def recipe(self, name: str) -> Recipe:
        """Return a recipe as this run asks for it."""
        return override_recipe(self.catalog.recipes[name], self.overrides)


def open_workplace(catalog: Catalog, recipe_settings: RecipeSettings) -> Workplace:
    """Open the store of this RMW_HOME for one asset body."""
    settings = load_settings()
    prepare_home(settings.home)
    store = ArtifactStore(settings.home)
    return Workplace(settings, catalog, store, LineageStore(store), recipe_settings.overrides)


def external_files(files: Sequence[SourceFile]) -> tuple[ExternalFile, ...]:
    """Return files of a source or benchmark as inputs of a request."""
    return tuple(ExternalFile(file.name, file.path, file.sha256) for file in files)


Body = Callable[[dg.AssetExecutionContext, Workplace], Events]


def define_asset(
    planned: Planned,
    catalog: Catalog,
    body: Body,
    *,
    group: str,
    kinds: set[str],
    description: str,
    checks: Sequence[tuple[str, str]],
    pool: str | None = None,
) -> dg.AssetsDefinition:
    """Define one asset of the flow whose body publishes through ``publish``.

    Args:
        checks: name and sentence of every blocking check that the body reports.
    """

    @dg.asset(
        name=planned.asset,
        deps=[upstream.asset for upstream in planned.upstream],
        group_name=group,
        kinds=kinds,
        description=description,
        code_version=CODE_VERSIONS[planned.kind].version,
        owners=[OWNER],
        tags={"rm_workflow/kind": planned.kind},
        check_specs=[
            dg.AssetCheckSpec(name, asset=planned.asset, blocking=True, description=sentence)
            for name, sentence in checks
        ],
        pool=pool,
        output_required=False,
    )
    def asset(context: dg.AssetExecutionContext, recipe_settings: RecipeSettings) -> Events:
        try:
            yield from body(context, open_workplace(catalog, recipe_settings))
        except UserError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error

    return asset


def publish(
    context: dg.AssetExecutionContext,
    workplace: Workplace,
    request: Request,
    build: Callable[[Path], Built],
    describe: Callable[[Artifact], Metadata],
) -> Events:
    """Answer one request and report it to Dagster; a failed blocking check publishes nothing."""
    started = time.monotonic()
    try:
        outcome = workplace.store.materialize(request, build, context.run.run_id)
    except CheckFailedError as failure:
        yield from (_check_result(request.asset, check) for check in failure.checks)
        raise
    finally:
        workplace.lineage.catch_up()
    artifact, seconds = outcome.artifact, time.monotonic() - started
    logger.info("%-40s %s in %.1f s", request.asset, "reused" if outcome.reused else "built", seconds)
    checks = [Check(**entry) for entry in artifact.manifest["checks"]]
    yield dg.MaterializeResult(
        asset_key=request.asset,
        metadata={
            **describe(artifact),
            "reused": outcome.reused,
            "version": artifact.version,
            "seconds": round(seconds, 2),
            "folder": dg.MetadataValue.path(str(artifact.folder)),
        },
        check_results=[_check_result(request.asset, check) for check in checks],
        data_version=dg.DataVersion(artifact.version),
    )


def _check_result(asset: str, check: Check) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=check.name,
        passed=check.passed,
        description=check.description,
        metadata=dict(check.metadata),
        severity=dg.AssetCheckSeverity.ERROR,
    )


def table(rows: Sequence[Mapping[str, Any]]) -> dg.MetadataValue[Any]:
    """Return rows as a Dagster table; its columns are the keys of the first row."""
    records = [dg.TableRecord({key: _cell(value) for key, value in row.items()}) for row in rows]
    columns = [dg.TableColumn(name, _column_type(rows[0][name])) for name in rows[0]] if rows else []
    return dg.MetadataValue.table(records, dg.TableSchema(columns))


def _cell(value: Any) -> str | int | float | bool | None:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)


def _column_type(value: Any) -> str:
    names = {bool: "bool", int: "int", float: "float"}
    return names.get(type(value), "string")


def image(png: bytes, title: str) -> dg.MetadataValue[Any]:
    """Return a PNG as Markdown that the web UI shows."""
    import base64

    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})")


def licence_metadata(licences: Mapping[str, Any]) -> Metadata:
    """Return what a roll-up of licences says, the verdict first.

    Args:
        licences: what ``catalog.licences.roll_up`` returns.
    """
    return {
        "commercial_use": licences["commercial_use"],
        "licences": licences["summary"],
        "attributions": table([{"attribution": name} for name in licences["attributions"]]),
    }


def markdown(text: str) -> dg.MetadataValue[Any]:
    """Return Markdown, cut where it would slow the web UI."""
    cut = text if len(text) <= MAX_METADATA_CHARACTERS else text[:MAX_METADATA_CHARACTERS] + "\n\n..."
    return dg.MetadataValue.md(cut)
