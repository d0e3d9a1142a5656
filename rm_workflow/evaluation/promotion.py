"""Which checkpoint of a recipe is ``main``: chosen by a declared metric, through a gate, and written down as an event.

The gate compares a candidate with the present main on the items that both have: it may not be surely worse (the whole
95 % interval of the paired difference below 0) on any declared benchmark, and may leak nothing that main does not. A
checkpoint exists only where its canaries and checks have passed. What a person has rolled back from is not promoted
again by itself.

Promotions, rollbacks and refusals are events of the store; the last promotion or rollback says what main is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rm_workflow.artifacts import Artifact, ArtifactStore
from rm_workflow.catalog.models import Promotion
from rm_workflow.durable_files import locked
from rm_workflow.errors import UserError
from rm_workflow.evaluation.checkpoint_scores import CHECKPOINT, SUFFIX, ScoredCheckpoint
from rm_workflow.evaluation.contamination import LEAKY
from rm_workflow.evaluation.leaderboard import FEWEST_ITEMS, num_independent
from rm_workflow.evaluation.run_comparison import compare_runs
from rm_workflow.evaluation.run_table import Run

SELECTED = (
    "Main was selected among {number} runs by the same score that is reported on {metric}, so that this score is too "
    "high for it; the other benchmarks tell more."
)
PROMOTION, ROLLBACK, REFUSAL = "promotion", "rollback", "refusal"
CHANGES = (PROMOTION, ROLLBACK)
SHOWN_DIGITS = 12  # of a version

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Gate:
    """What the gate says of one candidate.

    Attributes:
        faults: a sentence for each reason against it.
        comparisons: benchmark -> difference to main with ``ci_low`` and ``ci_high``, items in ``n``.
    """

    faults: list[str] = field(default_factory=list)
    comparisons: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """What became of a promotion.

    Attributes:
        main: ``asset@version`` that is main now, or None.
        candidate: ``asset@version`` that was looked at, or None where no run has a score.
        is_promoted: main was changed.
        event: the last promotion or rollback of the recipe; None where there is none, or nobody asked for it.
    """

    main: str | None
    candidate: str | None
    is_promoted: bool
    reason: str
    comparisons: dict[str, dict[str, Any]] = field(default_factory=dict)
    event: Event | None = None


def history(store: ArtifactStore, recipe: str) -> list[dict[str, Any]]:
    """Return the promotions and rollbacks of a recipe, oldest first."""
    return list(store.events(asset=f"{recipe}_checkpoint", kinds=CHANGES))


def main_of(store: ArtifactStore, recipe: str) -> str | None:
    """Return ``asset@version`` of the checkpoint that is main, or None."""
    changes = store.events(asset=f"{recipe}_checkpoint", kinds=CHANGES, newest_first=True)
    last = next(changes, None)
    return _id(last) if last and last["version"] else None


def selection_told(number: int, metric: str) -> str | None:
    """Return what a reader of main's score must know where it was chosen among several runs by it."""
    return SELECTED.format(number=number, metric=metric) if number > 1 else None


def selected_by(store: ArtifactStore, checkpoint: str) -> dict[str, int]:
    """Return by metric among how many runs a checkpoint (``asset@version``) was chosen as main; empty if never.

    A main that was kept beside runs that were scored later was chosen among these too.
    """
    asset, _, version = checkpoint.partition("@")
    recipe = asset.removesuffix(CHECKPOINT)
    chosen = [event for event in store.events(asset=asset, kinds=(PROMOTION,)) if event["version"] == version]
    if not chosen:
        return {}
    beside = _num_scored_runs(store, recipe) if main_of(store, recipe) == checkpoint else 0
    numbers = {event["metric"]: max(event["num_candidates"], beside) for event in chosen}
    return {metric: number for metric, number in numbers.items() if number > 1}


def _num_scored_runs(store: ArtifactStore, recipe: str) -> int:
    events = store.events(asset=f"{recipe}{SUFFIX}", kinds=("publish", "reuse"))
    return len({event["partition"] for event in events if not event["overridden"]})


def outcome(store: ArtifactStore, recipe: str, since: datetime) -> str:
    """Return in one sentence what became of main in the runs of a recipe since a time; what persons did is left out."""
    for event in store.events(asset=f"{recipe}_checkpoint", kinds=(PROMOTION, REFUSAL), newest_first=True):
        if datetime.fromisoformat(event["time"]) < since:
            break
        if event["run_id"] and event["kind"] == PROMOTION:
            return f"{recipe}: {_id(event)} is main now ({event['reason']})"
        if event["run_id"]:
            return f"{recipe}: {_id(event)} stays a candidate because of the gate: {event['reason']}"
    main = main_of(store, recipe)
    return f"{recipe}: main stays {main}" if main else f"{recipe}: it has no main"


def ranked(runs: Sequence[Run], metric: str) -> list[Run]:
    """Return the runs with a score on the metric, best first; retired ones are left out."""
    scored = [run for run in runs if not run.is_retired and run.headline(metric).get("score") is not None]
    return sorted(scored, key=lambda run: (-run.headline(metric)["score"], run.key))


def consider(
    store: ArtifactStore, recipe: str, promotion: Promotion, runs: Sequence[Run], run_id: str = ""
) -> Decision:
    """Make the best run main where the gate lets it pass and the recipe promotes by itself; write down what was done.

    A run that the gate refuses is passed over for the next best one that is better than main; without a main, for the
    next best one.
    """
    with _turn(store):
        main = main_of(store, recipe)
        candidates = ranked(runs, promotion.metric)
        if not candidates:
            return Decision(main, None, False, f"no run has a score on {promotion.metric}")
        refused: list[str] = []
        for run in _challengers(store, recipe, candidates, promotion.metric, main):
            name = run.checkpoint or ""
            gate = _gate(store, recipe, promotion, run, main)
            if gate.faults:
                refused.append(f"{run.key}: {' and '.join(gate.faults)}")
                _note_refusal(store, recipe, run, gate, run_id)
                continue
            reason = "; ".join(
                [_reason(run, promotion, candidates, main, gate), *_few_items(store, run, promotion.metric)]
            )
            if not promotion.automatic:
                told = f"{reason}; promotion.automatic is off: rmw promote '{name}'"
                return Decision(main, name, False, told, gate.comparisons)
            _record(store, PROMOTION, recipe, run, promotion, candidates, main, reason, run_id, gate)
            return Decision(name, name, True, reason, gate.comparisons)
        if refused:
            return Decision(main, candidates[0].checkpoint, False, f"the gate lets none pass: {'; '.join(refused)}")
        return Decision(main, main, False, "main stays: no run that is new since it was chosen is better")


def _challengers(
    store: ArtifactStore, recipe: str, candidates: Sequence[Run], metric: str, main: str | None
) -> list[Run]:
    """Return the runs that may take main's place, best first.

    Where main is one of the runs, these have a higher score; where a person made it main, or rolled back to it, they
    were also scored since then: what a person chose is not overruled by what was known already.
    """
    of_main = next((run for run in candidates if run.checkpoint == main), None)
    better = [
        run
        for run in candidates
        if run.checkpoint != main
        and (of_main is None or run.headline(metric)["score"] > of_main.headline(metric)["score"])
    ]
    last = history(store, recipe)[-1:]
    if not last or last[0]["run_id"]:
        return better
    return [run for run in better if run.scores and _first_published(store, run.scores) > last[0]["sequence"]]


def _first_published(store: ArtifactStore, scores: Artifact) -> int:
    """Return the sequence number of the event that published a scores artifact."""
    events = store.events(asset=scores.asset, kinds=("publish", "reuse"))
    return next(int(event["sequence"]) for event in events if event["version"] == scores.version)


def promote(
    store: ArtifactStore, recipe: str, promotion: Promotion, run: Run, runs: Sequence[Run], allow_leaky: bool = False
) -> Decision:
    """Make one run main because a person says so; the gate's comparison is told and does not refuse.

    Raises:
        UserError: the run has no score on the metric, or is leaky and that is not allowed.
    """
    metric = promotion.metric
    headline = run.headline(metric)
    if headline.get("score") is None:
        raise UserError(f"run {run.key} of recipe '{recipe}' has no score on {metric}; run it to its scores first")
    leaky = _leaks(run, promotion)
    if leaky and not allow_leaky:
        raise UserError(
            f"run {run.key} of recipe '{recipe}' is leaky on {', '.join(leaky)}: its train pairs hold texts of the "
            "benchmark; take these out of its data, or promote it all the same with --allow-leaky"
        )
    with _turn(store):
        main = main_of(store, recipe)
        name = run.checkpoint or ""
        if name == main:
            last = history(store, recipe)[-1]
            return Decision(main, name, False, "it is main already", event=last)
        gate = _gate(store, recipe, promotion, run, main)
        reason = "; ".join(["by a person", *gate.faults, *_few_items(store, run, metric)])
        event = _record(store, PROMOTION, recipe, run, promotion, ranked(runs, metric), main, reason, "", gate)
        return Decision(name, name, True, reason, gate.comparisons, event)


def rollback(store: ArtifactStore, recipe: str) -> Decision:
    """Make the checkpoint main that was it before the present one, and write it down.

    Raises:
        UserError: the recipe has no main, or none before it, or that one is gone.
    """
    with _turn(store):
        stack = _mains(history(store, recipe))
        if not stack:
            raise UserError(f"recipe '{recipe}' has no main to roll back from; rmw promote makes one")
        if len(stack) < 2:
            raise UserError(
                f"recipe '{recipe}' had no main before {_shown(stack[-1])}; there is nothing to roll back to"
            )
        present, previous = stack[-1], stack[-2]
        if store.find(previous["asset"], previous["version"]) is None:
            raise UserError(
                f"the former main {_shown(previous)} is gone from RMW_HOME ({store.home}); promote another one"
            )
        kept = ("partition", "scores", "metric", "score", "ci_low", "ci_high", "contamination", "num_candidates")
        facts = {
            **{name: previous.get(name) for name in kept},
            **_of_event(recipe, previous["version"], ""),
            "previous": _id(present),
            "reason": f"rolled back from {_shown(present)}",
        }
        event = store.record(ROLLBACK, previous["asset"], facts)
        return Decision(_id(previous), _id(previous), True, str(facts["reason"]), event=event)


def _mains(changes: Sequence[Event]) -> list[Event]:
    """Return the mains that a rollback can step back through, the present one last."""
    stack: list[Event] = []
    for event in changes:
        if event["kind"] == PROMOTION:
            stack.append(event)
        elif len(stack) > 1:
            stack.pop()
    return stack


def _gate(store: ArtifactStore, recipe: str, promotion: Promotion, run: Run, main: str | None) -> Gate:
    gate = Gate()
    if _was_rolled_back(store, recipe, run.checkpoint):
        gate.faults.append("it was rolled back from before")
    of_main = scores_of(store, recipe, main) if main else None
    known_leaks = _leaks_of(of_main, promotion) if of_main else []
    for benchmark in _leaks(run, promotion):
        if benchmark not in known_leaks:
            gate.faults.append(f"its train pairs hold texts of {benchmark}{', those of main do not' if main else ''}")
    if main and of_main is None:
        gate.faults.append(f"main {main} has no stored scores to compare with")
    if main and of_main:
        for benchmark in promotion.gates:
            try:
                found = _compared(store, run, main, of_main, benchmark)
            except UserError as error:
                gate.faults.append(f"it cannot be compared with main on {benchmark} ({error})")
                continue
            gate.comparisons[benchmark] = found
            if found["ci_high"] < 0:
                gate.faults.append(
                    f"worse than main on {benchmark} by {-found['difference']:.3f} "
                    f"(95 % interval {found['ci_low']:.3f} to {found['ci_high']:.3f}, n {found['n']:,})"
                )
    return gate


def _was_rolled_back(store: ArtifactStore, recipe: str, checkpoint: str | None) -> bool:
    """Return whether the last that happened to a checkpoint as main was a rollback from it."""
    for event in reversed(history(store, recipe)):
        if event["kind"] == ROLLBACK and event["previous"] == checkpoint:
            return True
        if event["kind"] == PROMOTION and _id(event) == checkpoint:
            return False
    return False


def _compared(store: ArtifactStore, run: Run, main: str, of_main: Artifact, benchmark: str) -> dict[str, Any]:
    """Return the difference of a run to main on the items that both have and that leaked to neither."""
    assert run.scores is not None, "only runs with scores are compared"
    sides = [
        ScoredCheckpoint(name, {benchmark: scores})
        for name, scores in ((run.checkpoint or "", run.scores), (main, of_main))
    ]
    figures = compare_runs(store, sides[0], sides[1], benchmark)
    return {key: figures[key] for key in ("difference", "ci_low", "ci_high", "p_value", "n", "verdict")}


def scores_of(store: ArtifactStore, recipe: str, checkpoint: str) -> Artifact | None:
    """Return the newest scores of a checkpoint."""
    version = checkpoint.partition("@")[2]
    for event in store.events(asset=f"{recipe}_scores", kinds=("publish", "reuse"), newest_first=True):
        scores = store.find(f"{recipe}_scores", event["version"])
        if scores and any(used["version"] == version for used in scores.manifest["inputs"]):
            return scores
    return None


def _leaks(run: Run, promotion: Promotion) -> list[str]:
    return _leaks_of(run.scores, promotion) if run.scores else []


def _leaks_of(scores: Artifact, promotion: Promotion) -> list[str]:
    found = scores.facts["scores"]
    return [name for name in promotion.gates if found.get(name, {}).get("contamination") == LEAKY]


def _reason(run: Run, promotion: Promotion, candidates: Sequence[Run], main: str | None, gate: Gate) -> str:
    headline = run.headline(promotion.metric)
    chosen = (
        f"best of {len(candidates)} runs on {promotion.metric}" if len(candidates) > 1 else f"on {promotion.metric}"
    )
    told = f"{chosen}: {headline['score']:.3f} ({headline['ci_low']:.3f} to {headline['ci_high']:.3f})"
    if not main:
        return told
    compared = gate.comparisons[promotion.metric]
    difference = f"{compared['difference']:+.3f} ({compared['ci_low']:.3f} to {compared['ci_high']:.3f})"
    return f"{told}; {difference} to main; not worse than main on {', '.join(promotion.gates)}"


def _few_items(store: ArtifactStore, run: Run, metric: str) -> list[str]:
    """Return the sentence on a score of too few independent items for a rank; nothing where they are enough."""
    if run.scores is None:
        return []
    scored = ScoredCheckpoint(run.checkpoint or "", {metric: run.scores})
    try:
        number = num_independent(scored.rows(store, metric).without(scored.leaked(metric)))
    except UserError:
        # What was scored may be gone; the score itself still holds.
        return []
    if number >= FEWEST_ITEMS:
        return []
    return [
        f"a score of fewer than {FEWEST_ITEMS} independent items is high or low by chance, and {metric} has "
        f"{number} here"
    ]


def _record(
    store: ArtifactStore,
    kind: str,
    recipe: str,
    run: Run,
    promotion: Promotion,
    candidates: Sequence[Run],
    main: str | None,
    reason: str,
    run_id: str,
    gate: Gate,
) -> Event:
    asset, _, version = (run.checkpoint or "").partition("@")
    headline = run.headline(promotion.metric)
    facts = {
        **_of_event(recipe, version, run_id),
        "partition": run.scores.manifest["partition"] if run.scores else None,
        # Garbage collection keeps them: later candidates are compared with them.
        "scores": run.scores.id if run.scores else None,
        "metric": promotion.metric,
        **{name: headline.get(name) for name in ("score", "ci_low", "ci_high", "contamination")},
        # Chosen among several by a score, that very score is too high for it; whoever reports it must know.
        "num_candidates": len(candidates),
        "previous": main,
        "reason": reason,
        "comparisons": gate.comparisons,
    }
    return store.record(kind, asset, facts)


def _note_refusal(store: ArtifactStore, recipe: str, run: Run, gate: Gate, run_id: str) -> None:
    """Write down why a candidate stays one, once for each reason."""
    asset, _, version = (run.checkpoint or "").partition("@")
    reason = "; ".join(gate.faults)
    known = store.events(asset=asset, kinds=(REFUSAL,), newest_first=True)
    if any((event["version"], event["reason"]) == (version, reason) for event in known):
        return
    partition = run.scores.manifest["partition"] if run.scores else None
    facts = {**_of_event(recipe, version, run_id), "partition": partition, "reason": reason}
    store.record(REFUSAL, asset, {**facts, "comparisons": gate.comparisons})


def _of_event(recipe: str, version: str, run_id: str) -> dict[str, Any]:
    return {"recipe": recipe, "version": version, "requested": "", "overridden": False, "run_id": run_id}


def _id(event: Event) -> str:
    return f"{event['asset']}@{event['version']}"


def _shown(event: Event) -> str:
    """Return the checkpoint of an event as people name it: with its run, the version cut to its first digits."""
    run = event.get("partition")
    return f"{event['asset']}{f'[{run}]' if run else ''}@{event['version'][:SHOWN_DIGITS]}"


def _turn(store: ArtifactStore) -> Any:
    """Keep two promotions apart: each sees the main that the other has left."""
    return locked(store.home / ".promotion.lock")
