"""What all benchmarks share: items, the rows of score files, and how a bad row is told."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rm_workflow.errors import UserError
from rm_workflow.keys import canonical_json

Message = dict[str, str]
Row = Mapping[str, Any]
Parsed = TypeVar("Parsed")

LARGEST_SCORE = 1e100  # differences and sums of larger ones are no finite numbers


@dataclass(frozen=True)
class Item:
    """One item of a benchmark before it is scored.

    Attributes:
        messages: the prompt.
        responses: the correct ones first, but for rules with ``CHOSEN_FIRST = False``.
        num_correct: how many of the responses are correct.
        label: a label of the benchmark's own, or None.
        meta: what the rule needs later (``id``) and what tells where a reply came from.
        step_ends: of each response, where its steps end in characters, or None where it has no steps.
    """

    subset: str
    messages: list[Message]
    responses: list[str]
    num_correct: int
    meta: dict[str, Any]
    label: str | None = None
    step_ends: list[list[int]] | None = None


@dataclass(frozen=True)
class ScoredItem:
    """One item with the scores of its responses, in the order of the item.

    Attributes:
        scores: one a response; the mean over its steps where the model scores steps.
        step_scores: of each response one score a step, or None where the model scores whole responses.
        scale: ``logit`` or ``probability`` where the model says what its scores are, else None.
    """

    subset: str
    scores: list[float]
    num_correct: int
    meta: dict[str, Any] = field(default_factory=dict)
    step_scores: list[list[float]] | None = None
    scale: str | None = None


def scored_item(
    subset: str,
    scores: Sequence[float | Sequence[float]],
    num_correct: int,
    meta: dict[str, Any],
    scale: str | None = None,
) -> ScoredItem:
    """Return an item with what a model made of its responses: one number each, or one for each step.

    A response without steps has the mean 0, the least that a step can have.
    """
    if not any(isinstance(score, Sequence) for score in scores):
        return ScoredItem(subset, [float(score) for score in scores], num_correct, meta, scale=scale)  # type: ignore[arg-type]
    steps = [list(score) if isinstance(score, Sequence) else [score] for score in scores]
    means = [sum(found) / len(found) if found else 0.0 for found in steps]
    return ScoredItem(subset, means, num_correct, meta, step_scores=steps, scale=scale)


class FieldError(Exception):
    """A field of one row is wrong; the row is named by whoever reads it."""


class RowWarning(str):
    """A warning that names two rows.

    Attributes:
        position, first: 0-based, of a row and of the one that it repeats.
        problem: what stands between the two.
        rest: what stands behind them.
    """

    position: int
    first: int
    problem: str
    rest: str

    def __new__(cls, position: int, problem: str, first: int, rest: str) -> "RowWarning":
        """Make the sentence with rows called by their numbers."""
        made = super().__new__(cls, f"row {position + 1}: {problem} stands in row {first + 1} {rest}")
        made.position, made.problem, made.first, made.rest = position, problem, first, rest
        return made

    def told(self, place: Callable[[int], str]) -> str:
        """Return the sentence with rows called what ``place`` calls their positions, for instance their lines."""
        return f"{place(self.position)}: {self.problem} stands in {place(self.first)} {self.rest}"


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
        raise FieldError(f"field {name} is {shown(found)}; it must be text")
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
        raise FieldError(f"field {name} is {shown(found)}; it must be a list of at least one text")
    if not all(isinstance(entry, str) for entry in found):
        raise FieldError(f"field {name} holds something else than text; give a list of texts")
    return [storable(entry, name) for entry in found]


def count(row: Row, name: str) -> int:
    """Return a field that must be a whole number."""
    found = value(row, name)
    if not isinstance(found, int) or isinstance(found, bool):
        raise FieldError(f"field {name} is {shown(found)}; it must be a whole number")
    return found


def one_of(row: Row, name: str, known: Iterable[str], nearest: Callable[[str, Iterable[str]], str]) -> str:
    """Return a text field that must be one of the known names."""
    found = text(row, name)
    names = list(known)
    if found not in names:
        raise FieldError(f"field {name} is {shown(found)}, which is none of the benchmark's; {nearest(found, names)}")
    return found


def finite(number: Any, name: str) -> float:
    """Return a score as a float.

    NaN is refused because every comparison with it is false: upstream prints 0 % for a broken model (reward-bench#239).
    """
    if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= LARGEST_SCORE:
        raise FieldError(f"field {name} is {shown(number)}; a score must be a finite number, of at most 1e100")
    return float(number)


def score(row: Row, name: str) -> float:
    """Return a field that must be a finite number."""
    return finite(value(row, name), name)


def scores(row: Row, name: str, length: int | None = None, of: str = "") -> list[float]:
    """Return a field that must be a list of finite numbers, or ``[[0.5], [0.1]]`` as some published files have it.

    Args:
        length: how many there must be; None takes any number but none.
        of: what they are scores of, told where the number is wrong.
    """
    found = value(row, name)
    if not isinstance(found, list) or not found:
        raise FieldError(f"field {name} is {shown(found)}; it must be a list of numbers")
    if length is not None and len(found) != length:
        raise FieldError(f"field {name} holds {len(found)} scores; give {length}, {of}")
    return [finite(entry[0] if _is_wrapped(entry) else entry, f"{name}[{i}]") for i, entry in enumerate(found)]


def item_id(row: Row, name: str = "id") -> Any:
    """Return the field that names an item, which must be text or a whole number."""
    found = value(row, name)
    if isinstance(found, bool) or not isinstance(found, str | int):
        raise FieldError(f"field {name} is {shown(found)}; it must be text or a whole number")
    return found


def source_and_group(row: Row) -> tuple[str | None, Hashable]:
    """Return the optional fields ``source`` (what a row is also reported under) and ``group`` (what it clusters with).

    Raises:
        FieldError: a source that is no text, a group that is a list or an object.
    """
    source, group = row.get("source"), row.get("group")
    if source is not None and not isinstance(source, str):
        raise FieldError(f"field source is {shown(source)}; it must be text")
    if isinstance(group, list | dict):
        raise FieldError("field group is a list or an object; it must be text or a number")
    return source, group


def check_repeats(
    rows: Sequence[Row], strict_subsets: Iterable[str] = (), subset: str | None = "subset", identity: str = "id"
) -> list[RowWarning]:
    """Return one warning for each repeated (subset, id), a known fault of published files (reward-bench#273).

    Rows without id repeat nothing.

    Args:
        strict_subsets: in which no id may stand twice.
        subset: the field of the subset, or None where ids alone name the items.
        identity: the field of the id.

    Raises:
        RowError: the whole row is repeated, or the subset is strict: an item would count twice.
    """
    first_of: dict[str, int] = {}
    strict = set(strict_subsets)
    warnings = []
    for index, row in enumerate(rows):
        if row.get(identity) is None:
            continue
        place = row.get(subset) if subset else None
        first = first_of.setdefault(canonical_json([place, row[identity]]), index)
        if first == index:
            continue
        name = f"{identity} {row[identity]!r}" + (f" of {subset} {place}" if place is not None else "")
        if str(place) in strict or row == rows[first]:
            raise RowError(index, name, first)
        same = _scores_of(row) == _scores_of(rows[first])
        rest = f"{'too, with the same' if same else 'with other'} scores; both are counted"
        warnings.append(RowWarning(index, name, first, rest))
    return warnings


def _scores_of(row: Row) -> dict[str, Any]:
    return {name: found for name, found in row.items() if name.startswith("score")}


def _is_wrapped(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 1


def shown(found: Any) -> str:
    """Return a value of a row as an error quotes it: of a long one the beginning alone."""
    text = repr(found)
    return text if len(text) <= 60 else text[:57] + "..."
