"""Rows of a file that have other columns than the rows that were understood: a second schema in one file.

A shape is the columns of a row that hold something, each with its JSON kind. A dropped row is of another shape where
no row that was understood has its shape; so an empty or wrong value in the usual columns is a bad field and no shape,
unless the column is null.

    {"prompt": "Hi?", "chosen": "Yes.", "rejected": "No."}     understood: prompt text, chosen text, rejected text
    {"question": "Hi?", "better": "Yes.", "worse": "No."}      of another shape
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rm_workflow.preferences.files import Row

Shape = tuple[tuple[str, str], ...]

KINDS = {str: "text", bool: "true or false", int: "number", float: "number", list: "list", dict: "object"}
# Shapes and columns of one that a sentence names.
SHOWN_SHAPES = 4
SHOWN_COLUMNS = 12


@dataclass
class Shapes:
    """What was met of each shape in one file.

    Attributes:
        understood: shapes of rows that were used.
        dropped: shape -> (rows, number of the first).
    """

    understood: set[Shape] = field(default_factory=set)
    dropped: dict[Shape, tuple[int, int]] = field(default_factory=dict)

    def note(self, number: int, row: Row, used: bool) -> None:
        """Count a row that could be read."""
        shape = tuple(
            sorted((name, KINDS.get(type(value), "other")) for name, value in row.items() if value is not None)
        )
        if used:
            self.understood.add(shape)
        else:
            rows, first = self.dropped.get(shape, (0, number))
            self.dropped[shape] = (rows + 1, first)

    def others(self) -> list[dict[str, Any]]:
        """Return ``{"columns": {name: kind}, "num_rows", "first_row"}`` of each other shape, most rows first."""
        found = [
            {"columns": dict(shape), "num_rows": rows, "first_row": first}
            for shape, (rows, first) in self.dropped.items()
            if shape not in self.understood
        ]
        return sorted(found, key=lambda other: (-other["num_rows"], other["first_row"]))


def in_words(others: Sequence[Mapping[str, Any]]) -> str:
    """Return "5 with question text, better text (the first is row 21), ..."."""
    told = []
    for other in others[:SHOWN_SHAPES]:
        columns = [f"{name} {kind}" for name, kind in other["columns"].items()]
        more = [f"{len(columns) - SHOWN_COLUMNS} more"] if len(columns) > SHOWN_COLUMNS else []
        shown = ", ".join([*columns[:SHOWN_COLUMNS], *more]) or "no column that holds something"
        told.append(f"{other['num_rows']:,} with {shown} (the first is row {other['first_row']})")
    rest = sum(other["num_rows"] for other in others[SHOWN_SHAPES:])
    return "; ".join([*told, *([f"{rest:,} of {len(others) - SHOWN_SHAPES} more shapes"] if rest else [])])
