"""What ``rmw score``, ``rank`` and ``filter`` read from a row, and what they add to it.

In, one row a line; out, the same row and what stands behind the arrow::

    score   {"messages": [{"role": "user", "content": "Is 9 prime?"}, {"role": "assistant", "content": "No."}]}
            {"prompt": "Is 9 prime?", "response": "No."}                                   -> "score"
    rank    {"prompt": "Is 9 prime?", "responses": ["No.", "Yes."]}                        -> "scores", "best"
    filter  {"prompt": "Is 9 prime?", "chosen": "No.", "rejected": "Yes."}                 -> "score_chosen",
                                                                           "score_rejected", "score_gap"

``prompt`` is a text or messages. Pairs are read in every form that the adapters ``chosen_rejected`` and
``hh_transcript`` know. A model that scores the steps of a solution adds ``step_scores`` to a scored row, and ``score``
is what an aggregator makes of them. Steps are lines, or paragraphs in a response that has any; ``"steps": ["Step 1:
...", "Step 2: ..."]`` in the place of ``response`` says where they end.

A reply that is empty or only white space is refused by all of them, as training drops it: a model still gives it some
reward, which no data have taught.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rm_workflow.catalog.models import Source
from rm_workflow.evaluation.items import FieldError, Row, shown, storable, text, texts, value
from rm_workflow.evaluation.scorer import Conversation, StepEnds
from rm_workflow.preferences import adapters
from rm_workflow.preferences.tables import RowDropped

Asked = tuple[Conversation, StepEnds]
Answer = dict[str, Any]
Found = TypeVar("Found")

ROLES = ("system", "user", "assistant")
ERROR, STEP_SCORES = "error", "step_scores"
TOLD = 5  # bad entries of a list that are named
# Adapters read the columns of a source; here they bear the adapters' own names.
READ_AS = Source(path="rows", files={"train": ["rows"]}, adapter="chosen_rejected", licence="unknown")
TRANSCRIPT = "\n\nHuman:"


@dataclass(frozen=True)
class Verb:
    """One command over rows.

    Attributes:
        fields: that it adds; all are null in a row that cannot be scored.
        read: the conversations of a row, at least one.
        answer: the fields, of the scores of these conversations.
        scores: of the fields of a row that was answered, the scores again.
        keeps: whether a row with this answer is written.
        drops: whether there may be rows that are not.
    """

    fields: tuple[str, ...]
    read: Callable[[Row], list[Asked]]
    answer: Callable[[Sequence[float]], Answer]
    scores: Callable[[Row], Any]
    keeps: Callable[[Answer], bool] = lambda _: True
    drops: bool = False

    def kept_of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return what of a row stands in the output beside the answer."""
        return {name: found for name, found in row.items() if name not in (*self.fields, ERROR, STEP_SCORES)}

    def stored_scores(self, row: Mapping[str, Any]) -> list[float] | None:
        """Return the scores of a row of the output, None of one that could not be scored.

        Raises:
            FieldError: the row is no answer of this verb.
        """
        if any(name not in row for name in self.fields):
            raise FieldError("a field is missing")
        if all(row[name] is None for name in self.fields):
            return None
        found = self.scores(row)
        if not isinstance(found, list) or not found or not all(is_score(score) for score in found):
            raise FieldError("a score is no finite number")
        answer = self.answer(found)
        if any(row[name] != answer[name] for name in self.fields) or not self.keeps(answer):
            raise FieldError("it is the answer of another command")
        return [float(score) for score in found]


def is_score(found: Any) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found)


def read_conversation(row: Row) -> Conversation:
    """Return (prompt messages, response) of a row in either form.

    Raises:
        FieldError: a field is missing or of the wrong type, the last message is not the assistant's, or the response is
            only white space.
    """
    if row.get("messages") is not None:
        messages = _messages(row, "messages")
        if messages[-1]["role"] != "assistant" or len(messages) == 1:
            raise FieldError("field messages must end with the assistant turn to be scored, after a prompt")
        return messages[:-1], _reply(messages[-1]["content"], f"messages[{len(messages) - 1}]")
    if row.get("steps") is not None:
        return read_prompt(row), "\n".join(texts(row, "steps"))
    return read_prompt(row), _reply(value(row, "response"), "response")


def read_prompt(row: Row) -> list[dict[str, str]]:
    """Return the messages of a prompt, which is a text or messages.

    Raises:
        FieldError: it is missing or neither.
    """
    if isinstance(value(row, "prompt"), str):
        return [{"role": "user", "content": text(row, "prompt")}]
    return _messages(row, "prompt")


def read_candidates(row: Row) -> list[Conversation]:
    """Return the prompt with each of its responses.

    Raises:
        FieldError: a field is missing or of the wrong type, or there is no response.
        RepliesError: some of the responses cannot be scored.
    """
    prompt = read_prompt(row)
    found = value(row, "responses")
    if found == []:
        raise FieldError("field responses is empty; give at least one entry")
    replies = found if isinstance(found, list) and found else texts(row, "responses")
    responses, problems = read_each(replies, lambda reply: _reply(reply, None))
    if problems:
        raise RepliesError(problems, "responses")
    return [(prompt, response) for response in responses]


class RepliesError(FieldError):
    """Entries of one list cannot be scored.

    Attributes:
        problems: index -> what is wrong.
    """

    def __init__(self, problems: Mapping[int, str], named: str = "") -> None:
        super().__init__(problems_told(problems, named))
        self.problems = problems


def read_each(entries: Sequence[Any], read: Callable[[Any], Found]) -> tuple[list[Found], dict[int, str]]:
    """Return the entries that can be read, as ``read`` gives them, and index -> what is wrong with the others."""
    good: list[Found] = []
    problems = {}
    for index, entry in enumerate(entries):
        try:
            good.append(read(entry))
        except FieldError as error:
            problems[index] = str(error)
    return good, problems


def problems_told(problems: Mapping[int, str], named: str = "") -> str:
    """Return one sentence on entries of a list: how many cannot be scored, and the first few.

    >>> problems_told({1: "it is 7; it must be text"}, "responses")
    'responses[1]: it is 7; it must be text'
    """
    first = "; ".join(f"{named}[{index}]: {problem}" for index, problem in list(problems.items())[:TOLD])
    if len(problems) == 1:
        return first
    more = f"; and {len(problems) - TOLD:,} more" if len(problems) > TOLD else ""
    return f"{len(problems):,} entries cannot be scored: {first}{more}"


def _reply(found: Any, name: str | None) -> str:
    named = f"field {name}" if name else "it"
    if found is None:
        raise FieldError(f"{named} is null; it must be text")
    if not isinstance(found, str):
        raise FieldError(f"{named} is {shown(found)}; it must be text")
    if not found.strip():
        raise FieldError(f"{named} is {'only white space' if found else 'empty'}, which is no reply; leave it out")
    return storable(found, name or "response")


def read_pair(row: Row) -> tuple[Conversation, Conversation]:
    """Return the chosen and the rejected conversation.

    Raises:
        FieldError: the row is no pair: a side is missing, empty or of the wrong type, or they answer different prompts.
    """
    is_transcript = row.get("prompt") is None and str(row.get("chosen")).startswith(TRANSCRIPT)
    try:
        example = adapters.get("hh_transcript" if is_transcript else "chosen_rejected").read(row, READ_AS)
    except RowDropped as dropped:
        raise FieldError(f"{dropped.reason} ({dropped.detail}); mend the row") from None
    messages = [{"role": str(turn["role"]), "content": turn["content"]} for turn in example.messages]
    chosen, rejected = example.responses
    return (messages, chosen.text), (messages, rejected.text)


def _step_ends(row: Row) -> list[int] | None:
    """Return where the steps of a row end that names them.

    Raises:
        FieldError: a step is only white space, so that a score would have no place of its own.
    """
    if row.get("steps") is None or row.get("messages") is not None:
        return None
    steps = texts(row, "steps")
    if not all(step.strip() for step in steps):
        raise FieldError("field steps holds a step that is only white space; leave it out")
    ends = [len("\n".join(steps[:number])) for number in range(1, len(steps) + 1)]
    return [end - len(step) + len(step.rstrip()) for end, step in zip(ends, steps, strict=True)]


def _messages(row: Row, name: str) -> list[dict[str, str]]:
    messages = row[name]
    if not isinstance(messages, list) or not messages or not all(isinstance(turn, dict) for turn in messages):
        raise FieldError(f"field {name} must be a list of {{role, content}} objects with at least one entry")
    for index, turn in enumerate(messages):
        if turn.get("role") not in ROLES or not isinstance(turn.get("content"), str):
            raise FieldError(f"{name}[{index}] must have a role ({', '.join(ROLES)}) and content that is text")
    return [{"role": turn["role"], "content": storable(turn["content"], name)} for turn in messages]


def best_of(scores: Sequence[float]) -> int:
    """Return the index of the highest score, the first of equal ones."""
    return max(range(len(scores)), key=scores.__getitem__)


def _gap(scores: Sequence[float]) -> Answer:
    chosen, rejected = scores
    return {"score_chosen": chosen, "score_rejected": rejected, "score_gap": chosen - rejected}


SCORE = Verb(
    fields=("score",),
    read=lambda row: [(read_conversation(row), _step_ends(row))],
    answer=lambda scores: {"score": scores[0]},
    scores=lambda row: [row["score"]],
)
RANK = Verb(
    fields=("scores", "best"),
    read=lambda row: [(conversation, None) for conversation in read_candidates(row)],
    answer=lambda scores: {"scores": list(scores), "best": best_of(scores)},
    scores=lambda row: row["scores"],
)


def filter_verb(min_margin: float | None) -> Verb:
    """Return the verb that scores pairs, and leaves out those whose ``score_gap`` is below ``min_margin`` if given."""
    return Verb(
        fields=("score_chosen", "score_rejected", "score_gap"),
        read=lambda row: [(conversation, None) for conversation in read_pair(row)],
        answer=_gap,
        scores=lambda row: [row["score_chosen"], row["score_rejected"]],
        keeps=lambda answer: min_margin is None or answer["score_gap"] >= min_margin,
        drops=min_margin is not None,
    )
