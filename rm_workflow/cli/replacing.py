"""What a verb may write over: files of the kind that it writes, and nothing else of a person's."""

import json
from pathlib import Path
from typing import Any

from rm_workflow.errors import UserError

PNG = b"\x89PNG\r\n\x1a\n"
HTML = b"<!doctype html>"
CARD_BEGINNING = b"---\n"
# A tag that every card of ours has in its YAML block.
CARD_TAG = b"- rm-workflow\n"


def refuse_other_than_picture(file: Path) -> None:
    """Refuse to replace a file that is no PNG picture.

    Raises:
        UserError: names it.
    """
    _refuse(file, _beginning(file, len(PNG)) == PNG, "PNG picture")


def refuse_other_than_page(file: Path) -> None:
    """Refuse to replace a file that is no HTML page.

    Raises:
        UserError: names it.
    """
    _refuse(file, _beginning(file, len(HTML)).lower() == HTML, "HTML page")


def refuse_other_than_card(file: Path) -> None:
    """Refuse to replace a file that is no model card of ours.

    Raises:
        UserError: names it.
    """
    text = _beginning(file)
    _refuse(file, text.startswith(CARD_BEGINNING) and CARD_TAG in text, "model card that rmw wrote")


def refuse_other_than_scores(file: Path) -> None:
    """Refuse to replace a file whose first line is no row of item scores.

    Raises:
        UserError: names it.
    """
    _refuse(file, _is_score_row(_beginning(file).partition(b"\n")[0]), "file of item scores")


def _is_score_row(line: bytes) -> bool:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and any(name.startswith("score") for name in row)


def _beginning(file: Path, num_bytes: int = 1_000_000) -> bytes:
    """Return how a file begins; nothing of what is not there or is no plain file, as a pipe."""
    if not file.is_file():
        return b""
    with file.open("rb") as opened:
        return opened.read(num_bytes)


def _refuse(file: Path, is_own: bool, kind: str) -> None:
    if not is_own and file.is_file() and file.stat().st_size:
        raise UserError(f"{file} is there already and is no {kind}; name another file, or remove this one")
