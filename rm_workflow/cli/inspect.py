"""``rmw show``, ``rmw lineage`` and ``rmw trace``: rows, chains and what became of one pair."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from rm_workflow.artifacts import Artifact, ArtifactStore, prepare_home
from rm_workflow.cli import completion
from rm_workflow.cli.output import for_terminal, print_json, print_table
from rm_workflow.cli.run import JsonOption
from rm_workflow.cli.targets import existing_store, find_artifact, raw_of
from rm_workflow.errors import UserError
from rm_workflow.lineage import graph, questions
from rm_workflow.lineage.store import LineageStore
from rm_workflow.preferences import overlap, show, trace
from rm_workflow.reporting.words import SHORT_VERSION, artifact_name

# What rejection sampling makes, by kind, and what its rows are.
CHOSEN = {
    "ranked": "{ranked:,} ranked prompts",
    "sft_dpo": "{dpo:,} DPO rows (and {sft:,} SFT rows, the chosen replies)",
}


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command("show")(show_command)
    app.command("lineage")(lineage_command)
    app.command("trace")(trace_command)


def show_command(
    asset: Annotated[
        str,
        typer.Argument(
            help="raw_<source>, pairs_<set>, <recipe>_mixture, _overlap, _tokens, _scores, _ranked, _sft_dpo.",
            autocompletion=completion.assets,
        ),
    ],
    dropped: Annotated[str | None, typer.Option(help="Show rows that this rule dropped; 'any' for all rules.")] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Number of rows.")] = 5,
    json_: JsonOption = False,
) -> None:
    """Show rows of an asset, kept or dropped, as a person reads them."""
    store = existing_store()
    artifact = find_artifact(store, asset)
    if artifact.kind == "overlap" and dropped is None:
        _print_rows(artifact, overlap.overlap_rows(artifact.folder, n), f"{artifact.facts['hits']:,} hits", json_)
        return
    if artifact.kind == "scores" and dropped is None:
        _show_scores(artifact, json_)
        return
    if artifact.kind in CHOSEN and dropped is None:
        _print_rows(
            artifact, show.chosen_rows(artifact.folder, n), CHOSEN[artifact.kind].format(**artifact.facts), json_
        )
        return
    if artifact.kind == "tokens" and dropped is None:
        raise UserError(f"asset {artifact.asset} holds token ids; name its _mixture, or a rule: --dropped any")
    if artifact.kind not in trace.KINDS:
        raise UserError(
            f"asset {artifact.asset} has no rows to show; name a raw_, pairs_, _step_labels, _mixture, _overlap, "
            "_scores, _ranked or _sft_dpo"
        )
    folders = [raw.folder for raw in raw_of(store, artifact)]
    if dropped is None:
        rows = show.kept_rows(artifact.folder, folders, n)
    else:
        rules = artifact.facts["dropped"]
        if dropped != "any" and dropped not in rules:
            raise UserError(f"asset {artifact.asset} has no rule {dropped!r}; it has: {', '.join(rules)}")
        rows = show.dropped_rows(artifact.folder, folders, n, None if dropped == "any" else dropped)
    _print_rows(artifact, rows, _all_rows(artifact, dropped), json_)


def _show_scores(artifact: Artifact, json_: bool) -> None:
    from rm_workflow.cli.score_tables import print_scores

    if json_:
        print_json({key: artifact.facts[key] for key in ("scores", "analysis") if key in artifact.facts})
    else:
        print_scores(artifact.asset, artifact.facts)


def _print_rows(artifact: Artifact, rows: list[dict[str, Any]], all_rows: str, json_: bool) -> None:
    if json_:
        print_json(rows)
        return
    typer.echo(f"{artifact.asset}: {len(rows):,} of {all_rows}")
    if rows:
        typer.echo("\n" + for_terminal(show.as_text(rows)))


def _all_rows(artifact: Artifact, dropped: str | None) -> str:
    """Return how many rows there are to show, as words."""
    facts = artifact.facts
    of_labels = "labelled.parquet" in artifact.manifest["files"]
    what = "rows" if artifact.kind in ("raw", "labels") else "responses" if of_labels else "pairs"
    if dropped is None:
        return f"{facts['used' if artifact.kind in ('raw', 'labels') else 'kept']:,} {what} kept"
    if dropped == "any":
        return f"{sum(facts['dropped'].values()):,} {what} dropped"
    return f"{facts['dropped'][dropped]:,} {what} dropped by {dropped}"


def lineage_command(
    target: Annotated[
        str,
        typer.Argument(
            help="An asset, asset@version, or 'rebuild' to make the index anew.", autocompletion=completion.assets
        ),
    ],
    files: Annotated[bool, typer.Option("--files", help="Only the raw files: revision, sha256, reader.")] = False,
    json_: JsonOption = False,
) -> None:
    """Show the chain from an artifact, for instance scores, back to its raw files and their hashes."""
    store = existing_store()
    lineage = LineageStore(store)
    if target == "rebuild":
        prepare_home(store.home)
        num_events = lineage.rebuild()
        if json_:
            print_json({"num_events": num_events})
        else:
            typer.echo(f"{num_events} events indexed in {lineage.path.name}")
        return
    artifact = find_artifact(store, target)
    lineage.catch_up()
    if files:
        _print_files(artifact, questions.raw_revisions(lineage, artifact), json_)
        return
    chain = graph.upstream(lineage, artifact)
    if json_:
        print_json(chain)
    else:
        _print_chain(chain)


def _print_files(artifact: Artifact, rows: list[dict[str, Any]], json_: bool) -> None:
    if json_:
        print_json(rows)
    else:
        print_table(f"raw files of {artifact.id}", [{**row, "read_by": artifact_name(row["read_by"])} for row in rows])


def _print_chain(chain: dict[str, Any]) -> None:
    made_from: dict[str, list[str]] = {}
    for upstream, downstream in chain["edges"]:
        made_from.setdefault(downstream, []).append(artifact_name(upstream))
    rows = [
        {
            "kind": node["kind"],
            "name": node["id"].split("@")[0],
            "version": node["version"][:SHORT_VERSION],
            "made from": "\n".join(made_from.get(node["id"], [])),
        }
        for node in sorted(chain["nodes"], key=lambda node: (node["kind"] != "file", node["kind"], node["id"]))
    ]
    print_table("lineage", rows)


def trace_command(
    target: Annotated[str, typer.Argument(help="A pair_id or label_id, or FILE:ROW as rmw show prints it.")],
    json_: JsonOption = False,
) -> None:
    """Follow one pair or raw row: its text, the rules it met, what used it."""
    store = existing_store()
    found = trace.trace(target, _latest_of_kinds(store, trace.KINDS))
    lineage = LineageStore(store)
    lineage.catch_up()
    found["checkpoints"] = questions.checkpoints_trained_on(lineage, store, [*found["pairs"], *found["labels"]])
    if json_:
        print_json(found)
        return
    print_table(f"trace of {target}", _told(found))


def _latest_of_kinds(store: ArtifactStore, kinds: tuple[str, ...]) -> dict[str, list[Artifact]]:
    assets = sorted(folder.name for folder in store.artifacts.iterdir()) if store.artifacts.is_dir() else []
    latest = [artifact for artifact in map(store.latest, assets) if artifact and artifact.kind in kinds]
    proven = [artifact for one in latest if (artifact := store.take(one.asset, one.version))]
    return {kind: [artifact for artifact in proven if artifact.kind == kind] for kind in kinds}


def _told(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the fields of a trace that hold something; the only pair of a row is named once."""
    shown = dict(found)
    if shown["pair_id"]:
        shown["drops"] = [{**drop, "pair_id": None} for drop in shown["drops"]]
        shown["pairs"] = []
    told = [{"field": key.replace("_", " "), "value": _text(value)} for key, value in shown.items()]
    return [row for row in told if row["value"]]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(map(_text, value))
    if isinstance(value, dict):
        return _drop(value)
    return "" if value is None else str(value)


def _drop(drop: Mapping[str, Any]) -> str:
    """Return what an entry of ``drops`` says: ``pairs_shp: score_ratio: scores are too near (1.5; pair 09ab...)``."""
    beside = [drop["detail"], drop["pair_id"] and f"pair {drop['pair_id']}"]
    told = "; ".join(str(one) for one in beside if one)
    return f"{drop['asset']}: {drop['rule']}: {drop['reason']}" + (f" ({told})" if told else "")
