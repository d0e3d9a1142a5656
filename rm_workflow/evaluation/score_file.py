"""Rewards for a JSONL file, line by line, safe to kill and start again.

In, either form; out, the same object with ``score`` (and ``error`` for a bad row under ``skip_bad``)::

    {"messages": [{"role": "user", "content": "Is 9 prime?"}, {"role": "assistant", "content": "No."}]}
    {"prompt": "Is 9 prime?", "response": "No."}

The output is in input order and grows a chunk at a time, so that what stands there is always the first lines of the
answer: a killed run goes on where it stopped. Lines that are blank are passed over.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from rm_workflow.errors import UserError
from rm_workflow.evaluation.items import FieldError, Row, storable, text, value
from rm_workflow.evaluation.progress import Progress
from rm_workflow.evaluation.scorer import Conversation, Prepared, Scorer

LINES_AT_ONCE = 256  # a killed run loses at most this much work
ADDED = ("score", "error")
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
    """

    number: int
    kept: dict[str, Any]
    conversation: Conversation | None = None
    problem: str | None = None


@dataclass
class Tally:
    """What happened to the lines."""

    continued: int = 0
    scored: int = 0
    bad: int = 0
    truncated: int = 0

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
        row = json.loads(raw)
    except ValueError as error:
        return Line(number, {"line": number}, problem=f"it is no JSON ({error}); mend or remove it")
    if not isinstance(row, dict):
        return Line(number, {"line": number}, problem="it is no JSON object; write {...} on each line")
    kept = {name: found for name, found in row.items() if name not in ADDED}
    try:
        return Line(number, kept, read_conversation(row))
    except FieldError as error:
        return Line(number, kept, problem=str(error))


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
    if isinstance(value(row, "prompt"), str):
        return [{"role": "user", "content": text(row, "prompt")}], text(row, "response")
    return _messages(row, "prompt"), text(row, "response")


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
    except ValueError:
        return False
    if not isinstance(row, dict) or "score" not in row:
        return False
    return {name: found for name, found in row.items() if name not in ADDED} == line.kept


def differs_from(scorer: Scorer, continued: list[tuple[Line, float | None]]) -> float | None:
    """Return by how much stored scores differ from this checkpoint's, or None where that is rounding."""
    probed = [(line.conversation, score) for line, score in continued if line.conversation and score is not None]
    probed = probed[-PROBED_LINES:]
    prepared = scorer.prepare([conversation for conversation, _ in probed])
    pairs = [(row.input_ids, score) for row, (_, score) in zip(prepared, probed, strict=True) if not row.problem]
    now = scorer.score_ids([ids for ids, _ in pairs])
    gaps = [(abs(float(new) - old), abs(old)) for new, (_, old) in zip(now, pairs, strict=True)]
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
) -> None:
    """Score the lines that are left and write each with its score.

    Args:
        name: of the input, for errors.
        skip_bad: write a bad row with ``"score": null`` and the problem; else stop there, with all before it written.
        tally: counts what was done.
        total: lines in all, for the progress.
    """
    while chunk := list(islice(lines, LINES_AT_ONCE)):
        judged = _judge(scorer, chunk)
        problem = None
        if not skip_bad:
            good = next((index for index, row in enumerate(judged) if row.problem), len(judged))
            problem = f"{name}: line {chunk[good].number}: {judged[good].problem}" if good < len(judged) else None
            chunk, judged = chunk[:good], judged[:good]
        _write_chunk(scorer, chunk, judged, out, tally, progress, total)
        if problem:
            raise UserError(f"{problem}; or pass over bad rows with --skip-bad")


def _judge(scorer: Scorer, chunk: list[Line]) -> list[Prepared]:
    prepared = iter(scorer.prepare([line.conversation for line in chunk if line.conversation]))
    return [next(prepared) if line.conversation else Prepared([], problem=line.problem) for line in chunk]


def _write_chunk(
    scorer: Scorer,
    chunk: list[Line],
    judged: list[Prepared],
    out: IO[bytes],
    tally: Tally,
    progress: Progress | None,
    total: int,
) -> None:
    before = tally.done
    scores = iter(
        scorer.score_ids(
            [row.input_ids for row in judged if not row.problem],
            (lambda done, _: progress(before + done, total)) if progress else None,
        )
    )
    for line, row in zip(chunk, judged, strict=True):
        answer = {"score": None, "error": row.problem} if row.problem else {"score": float(next(scores))}
        out.write(_to_bytes({**line.kept, **answer}) + b"\n")
    out.flush()
    tally.bad += sum(bool(row.problem) for row in judged)
    tally.scored += sum(not row.problem for row in judged)
    tally.truncated += sum(row.truncated for row in judged)
    if progress:
        progress(tally.done, total)


def _to_bytes(row: dict[str, Any]) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a lone surrogate, which only an escape can carry
        return json.dumps(row).encode()
