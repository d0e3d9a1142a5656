"""``rmw evaluate``: any reward model, ours or public, on any benchmark of the catalogue."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from rm_workflow.artifacts import ArtifactStore, prepare_home
from rm_workflow.catalog.models import Catalog
from rm_workflow.catalog.names import nearest
from rm_workflow.checked_catalog import load_checked_catalog
from rm_workflow.cli.aggregate import print_figures
from rm_workflow.cli.checkpoints import find_checkpoint
from rm_workflow.cli.output import print_json, print_table
from rm_workflow.cli.replacing import refuse_other_than_scores
from rm_workflow.cli.run import JsonOption
from rm_workflow.cli.score import (
    BatchTokensOption,
    CheckpointArgument,
    DeterministicOption,
    PrecisionOption,
    check_precision,
)
from rm_workflow.durable_files import locked, replaced
from rm_workflow.errors import UserError
from rm_workflow.evaluation import benchmarks
from rm_workflow.keys import content_id
from rm_workflow.settings import load_settings
from rm_workflow.training import launchers

TEST = "test"
WORK = "evaluate"
LOCK = ".lock"


def register(app: typer.Typer) -> None:
    """Add this group's verb."""
    app.command("evaluate")(evaluate_command)


def evaluate_command(
    checkpoint: CheckpointArgument,
    benchmark: Annotated[str, typer.Option("--benchmark", metavar="NAME", help="A benchmark of the catalogue.")],
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="OUT", help="JSONL of item scores for rmw aggregate.")
    ] = None,
    precision: PrecisionOption = "auto",
    batch_tokens: BatchTokensOption = 4096,
    deterministic: DeterministicOption = False,
    json_: JsonOption = False,
) -> None:
    """Score a reward model on a benchmark; begun again after it was killed, it goes on."""
    check_precision(precision)
    settings = load_settings()
    catalog = load_checked_catalog(settings)
    name = _benchmark(benchmark, catalog)
    if output and not Path(output).absolute().parent.is_dir():
        raise UserError(f"{output}: its folder does not exist; create it or name another output")
    if output and Path(output).is_dir():
        raise UserError(f"{output} is a folder; name a file to write")
    if output:
        refuse_other_than_scores(Path(output))
    named = find_checkpoint(checkpoint)
    map_batches = launchers.get(settings.launcher).mapper()

    from rm_workflow.assets.headless import run_benchmark
    from rm_workflow.definitions import build_definitions
    from rm_workflow.evaluation.scorer import Scorer
    from rm_workflow.evaluation.scores import evaluate_benchmark, write_score_file
    from rm_workflow.models.reward_model import resolve_device, resolve_precision

    device = resolve_device(settings.device)
    resolved = resolve_precision(precision, device)
    artifact = run_benchmark(settings, catalog, name, build_definitions)
    scorer = Scorer.load(named.folder, device, resolved, batch_tokens, "alone" if deterministic else None, named.hub_id)
    prepare_home(settings.home)
    store = ArtifactStore(settings.home)
    key = content_id([named.identity, artifact.version, device, resolved, batch_tokens, deterministic])
    work = store.work_folder(WORK, key)
    with _alone(work, named.label, name):
        evaluated = evaluate_benchmark(scorer, name, artifact.folder, work, map_batches=map_batches)
        if output:
            with replaced(Path(output)) as file:
                write_score_file(file, evaluated.rows)
        store.clear_work(WORK, key)
    for warning in evaluated.result.get("warnings", ()):
        typer.echo(f"warning: {name}: {warning}", err=True)
    passed_over = artifact.facts["passed_over"]
    facts = {"checkpoint": named.label, "benchmark": name, "rows_passed_over": passed_over, **evaluated.facts}
    if json_:
        print_json({**evaluated.result, "evaluated": facts})
        return
    print_figures(name, evaluated.result, benchmarks.rule(catalog.benchmarks[name].scoring))
    print_table(f"how {named.label} was scored", [{"": key, "value": value} for key, value in _shown(facts).items()])


@contextmanager
def _alone(work: Path, checkpoint: str, benchmark: str) -> Iterator[None]:
    """Hold the folder of a scoring, which two at once would write over and remove from each other."""
    with ExitStack() as held:
        try:
            held.enter_context(locked(work / LOCK, wait=False))
        except BlockingIOError:
            raise UserError(
                f"{checkpoint} is being evaluated on {benchmark} by another process already; wait for it to end"
            ) from None
        yield


def _benchmark(benchmark: str, catalog: Catalog) -> str:
    name = benchmark.replace("-", "_")
    if name == TEST:
        raise UserError(
            "the test split belongs to a recipe's mixture, and `rmw run RECIPE` scores it; a test set of pairs that "
            "any model can be scored on is a benchmark with `scoring: preferences`, as hh_helpful"
        )
    if name not in catalog.benchmarks:
        raise UserError(f"there is no benchmark {benchmark!r}; {nearest(name, catalog.benchmarks)}")
    return name


def _shown(facts: dict[str, Any]) -> dict[str, str]:
    """Return what a person asks of a score: with what it was computed."""
    recipe = {
        "stored": "stored with the checkpoint",
        "published": "from the table of published models",
        "guessed": "GUESSED from the tokenizer's own chat template",
    }[facts["token_recipe"]]
    layout = facts["layout"] + (", deterministic" if facts["deterministic"] else "")
    computed = f"{facts['tokens_computed']:,} computed for {facts['tokens']:,}"
    continued = facts["num_continued"]
    taken_up = {"taken up from an earlier run": f"{continued:,} of {facts['num_sequences']:,}"} if continued else {}
    speed = f"{facts['responses_per_second']:,.1f} responses/s" + (" in this run" if continued else "")
    return {
        "token recipe": recipe,
        "precision": f"{facts['precision']} on {facts['device']}",
        "layout": layout,
        "tokens": computed,
        "responses": f"{facts['num_scored']:,}, {facts['num_sequences']:,} of them different",
        "rows of the benchmark that are no item": f"{facts['rows_passed_over']:,}",
        **taken_up,
        "prompts truncated from the left": f"{facts['truncated']:,}",
        "with special tokens": f"{facts['with_special_tokens']:,}",
        "speed": speed if continued < facts["num_sequences"] else "nothing was left to score",
    }
