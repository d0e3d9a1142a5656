"""Rewards for a file of rows, row by row, safe to kill and start again; what is read and added: ``row_verbs.py``.

The output is in input order and grows a chunk at a time, so that what stands there is always the first lines of the
answer: a killed run goes on where it stopped. Lines that are blank are passed over.
"""

import json
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np

from rm_workflow.errors import UserError
from rm_workflow.evaluation.items import FieldError
from rm_workflow.evaluation.progress import Progress
from rm_workflow.evaluation.row_files import RawRow, read_json_lines, to_line
from rm_workflow.evaluation.row_verbs import ERROR, SCORE, STEP_SCORES, Asked, Verb, is_score
from rm_workflow.evaluation.scorer import Floats, Prepared, Scorer
from rm_workflow.evaluation.steps import AGGREGATOR, aggregate

CONVERSATIONS_AT_ONCE = 256  # a killed run loses at most this much work, or one row
# Stored scores of another precision or device differ by rounding; those of another checkpoint by far more.
SAME_SCORE = 0.05
PROBED_LINES = 4


@dataclass(frozen=True)
class Line:
    """One row of the input.

    Attributes:
        place: what a person calls it: ``line 3``, ``row 2``.
        kept: what stands in the output beside the answer.
        asked: the conversations that are scored, none of a bad row.
        problem: why the row is bad, or None.
        replaces: whether it had a score or an error of its own.
    """

    place: str
    kept: dict[str, Any]
    asked: list[Asked] = field(default_factory=list)
    problem: str | None = None
    replaces: bool = False


@dataclass
class Tally:
    """What happened to the rows.

    Attributes:
        dropped: rows that were scored and left out.
        responses, tokens, seconds: what was scored, and in which time.
    """

    continued: int = 0
    scored: int = 0
    bad: int = 0
    dropped: int = 0
    truncated: int = 0
    replaced: int = 0
    responses: int = 0
    tokens: int = 0
    seconds: float = 0.0

    @property
    def done(self) -> int:
        """Return the number of rows that are answered."""
        return self.continued + self.scored + self.bad

    @property
    def speed(self) -> str:
        """Return what was scored in a second."""
        if not self.responses or not self.seconds:
            return "nothing was left to score"
        return f"{self.responses / self.seconds:,.1f} responses/s, {self.tokens / self.seconds:,.0f} tokens/s"


@dataclass(frozen=True)
class Continued:
    """What stands in an output already.

    Attributes:
        scored: the last rows that have scores, with them.
        num_passed: rows of the input up to the last of the output, those that were left out too.
        left_out: the last rows between them that the verb did not keep.
    """

    scored: list[tuple[Line, list[float]]]
    num_passed: int
    left_out: list[Line]


def read_lines(file: Iterable[bytes], verb: Verb = SCORE) -> Iterator[Line]:
    """Yield the lines of a JSONL stream, bad ones with their problem."""
    return as_lines(read_json_lines(file), verb)


def as_lines(rows: Iterable[RawRow], verb: Verb) -> Iterator[Line]:
    """Yield rows with what the verb reads from them, bad ones with their problem."""
    for raw in rows:
        kept = verb.kept_of(raw.row)
        replaces = len(kept) < len(raw.row)
        if raw.problem:
            yield Line(raw.place, kept, problem=raw.problem, replaces=replaces)
            continue
        try:
            yield Line(raw.place, kept, verb.read(raw.row), None, replaces)
        except FieldError as error:
            yield Line(raw.place, kept, problem=str(error), replaces=replaces)


def resume(path: Path, lines: Iterator[Line], name: str, verb: Verb = SCORE) -> tuple[Continued, Iterator[Line]]:
    """Pass over the lines that stand in ``path`` already and cut a last one that was never finished.

    Returns:
        what stands there, and the lines that are left.

    Raises:
        UserError: the file holds anything else than the first lines of the input with their answers.
    """
    scored: deque[tuple[Line, list[float]]] = deque(maxlen=PROBED_LINES)
    left_out: deque[Line] = deque(maxlen=PROBED_LINES)
    num_passed = end = 0
    with path.open("rb+") as file:
        for number, raw in enumerate(file, start=1):
            between: list[Line] = []
            line = next(lines, None)
            while verb.drops and line is not None and not _answers(raw, line, verb):
                between.append(line)
                line = next(lines, None)
            if line is None or not _answers(raw, line, verb):
                where = "any row that is left" if line is None or verb.drops else line.place
                raise UserError(
                    f"{path}: line {number} is not the scored form of {where} of {name}, so it was not begun by "
                    "this command; remove it or name another output"
                )
            if not raw.endswith(b"\n"):
                file.truncate(end)
                return Continued(list(scored), num_passed, list(left_out)), chain([*between, line], lines)
            end += len(raw)
            num_passed += len(between) + 1
            left_out += [passed for passed in between if not passed.problem]
            stored = verb.stored_scores(json.loads(raw))
            scored += [(line, stored)] if stored else []
    return Continued(list(scored), num_passed, list(left_out)), lines


def _answers(raw: bytes, line: Line, verb: Verb) -> bool:
    if not raw.endswith(b"\n"):  # killed while writing
        begun = to_line(line.kept)[:-2]
        return raw.startswith(begun) or begun.startswith(raw)
    try:
        row = json.loads(raw)
        if not isinstance(row, dict) or _without_nulls(verb.kept_of(row)) != _without_nulls(line.kept):
            return False
        stored = verb.stored_scores(row)
    except (ValueError, RecursionError, FieldError, TypeError):
        return False
    # A row that no template took is bad although its fields are right.
    return stored is None or len(stored) == len(line.asked)


def _without_nulls(found: Any) -> Any:
    """Return a value without what is null in objects: Parquet writes that where a row has no such field."""
    if isinstance(found, dict):
        return {name: _without_nulls(inner) for name, inner in found.items() if inner is not None}
    return [_without_nulls(inner) for inner in found] if isinstance(found, list) else found


def differs_from(scorer: Scorer, continued: Continued, aggregator: str = AGGREGATOR) -> float | None:
    """Return by how much stored scores differ from this checkpoint's, or None where that is rounding."""
    gaps = []
    alone = _scored_alone(scorer, [line for line, _ in continued.scored], aggregator)
    for (_, stored), now in zip(continued.scored, alone, strict=True):
        gaps += [(abs(new - old), abs(old)) for new, old in zip(now or stored, stored, strict=True)]
    return max((gap for gap, size in gaps if gap > SAME_SCORE * (1 + size)), default=None)


def kept_among_left_out(scorer: Scorer, continued: Continued, verb: Verb, aggregator: str = AGGREGATOR) -> Line | None:
    """Return a row that an output leaves out and this verb would keep: the output was begun with another bound."""
    found = _scored_alone(scorer, continued.left_out, aggregator)
    near = [(line, verb.answer(scores)) for line, scores in zip(continued.left_out, found, strict=True) if scores]
    return next((line for line, answer in near if verb.keeps(answer)), None)


def _scored_alone(scorer: Scorer, lines: list[Line], aggregator: str) -> list[list[float] | None]:
    """Return the scores of a few rows, None of one that cannot be scored."""
    judged = _judge(scorer, lines)
    good = [row for rows in judged for row in rows if not _problem(rows)]
    found = iter(scorer.score_reads([row.input_ids for row in good], [row.reads for row in good]))
    return [None if _problem(rows) else [aggregate(next(found), aggregator) for _ in rows] for rows in judged]


def score_lines(
    scorer: Scorer,
    lines: Iterator[Line],
    out: IO[bytes],
    name: str,
    skip_bad: bool,
    tally: Tally,
    progress: Progress | None = None,
    total: int = 0,
    aggregator: str = AGGREGATOR,
    verb: Verb = SCORE,
) -> None:
    """Score the lines that are left and write each with its answer.

    Args:
        name: of the input, for errors.
        skip_bad: write a bad row with nulls and the problem; else stop there, with all before it written.
        tally: counts what was done.
        total: lines in all, for the progress.
        aggregator: makes one score of those of the steps.

    Raises:
        UserError: a row is bad and ``skip_bad`` is off, or its score is no finite number; names the first.
    """
    started = time.monotonic()
    for chunk in _chunks(lines):
        judged = _judge(scorer, chunk)
        problem = None
        if not skip_bad:
            good = next((index for index, rows in enumerate(judged) if _problem(rows)), len(judged))
            problem = f"{name}: {chunk[good].place}: {_problem(judged[good])}" if good < len(judged) else None
            chunk, judged = chunk[:good], judged[:good]
        found = _score_chunk(scorer, judged, tally, progress, total)
        _write_chunk(scorer, list(zip(chunk, judged, strict=True)), found, out, name, tally, aggregator, verb)
        tally.seconds = time.monotonic() - started
        if progress:
            progress(tally.done, total)
        if problem:
            raise UserError(f"{problem}; or pass over bad rows with --skip-bad")


def _chunks(lines: Iterator[Line]) -> Iterator[list[Line]]:
    chunk: list[Line] = []
    num_asked = 0
    for line in lines:
        chunk.append(line)
        num_asked += max(1, len(line.asked))
        if num_asked >= CONVERSATIONS_AT_ONCE:
            yield chunk
            chunk, num_asked = [], 0
    if chunk:
        yield chunk


def _judge(scorer: Scorer, chunk: list[Line]) -> list[list[Prepared]]:
    """Return the conversations of each line as token ids; of a bad line one entry with its problem."""
    asked = [one for line in chunk for one in line.asked]
    prepared = iter(scorer.prepare([conversation for conversation, _ in asked], [ends for _, ends in asked]))
    return [[next(prepared) for _ in line.asked] or [Prepared([], problem=line.problem)] for line in chunk]


def _problem(rows: list[Prepared]) -> str | None:
    return next((row.problem for row in rows if row.problem), None)


def _score_chunk(
    scorer: Scorer, judged: list[list[Prepared]], tally: Tally, progress: Progress | None, total: int
) -> Iterator[Floats]:
    """Return the scores of all conversations of good lines, in their order."""
    before = tally.done
    good = [row for rows in judged if not _problem(rows) for row in rows]
    share = len(judged) / max(1, len(good))
    found = scorer.score_reads(
        [row.input_ids for row in good],
        [row.reads for row in good],
        (lambda done, _: progress(before + int(done * share), total)) if progress else None,
    )
    tally.responses += len(good)
    tally.tokens += sum(len(row.input_ids) for row in good)
    return iter(found)


def _write_chunk(
    scorer: Scorer,
    judged: list[tuple[Line, list[Prepared]]],
    found: Iterator[Floats],
    out: IO[bytes],
    name: str,
    tally: Tally,
    aggregator: str,
    verb: Verb,
) -> None:
    for line, rows in judged:
        problem = _problem(rows)
        answer: dict[str, Any] = {**dict.fromkeys(verb.fields), ERROR: problem}
        if not problem:
            reads = [next(found) for _ in rows]
            scores = [aggregate(of_one, aggregator) for of_one in reads]
            _check_finite(scores, out, f"{name}: {line.place}")
            answer = verb.answer(scores)
            if scorer.readout.is_stepwise and verb is SCORE:
                answer[STEP_SCORES] = np.asarray(reads[0]).tolist()
        if problem or verb.keeps(answer):
            out.write(to_line({**line.kept, **answer}))
        else:
            tally.dropped += 1
        tally.bad += bool(problem)
        tally.scored += not problem
        tally.truncated += sum(row.truncated for row in rows)
        tally.replaced += line.replaces
    out.flush()


def _check_finite(scores: list[float], out: IO[bytes], where: str) -> None:
    if not all(is_score(score) for score in scores):
        out.flush()
        raise UserError(f"{where}: its score is no finite number; look at the weights, or score in fp32")
