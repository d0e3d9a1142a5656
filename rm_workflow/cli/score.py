"""``rmw score`` and ``rmw aggregate``: rewards for any rows, and benchmark numbers from stored scores."""

import codecs
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, cast

import typer

from rm_workflow.catalog.models import TEST
from rm_workflow.catalog.names import nearest
from rm_workflow.checked_catalog import load_checked_catalog
from rm_workflow.cli.checkpoints import find_checkpoint
from rm_workflow.cli.output import for_terminal, print_json, print_table
from rm_workflow.errors import UserError
from rm_workflow.evaluation import benchmarks
from rm_workflow.evaluation.composite import SCORE_KEYS
from rm_workflow.evaluation.items import RowError, RowWarning
from rm_workflow.preferences.files import unique_keys
from rm_workflow.settings import load_settings

STREAM = "-"
OVERALL = "overall"
PARQUET, GZIP = b"PAR1", b"\x1f\x8b"  # how such files begin
INTERVAL = "_interval"  # a figure as a score object stands under its name with this ending

CheckpointArgument = Annotated[
    str, typer.Argument(metavar="CKPT", help="A folder, an asset, asset@version or hub:org/name[@revision].")
]
PrecisionOption = Annotated[str, typer.Option(help="auto, bf16 or fp32.")]
BatchTokensOption = Annotated[int, typer.Option(min=1, help="Padded tokens in one forward pass.")]
DeterministicOption = Annotated[
    bool, typer.Option("--deterministic", help="No bit of a score depends on any other row; slower.")
]


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command("score")(score_command)
    app.command("aggregate")(aggregate_command)


def score_command(
    checkpoint: CheckpointArgument,
    input_: Annotated[str, typer.Argument(metavar="IN", help="JSONL of messages or prompt and response; - is stdin.")],
    output: Annotated[str, typer.Option("-o", "--output", metavar="OUT", help="Continued if begun; - is stdout.")],
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help='Write bad rows with "score": null, "error".')] = False,
    precision: PrecisionOption = "auto",
    batch_tokens: BatchTokensOption = 4096,
    deterministic: DeterministicOption = False,
    aggregate: Annotated[
        str, typer.Option(help="What makes one score of those of the steps: min, last, product or mean.")
    ] = "mean",
) -> None:
    """Write each row of IN with the reward of its response, in input order."""
    from rm_workflow.evaluation.progress import progress_bar
    from rm_workflow.evaluation.score_file import Tally, differs_from, read_lines, resume, score_lines
    from rm_workflow.evaluation.scorer import Scorer
    from rm_workflow.evaluation.steps import AGGREGATORS
    from rm_workflow.models.reward_model import resolve_device, resolve_precision

    check_precision(precision)
    if aggregate not in AGGREGATORS:
        raise UserError(f"--aggregate {aggregate} is unknown; {nearest(aggregate, AGGREGATORS)}")
    _check_files(input_, output)
    named = find_checkpoint(checkpoint)
    device = resolve_device(load_settings().device)
    tally, name = Tally(), "stdin" if input_ == STREAM else input_
    with _opened_input(input_) as file:
        _refuse_other_formats(name, file.peek(len(PARQUET)))
        lines = read_lines(file)
        begun = Path(output).is_file() and output != STREAM
        continued, lines = resume(Path(output), lines, name) if begun else ([], lines)
        tally.continued = len(continued)
        resolved = resolve_precision(precision, device)
        scorer = Scorer.load(
            named.folder, device, resolved, batch_tokens, "alone" if deterministic else None, named.hub_id
        )
        if scorer.recipe_origin == "guessed":
            _warn(f"{checkpoint} has no token recipe; it is guessed from its chat template")
        gap = differs_from(scorer, continued, aggregate)
        if gap is not None:
            _warn(f"scores in {output} differ from this checkpoint's by up to {gap:.3g}")
        with _opened_output(output) as out, progress_bar("scoring") as progress:
            score_lines(scorer, lines, out, name, skip_bad, tally, progress, _count_lines(input_), aggregate)
    typer.echo(
        f"{tally.scored} rows scored, {tally.continued} were there already, {tally.bad} bad, "
        f"{tally.truncated} prompts truncated from the left",
        err=True,
    )
    if tally.replaced:
        _warn(f"{tally.replaced} rows had a score or error of their own, which is replaced")


def _warn(sentence: str) -> None:
    typer.echo(for_terminal(f"warning: {sentence}"), err=True)


def aggregate_command(
    benchmark: Annotated[str, typer.Argument(metavar="BENCHMARK", help="rewardbench, rewardbench2, pairs, ...")],
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSONL of item scores; - is stdin.")],
    equivalence: Annotated[
        str | None,
        typer.Option(help="For best_of_n: which answers are the same, by string (the default) or math-verify."),
    ] = None,
    scores: Annotated[
        str | None, typer.Option(help="For best_of_n: what scores are, logit (the default) or probability.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="JSON alone on stdout.")] = False,
) -> None:
    """Compute a benchmark's numbers from stored item scores; no model is needed."""
    scoring = scoring_rule(benchmark)
    options = _options(scoring, {"equivalence": equivalence, "scores": scores})
    result = aggregate_rows(scoring, file, list(read_score_rows(file)), **options)
    if json_:
        print_json(result)
        return
    print_figures(benchmark, result, benchmarks.rule(scoring))


def print_figures(benchmark: str, result: dict[str, Any], rule: benchmarks.Rule) -> None:
    """Print what a rule makes of scored rows; one with ``tables(result)`` says itself what is shown."""
    if hasattr(rule, "tables"):
        for title, rows in rule.tables(result):
            print_table(f"{benchmark}: {title}", rows)
        return
    print_table(f"{benchmark}: scores with 95 % intervals", _table(result, rule))
    figures = [{"figure": name, "value": result[name]} for name in result if _is_figure(name, result)]
    if figures:
        print_table("beside the score", figures)
    if result.get("ties_terms"):
        terms = [{"term of Ties": name, "mean": value} for name, value in result["ties_terms"].items()]
        print_table("the five terms of Ties, before they are weighted", terms)
    if result.get("missing_subsets"):
        typer.echo(f"missing, so there is no overall: {', '.join(result['missing_subsets'])}", err=True)


def check_precision(precision: str) -> None:
    """Refuse a precision that there is not."""
    if precision not in ("auto", "bf16", "fp32"):
        raise typer.BadParameter(f"{precision!r} is none of auto, bf16, fp32", param_hint="--precision")


def _options(scoring: str, given: dict[str, str | None]) -> dict[str, Any]:
    """Return the options that were given; one that the rule does not have, or another word than its own, is refused."""
    known: dict[str, Sequence[str]] = getattr(benchmarks.rule(scoring), "OPTIONS", {})
    options = {name: value.replace("_", "-") for name, value in given.items() if value is not None}
    for name, value in options.items():
        if name not in known:
            raise typer.BadParameter(f"{scoring} has no such option; leave it out", param_hint=f"--{name}")
        if value not in known[name]:
            raise typer.BadParameter(f"{value!r} is none of {', '.join(known[name])}", param_hint=f"--{name}")
    return options


def aggregate_rows(
    scoring: str, file: str, rows: Sequence[tuple[str, dict[str, Any]]], **options: str
) -> dict[str, Any]:
    """Return a rule's figures from the rows of a score file, each with its place; warnings go to stderr.

    Args:
        options: of the rule, beside the rows.

    Raises:
        UserError: names the file and the line of the first bad row.
    """
    try:
        result = benchmarks.rule(scoring).aggregate([row for _, row in rows], **options)
    except RowError as error:
        raise UserError(f"{file}: {error.told(lambda position: rows[position][0])}") from None
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    result["warnings"] = [
        warning.told(lambda position: rows[position][0]) if isinstance(warning, RowWarning) else warning
        for warning in result.get("warnings", ())
    ]
    for warning in result["warnings"]:
        _warn(f"{file}: {warning}")
    return result


def scoring_rule(benchmark: str) -> str:
    """Return the rule of a benchmark: its own name, or what the catalogue says of it."""
    name = benchmark.replace("-", "_")
    if name in benchmarks.names():
        return name
    if name == TEST:
        return "pairs"
    known = load_checked_catalog(load_settings()).benchmarks
    if name not in known:
        raise UserError(f"there is no benchmark {benchmark!r}; {nearest(name, {*benchmarks.names(), *known})}")
    return known[name].scoring


def read_score_rows(file: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place as a person names it, row) of a file of item scores, or of stdin.

    It holds JSON Lines or one JSON array, either also packed by gzip, or it is a Parquet file.
    """
    if file != STREAM and Path(file).is_dir():
        raise UserError(f"{file} is a folder; name a JSONL file of item scores in it, or -")
    if file != STREAM and not Path(file).is_file():
        raise UserError(f"{file}: there is no such file; name a JSONL file of item scores or -")
    with _opened_input(file) as opened:
        start = opened.peek(len(PARQUET))
        if start.startswith(PARQUET):
            yield from _parquet(file)
        elif start.startswith(GZIP):
            yield from _json_rows(file, _unpacked(file, opened))
        else:
            yield from _json_rows(file, opened)


def _json_rows(file: str, raw_lines: Iterable[bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    lines = enumerate(raw_lines, start=1)
    for number, with_mark in lines:
        raw = with_mark.removeprefix(codecs.BOM_UTF8) if number == 1 else with_mark
        if raw.lstrip().startswith(b"["):
            yield from _array(file, b"".join([raw, *(rest for _, rest in lines)]))
        elif raw.strip():
            yield f"line {number}", _json_object(f"{file}: line {number}", _parsed(f"{file}: line {number}", raw))


def _unpacked(file: str, packed: IO[bytes]) -> Iterator[bytes]:
    try:
        yield from gzip.GzipFile(fileobj=packed)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file}: it is a gzip file that cannot be unpacked ({error}); write it again") from None


def _parquet(file: str) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if file == STREAM:
        raise UserError("stdin is a Parquet file, which cannot be read from a stream; name the file")
    try:
        rows = pq.read_table(file).to_pylist()
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file}: it is a Parquet file that cannot be read ({reason}); write it again") from None
    for number, row in enumerate(rows):
        yield f"row {number}", row


def _array(file: str, text: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, entry in enumerate(_parsed(file, text), start=1):
        yield f"entry {number}", _json_object(f"{file}: entry {number}", entry)


def _parsed(where: str, raw: bytes) -> Any:
    try:
        return json.loads(raw, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: it is no JSON ({error}); mend or remove it") from None


def _json_object(where: str, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{where}: it is no JSON object; write {{...}} on each line")
    return row


def _table(result: dict[str, Any], rule: benchmarks.Rule) -> list[dict[str, Any]]:
    """Return one row a score object: the headline, what stands at the top, then sections and subsets."""
    # A rule's headline may stand in for an overall that is missing, which it is not.
    parts = {OVERALL: rule.headline(result) if result.get(OVERALL, True) is not None else None}
    weighted = (result.get("overall_intervals") or {}).get("weighted")
    if weighted:
        parts["overall, weighted as in the paper"] = weighted
    scores = {name: value for name, value in result.items() if _is_score(value) and not name.startswith(OVERALL)}
    parts |= {name.removesuffix(INTERVAL): score for name, score in scores.items()}
    parts |= {**result.get("sections", {}), **result["subsets"]}
    parts |= {f"longer helps: {tag}": score for tag, score in result.get("length_tags", {}).items()}
    columns = ("score", "n", "ci_low", "ci_high", "ties")
    return [{"": name, **{column: (score or {}).get(column) for column in columns}} for name, score in parts.items()]


def _is_score(value: Any) -> bool:
    return isinstance(value, dict) and set(SCORE_KEYS) <= set(value)


def _is_figure(name: str, result: dict[str, Any]) -> bool:
    """Return whether a value is a plain number that no row of the table holds already."""
    shown = name in (*SCORE_KEYS, "accuracy") or name.startswith(OVERALL) or name + INTERVAL in result
    return isinstance(result[name], int | float) and not shown


def _check_files(input_: str, output: str) -> None:
    if input_ != STREAM and not Path(input_).is_file():
        raise UserError(f"{input_}: there is no such file; name a JSONL file or - for stdin")
    if output != STREAM and Path(output).is_dir():
        raise UserError(f"{output} is a folder; name a file to write or - for stdout")
    if output != STREAM and not Path(output).absolute().parent.is_dir():
        raise UserError(f"{output}: its folder does not exist; create it or name another output")
    if STREAM not in (input_, output) and Path(output).exists() and Path(input_).samefile(output):
        raise UserError(f"{output} is the input itself; name another output")


def _refuse_other_formats(name: str, start: bytes) -> None:
    if start.startswith(PARQUET):
        raise UserError(f"{name} is a Parquet file; give JSONL, one row a line")
    if start.startswith(GZIP):
        raise UserError(f"{name} is packed by gzip; unpack it and give JSONL")
    if _begins_array(start):
        raise UserError(f"{name} is one JSON array; write one object per line, for instance with: jq -c '.[]'")


def _begins_array(start: bytes) -> bool:
    """Return whether a file is an array of objects, in one line or in many, and not lines of which one is a list."""
    first = start.removeprefix(codecs.BOM_UTF8).lstrip().partition(b"\n")[0]
    try:
        found = json.loads(first)
    except (ValueError, RecursionError):
        return first.startswith(b"[")
    return isinstance(found, list) and any(isinstance(entry, dict) for entry in found)


def _count_lines(path: str) -> int:
    if path == STREAM:
        return 0
    with Path(path).open("rb") as file:
        return sum(bool(line.strip()) for line in file)


@contextmanager
def _opened_input(path: str) -> Iterator[io.BufferedReader]:
    if path == STREAM:
        yield cast(io.BufferedReader, sys.stdin.buffer)
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
