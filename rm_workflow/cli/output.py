"""Tables for people and JSON for programs."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPED_WIDTH = 140
# Below this a table whose words would be cut is printed row by row.
NARROW = 100
PAIR = 2  # columns: a name and what is said of it, which folds well
# Characters that a terminal obeys: C0 but for tab and line feed, DEL, C1, and what reverses the text after it; and
# halves of surrogate pairs, as Python reads a name that is no UTF-8, which cannot be printed at all.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def print_json(value: Any) -> None:
    """Print JSON alone on stdout."""
    json.dump(value, sys.stdout, ensure_ascii=False, indent=2)
    sys.stdout.write("\n")


def for_terminal(text: str) -> str:
    """Return ``text`` with what a terminal obeys or cannot print spelled out (``\\x1b``), but for newline and tab."""
    return CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


def warn(sentence: str) -> None:
    """Print a warning on stderr."""
    print(for_terminal(f"warning: {sentence}"), file=sys.stderr)


def print_table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as a table whose columns are the keys of the first row; numbers stand right.

    Cells are printed as they are: square brackets in a data set's text are no markup.
    """
    if not fits(rows):
        _print_stacked(title, rows)
        return
    table = Table(title=Text(for_terminal(title)), title_justify="left", title_style="bold")
    widths = _column_widths(rows)
    for name in rows[0] if rows else ():
        numeric = all(isinstance(row[name], int | float | None) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold", width=widths.get(name))
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    Console(width=_width()).print(table)


def print_words(text: str) -> None:
    """Print a text whose lines break between words."""
    Console(width=_width()).print(Text(for_terminal(text)))


def _width() -> int:
    """Return the columns of the terminal; of a pipe those that COLUMNS says, else enough for most tables."""
    asked = os.environ.get("COLUMNS", "")
    return Console().width if sys.stdout.isatty() or asked.isdigit() else PIPED_WIDTH


def fits(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a table can be read on this terminal: no word is cut, unless there are two columns."""
    names = list(rows[0]) if rows else []
    return _width() >= NARROW or len(names) <= PAIR or sum(_longest_words(rows).values()) <= _room(names)


def _column_widths(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return widths by which the widest columns alone break lines, between words; empty where that is not to be had.

    rich would take from every column, and cut words in those that have room for no more.
    """
    least, room = _longest_words(rows), _room(list(rows[0]) if rows else [])
    lines = {name: [name, *(line for row in rows for line in _cell(row[name]).split("\n"))] for name in least}
    widths = {name: min(room, max(map(cell_len, of_column))) for name, of_column in lines.items()}
    while sum(widths.values()) > room:
        name = max(widths, key=lambda name: widths[name] - least[name])
        if widths[name] <= least[name]:
            return {}
        widths[name] -= 1
    return widths


def _room(names: Sequence[str]) -> int:
    """Return how many characters the cells of a line may have beside the frame."""
    return _width() - 3 * len(names) - 1


def _longest_words(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    names = list(rows[0]) if rows else []
    words = {name: [*name.split(), *(word for row in rows for word in _cell(row[name]).split())] for name in names}
    return {name: max(map(cell_len, of_column), default=0) for name, of_column in words.items()}


def _print_stacked(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a row below the other, each as lines of name and value; what is empty is left out."""
    console = Console(width=_width())
    names = list(rows[0])
    pad = max(map(len, names))
    console.print(Text(for_terminal(title), style="bold"))
    for row in rows:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(width=pad)
        grid.add_column(overflow="fold")
        for name in names:
            if cell := _cell(row[name]):
                grid.add_row(Text(name), Text(cell))
        console.print()
        console.print(grid)


@contextmanager
def counting_line(label: str) -> Iterator[Callable[[int], None]]:
    """Show one line with a growing number on stderr while the block runs, nothing in a pipe."""
    with Console(stderr=True).status(label) as status:
        yield lambda done: status.update(f"{label}: {done:,}")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3f}"
    return for_terminal(str(value))
