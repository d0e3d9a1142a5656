"""The canonical tables as Arrow schemas, and one row of a source as an adapter understands it.

Text is stored once (``prompts``, ``responses``); ``occurrences`` says where each response was shown, ``labels`` how it
was judged there.

``step_ends`` of a response: for each step the number of characters (code points) of the text up to the step's last
character that is not white space; a mark that a source sets after a step (``ки``) belongs to the step. Steps count from
0: step k is ``text[step_ends[k - 1] : step_ends[k]]``, stripped.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, TypedDict

import pyarrow as pa

# Order in which a row is tried; the first rule that matches drops it.
ROW_RULES = ("broken_line", "bad_field", "context_differs", "empty_message", "not_alternating")
EXCERPT_CHARACTERS = 200
# The rating that a label gives: 1 the better response, 0 the other, both 0 for a tie.
PREFERENCE = "preference"

RowRule = Literal["broken_line", "bad_field", "context_differs", "empty_message", "not_alternating"]
LabelKind = Literal["outcome", "hard", "soft", "rating"]

PROMPTS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("group_id", pa.string()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
    ]
)
RESPONSES = pa.schema(
    [
        ("response_id", pa.string()),
        ("prompt_id", pa.string()),
        ("text", pa.string()),
        ("step_ends", pa.list_(pa.int32())),
    ]
)
OCCURRENCES = pa.schema(
    [
        ("response_id", pa.string()),
        ("prompt_id", pa.string()),
        ("source", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("slot", pa.string()),
        ("model", pa.string()),
        ("ratings", pa.map_(pa.string(), pa.float64())),
        ("extra", pa.string()),
    ]
)
LABELS = pa.schema(
    [
        ("response_id", pa.string()),
        ("source", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("slot", pa.string()),
        ("step", pa.int32()),
        ("value", pa.float64()),
        ("kind", pa.string()),
    ]
)
DROPPED = pa.schema(
    [
        ("stage", pa.string()),
        ("source", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("slots", pa.list_(pa.string())),
        ("pair_id", pa.string()),
        ("chosen_id", pa.string()),
        ("rejected_id", pa.string()),
        ("rule", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("excerpt", pa.string()),
    ]
)

_SURROGATE = re.compile("[\ud800-\udfff]")


class Message(TypedDict):
    """One turn: role ``system``, ``user`` or ``assistant``, and its text."""

    role: str
    content: str


@dataclass(frozen=True)
class Label:
    """One judgement of a response or of one of its steps.

    Attributes:
        kind: ``outcome`` (final answer right 1, wrong 0), ``hard`` (step right 1, wrong 0), ``soft`` (share of the
            completions from here that are right, 0 to 1) or ``rating`` (what a person gave, on the source's own scale).
        step: which of the response's ``step_ends``, from 0; None for the whole response.
    """

    kind: LabelKind
    value: float
    step: int | None = None


@dataclass(frozen=True)
class Response:
    """One response of a row.

    Attributes:
        slot: ``chosen`` or ``rejected`` of a given pair, "0", "1", ... of a rated list.
        ratings: attribute -> finite number; attributes without a number are left out.
        extra: further JSON values about this response that a rule may ask for.
        step_ends: ascending, see the head of this file; None where the source tells no steps.
        labels: judgements that this row gives.
    """

    slot: str
    text: str
    model: str | None = None
    ratings: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    step_ends: Sequence[int] | None = None
    labels: Sequence[Label] = ()

    @property
    def steps(self) -> list[str]:
        """Return the text cut at the ends of its steps, each with the white space before it."""
        ends = [0, *(self.step_ends or ())]
        return [self.text[start:end] for start, end in pairwise(ends)]


@dataclass(frozen=True)
class Example:
    """What one row says: a prompt and its responses.

    Attributes:
        messages: the prompt; a system turn first if there is one, then user and assistant by turns, a user turn last.
        responses: at least one.
    """

    messages: Sequence[Message]
    responses: Sequence[Response]


class RowDropped(Exception):
    """A row that one of the row rules drops.

    Attributes:
        reason: the rule's finding as a short sentence without the row's own text.
        detail: what exactly was found (field, turn), or None.
    """

    def __init__(self, rule: RowRule, reason: str, detail: str | None = None) -> None:
        super().__init__(f"{rule}: {reason}")
        self.rule = rule
        self.reason = reason
        self.detail = detail


class ColumnMissing(RowDropped):
    """A row without a column that its adapter needs; fatal where no row of the file has it."""

    def __init__(self, column: str) -> None:
        super().__init__("bad_field", "a column is missing", column)
        self.column = column


def excerpt(text: str) -> str:
    """Return the start of ``text``, at most 200 characters; what UTF-8 cannot hold is shown as ``\\udXXX``."""
    return printable(text[:EXCERPT_CHARACTERS])[:EXCERPT_CHARACTERS]


def printable(text: str) -> str:
    """Return ``text`` with every lone surrogate spelled out, so that it can be stored as UTF-8."""
    return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
