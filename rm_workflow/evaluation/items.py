"""What all benchmarks share: items, the rows of score files, and how a bad row is told."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rm_workflow.errors import UserError
from rm_workflow.keys import canonical_json

Message = dict[str, str]
Row = Mapping[str, Any]
Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class Item:
    """One item of a benchmark before it is scored.

    Attributes:
        messages: the prompt.
        responses: the correct ones first.
        num_correct: how many of the responses are correct.
        label: a label of the benchmark's own, or None.
        meta: what the rule needs later (``id``) and what tells where a reply came from.
    """

    subset: str
    messages: list[Message]
    responses: list[str]
    num_correct: int
    meta: dict[str, Any]
    label: str | None = None


@dataclass(frozen=True)
class ScoredItem:
    """One item with the scores of its responses, in the order of the item."""

    subset: str
    scores: list[float]
    num_correct: int
    meta: dict[str, Any] = field(default_factory=dict)


class FieldError(Exception):
    """A field of one row is wrong; the row is named by whoever reads it."""


class RowError(UserError):
    """A row is wrong.

    Attributes:
        index: 0-based position of the row among those given.
        problem: what is wrong and the mend, without the place.
        first: 0-based position of the row that this one repeats, or None.
    """

    def __init__(self, index: int, problem: str, first: int | None = None) -> None:
        self.index = index
        self.problem = problem
        self.first = first
        super().__init__(self.told(lambda position: f"row {position + 1}"))

    def told(self, place: Callable[[int], str]) -> str:
        """Return the sentence with rows called what ``place`` calls their positions, for instance their lines."""
        repeated = "" if self.first is None else f" stands in {place(self.first)} already; keep one of them"
        return f"{place(self.index)}: {self.problem}{repeated}"


def parse_rows(rows: Iterable[Row], parse: Callable[[Row], Parsed]) -> list[Parsed]:
    """Parse every row; the first bad one is told with its number, and no row at all is an error."""
    parsed = []
    for index, row in enumerate(rows):
        try:
            parsed.append(parse(row))
        except FieldError as error:
            raise RowError(index, str(error)) from None
    if not parsed:
        raise UserError("there is no row to read; give a file with at least one")
    return parsed


def value(row: Row, name: str) -> Any:
    """Return a field that must be there."""
    if name not in row:
        raise FieldError(f"field {name} is missing (have: {', '.join(map(str, row))}); add it")
    return row[name]


def text(row: Row, name: str) -> str:
    """Return a field that must be text."""
    found = value(row, name)
    if not isinstance(found, str):
        raise FieldError(f"field {name} is {_shown(found)}; it must be text")
    return storable(found, name)


def storable(found: str, name: str) -> str:
    """Return a text unless it holds half of a surrogate pair, which neither a tokenizer nor a table can take."""
    try:
        found.encode()
    except UnicodeEncodeError as error:
        raise FieldError(f"field {name} holds half of a surrogate pair at character {error.start}; mend it") from None
    return found


def texts(row: Row, name: str) -> list[str]:
    """Return a field that must be a list of texts with at least one entry."""
    found = value(row, name)
    if not isinstance(found, Sequence) or isinstance(found, str) or not found:
        raise FieldError(f"field {name} is {_shown(found)}; it must be a list of at least one text")
    if not all(isinstance(entry, str) for entry in found):
        raise FieldError(f"field {name} holds something else than text; give a list of texts")
    return [storable(entry, name) for entry in found]


def count(row: Row, name: str) -> int:
    """Return a field that must be a whole number."""
    found = value(row, name)
    if not isinstance(found, int) or isinstance(found, bool):
        raise FieldError(f"field {name} is {_shown(found)}; it must be a whole number")
    return found


def one_of(row: Row, name: str, known: Iterable[str], nearest: Callable[[str, Iterable[str]], str]) -> str:
    """Return a text field that must be one of the known names."""
    found = text(row, name)
    names = list(known)
    if found not in names:
        raise FieldError(f"field {name} is {found!r}, which is none of the benchmark's; {nearest(found, names)}")
    return found


def finite(number: Any, name: str) -> float:
    """Return a score as a float.

    NaN is refused because every comparison with it is false: upstream prints 0 % for a broken model (reward-bench#239).
    """
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise FieldError(f"field {name} is {_shown(number)}; a score must be a finite number")
    return float(number)


def score(row: Row, name: str) -> float:
    """Return a field that must be a finite number."""
    return finite(value(row, name), name)


def scores(row: Row, name: str) -> list[float]:
    """Return a field that must be a list of finite numbers, or ``[[0.5], [0.1]]`` as some published files have it."""
    found = value(row, name)
    if not isinstance(found, list) or not found:
        raise FieldError(f"field {name} is {_shown(found)}; it must be a list of numbers")
    return [finite(entry[0] if _is_wrapped(entry) else entry, f"{name}[{i}]") for i, entry in enumerate(found)]


def item_id(row: Row) -> Any:
    """Return the field ``id``, which must be text or a whole number."""
    found = value(row, "id")
    if isinstance(found, bool) or not isinstance(found, str | int):
        raise FieldError(f"field id is {_shown(found)}; it must be text or a whole number")
    return found


def check_repeats(rows: Sequence[Row], strict_subsets: Iterable[str] = ()) -> list[str]:
    """Return one warning for each repeated (subset, id), a known fault of published files (reward-bench#273).

    Raises:
        RowError: the whole row is repeated, or the subset is strict: an item would count twice.
    """
    first_of: dict[str, int] = {}
    warnings = []
    for index, row in enumerate(rows):
        first = first_of.setdefault(canonical_json([row["subset"], row["id"]]), index)
        if first == index:
            continue
        name = f"id {row['id']!r} of subset {row['subset']}"
        if row["subset"] in strict_subsets or row == rows[first]:
            raise RowError(index, name, first)
        warnings.append(f"row {index + 1}: {name} stands in row {first + 1} with other scores; both are counted")
    return warnings


def _is_wrapped(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 1


def _shown(found: Any) -> str:
    shown = repr(found)
    return shown if len(shown) <= 60 else shown[:57] + "..."
