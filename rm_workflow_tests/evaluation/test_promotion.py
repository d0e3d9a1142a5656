"""Which checkpoint is main, and why, on checkpoints and scores written by hand."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

import pytest

from rm_workflow.artifacts import Artifact, ArtifactStore
from rm_workflow.catalog.models import Promotion
from rm_workflow.errors import UserError
from rm_workflow.evaluation import promotion
from rm_workflow.evaluation.checkpoint_scores import scored_checkpoints
from rm_workflow.evaluation.promotion import Decision
from rm_workflow.evaluation.run_table import Run
from rm_workflow.evaluation.standings import standings
from rm_workflow.garbage import find_garbage, remove_garbage
from rm_workflow.reporting.words import standing_note
from rm_workflow_tests.evaluation.stored_scores import publish_scores

PROMOTION = Promotion()
NUM_PAIRS = 200


def margins(num_right: int, size: float = 1.0) -> list[float]:
    """Return margins of test pairs of which the first ones are right; another size is another checkpoint."""
    return [size if number < num_right else -size for number in range(NUM_PAIRS)]


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "home")


def run_with(
    store: ArtifactStore, num_right: int, size: float = 1.0, leaked: Sequence[str] = (), prefix: str = "p"
) -> Run:
    of_test = {"test": list(leaked)} if leaked else None
    return Run("toy", {}, publish_scores(store, "toy", margins(num_right, size), leaked=of_test, prefix=prefix))


def considered(store: ArtifactStore, *runs: Run, asked: Promotion = PROMOTION) -> Decision:
    return promotion.consider(store, "toy", asked, runs, "run-1")


def refusals(store: ArtifactStore) -> list[tuple[str, str]]:
    """Return ``asset@version`` and reason of each refusal, oldest first."""
    return [(f"{one['asset']}@{one['version']}", one["reason"]) for one in store.events(kinds=(promotion.REFUSAL,))]


def test_the_first_checkpoint_is_main_and_a_better_one_takes_its_place(store: ArtifactStore):
    first = run_with(store, 120)
    decision = considered(store, first)
    assert (decision.is_promoted, decision.main) == (True, first.checkpoint)
    assert promotion.main_of(store, "toy") == first.checkpoint

    better = run_with(store, 160)
    decision = considered(store, better)
    assert (decision.is_promoted, promotion.main_of(store, "toy")) == (True, better.checkpoint)
    assert decision.comparisons["test"]["difference"] == pytest.approx(0.2)
    *_, event = promotion.history(store, "toy")
    assert (event["previous"], event["score"], event["run_id"]) == (first.checkpoint, 0.8, "run-1")
    assert "on test: 0.800" in event["reason"]
    assert not considered(store, better).is_promoted
    assert len(promotion.history(store, "toy")) == 2


def test_a_score_of_few_items_makes_a_main_and_the_reason_says_how_few(store: ArtifactStore):
    told = "a score of fewer than 30 independent items is high or low by chance, and test has 10 here"
    first, second = (Run("toy", {}, publish_scores(store, "toy", [size] * 20)) for size in (1.0, 2.0))
    decision = considered(store, first)
    assert (decision.is_promoted, decision.reason.endswith(f"; {told}")) == (True, True)
    assert promotion.history(store, "toy")[-1]["reason"] == decision.reason
    assert promotion.promote(store, "toy", PROMOTION, second, [second]).reason == f"by a person; {told}"
    assert "by chance" not in promotion.promote(store, "toy", PROMOTION, run_with(store, 160), []).reason


def test_a_rollback_calls_a_checkpoint_with_its_run(store: ArtifactStore):
    runs = [
        Run(key, {}, publish_scores(store, "toy", margins(120, size), partition=key))
        for key, size in (("s0", 1.0), ("s1", 2.0))
    ]
    names = [f"toy_checkpoint[{run.key}]@{str(run.checkpoint).partition('@')[2][:12]}" for run in runs]
    promotion.promote(store, "toy", PROMOTION, runs[0], runs)
    with pytest.raises(UserError) as caught:
        promotion.rollback(store, "toy")
    assert f"had no main before {names[0]};" in str(caught.value)
    promotion.promote(store, "toy", PROMOTION, runs[1], runs)
    decision = promotion.rollback(store, "toy")
    assert (decision.reason, decision.main) == (f"rolled back from {names[1]}", runs[0].checkpoint)


def test_a_surely_worse_one_is_refused_once_with_its_reason(store: ArtifactStore):
    main, worse = run_with(store, 160), run_with(store, 120)
    considered(store, main)
    for _ in range(2):
        decision = considered(store, worse)
        assert (decision.is_promoted, decision.main, decision.candidate) == (False, main.checkpoint, worse.checkpoint)
    ((refused, reason),) = refusals(store)
    assert refused == worse.checkpoint
    assert reason.startswith("worse than main on test by 0.200 (95 % interval -0.2")
    assert f"stays a candidate because of the gate: {reason}" in promotion.outcome(store, "toy", long_ago())


def test_one_that_is_not_surely_worse_is_promoted(store: ArtifactStore):
    considered(store, run_with(store, 121))
    again = run_with(store, 120, size=2.0)
    decision = considered(store, again)
    assert (decision.is_promoted, decision.main) == (True, again.checkpoint)
    assert decision.comparisons["test"]["difference"] < 0 < decision.comparisons["test"]["ci_high"]


def test_only_the_items_that_both_have_and_that_leaked_to_neither_are_compared(store: ArtifactStore):
    main = run_with(store, 160, leaked=["p0", "p1"])
    promotion.promote(store, "toy", PROMOTION, main, [main], allow_leaky=True)
    decision = considered(store, run_with(store, 160, size=2.0, leaked=["p1", "p2"]))
    assert decision.comparisons["test"]["n"] == NUM_PAIRS - 3


def test_one_without_a_common_item_is_refused(store: ArtifactStore):
    considered(store, run_with(store, 120))
    decision = considered(store, run_with(store, 160, prefix="other"))
    assert not decision.is_promoted
    assert "cannot be compared with main on test" in refusals(store)[0][1]


def test_what_leaks_to_the_candidate_and_not_to_main_is_refused(store: ArtifactStore):
    considered(store, run_with(store, 120))
    leaky = run_with(store, 190, leaked=["p0"])
    assert not considered(store, leaky).is_promoted
    assert refusals(store) == [(leaky.checkpoint, "its train pairs hold texts of test, those of main do not")]


def test_what_leaks_to_main_already_is_no_new_leak(store: ArtifactStore):
    first = run_with(store, 120, leaked=["p0"])
    assert not considered(store, first).is_promoted
    promotion.promote(store, "toy", PROMOTION, first, [first], allow_leaky=True)
    assert considered(store, run_with(store, 160, leaked=["p0"])).is_promoted


def test_a_person_promotes_a_leaky_one_only_by_saying_so(store: ArtifactStore):
    considered(store, run_with(store, 120))
    leaky = run_with(store, 190, leaked=["p0"])
    with pytest.raises(UserError, match=r"is leaky on test.*--allow-leaky"):
        promotion.promote(store, "toy", PROMOTION, leaky, [leaky])
    assert promotion.main_of(store, "toy") != leaky.checkpoint
    decision = promotion.promote(store, "toy", PROMOTION, leaky, [leaky], allow_leaky=True)
    assert decision.reason == "by a person; its train pairs hold texts of test, those of main do not"
    assert promotion.main_of(store, "toy") == leaky.checkpoint


def test_what_a_person_rolled_back_from_is_not_promoted_again_by_itself(store: ArtifactStore):
    first, second = run_with(store, 120), run_with(store, 160)
    considered(store, first)
    considered(store, second)
    assert promotion.rollback(store, "toy").main == first.checkpoint
    assert considered(store, second).reason == "main stays: no run that is new since it was chosen is better"
    third = run_with(store, 125)
    assert considered(store, third).is_promoted
    assert not considered(store, second).is_promoted
    assert refusals(store) == [(second.checkpoint, "it was rolled back from before")]
    promotion.promote(store, "toy", PROMOTION, second, [second])
    assert promotion.main_of(store, "toy") == second.checkpoint
    promotion.promote(store, "toy", PROMOTION, third, [third])
    assert "rolled back" not in promotion.promote(store, "toy", PROMOTION, second, [second]).reason


def test_what_a_person_chose_is_overruled_only_by_what_is_new_and_better(store: ArtifactStore):
    low, high = run_with(store, 120), run_with(store, 160)
    considered(store, low, high)
    promotion.promote(store, "toy", PROMOTION, low, [low, high])
    decision = considered(store, low, high)
    assert (decision.is_promoted, decision.main) == (False, low.checkpoint)
    assert considered(store, low, high, run_with(store, 190)).is_promoted


def test_an_equal_score_does_not_take_the_place_of_main(store: ArtifactStore):
    main, equal = run_with(store, 150), run_with(store, 150, size=2.0)
    considered(store, main)
    for runs in ((main, equal), (equal, main)):
        assert considered(store, *runs).main == main.checkpoint


def test_a_reader_of_the_score_that_main_was_chosen_by_is_told_among_how_many_runs(store: ArtifactStore):
    runs = [run_with(store, number) for number in (120, 140, 130)]
    considered(store, *runs)
    rows = {row["checkpoint"]: row for row in standings(store, "test", scored_checkpoints(store))}
    assert [rows[run.checkpoint or ""]["selected_among"] for run in runs] == [None, 3, None]
    assert standing_note(rows[runs[1].checkpoint or ""]) == "chosen among 3 runs by this score"
    assert promotion.selected_by(store, runs[1].checkpoint or "") == {"test": 3}


def test_a_main_that_was_kept_beside_later_runs_was_chosen_among_these_too(store: ArtifactStore):
    main = Run("s0", {}, publish_scores(store, "toy", margins(160), partition="s0"))
    considered(store, main)
    assert promotion.selected_by(store, main.checkpoint or "") == {}
    later = Run("s1", {}, publish_scores(store, "toy", margins(120), partition="s1"))
    considered(store, main, later)
    assert promotion.selected_by(store, main.checkpoint or "") == {"test": 2}


def test_rollbacks_step_back_to_the_first_main_and_no_further(store: ArtifactStore):
    runs = [run_with(store, number) for number in (100, 130, 160)]
    for run in runs:
        considered(store, run)
    for run in (runs[1], runs[0]):
        assert promotion.rollback(store, "toy").main == run.checkpoint
    with pytest.raises(UserError, match="there is nothing to roll back to"):
        promotion.rollback(store, "toy")
    *_, last = promotion.history(store, "toy")
    assert (last["kind"], last["previous"], last["score"]) == ("rollback", runs[1].checkpoint, 0.5)
    with pytest.raises(UserError, match="has no main to roll back from"):
        promotion.rollback(store, "other")


def test_where_it_is_not_automatic_a_person_is_told_and_nothing_changes(store: ArtifactStore):
    run = run_with(store, 120)
    decision = considered(store, run, asked=Promotion(automatic=False))
    assert (decision.main, decision.candidate, decision.is_promoted) == (None, run.checkpoint, False)
    assert f"rmw promote '{run.checkpoint}'" in decision.reason
    assert promotion.history(store, "toy") == []


def test_the_outcome_of_a_retraining_leaves_out_what_was_before_it_and_what_persons_did(store: ArtifactStore):
    first, second = run_with(store, 120), run_with(store, 160)
    considered(store, first)
    assert promotion.outcome(store, "toy", long_ago()).startswith(f"toy: {first.checkpoint} is main now (on test: 0.6")
    promotion.promote(store, "toy", PROMOTION, second, [second])
    later = datetime.now(UTC) + timedelta(seconds=1)
    assert promotion.outcome(store, "toy", later) == f"toy: main stays {second.checkpoint}"
    assert promotion.outcome(store, "toy", long_ago()).startswith(f"toy: {first.checkpoint} is main now")


def long_ago() -> datetime:
    return datetime.now(UTC) - timedelta(hours=1)


def promote_in_a_process(home: Path, scores: tuple[str, str]) -> None:
    store = ArtifactStore(home)
    run = Run("toy", {}, found(store, scores))
    promotion.promote(store, "toy", PROMOTION, run, [run])


def found(store: ArtifactStore, scores: tuple[str, str]) -> Artifact:
    artifact = store.find(*scores)
    assert artifact is not None
    return artifact


def test_promotions_at_once_follow_each_other(store: ArtifactStore):
    runs = [run_with(store, 120 + number) for number in range(4)]
    named = [(run.scores.asset, run.scores.version) for run in runs if run.scores]
    with ProcessPoolExecutor(len(named), mp_context=get_context("fork")) as processes:
        list(processes.map(promote_in_a_process, [store.home] * len(named), named))
    changes = promotion.history(store, "toy")
    mains = [f"{event['asset']}@{event['version']}" for event in changes]
    assert sorted(mains) == sorted(str(run.checkpoint) for run in runs)
    assert [event["previous"] for event in changes] == [None, *mains[:-1]]


def test_garbage_collection_keeps_every_main_with_its_scores_and_no_refused_candidate(store: ArtifactStore):
    # Whoever refers to an artifact holds it, so only names are kept here.
    first, second, refused, newest = (str(considered(store, run_with(store, n)).candidate) for n in (120, 160, 100, 90))
    remove_garbage(store, lambda: find_garbage(store, keep=1))
    left = {f"toy_checkpoint@{folder.name}" for folder in (store.artifacts / "toy_checkpoint").iterdir()}
    assert left == {first, second, newest}
    assert considered(store, run_with(store, 170)).comparisons["test"]["difference"] == pytest.approx(0.05)
    assert [promotion.rollback(store, "toy").main for _ in range(2)] == [second, first]
    assert refused not in left
