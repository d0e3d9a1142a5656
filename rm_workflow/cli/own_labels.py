"""Which labels of a user's file mean which side: words that everyone uses are known, numbers are asked for."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rm_workflow.catalog.yaml_file import parse_value
from rm_workflow.cli.own_columns import Unclear

Label = bool | int | float | str
Winner = dict[str, list[Label]]

# Words for the first and the second of two responses.
PAIRS = (
    ("a", "b"),
    ("left", "right"),
    ("first", "second"),
    ("response_a", "response_b"),
    ("answer_a", "answer_b"),
    ("output_a", "output_b"),
    ("model_a", "model_b"),
    ("assistant_a", "assistant_b"),
    ("a>b", "b>a"),
    ("[[a]]", "[[b]]"),
)
TIES = ("tie", "ties", "equal", "same", "draw", "neither", "both", "tie (bothbad)", "both_bad", "a=b", "[[c]]")
WORDS = {"a": [a for a, _ in PAIRS], "b": [b for _, b in PAIRS], "tie": list(TIES)}
# More different values are no label.
MOST_LABELS = 12


def guess_winner(column: str, labels: Sequence[Any], given: Mapping[str, Sequence[str]]) -> Winner:
    """Return ``winner`` of a source: side -> labels.

    Args:
        labels: the different values of the column ``column``.
        given: side -> labels as written on the command line; empty where the labels are to be guessed.

    Raises:
        Unclear: the labels do not say by themselves who wins, or some are not under any side.
    """
    known = [label for label in labels if isinstance(label, (bool, int, float, str)) and label != ""]
    if given:
        return _as_given(column, known, given)
    sides = {
        side: [label for label in known if str(label).strip().casefold() in words] for side, words in WORDS.items()
    }
    if len(known) <= MOST_LABELS and sum(map(len, sides.values())) == len(known) and (sides["a"] or sides["b"]):
        sides["a"] = sides["a"] or [_other(label) for label in sides["b"]]
        sides["b"] = sides["b"] or [_other(label) for label in sides["a"]]
        return {side: found for side, found in sides.items() if found}
    raise Unclear(
        f"the labels of column {column!r} are {_listed(known)}, which do not say which response wins; name them with "
        "--winner a=LABEL --winner b=LABEL (and --winner tie=LABEL), or the right column with --column label=COLUMN"
    )


def _other(label: Label) -> str:
    """Return the word for the other side, which no row of the file has won."""
    word = str(label).strip()
    others = {**dict(PAIRS), **{b: a for a, b in PAIRS}}
    return others[word.casefold()].upper() if word.isupper() else others[word.casefold()]


def _as_given(column: str, known: Sequence[Label], given: Mapping[str, Sequence[str]]) -> Winner:
    winner = {side: [_meant(text, known) for text in texts] for side, texts in given.items()}
    named = [label for labels in winner.values() for label in labels]
    missing = [label for label in known if label not in named]
    if missing:
        raise Unclear(
            f"column {column!r} has the labels {_listed(missing)} too; name each with --winner (a=, b= or tie=LABEL)"
        )
    return winner


def _meant(text: str, known: Iterable[Label]) -> Label:
    """Return the label of the file that is written so: 1 may stand there as a number or, in CSV, as text."""
    found = next((label for label in known if str(label).casefold() == text.casefold()), None)
    if found is not None:
        return found
    value = parse_value(text, "--winner")
    return value if isinstance(value, (bool, int, float, str)) else text


def _listed(labels: Sequence[Label]) -> str:
    shown = [repr(label) if isinstance(label, str) else str(label) for label in labels[:MOST_LABELS]]
    return ", ".join(shown) + (f" and {len(labels) - MOST_LABELS} more" if len(labels) > MOST_LABELS else "")
