"""Numbers and texts as card and report write them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

# C0 but for tab and line feed, DEL and C1, and the marks that turn the direction of the text around them.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
SHORT_VERSION = 12
NOT_MEASURED = "not measured"


def fraction(value: float | None) -> str:
    """Return a score with three digits, or that there is none."""
    return NOT_MEASURED if value is None else f"{value:.3f}"


def interval(score: Mapping[str, Any]) -> str:
    """Return the 95 % interval of a score object."""
    if score.get("ci_low") is None or score.get("ci_high") is None:
        return ""
    return f"{score['ci_low']:.3f} to {score['ci_high']:.3f}"


def with_interval(score: Mapping[str, Any] | None) -> str:
    """Return a score object as ``0.591 (0.546 to 0.635, n 467)``."""
    if not score or score.get("score") is None:
        return NOT_MEASURED
    inside = ", ".join(part for part in (interval(score), f"n {score['n']:,}" if score.get("n") else "") if part)
    return f"{score['score']:.3f} ({inside})" if inside else fraction(score["score"])


def artifact_name(artifact: str, run: str | None = None, digits: int | None = SHORT_VERSION) -> str:
    """Return an artifact as people name it, its version cut to so many digits.

    >>> artifact_name("toy_checkpoint@0123456789abcdef", "lr1e-5__s0")
    'toy_checkpoint[lr1e-5__s0]@0123456789ab'
    """
    asset, at, version = artifact.partition("@")
    return f"{asset}{f'[{run}]' if run else ''}{at}{version[:digits]}"


def rank(row: Mapping[str, Any]) -> str:
    """Return the rank of a leaderboard's row with the ranks that the evidence allows, as ``2 (1 to 3) of 5``."""
    if row["rank"] is None:
        return ""
    spread = "" if row["rank_low"] == row["rank_high"] else f" ({row['rank_low']} to {row['rank_high']})"
    return f"{row['rank']}{spread} of {row['ranked_among']}"


def standing_note(row: Mapping[str, Any]) -> str:
    """Return what a reader of a leaderboard's row must know beside its figures, or an empty text."""
    if row["published"]:
        return f"published: {row['source']}" + (f"; {row['note']}" if row["note"] else "")
    of_all = row.get("all_items", {}).get("score")
    leaked = None if of_all is None else f"{of_all:.3f} with leaked items"
    few = f"too few items for a rank ({row['num_independent']} independent)" if row["too_few_items"] else None
    chosen = f"chosen among {row['selected_among']} runs by this score" if row["selected_among"] else None
    return "; ".join(note for note in (few, leaked, chosen) if note)


def number(value: Any) -> str:
    """Return a whole number with commas, a small or large one in powers of ten, and anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def plural(n: int, one: str) -> str:
    """Return ``1 epoch`` or ``2 epochs``."""
    return f"{number(n)} {one}" + ("" if n == 1 else "s")


def duration(seconds: float) -> str:
    """Return a time as ``9 h 12 min``, ``1 min 44 s`` or ``3.2 s``.

    >>> duration(33120), duration(104.2), duration(3.21)
    ('9 h 12 min', '1 min 44 s', '3.2 s')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def visible(text: Any) -> str:
    """Return a text whose control characters are spelled out (``\\x1b``)."""
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", str(text))


def markdown_cell(value: Any) -> str:
    """Return a value on one line of a Markdown table, in which marks of HTML and of the table are text."""
    text = "" if value is None else " ".join(visible(value).split())
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")


def filled_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns, in the order of the first row, that hold something in some row."""
    return [name for name in (rows[0] if rows else ()) if any(row[name] not in (None, "") for row in rows)]
