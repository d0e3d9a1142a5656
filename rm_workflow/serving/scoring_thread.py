"""The one thread that owns the model: waiting requests are scored together, as many as fit into one forward pass.

Everything that a file of rows goes through stands here too (``Scorer.prepare``, ``Scorer.score_reads``), so a score
over HTTP is the score of ``rmw score``. Texts become tokens in the same thread, because rendering a template limits
the memory of the whole process while it lasts.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from rm_workflow.errors import UserError
from rm_workflow.evaluation.row_verbs import Asked, is_score, problems_told
from rm_workflow.evaluation.scorer import Floats, Prepared, Scorer
from rm_workflow.evaluation.steps import AGGREGATOR, aggregate
from rm_workflow.models.segments import Ids, num_common

logger = logging.getLogger(__name__)

NOT_FINITE = "the score is no finite number; look at the weights, or serve with --precision fp32"


class RowRefusedError(Exception):
    """Conversations cannot be scored.

    Attributes:
        problems: 0-based position among those of their request -> what is wrong, and the mend; at least one.
    """

    def __init__(self, problems: Mapping[int, str]) -> None:
        super().__init__(problems_told(problems))
        self.problems = problems


class QueueFullError(Exception):
    """More conversations wait than may."""


@dataclass(frozen=True)
class Scored:
    """The answer to a request.

    Attributes:
        scores: one for each conversation.
        step_scores: of a model that scores steps, one for each step.
        num_truncated: prompts that lost tokens on the left.
        num_tokens: of all conversations.
    """

    scores: list[float]
    step_scores: list[list[float]] | None
    num_truncated: int
    num_tokens: int


@dataclass(eq=False)
class Job:
    """One request on its way.

    Attributes:
        asked: conversations to be rendered and scored.
        rendered: or texts that are rendered already, (prompt, whole).
        answer: set when all is scored, or to why it cannot be; cancelled where nobody waits any more.
    """

    asked: Sequence[Asked] = ()
    rendered: Sequence[tuple[str, str]] = ()
    answer: "Future[Scored]" = field(default_factory=Future)
    prepared: list[Prepared] = field(default_factory=list)
    ids: list[Ids] = field(default_factory=list)
    found: list[Floats] = field(default_factory=list)
    num_taken: int = 0

    @property
    def size(self) -> int:
        """Return the number of conversations."""
        return len(self.asked) + len(self.rendered)


class ScoringThread:
    """Scores jobs in the order in which they come.

    Args:
        max_waiting: conversations that may wait; a job beyond them is refused.
        on_batch: called with the number of conversations and tokens of each forward pass.
        aggregator: what makes one score of those of the steps.
    """

    def __init__(
        self,
        scorer: Scorer,
        max_waiting: int,
        on_batch: Callable[[int, int], None] = lambda *_: None,
        aggregator: str = AGGREGATOR,
    ) -> None:
        self.scorer, self._aggregator = scorer, aggregator
        self._max_waiting, self._on_batch = max_waiting, on_batch
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, name="scorer", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Return the conversations that are not scored yet."""
        with self._changed:
            return sum(job.size - len(job.found) for job in self._jobs)

    @property
    def is_alive(self) -> bool:
        """Tell whether jobs are scored."""
        return self._thread.is_alive()

    def submit(self, job: Job) -> None:
        """Put a job behind those that wait; a job that is larger than the queue waits alone.

        Raises:
            QueueFullError: too many conversations wait already.
        """
        with self._changed:
            waiting = sum(one.size - len(one.found) for one in self._jobs)
            if self._jobs and waiting + job.size > self._max_waiting:
                raise QueueFullError
            self._jobs.append(job)
            self._changed.notify()

    def close(self) -> None:
        """Score what waits, then end the thread."""
        with self._changed:
            self._is_ending = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while (jobs := self._waiting()) is not None:
            self._each_alone_if_together_fails([job for job in jobs if not job.prepared], self._prepare)
            batch = self._next_batch([job for job in jobs if not job.answer.done()])
            taken = list(dict.fromkeys(job for job, _ in batch))
            self._each_alone_if_together_fails(taken, partial(self._score_of, batch))

    def _score_of(self, batch: Sequence[tuple[Job, int]], jobs: Sequence[Job]) -> None:
        self._score([one for one in batch if one[0] in jobs])

    def _each_alone_if_together_fails(self, jobs: Sequence[Job], work: Callable[[Sequence[Job]], None]) -> None:
        """Do what is done for several jobs at once; one that fails must end neither the thread nor its neighbours."""
        if not jobs:
            return
        try:
            work(jobs)
        except Exception as error:
            if len(jobs) == 1:
                logger.exception("a request failed")
                _fail(jobs[0], error)
                return
            logger.warning("scoring %d requests together failed (%s); each is scored alone", len(jobs), error)
            for job in jobs:
                self._each_alone_if_together_fails([job], work)

    def _waiting(self) -> list[Job] | None:
        """Return the jobs that are not finished, waiting for one; None at the end."""
        with self._changed:
            while True:
                self._jobs = deque(job for job in self._jobs if not job.answer.done())
                if self._jobs:
                    return list(self._jobs)
                if self._is_ending:
                    return None
                self._changed.wait()

    def _prepare(self, jobs: Sequence[Job]) -> None:
        """Turn texts into tokens, those of all new jobs at once."""
        asked = [one for job in jobs for one in job.asked]
        prepared = iter(self.scorer.prepare([talk for talk, _ in asked], [ends for _, ends in asked]) if asked else ())
        for job in jobs:
            try:
                of_texts = self.scorer.prepare_rendered(*zip(*job.rendered, strict=True)) if job.rendered else []
            except UserError as error:
                _fail(job, RowRefusedError(dict.fromkeys(range(job.size), str(error))))
                of_texts = []
            job.prepared = [*(next(prepared) for _ in job.asked), *of_texts]
            refused = {index: row.problem for index, row in enumerate(job.prepared) if row.problem}
            if refused:
                _fail(job, RowRefusedError(refused))
            job.ids = [np.asarray(row.input_ids, dtype=np.int32) for row in job.prepared]

    def _next_batch(self, jobs: Sequence[Job]) -> list[tuple[Job, int]]:
        """Return (job, index) of the next conversations that one pass takes; what neighbours share counts once."""
        batch: list[tuple[Job, int]] = []
        num_tokens = 0
        before: Ids | None = None
        for job in jobs:
            while job.num_taken < job.size:
                ids = job.ids[job.num_taken]
                more = len(ids) - (num_common(before, ids) if before is not None else 0)
                if batch and num_tokens + more > self.scorer.batch_tokens:
                    return batch
                batch.append((job, job.num_taken))
                job.num_taken += 1
                num_tokens += more
                before = ids
        return batch

    def _score(self, batch: Sequence[tuple[Job, int]]) -> None:
        rows = [job.prepared[index] for job, index in batch]
        found = self.scorer.score_reads([row.input_ids for row in rows], [row.reads for row in rows])
        self._on_batch(len(rows), sum(len(row.input_ids) for row in rows))
        with self._changed:
            for (job, _), scores in zip(batch, found, strict=True):
                job.found.append(scores)
        for job in dict.fromkeys(job for job, _ in batch):
            if len(job.found) == job.size:
                self._each_alone_if_together_fails([job], lambda one: self._finish(one[0]))

    def _finish(self, job: Job) -> None:
        scores = [aggregate(one, self._aggregator) for one in job.found]
        wrong = next((index for index, score in enumerate(scores) if not is_score(score)), None)
        if wrong is not None:
            _fail(job, UserError(NOT_FINITE))
            return
        steps = [one.tolist() for one in job.found] if self.scorer.readout.is_stepwise else None
        num_truncated = sum(row.truncated for row in job.prepared)
        scored = Scored(scores, steps, num_truncated, sum(map(len, job.ids)))
        if job.answer.set_running_or_notify_cancel():
            job.answer.set_result(scored)


def _fail(job: Job, error: Exception) -> None:
    if not job.answer.done() and job.answer.set_running_or_notify_cancel():
        job.answer.set_exception(error)
