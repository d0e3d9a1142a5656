"""``rmw score`` and ``rmw aggregate``: rewards for any rows, and benchmark numbers from stored scores."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from rm_workflow.catalog.names import nearest
from rm_workflow.checked_catalog import load_checked_catalog
from rm_workflow.cli.checkpoints import checkpoint_folder
from rm_workflow.cli.output import print_json, print_table
from rm_workflow.errors import UserError
from rm_workflow.evaluation import benchmarks
from rm_workflow.evaluation.items import RowError
from rm_workflow.settings import load_settings

STREAM = "-"


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command("score")(score_command)
    app.command("aggregate")(aggregate_command)


def score_command(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="A folder, an asset or asset@version.")],
    input_: Annotated[str, typer.Argument(metavar="IN", help="JSONL of messages or prompt and response; - is stdin.")],
    output: Annotated[str, typer.Option("-o", "--output", metavar="OUT", help="Continued if begun; - is stdout.")],
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help='Write bad rows with "score": null, "error".')] = False,
    precision: Annotated[str, typer.Option(help="auto, bf16 or fp32.")] = "auto",
    batch_tokens: Annotated[int, typer.Option(min=1, help="Padded tokens in one forward pass.")] = 4096,
) -> None:
    """Write each row of IN with the reward of its response, in input order."""
    from rm_workflow.evaluation.progress import progress_bar
    from rm_workflow.evaluation.score_file import Tally, differs_from, read_lines, resume, score_lines
    from rm_workflow.evaluation.scorer import Scorer
    from rm_workflow.models.reward_model import resolve_device, resolve_precision

    if precision not in ("auto", "bf16", "fp32"):
        raise typer.BadParameter(f"{precision!r} is none of auto, bf16, fp32", param_hint="--precision")
    _check_files(input_, output)
    folder = checkpoint_folder(checkpoint)
    device = resolve_device(load_settings().device)
    tally, name = Tally(), "stdin" if input_ == STREAM else input_
    with _opened_input(input_) as file:
        lines = read_lines(file)
        begun = Path(output).is_file() and output != STREAM
        continued, lines = resume(Path(output), lines, name) if begun else ([], lines)
        tally.continued = len(continued)
        scorer = Scorer.load(folder, device, resolve_precision(precision, device), batch_tokens)
        gap = differs_from(scorer, continued)
        if gap is not None:
            typer.echo(f"warning: scores in {output} differ from this checkpoint's by up to {gap:.3g}", err=True)
        with _opened_output(output) as out, progress_bar("scoring") as progress:
            score_lines(scorer, lines, out, name, skip_bad, tally, progress, _count_lines(input_))
    typer.echo(
        f"{tally.scored} rows scored, {tally.continued} were there already, {tally.bad} bad, "
        f"{tally.truncated} prompts truncated from the left",
        err=True,
    )


def aggregate_command(
    benchmark: Annotated[str, typer.Argument(metavar="BENCHMARK", help="rewardbench, rewardbench2, pairs, ...")],
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSONL of item scores; - is stdin.")],
    json_: Annotated[bool, typer.Option("--json", help="JSON alone on stdout.")] = False,
) -> None:
    """Compute a benchmark's numbers from stored item scores; no model is needed."""
    rule = benchmarks.rule(_scoring(benchmark))
    rows = list(_score_rows(file))
    try:
        result = rule.aggregate([row for _, row in rows])
    except RowError as error:
        raise UserError(f"{file}: {error.told(lambda position: f'line {rows[position][0]}')}") from None
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    for warning in result.get("warnings", ()):
        typer.echo(f"warning: {file}: {warning}", err=True)
    if json_:
        print_json(result)
        return
    print_table(f"{benchmark}: scores with 95 % intervals", _table(result, rule))
    if result.get("missing_subsets"):
        typer.echo(f"missing, so there is no overall: {', '.join(result['missing_subsets'])}", err=True)


def _scoring(benchmark: str) -> str:
    """Return the rule of a benchmark: its own name, or what the catalogue says of it."""
    name = benchmark.replace("-", "_")
    if name in benchmarks.names():
        return name
    known = load_checked_catalog(load_settings()).benchmarks
    if name not in known:
        raise UserError(f"there is no benchmark {benchmark!r}; {nearest(name, [*benchmarks.names(), *known])}")
    return known[name].scoring


def _score_rows(file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    if file != STREAM and not Path(file).is_file():
        raise UserError(f"{file}: there is no such file; name a JSONL file of item scores or -")
    with _opened_input(file) as lines:
        for number, raw in enumerate(lines, start=1):
            if raw.strip():
                yield number, _json_object(file, number, raw)


def _json_object(file: str, number: int, raw: bytes) -> dict[str, Any]:
    try:
        row = json.loads(raw)
    except ValueError as error:
        raise UserError(f"{file}: line {number}: it is no JSON ({error}); mend or remove it") from None
    if not isinstance(row, dict):
        raise UserError(f"{file}: line {number}: it is no JSON object; write {{...}} on each line")
    return row


def _table(result: dict[str, Any], rule: benchmarks.Rule) -> list[dict[str, Any]]:
    overall = rule.headline(result)
    parts = {"overall": overall, **result.get("sections", {}), **result["subsets"]}
    weighted = (result.get("overall_intervals") or {}).get("weighted")
    if weighted:
        parts = {"overall": overall, "overall, weighted as in the paper": weighted, **parts}
    columns = ("score", "n", "ci_low", "ci_high", "ties")
    return [{"": name, **{column: (score or {}).get(column) for column in columns}} for name, score in parts.items()]


def _check_files(input_: str, output: str) -> None:
    if input_ != STREAM and not Path(input_).is_file():
        raise UserError(f"{input_}: there is no such file; name a JSONL file or - for stdin")
    if output != STREAM and Path(output).is_dir():
        raise UserError(f"{output} is a folder; name a file to write or - for stdout")
    if output != STREAM and not Path(output).absolute().parent.is_dir():
        raise UserError(f"{output}: its folder does not exist; create it or name another output")
    if STREAM not in (input_, output) and Path(output).exists() and Path(input_).samefile(output):
        raise UserError(f"{output} is the input itself; name another output")


def _count_lines(path: str) -> int:
    if path == STREAM:
        return 0
    with Path(path).open("rb") as file:
        return sum(bool(line.strip()) for line in file)


@contextmanager
def _opened_input(path: str) -> Iterator[IO[bytes]]:
    if path == STREAM:
        yield sys.stdin.buffer
        return
    with Path(path).open("rb") as file:
        yield file


@contextmanager
def _opened_output(path: str) -> Iterator[IO[bytes]]:
    if path == STREAM:
        yield sys.stdout.buffer
        return
    with Path(path).open("ab") as file:
        yield file
