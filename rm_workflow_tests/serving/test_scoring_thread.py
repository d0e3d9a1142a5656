"""The thread that scores, without a server: who is answered when a batch fails, and what is made of steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from rm_workflow.evaluation.scorer import Scorer
from rm_workflow.serving.app import Served, make_app
from rm_workflow.serving.scoring_thread import Job, ScoringThread
from rm_workflow_tests.evaluation.checkpoints import write_solution_model

USER = [{"role": "user", "content": "Name a river."}]


def job(reply: str) -> Job:
    return Job([((USER, reply), None)])


class Failing:
    """A scorer that fails, as with too little memory, on whatever holds one reply."""

    def __init__(self, scorer: Scorer, step: str) -> None:
        self._scorer, self._step = scorer, step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scorer, name)

    def prepare(self, talks: Sequence[Any], ends: Sequence[Any]) -> Any:
        if self._step == "prepare" and any(reply == "No." for _, reply in talks):
            raise RuntimeError("no memory")
        return self._scorer.prepare(talks, ends)

    def score_reads(self, ids: list[list[int]], reads: Any) -> Any:
        bad = self._scorer.prepare([(USER, "No.")])[0].input_ids
        if self._step == "score" and bad in ids:
            raise RuntimeError("no memory")
        return self._scorer.score_reads(ids, reads)


@pytest.mark.parametrize("step", ["prepare", "score"])
def test_an_unexpected_error_fails_the_request_that_caused_it_alone(checkpoint: Path, step: str):
    scorer = Scorer.load(checkpoint)
    thread = ScoringThread(Failing(scorer, step), 100)
    try:
        with thread._changed:  # all are there before the first is taken
            jobs = [job(reply) for reply in ("The Danube.", "No.", "The Rhine.")]
            for one in jobs:
                thread._jobs.append(one)
            thread._changed.notify()
        with pytest.raises(RuntimeError, match="no memory"):
            jobs[1].answer.result(60)
        # The scorer serves one thread at a time.
        answers = {"The Danube.": jobs[0].answer.result(60), "The Rhine.": jobs[2].answer.result(60)}
        for reply, scored in answers.items():
            expected = scorer.score_texts([(USER, reply)])[0]
            assert scored.scores == pytest.approx(list(expected), abs=1e-5)
        later = job("The Danube.")
        thread.submit(later)
        assert later.answer.result(60).scores == jobs[0].answer.result().scores
        assert thread.is_alive
    finally:
        thread.close()


def test_scores_of_steps_stand_in_score_and_rank_and_the_aggregator_is_as_asked(tmp_path: Path):
    folder = write_solution_model(tmp_path / "prm", "token_prm")
    solutions = ["Step 1: 2 + 3 = 5.\nStep 2: 5 - 1 = 4.", "Step 1: 2 + 3 = 6.\nStep 2: 6 - 1 = 5.\nNo."]
    for aggregator, made in (("mean", lambda steps: sum(steps) / len(steps)), ("min", min), ("last", lambda s: s[-1])):
        served = Served(Scorer.load(folder), "prm", folder, aggregator)
        with TestClient(make_app(served)) as client:
            ranked = client.post("/rank", json={"prompt": "What is 2 + 3 - 1?", "responses": solutions}).json()
            rows = [{"prompt": "What is 2 + 3 - 1?", "response": one} for one in solutions]
            scored = client.post("/score", json=rows).json()
        assert [len(steps) for steps in ranked["step_scores"]] == [2, 3]
        assert ranked["scores"] == pytest.approx([made(steps) for steps in ranked["step_scores"]], abs=1e-6)
        assert scored["scores"] == pytest.approx(ranked["scores"], abs=1e-6)
        assert ranked["best"] == ranked["scores"].index(max(ranked["scores"]))
