"""What all adapters share: columns by name, typed values, and the row rules over messages."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rm_workflow.catalog.models import Source
from rm_workflow.preferences.tables import ColumnMissing, Example, Message, Response, RowDropped

# A key of ``columns`` with this start carries a column along for the rules of a pair set, under the rest of its name.
EXTRA = "extra_"
# A key with this start names the column of one rating, under the rest of its name.
RATING = "rating_"
ROLES = ("system", "user", "assistant")
# The other way in which messages are written, as ShareGPT, LLaMA-Factory and UltraInteract do: {"from", "value"}.
SPEAKERS = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
# NVIDIA's HelpSteer2 writes a dialogue as one text with these marks between its turns.
TURN_MARK = re.compile(r"\n<extra_id_1>(User|Assistant)\n")
# Anthropic's HH-RLHF writes a dialogue as one text with these marks before its turns, and Nectar its prompts.
TRANSCRIPT_MARK = re.compile(r"\n\n(Human|Assistant):")
TRANSCRIPT_ROLES = {"Human": "user", "Assistant": "assistant"}
Scalar = str | int | float | bool | None


class Fields:
    """One row under the adapter's own field names."""

    def __init__(self, row: Mapping[str, Any], source: Source, defaults: Mapping[str, str | None]) -> None:
        self.row = row
        self.source = source
        self.columns = source.columns
        self.defaults = defaults

    def required(self, key: str) -> Any:
        """Return the value of a field that every row must have."""
        column = self.columns.get(key) or self.defaults[key]
        if column is None:
            raise ColumnMissing(key)
        return value_at(self.row, column)

    def optional(self, key: str) -> Any:
        """Return the value of a field, or None where no column is named for it and the row has none."""
        if key in self.columns:
            return self.required(key)
        column = self.defaults.get(key)
        return None if column is None else self.row.get(column)

    def system_turn(self) -> list[Message]:
        """Return the system turn that stands in a column of its own, or nothing where that is empty."""
        system = optional_text(self.optional("system"), "system")
        return [{"role": "system", "content": system}] if system and system.strip() else []

    def prompt(self) -> list[Message]:
        """Return the system turn, if there is one, and the turns of the field ``prompt``.

        ``prompt_input`` is a second column (Alpaca's "input"): where it is not empty it follows the text of the prompt
        after an empty line.
        """
        turns = prompt_messages(self.required("prompt"), self.source.prompt_form)
        more = optional_text(self.optional("prompt_input"), "prompt_input")
        if more and more.strip():
            turns = [*turns[:-1], {**turns[-1], "content": f"{turns[-1]['content']}\n\n{more}"}]
        return [*self.system_turn(), *turns]

    def named(self, prefix: str) -> dict[str, Any]:
        """Return the columns whose keys begin with ``prefix``, under the rest; every row must have them."""
        return {
            key.removeprefix(prefix): value_at(self.row, column)
            for key, column in self.columns.items()
            if key.startswith(prefix)
        }

    def extra(self) -> dict[str, Scalar]:
        """Return the columns that are carried along for rules; every row must have them."""
        return {name: _scalar(value, self.columns[EXTRA + name]) for name, value in self.named(EXTRA).items()}


def value_at(row: Mapping[str, Any], column: str) -> Any:
    """Return the value of a column; ``a.b`` is the value under "b" of the object in column "a", if none is called so.

    Raises:
        ColumnMissing: the row has no such column.
        RowDropped: bad_field where the column is there and holds no object with the rest of the path.
    """
    if column in row:
        return row[column]
    first, *path = column.split(".")
    if first not in row:
        raise ColumnMissing(column)
    value = row[first]
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            raise RowDropped("bad_field", "an object does not hold this field", column)
        value = value[name]
    return value


def extra_of(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Scalar]:
    """Return the columns named as ``extra_<name>``, under ``<name>``; None where ``row`` has no such column."""
    return {
        key.removeprefix(EXTRA): _scalar(row.get(column), column)
        for key, column in columns.items()
        if key.startswith(EXTRA)
    }


def _scalar(value: Any, column: str) -> Scalar:
    if isinstance(value, str):
        return text(value, column)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float)):
        return value
    raise RowDropped("bad_field", "a column that is carried along holds no plain value", column)


def text(value: Any, where: str) -> str:
    """Return ``value`` if it is text that UTF-8 can hold.

    Raises:
        RowDropped: bad_field, with ``where`` as the detail.
    """
    if not isinstance(value, str):
        raise RowDropped("bad_field", f"text is expected, this is {_kind(value)}", where)
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise RowDropped("bad_field", "the text holds half of a surrogate pair", where) from None
    return value


def optional_text(value: Any, where: str) -> str | None:
    """Return ``value`` if it is None or text."""
    return None if value is None else text(value, where)


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", list: "a list"}
    return names.get(type(value), "an object")


def messages(value: Any, where: str) -> list[Message]:
    """Return a list of messages with known roles and text contents; other keys are left out.

    Each message is ``{"role", "content"}`` or ``{"from", "value"}``; the list may stand in an object under
    ``messages`` (OpenAI's preference format).

    Raises:
        RowDropped: bad_field.
    """
    if isinstance(value, Mapping) and "messages" in value:
        return messages(value["messages"], f"{where}.messages")
    if not isinstance(value, list) or not value:
        raise RowDropped("bad_field", "a list of messages is expected", where)
    return [_message(entry, f"{where}[{index}]") for index, entry in enumerate(value)]


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, Mapping):
        raise RowDropped("bad_field", "a message with role and content is expected", where)
    shared_gpt = "role" not in value and "from" in value
    speaker, content = ("from", "value") if shared_gpt else ("role", "content")
    roles = SPEAKERS if shared_gpt else {role: role for role in ROLES}
    name = value.get(speaker)
    if not isinstance(name, str) or name not in roles:
        raise RowDropped("bad_field", f"a role is none of {', '.join(roles)}", f"{where}.{speaker}")
    return {"role": roles[name], "content": _content(value.get(content), f"{where}.{content}")}


def _content(value: Any, where: str) -> str:
    """Return the text of a message, which may stand in a list as its one part: ``[{"type": "text", "text": "..."}]``.

    LLaMA-Factory calls the text of a part "value".
    """
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping) and value[0].get("type") == "text":
        part = value[0]
        return text(part["text"] if "text" in part else part.get("value"), where)
    return text(value, where)


def prompt_messages(prompt: Any, form: str = "plain") -> list[Message]:
    """Return a prompt that is given as messages or as text.

    Args:
        form: ``plain``: a text is one user turn; ``extra_id``: its turns stand between NVIDIA's marks, a user's first;
            ``transcript``: its turns stand after the marks of HH-RLHF, with an empty assistant's turn at the end.
    """
    if not isinstance(prompt, str):
        return messages(prompt, "prompt")
    if form == "plain":
        return [{"role": "user", "content": text(prompt, "prompt")}]
    if form == "transcript":
        dialogue = parse_transcript(text(prompt, "prompt"), "prompt")
        unanswered = dialogue[-1]["role"] == "assistant" and not dialogue[-1]["content"].strip()
        return dialogue[:-1] if unanswered else dialogue
    first, *marked = TURN_MARK.split(text(prompt, "prompt"))
    turns: list[Message] = [{"role": "user", "content": first}]
    for name, content in zip(marked[::2], marked[1::2], strict=True):
        turns.append({"role": SPEAKERS[name.lower()], "content": content})
    return turns


def parse_transcript(transcript: str, where: str) -> list[Message]:
    """Return the turns of a transcript; one space after a mark belongs to the mark, all else is verbatim.

    Raises:
        RowDropped: bad_field where the text does not begin with a turn mark.
    """
    before, *marked = TRANSCRIPT_MARK.split(transcript)
    if before or not marked:
        raise RowDropped("bad_field", "the transcript does not begin with a turn mark", where)
    return [
        {"role": TRANSCRIPT_ROLES[speaker], "content": content.removeprefix(" ")}
        for speaker, content in zip(marked[::2], marked[1::2], strict=True)
    ]


def number(value: Any) -> float | None:
    """Return a finite number, also one written as text ("4"), or None for everything else ("N/A", null, NaN)."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def answered(prompt: Sequence[Message], responses: Sequence[Response]) -> Example:
    """Return a prompt with its responses.

    Raises:
        RowDropped: empty_message or not_alternating.
    """
    refuse_empty(prompt, {response.slot: response.text for response in responses})
    refuse_not_alternating(prompt)
    return Example(prompt, responses)


def refuse_empty(turns: Sequence[Message], responses: Mapping[str, str]) -> None:
    """Apply ``empty_message``: a turn of the prompt or a response is only white space."""
    for index, turn in enumerate(turns):
        if not turn["content"].strip():
            raise RowDropped("empty_message", "a message is only white space", f"prompt turn {index} ({turn['role']})")
    for name, response in responses.items():
        if not response.strip():
            raise RowDropped("empty_message", "a message is only white space", f"response {name}")


def refuse_not_alternating(turns: Sequence[Message], where: str = "prompt") -> None:
    """Apply ``not_alternating``: after an optional system turn come user and assistant by turns, a user turn last."""
    roles = [turn["role"] for turn in turns]
    dialogue = roles[1:] if roles[:1] == ["system"] else roles
    expected = ["user" if index % 2 == 0 else "assistant" for index in range(len(dialogue))]
    if dialogue != expected or len(dialogue) % 2 == 0:
        shown = " ".join(roles) if len(roles) <= 12 else f"{' '.join(roles[:12])} ... ({len(roles)} turns)"
        raise RowDropped("not_alternating", "user and assistant do not take turns", f"{where}: {shown}")


def two_sides(chosen: Sequence[Message], rejected: Sequence[Message]) -> list[Message]:
    """Return the messages that two dialogues share before their last ones, under the row rules in their order.

    Raises:
        RowDropped: context_differs, empty_message or not_alternating.
    """
    context = list(chosen[:-1])
    if context != list(rejected[:-1]):
        raise RowDropped(
            "context_differs", "the two sides answer different dialogues", _first_difference(chosen, rejected)
        )
    refuse_empty(context, {"chosen": chosen[-1]["content"], "rejected": rejected[-1]["content"]})
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if side[-1]["role"] != "assistant":
            raise RowDropped("not_alternating", "a side does not end in an assistant turn", name)
    refuse_not_alternating(context)
    return context


def _first_difference(chosen: Sequence[Message], rejected: Sequence[Message]) -> str:
    if len(chosen) != len(rejected):
        return f"{len(chosen)} turns against {len(rejected)}"
    turns = zip(chosen, rejected, strict=True)
    return f"turn {next(index for index, (left, right) in enumerate(turns) if left != right)}"
