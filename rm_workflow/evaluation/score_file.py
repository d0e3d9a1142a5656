"""Rewards for a JSONL file, line by line, safe to kill and start again.

In, either form; out, the same object with ``score`` (and ``error`` for a bad row under ``skip_bad``)::

    {"messages": [{"role": "user", "content": "Is 9 prime?"}, {"role": "assistant", "content": "No."}]}
    {"prompt": "Is 9 prime?", "response": "No."}

A model that scores the steps of a solution adds ``step_scores``, and ``score`` is what an aggregator makes of them.
Steps are lines, or paragraphs in a response that has any; ``"steps": ["Step 1: ...", "Step 2: ..."]`` in the place of
``response`` says where they end.

The output is in input order and grows a chunk at a time, so that what stands there is always the first lines of the
answer: a killed run goes on where it stopped. Lines that are blank are passed over.
"""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from rm_workflow.errors import UserError
from rm_workflow.evaluation.items import FieldError, Row, storable, text, texts, value
from rm_workflow.evaluation.progress import Progress
from rm_workflow.evaluation.scorer import Conversation, Prepared, Scorer
from rm_workflow.evaluation.steps import AGGREGATOR, aggregate
from rm_workflow.preferences.files import refuse_constant, unique_keys

LINES_AT_ONCE = 256  # a killed run loses at most this much work
ADDED = ("score", "error", "step_scores")
ROLES = ("system", "user", "assistant")
# Stored scores of another precision or device differ by rounding; those of another checkpoint by far more.
SAME_SCORE = 0.05
PROBED_LINES = 4


@dataclass(frozen=True)
class Line:
    """One line of the input.

    Attributes:
        number: 1-based physical line.
        kept: what stands in the output beside the score.
        conversation: what is scored, or None for a bad line.
        problem: why the line is bad, or None.
        replaces: whether it had a score or an error of its own.
        step_ends: where the steps of the response end, or None where the line does not say.
    """

    number: int
    kept: dict[str, Any]
    conversation: Conversation | None = None
    problem: str | None = None
    replaces: bool = False
    step_ends: list[int] | None = None


@dataclass
class Tally:
    """What happened to the lines."""

    continued: int = 0
    scored: int = 0
    bad: int = 0
    truncated: int = 0
    replaced: int = 0

    @property
    def done(self) -> int:
        """Return the number of lines that stand in the output."""
        return self.continued + self.scored + self.bad


def read_lines(file: Iterable[bytes]) -> Iterator[Line]:
    """Yield the lines of a JSONL stream, bad ones with their problem."""
    for number, raw in enumerate(file, start=1):
        if raw.strip():
            yield _read_line(number, raw)


def _read_line(number: int, raw: bytes) -> Line:
    try:
        row = json.loads(raw.decode("utf-8-sig"), parse_constant=refuse_constant, object_pairs_hook=unique_keys)
    except UnicodeDecodeError as error:
        problem = f"it is not UTF-8 at byte {error.start}; save the file as UTF-8"
        return Line(number, {"line": number}, problem=problem)
    except (ValueError, RecursionError) as error:
        return Line(number, {"line": number}, problem=f"it is no JSON ({error}); mend or remove it")
    if not isinstance(row, dict):
        return Line(number, {"line": number}, problem="it is no JSON object; write {...} on each line")
    kept = {name: found for name, found in row.items() if name not in ADDED}
    replaces = len(kept) < len(row)
    try:
        return Line(number, kept, read_conversation(row), None, replaces, _step_ends(row))
    except FieldError as error:
        return Line(number, kept, problem=str(error), replaces=replaces)


def read_conversation(row: Row) -> Conversation:
    """Return (prompt messages, response) of a row in either form.

    Raises:
        FieldError: a field is missing or of the wrong type, or the last message is not the assistant's.
    """
    if "messages" in row:
        messages = _messages(row, "messages")
        if messages[-1]["role"] != "assistant" or len(messages) == 1:
            raise FieldError("field messages must end with the assistant turn to be scored, after a prompt")
        return messages[:-1], messages[-1]["content"]
    response = "\n".join(texts(row, "steps")) if "steps" in row else text(row, "response")
    if isinstance(value(row, "prompt"), str):
        return [{"role": "user", "content": text(row, "prompt")}], response
    return _messages(row, "prompt"), response


def _step_ends(row: Row) -> list[int] | None:
    """Return where the steps of a row end that names them.

    Raises:
        FieldError: a step is only white space, so that a score would have no place of its own.
    """
    if "steps" not in row or "messages" in row:
        return None
    steps = texts(row, "steps")
    if not all(step.strip() for step in steps):
        raise FieldError("field steps holds a step that is only white space; leave it out")
    ends = [len("\n".join(steps[:number])) for number in range(1, len(steps) + 1)]
    return [end - len(step) + len(step.rstrip()) for end, step in zip(ends, steps, strict=True)]


def _messages(row: Row, name: str) -> list[dict[str, str]]:
    messages = row[name]
    if not isinstance(messages, list) or not messages or not all(isinstance(turn, dict) for turn in messages):
        raise FieldError(f"field {name} must be a list of {{role, content}} objects with at least one entry")
    for index, turn in enumerate(messages):
        if turn.get("role") not in ROLES or not isinstance(turn.get("content"), str):
            raise FieldError(f"{name}[{index}] must have a role ({', '.join(ROLES)}) and content that is text")
    return [{"role": turn["role"], "content": storable(turn["content"], name)} for turn in messages]


def resume(path: Path, lines: Iterator[Line], name: str) -> tuple[list[tuple[Line, float | None]], Iterator[Line]]:
    """Pass over the lines that stand in ``path`` already and cut a last one that was never finished.

    Returns:
        the lines passed over with their scores (None for a bad one), and the lines that are left.

    Raises:
        UserError: the file holds anything else than the first lines of the input with a score each.
    """
    found: list[tuple[Line, float | None]] = []
    end = 0
    with path.open("rb+") as file:
        for number, raw in enumerate(file, start=1):
            line = next(lines, None)
            if line is None or not _answers(raw, line):
                raise UserError(
                    f"{path}: line {number} is not the scored form of {_place(line)} of {name}, so it was not begun by "
                    "this command; remove it or name another output"
                )
            if not raw.endswith(b"\n"):
                file.truncate(end)
                return found, chain([line], lines)
            end += len(raw)
            found.append((line, json.loads(raw)["score"]))
    return found, lines


def _place(line: Line | None) -> str:
    return f"line {line.number}" if line else "any further line"


def _answers(raw: bytes, line: Line) -> bool:
    if not raw.endswith(b"\n"):  # killed while writing
        begun = _to_bytes(line.kept)[:-1]
        return raw.startswith(begun) or begun.startswith(raw)
    try:
        row = json.loads(raw)
    except (ValueError, RecursionError):
        return False
    if not isinstance(row, dict) or "score" not in row or not _is_score(row["score"]):
        return False
    return {name: found for name, found in row.items() if name not in ADDED} == line.kept


def _is_score(score: Any) -> bool:
    return score is None or (isinstance(score, int | float) and math.isfinite(score))


def differs_from(
    scorer: Scorer, continued: list[tuple[Line, float | None]], aggregator: str = AGGREGATOR
) -> float | None:
    """Return by how much stored scores differ from this checkpoint's, or None where that is rounding."""
    probed = [(line, score) for line, score in continued if line.conversation and score is not None]
    probed = probed[-PROBED_LINES:]
    prepared = _prepared(scorer, [line for line, _ in probed])
    pairs = [(row, score) for row, (_, score) in zip(prepared, probed, strict=True) if not row.problem]
    now = scorer.score_reads([row.input_ids for row, _ in pairs], [row.reads for row, _ in pairs])
    gaps = [(abs(aggregate(new, aggregator) - old), abs(old)) for new, (_, old) in zip(now, pairs, strict=True)]
    return max((gap for gap, size in gaps if gap > SAME_SCORE * (1 + size)), default=None)


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
) -> None:
    """Score the lines that are left and write each with its score.

    Args:
        name: of the input, for errors.
        skip_bad: write a bad row with ``"score": null`` and the problem; else stop there, with all before it written.
        tally: counts what was done.
        total: lines in all, for the progress.
        aggregator: makes one score of those of the steps.

    Raises:
        UserError: a row is bad and ``skip_bad`` is off, or its score is no finite number; names the first.
    """
    while chunk := list(islice(lines, LINES_AT_ONCE)):
        judged = _judge(scorer, chunk)
        problem = None
        if not skip_bad:
            good = next((index for index, row in enumerate(judged) if row.problem), len(judged))
            problem = f"{name}: line {chunk[good].number}: {judged[good].problem}" if good < len(judged) else None
            chunk, judged = chunk[:good], judged[:good]
        _write_chunk(scorer, chunk, judged, out, name, tally, progress, total, aggregator)
        if problem:
            raise UserError(f"{problem}; or pass over bad rows with --skip-bad")


def _judge(scorer: Scorer, chunk: list[Line]) -> list[Prepared]:
    prepared = iter(_prepared(scorer, chunk))
    return [next(prepared) if line.conversation else Prepared([], problem=line.problem) for line in chunk]


def _prepared(scorer: Scorer, lines: list[Line]) -> list[Prepared]:
    good = [(line.conversation, line.step_ends) for line in lines if line.conversation]
    return scorer.prepare([conversation for conversation, _ in good], [ends for _, ends in good])


def _write_chunk(
    scorer: Scorer,
    chunk: list[Line],
    judged: list[Prepared],
    out: IO[bytes],
    name: str,
    tally: Tally,
    progress: Progress | None,
    total: int,
    aggregator: str,
) -> None:
    before = tally.done
    good = [row for row in judged if not row.problem]
    scores = iter(
        scorer.score_reads(
            [row.input_ids for row in good],
            [row.reads for row in good],
            (lambda done, _: progress(before + done, total)) if progress else None,
        )
    )
    for line, row in zip(chunk, judged, strict=True):
        answer: dict[str, Any] = {"score": None, "error": row.problem}
        if not row.problem:
            found = next(scores)
            answer = {"score": aggregate(found, aggregator)}
            if scorer.readout.is_stepwise:
                answer["step_scores"] = found.tolist()
        if not _is_score(answer["score"]):
            out.flush()
            raise UserError(
                f"{name}: line {line.number}: its score is no finite number; look at the weights, or score in fp32"
            )
        out.write(_to_bytes({**line.kept, **answer}) + b"\n")
        tally.bad += bool(row.problem)
        tally.scored += not row.problem
        tally.truncated += row.truncated
        tally.replaced += line.replaces
    out.flush()
    if progress:
        progress(tally.done, total)


def _to_bytes(row: dict[str, Any]) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a lone surrogate, which only an escape can carry
        return json.dumps(row).encode()
