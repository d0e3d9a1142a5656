"""The times of a schedule in cron's five fields, as far as a recipe may write them; Dagster reads the same."""

import re
from collections.abc import Sequence

from rm_workflow.errors import UserError

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
# Name, lowest and highest value, and the names that its values have.
FIELDS: tuple[tuple[str, int, int, Sequence[str]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, MONTHS),
    ("day of the week", 0, 7, WEEKDAYS),
)
# *, 5, 1-5, */15, 0-30/10; names of months and weekdays in place of numbers
PART = re.compile(r"(?:\*|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>[1-9]\d?))?", re.ASCII)
LONGEST_MONTHS = {1: 31, 2: 29, 4: 30, 6: 30, 9: 30, 11: 30}


def check_cron(text: str) -> None:
    """Refuse what is no time of a schedule, or one that never comes.

    Raises:
        UserError: the sentence names the field.
    """
    fields = text.split()
    if len(fields) != len(FIELDS):
        raise UserError(
            f"{text!r} has {len(fields)} fields where cron has five (minute, hour, day of the month, month, day of the "
            "week); write for instance '0 3 * * 0', each Sunday at 3"
        )
    values = [_values(field, *described) for field, described in zip(fields, FIELDS, strict=True)]
    days, months = values[2], values[3]
    if fields[4] == "*" and not any(min(days) <= LONGEST_MONTHS.get(month, 31) for month in months):
        raise UserError(f"{text!r} never comes: no such month has a day {min(days)}; write a day that there is")


def _values(field: str, name: str, low: int, high: int, names: Sequence[str]) -> set[int]:
    found: set[int] = set()
    for part in field.split(","):
        match = PART.fullmatch(part)
        first, last = (
            _number(match[side], low, names) if match and match[side] else None for side in ("first", "last")
        )
        if match and match["first"] is None:
            first, last = low, high
        elif match and match["last"] is None:
            last = high if match["step"] else first
        if match is None or first is None or last is None or not low <= first <= last <= high:
            raise UserError(
                f"{part!r} is no {name}; write a number from {low} to {high}, a range as {low}-{high}, or * for all"
            )
        found.update(range(first, last + 1, int(match["step"] or 1)))
    return found


def _number(text: str, low: int, names: Sequence[str]) -> int | None:
    if text.isdigit():
        return int(text)
    return low + list(names).index(text.lower()) if text.lower() in names else None
