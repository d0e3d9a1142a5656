"""How every asset runs: plan -> request -> reuse or build -> publish -> materialization with metadata."""

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
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
from rm_workflow.assets.columns import plotted_counts, table_metadata
from rm_workflow.assets.failures import record_failure
from rm_workflow.assets.flow import Flow, Planned
from rm_workflow.catalog import sweeps
from rm_workflow.catalog.loading import override_recipe
from rm_workflow.catalog.models import Catalog, Location, Recipe
from rm_workflow.code_versions import CODE_VERSIONS
from rm_workflow.errors import UserError
from rm_workflow.hub import SourceFile
from rm_workflow.lineage.store import LineageStore
from rm_workflow.pages import addresses
from rm_workflow.redaction import holds_secret, redact
from rm_workflow.settings import Settings, load_settings

OWNER = "team:reward-modeling"
# The web UI loads all metadata of an asset at once, and the event log keeps them for ever, so each entry is bounded.
MAX_METADATA_CHARACTERS = 4_000
MAX_CELL_CHARACTERS = 1_000
MAX_TABLE_ROWS = 500
MAX_TABLE_BYTES = 64 * 1024
DIGITS = 4

logger = logging.getLogger("rm_workflow")

Events = Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]
Metadata = dict[str, Any]


class RecipeSettings(dg.ConfigurableResource[Any]):
    """Changes to the recipe for this run alone; a run with changes never becomes the latest of an asset's name."""

    # Dagster lets a map hold null, which removes a value from the recipe, only where its type says so.
    overrides: dict[str, Any | None] = Field(
        default={},
        description="What this run changes in its recipe: a line for each, the dotted path of the setting and its "
        "value, as `training.learning_rate: 1e-5` or `mixture.sample.train_pairs: 400`; null removes a setting. "
        "`rmw plan RECIPE --yaml` prints all paths. What such a run makes never becomes the latest of its name.",
    )


@dataclass(frozen=True)
class Workplace:
    """What an asset body works with in one run.

    Attributes:
        requests: what the body has asked of the store, which the record of a failure names.
    """

    settings: Settings
    catalog: Catalog
    store: ArtifactStore
    lineage: LineageStore
    overrides: Mapping[str, Any]
    requests: list[Request] = field(default_factory=list)

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

    def asked(self, of: Recipe, context: dg.AssetExecutionContext) -> Recipe:
        """Return the recipe that an asset was defined for as this run asks for it.

        Of a sweep this is the run that the partition names, or for what several runs share, the recipe with their data.

        Raises:
            UserError: the sweep has no such run or no such data any more.
        """
        changed = self.recipe(of.name)
        sweeps.check_overrides(changed, self.overrides)
        if changed.sweep is None:
            return changed
        if context.has_partition_key:
            return sweeps.run_of(changed, context.partition_key)
        return sweeps.sharing(changed, of.tokens_name)


def open_workplace(catalog: Catalog, recipe_settings: RecipeSettings) -> Workplace:
    """Open the store of this RMW_HOME for one asset body."""
    settings = load_settings()
    prepare_home(settings.home)
    store = ArtifactStore(settings.home)
    return Workplace(settings, catalog, store, LineageStore(store), recipe_settings.overrides)


def external_files(files: Sequence[SourceFile]) -> tuple[ExternalFile, ...]:
    """Return files of a source or benchmark as inputs of a request."""
    return tuple(ExternalFile(file.name, file.path, file.sha256, file.revision) for file in files)


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
    partitions: Sequence[str] = (),
) -> dg.AssetsDefinition:
    """Define one asset of the flow whose body publishes through ``publish``.

    Args:
        checks: name and sentence of every blocking check that the body reports.
        partitions: keys of the runs of a sweep, each of which has an artifact of its own.
    """

    @dg.asset(
        name=planned.asset,
        deps=list(dict.fromkeys(upstream.asset for upstream in planned.upstream)),
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
        partitions_def=dg.StaticPartitionsDefinition(list(partitions)) if partitions else None,
        output_required=False,
    )
    def asset(context: dg.AssetExecutionContext, recipe_settings: RecipeSettings) -> Events:
        try:
            workplace = open_workplace(catalog, recipe_settings)
            with _failure_recorded(context, workplace, planned.asset):
                yield from body(context, workplace)
        except UserError as error:
            cause = None if holds_secret(error) else error
            raise dg.Failure(description=str(error), allow_retries=False) from cause
        except Exception as error:
            if not holds_secret(error):
                raise
            # Dagster keeps the texts of an error and of its causes in its database.
            raise RuntimeError(redact(f"{type(error).__name__}: {error}")) from None

    return asset


@contextlib.contextmanager
def _failure_recorded(context: dg.AssetExecutionContext, workplace: Workplace, asset: str) -> Iterator[None]:
    """Leave an event, and its rows in the lineage, of whatever ends the body early, a signal among it."""
    try:
        yield
    except (Exception, dg.DagsterExecutionInterruptedError) as error:
        request = workplace.requests[-1] if workplace.requests else None
        record_failure(workplace.store, asset, context.run.run_id, error, request)
        workplace.lineage.catch_up()
        raise


def publish(
    context: dg.AssetExecutionContext,
    workplace: Workplace,
    request: Request,
    build: Callable[[Path], Built],
    describe: Callable[[Artifact], Metadata],
) -> Events:
    """Answer one request and report it to Dagster; a failed blocking check publishes nothing."""
    started = time.monotonic()
    workplace.requests.append(request)
    try:
        outcome = workplace.store.materialize(request, build, context.run.run_id)
    except CheckFailedError as failure:
        yield from (_check_result(request.asset, check) for check in failure.checks)
        raise
    workplace.lineage.catch_up()
    artifact, seconds = outcome.artifact, time.monotonic() - started
    logger.info("%-40s %s in %.1f s", request.asset, "reused" if outcome.reused else "built", seconds)
    checks = [Check(**entry) for entry in artifact.manifest["checks"]]
    described = describe(artifact)
    counted = {**table_metadata(artifact, request.inputs), **plotted_counts(artifact.facts)}
    yield dg.MaterializeResult(
        asset_key=request.asset,
        metadata={
            **presented(described),
            **{name: value for name, value in counted.items() if name not in described},
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
        metadata=presented(dict(check.metadata)),
        severity=dg.AssetCheckSeverity.ERROR,
    )


def table(rows: Sequence[Mapping[str, Any]]) -> dg.MetadataValue[Any]:
    """Return rows as a Dagster table for people; its columns are the keys of the first row.

    Numbers have four digits, long texts are cut, and so are the rows: at most ``MAX_TABLE_ROWS`` of them that have
    ``MAX_TABLE_BYTES`` in all. A last row says how many are left out.
    """
    shown = [{key: _cell(value) for key, value in row.items()} for row in rows[:MAX_TABLE_ROWS]]
    sizes = accumulate(len(json.dumps(row).encode()) for row in shown)
    fitting = [row for row, size in zip(shown, sizes, strict=True) if size <= MAX_TABLE_BYTES]
    if len(fitting) < len(rows):
        names = list(rows[0])
        told = f"… and {len(rows) - len(fitting):,} more rows"
        fitting.append({**dict.fromkeys(names), names[0]: told})
    columns = [dg.TableColumn(name, _column_type(rows[0][name])) for name in rows[0]] if rows else []
    return dg.MetadataValue.table([dg.TableRecord(row) for row in fitting], dg.TableSchema(columns))


def _cell(value: Any) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool | int):
        return value
    return readable(value) if isinstance(value, float) else cut(str(value), MAX_CELL_CHARACTERS)


def readable(value: float) -> float | str:
    """Return a number with four digits or its whole part, whichever is longer, or what is no number as a word.

    >>> readable(0.5913978494623656), readable(5e-6), readable(12345.678), readable(math.inf)
    (0.5914, 5e-06, 12346.0, 'inf')
    """
    if not math.isfinite(value):
        return str(value)
    decimals = DIGITS - 1 - (math.floor(math.log10(abs(value))) if value else 0)
    return round(value, max(0, decimals))


def cut(text: str, most: int = MAX_METADATA_CHARACTERS) -> str:
    """Return a text with at most so many characters; one that is cut says how long it was."""
    return text if len(text) <= most else f"{text[:most]} … ({len(text):,} characters, cut)"


def presented(metadata: Metadata) -> Metadata:
    """Return metadata with numbers and texts as a person reads them; exact ones stand in the artifact's files."""
    return {name: _presented(value) for name, value in metadata.items()}


def _presented(value: Any) -> Any:
    if isinstance(value, str):
        return cut(value)
    return readable(value) if isinstance(value, float) else value


def _column_type(value: Any) -> str:
    names = {bool: "bool", int: "int", float: "float"}
    return names.get(type(value), "string")


def image(png: bytes, title: str) -> dg.MetadataValue[Any]:
    """Return a PNG as Markdown that the web UI shows."""
    import base64

    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})")


def checkpoint_link(checkpoint: str | None) -> dg.MetadataValue[Any]:
    """Return a link to the page of a checkpoint (``asset@version``), which ``rmw ui`` serves too."""
    return dg.MetadataValue.url(addresses.checkpoint(checkpoint) if checkpoint else addresses.START)


def recipe_link(recipe: str) -> dg.MetadataValue[Any]:
    """Return a link to the page of a recipe's data and runs, which ``rmw ui`` serves too."""
    return dg.MetadataValue.url(addresses.recipe(recipe))


def origin(location: Location) -> str:
    """Return where a source or benchmark comes from, as Markdown: its page on the hub, or its path."""
    hub = location.hub
    return f"[{hub}](https://huggingface.co/datasets/{hub})" if hub else f"`{location.path}`"


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
    return dg.MetadataValue.md(cut(text))
