"""What adapters of worked solutions share: question from solution, steps from text, text from steps."""

import re
from collections.abc import Sequence

from rm_workflow.catalog.models import Source
from rm_workflow.preferences.tables import Message, RowDropped

# How RLHFlow and Math-Shepherd write a right and a wrong step or answer.
SIGNS = {"+": 1.0, "-": 0.0}


def question(text: str) -> list[Message]:
    """Return a question as the prompt."""
    return [{"role": "user", "content": text}]


def split_solution(text: str, source: Source, where: str) -> tuple[str, str]:
    """Return (question, solution) of a text that holds both, without the one white space character between them.

    The first place where ``solution_starts`` of the source follows white space counts: all solutions of one question
    are then cut alike, also where a question holds the words itself.

    Raises:
        RowDropped: bad_field where the words are not there, or nothing stands before them.
    """
    found = re.search(rf"\s{re.escape(source.solution_starts or '')}", text)
    if not found:
        raise RowDropped("bad_field", f"no {source.solution_starts!r} tells where the solution begins", where)
    if not text[: found.start()].strip():
        raise RowDropped("bad_field", "no question stands before the solution", where)
    return text[: found.start()], text[found.start() + 1 :]


def step_ends(text: str, separator: str | None) -> list[int] | None:
    """Return where the steps of a text end; None without a separator.

    A step ends with its separator, or before it where that is white space. What is only white space is no step.
    """
    if separator is None:
        return None
    mark, last = separator.rstrip(), len(text.rstrip())
    ends, start = [], 0
    for piece in text.split(separator):
        if piece.strip():
            end = start + len(piece) + len(mark) if mark else start + len(piece.rstrip())
            ends.append(min(end, last))
        start += len(piece) + len(separator)
    return ends


def joined(steps: Sequence[str], separator: str | None, where: str) -> tuple[str, list[int]]:
    """Return the text of steps with the separator (default: a new line) between them, and where each of them ends.

    Raises:
        RowDropped: empty_message where a step is only white space: its label would have no place of its own.
    """
    between = separator or "\n"
    ends, start = [], 0
    for number, step in enumerate(steps):
        if not step.strip():
            raise RowDropped("empty_message", "a step is only white space", f"{where}, step {number}")
        ends.append(start + len(step.rstrip()))
        start += len(step) + len(between)
    return between.join(steps), ends


def sign(value: str, where: str) -> float:
    """Return 1 for ``+`` and 0 for ``-``.

    Raises:
        RowDropped: bad_field for anything else.
    """
    if value not in SIGNS:
        raise RowDropped("bad_field", "the label is neither + nor -", where)
    return SIGNS[value]
