"""Tables for people and JSON for programs."""

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPED_WIDTH = 140
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
    table = Table(title=Text(for_terminal(title)), title_justify="left", title_style="bold")
    for name in rows[0] if rows else ():
        numeric = all(isinstance(row[name], int | float | None) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else PIPED_WIDTH).print(table)


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
