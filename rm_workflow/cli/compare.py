"""``rmw compare``: two checkpoints, or two files of item scores, on the items that both have."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from rm_workflow.artifacts import MANIFEST, Artifact, ArtifactStore
from rm_workflow.cli.aggregate import aggregate_rows, read_score_rows, scoring_rule
from rm_workflow.cli.checkpoints import IMPORTED
from rm_workflow.cli.output import for_terminal, print_json, print_table
from rm_workflow.cli.run import JsonOption
from rm_workflow.cli.targets import find_artifact
from rm_workflow.errors import UserError
from rm_workflow.evaluation import stored
from rm_workflow.evaluation.checkpoint_scores import ScoredCheckpoint, checkpoint_of, scored_checkpoints
from rm_workflow.evaluation.compare import NEITHER, OVERALL, Comparison, parts_of
from rm_workflow.evaluation.paired import ALPHA
from rm_workflow.evaluation.stored import StoredRows
from rm_workflow.reporting.words import artifact_name
from rm_workflow.settings import load_settings, user_path

SIDE_HELP = "An asset, asset@version, a folder, or a .jsonl file of item scores (with --benchmark)."


def register(app: typer.Typer) -> None:
    """Add this group's verb."""
    app.command("compare")(compare_command)


@dataclass(frozen=True)
class Side:
    """One of the two: a checkpoint with stored scores, or rows of a file.

    Attributes:
        name: how it is called in the output.
        rows: line numbers and rows.
    """

    name: str
    checkpoint: ScoredCheckpoint | None = None
    rows: tuple[tuple[str, dict[str, Any]], ...] = ()

    @property
    def shown(self) -> str:
        """Return the name as people read it."""
        return artifact_name(self.name, self.checkpoint.run) if self.checkpoint else self.name


def compare_command(
    a: Annotated[str, typer.Argument(metavar="A", help=SIDE_HELP)],
    b: Annotated[str, typer.Argument(metavar="B", help=SIDE_HELP)],
    benchmark: Annotated[
        list[str] | None, typer.Option("--benchmark", help="Only this one; may be given several times.")
    ] = None,
    power: Annotated[
        float | None, typer.Option("--power", help="Also: how many items would tell this difference (0.02)?")
    ] = None,
    all_items: Annotated[bool, typer.Option("--all-items", help="Keep items that leaked to A or B.")] = False,
    json_: JsonOption = False,
) -> None:
    """Test whether two checkpoints differ, on the same items: intervals, exact tests, and a verdict in words."""
    if power is not None and not 0 < abs(power) <= 1:
        raise typer.BadParameter(f"{power} is no difference between scores; give one like 0.02", param_hint="--power")
    store = ArtifactStore(load_settings().home)
    sides = (_side(store, a), _side(store, b))
    if sides[0].name == sides[1].name:
        typer.echo(for_terminal(f"A and B are one and the same: {sides[0].shown}"), err=True)
    compared = {
        name: _compare(store, sides, name, power, all_items, told=bool(benchmark))
        for name in _benchmarks(sides, [name.replace("-", "_") for name in benchmark or []])
    }
    found = {name: result for name, result in compared.items() if result}
    if not found:
        raise UserError(f"{sides[0].shown} and {sides[1].shown} have no item in common; score both on one benchmark")
    if json_:
        print_json({"a": sides[0].name, "b": sides[1].name, "benchmarks": found})
    else:
        _print(sides, found)


def _side(store: ArtifactStore, text: str) -> Side:
    """Return what a person named.

    Raises:
        UserError: there is no such thing, or it has no stored scores.
    """
    path = user_path(text)
    if path.is_file() or path.suffix == ".jsonl":
        return Side(text, rows=tuple(read_score_rows(text)))
    artifact = _artifact_of_folder(store, path) if path.is_dir() else find_artifact(store, text)
    name = checkpoint_of(artifact)
    if name:
        return Side(name, ScoredCheckpoint(name, dict.fromkeys(artifact.facts["scores"], artifact)))
    name = artifact.id
    checkpoint = scored_checkpoints(store).get(name)
    if checkpoint is None:
        mend = (
            "rmw evaluate it with -o FILE, and compare"
            if IMPORTED in artifact.facts
            else "run its recipe to scores, or compare"
        )
        raise UserError(f"checkpoint {name} has no stored scores; {mend} score files")
    return Side(name, checkpoint)


def _artifact_of_folder(store: ArtifactStore, folder: Path) -> Artifact:
    """Return the artifact that a folder, or its parent where it is the model inside, holds."""
    for candidate in (folder.resolve(), folder.resolve().parent):
        if (candidate / MANIFEST).is_file():
            found = store.find(candidate.parent.name, candidate.name)
            if found:
                return found
    raise UserError(
        f"folder {folder} is no artifact of RMW_HOME ({store.home}), so it has no stored scores; name two files of "
        "item scores with --benchmark"
    )


def _benchmarks(sides: tuple[Side, Side], asked: list[str]) -> list[str]:
    """Return the benchmarks to compare: those asked for, else all that both checkpoints have."""
    files = [side.name for side in sides if side.checkpoint is None]
    if files and len(asked) != 1:
        raise UserError(f"{files[0]} does not say what it holds scores of; name one benchmark with --benchmark")
    checkpoints = [side.checkpoint for side in sides if side.checkpoint]
    known = [[str(name) for name in checkpoint.scores] for checkpoint in checkpoints]
    for name in asked:
        for checkpoint, scored in zip(checkpoints, known, strict=True):
            if name not in scored:
                raise UserError(f"checkpoint {checkpoint.id} has no scores on {name!r}; it has: {', '.join(scored)}")
    if asked:
        return asked
    common = [name for name in known[0] if name in known[1]]
    if not common:
        raise UserError(
            f"A is scored on {', '.join(known[0])} and B on {', '.join(known[1])}; score both on one benchmark"
        )
    return common


def _compare(
    store: ArtifactStore, sides: tuple[Side, Side], benchmark: str, power: float | None, all_items: bool, told: bool
) -> dict[str, Any] | None:
    """Return the comparison on one benchmark.

    Args:
        told: refuse a benchmark without common items; else it is passed over with a warning.
    """
    rows = [_rows(store, side, benchmark) for side in sides]
    clean = [_without_leaked(side, benchmark, found) for side, found in zip(sides, rows, strict=True)]
    if any(side.checkpoint is None for side in sides):
        rows, clean = (
            [stored.file_rows(side.scoring, list(side.rows.values())) for side in both] for both in (rows, clean)
        )
    try:
        joined = stored.join(rows[0], rows[1], benchmark)
    except UserError as error:
        if told:
            raise
        typer.echo(f"warning: {error}", err=True)
        return None
    if joined.num_by_place:
        typer.echo(
            f"warning: {joined.num_by_place:,} rows have no id, so line N of A is compared with line N of B; give each "
            "row an id unless both files were written in one order",
            err=True,
        )
    names = [name for name in joined.names if all_items or all(name in side.rows for side in clean)]
    if not names:
        raise UserError(f"benchmark {benchmark}: all common items leaked to A or B; keep them with --all-items")
    items = {
        "compared": len(names),
        "only_a": joined.only_a,
        "only_b": joined.only_b,
        "leaked_left_out": len(joined.names) - len(names),
    }
    parts_a, parts_b = (parts_of(side.scoring, side.only(names)) for side in rows)
    return {**Comparison(parts_a, parts_b).figures(power), "items": items}


def _rows(store: ArtifactStore, side: Side, benchmark: str) -> StoredRows:
    if side.checkpoint:
        return side.checkpoint.rows(store, benchmark)
    scoring = scoring_rule(stored.TEST_RULE if benchmark == stored.TEST else benchmark)
    rows = [row for _, row in side.rows]
    aggregate_rows(scoring, side.name, side.rows)
    return stored.file_rows(scoring, rows)


def _without_leaked(side: Side, benchmark: str, found: StoredRows) -> StoredRows:
    return found.without(side.checkpoint.leaked(benchmark)) if side.checkpoint else found


def _print(sides: tuple[Side, Side], found: Mapping[str, dict[str, Any]]) -> None:
    for name, result in found.items():
        parts = {result["of"]: result, **result["sections"], **result["subsets"]}
        rows = [{"": part, **_row(figure)} for part, figure in parts.items()]
        print_table(f"{name}: A = {sides[0].shown}, B = {sides[1].shown}", rows)
        for sentence in _sentences(name, result):
            typer.echo(sentence)


def _row(figure: Mapping[str, Any]) -> dict[str, Any]:
    discordant = f"{figure['only_a']:,} / {figure['only_b']:,}" if figure["only_a"] is not None else None
    return {
        "A": figure["score_a"],
        "B": figure["score_b"],
        "difference": figure["difference"],
        "95 % interval": f"{figure['ci_low']:.3f} to {figure['ci_high']:.3f}",
        "p": f"{figure['p_value']:.2g}",
        "Cohen's h": figure["cohens_h"],
        "only A / B": discordant,
        "n": figure["n"],
        "verdict": figure["verdict"],
    }


def _sentences(name: str, result: Mapping[str, Any]) -> list[str]:
    """Return what stands below the table: items left out, the verdict, what so many items can tell."""
    items = result["items"]
    told = [f"{items['compared']:,} items compared"]
    if items["compared"] != result["n"]:
        told = [
            f"{items['compared']:,} rows compared, of which the rule makes {result['n']:,} items of the {result['of']}"
        ]
    told += [
        f"{items[key]:,} that {side} alone has left out"
        for key, side in (("only_a", "A"), ("only_b", "B"))
        if items[key]
    ]
    if items["leaked_left_out"]:
        told.append(f"{items['leaked_left_out']:,} that leaked to A or B left out (--all-items keeps them)")
    sentences = ["; ".join(told) + "."]
    if result["sections"] or result["subsets"]:
        sentences.append(
            "p of sections and subsets is corrected by Holm, each among their own; that of the first row and all "
            "intervals are not."
        )
    if result["of"] != OVERALL:
        sentences.append(f"{name}: a subset has no common item, so the mean over all items stands for the overall.")
    sentences.append(f"{name}: {result['verdict']} (p = {result['p_value']:.3g}, {result['test']}).")
    return [*sentences, *_doubts(result), *_power(result["n"], result["power"])]


def _doubts(result: Mapping[str, Any]) -> list[str]:
    """Return a sentence where interval and test seem to disagree: the test decides, and few items allow it little."""
    low, high = result["ci_low"], result["ci_high"]
    if result["verdict"] != NEITHER or low <= 0 <= high:
        return []
    least = result["least_p_value"]
    allowed = f"; so few items differ that it cannot fall below {least:.2g}" if least >= ALPHA else ""
    return [f"The interval leaves out 0, but it is approximate and the test decides{allowed}."]


def _power(n: int, power: Mapping[str, Any]) -> list[str]:
    if power["second_moment"] <= 0:
        return ["No item tells A and B apart, so nothing can be said on how many items would."]
    share = f"{100 * power['power']:.0f} % of cases"
    least = power["least_difference"]
    told = [
        f"{n:,} items are too few to tell even the largest difference in {share}."
        if least is None
        else f"{n:,} items of this kind tell a difference of {least:.3f} in {share}, and a smaller one less often."
    ]
    if "items_needed" in power:
        needed = power["items_needed"]
        told.append(f"To tell a difference of {abs(power['difference']):g} in {share}, {needed:,} of them are needed.")
    return told
