"""``rmw aggregate``: benchmark numbers from stored item scores."""

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
from rm_workflow.cli.output import print_json, print_table, warn
from rm_workflow.errors import UserError
from rm_workflow.evaluation import benchmarks
from rm_workflow.evaluation.composite import SCORE_KEYS
from rm_workflow.evaluation.items import RowError, RowWarning
from rm_workflow.evaluation.row_files import GZIP, PARQUET, STREAM
from rm_workflow.preferences.files import unique_keys
from rm_workflow.settings import load_settings

OVERALL = "overall"
INTERVAL = "_interval"  # a figure as a score object stands under its name with this ending


def register(app: typer.Typer) -> None:
    """Add this group's verb."""
    app.command("aggregate")(aggregate_command)


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
        warn(f"{file}: {warning}")
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


@contextmanager
def _opened_input(path: str) -> Iterator[io.BufferedReader]:
    if path == STREAM:
        yield cast(io.BufferedReader, sys.stdin.buffer)
        return
    with Path(path).open("rb") as file:
        yield file
