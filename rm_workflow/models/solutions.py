"""Solutions with verdicts as token ids: where each label stands is known by construction, not counted from an end.

A generative model reads a dialogue in which each verdict is an assistant turn (RLHFlow/RLHF-Reward-Modeling, math-rm).
As ``generative_prm`` it is problem and first step, verdict, next step, verdict::

    user: 2 + 3 - 1? Step 1: 2 + 3 = 5.    assistant: +    user: Step 2: 5 - 1 = 6.    assistant: -

and as ``generative_orm`` problem and whole solution, verdict. The loss, and the score, are about the one token of each
verdict. ``token_prm`` reads problem and solution as a question and its answer; its labels stand at the token that holds
the last character of each step.

What stands before a verdict is its history. Training shows the true verdicts there, as RLHFlow does; a step without a
label counts as right. Scoring shows ``+`` everywhere: a step is scored under the supposition that all before it are
right. So one pass gives the scores of all steps, each as if the solution ended there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rm_workflow.errors import UserError
from rm_workflow.models.readout import BAD, GOOD, KINDS, Readout
from rm_workflow.models.tokens import PROBE, Encoder, Message, apply_system_turn, render_all

if TYPE_CHECKING:
    from tokenizers import Encoding

# Stand for a verdict and for the end of the problem until the template has been rendered. Private use characters, of
# which those are taken that no text holds.
PLACES = tuple(map(chr, range(0xE000, 0xE100)))


@dataclass(frozen=True)
class Solution:
    """A solution to be read.

    Attributes:
        messages: the problem; the last turn is the user's.
        step_ends: characters of the text where its steps end; None where it is one step.
        labels: probability that each step (or the whole) is right, None where nobody said; None for scoring.
    """

    messages: Sequence[Message]
    text: str
    step_ends: Sequence[int] | None = None
    labels: Sequence[float | None] | None = None

    @property
    def steps(self) -> list[str]:
        """Return the texts of the steps without the white space around them."""
        ends = self.step_ends or [len(self.text)]
        return [self.text[start:end].strip() for start, end in zip([0, *ends], ends, strict=False)]


@dataclass(frozen=True)
class Marked:
    """A solution as token ids.

    Attributes:
        places: index of the token of each label: the verdict itself, or the last token of a step.
        num_prompt: leading tokens of the problem, which may be cut from the left.
    """

    input_ids: list[int]
    places: list[int]
    num_prompt: int


class SolutionEncoder:
    """An encoder of solutions for one objective.

    Attributes:
        encoder: the token recipe.
        readout: objective and, of a generative model, the ids of its two verdicts.
    """

    def __init__(self, encoder: Encoder, objective: str) -> None:
        self.encoder = encoder
        self.readout = Readout(objective, self._sign_ids() if KINDS[objective] == "signs" else None)

    def encode_many(self, solutions: Sequence[Solution]) -> list[Marked]:
        """Return the ids of many solutions with the places of their labels, in their order.

        Raises:
            UserError: the template refuses a conversation or changes what it is given.
        """
        if self.readout.kind == "steps":
            return self._encode_answers(solutions)
        marks = [_unused(solution) for solution in solutions]
        asked = [(self._turns(*pair), False) for pair in zip(solutions, marks, strict=True)]
        texts, all_places, borders = [], [], []
        rendered = render_all(self.encoder.tokenizer, self.encoder.template_text, asked)
        for solution, (verdict, border), text in zip(solutions, marks, rendered, strict=True):
            signs = self._history(solution)
            if text.count(verdict) != len(signs) or text.count(border) != 1:
                raise UserError(
                    "the chat template changes or leaves out a turn, so verdicts have no place in it; set "
                    "tokens.template to chatml"
                )
            borders.append(text.index(border))
            text = text.replace(border, "")
            all_places.append([place for place, character in enumerate(text) if character == verdict])
            for sign in signs:
                text = text.replace(verdict, sign, 1)
            texts.append(text)
        marked = []
        for solution, places, border_at, found in zip(
            solutions, all_places, borders, self._encodings(texts), strict=True
        ):
            tokens = [_token_at(found, place) for place in places]
            self._check_signs([found.ids[token] for token in tokens], self._history(solution))
            marked.append(Marked(list(found.ids), tokens, _token_at(found, border_at)))
        return marked

    def special_token(self, solution: Solution) -> str | None:
        """Return the first special token whose string stands in a text of the solution, or None."""
        texts = [*(message["content"] for message in solution.messages), solution.text]
        return next((found for text in texts if (found := self.encoder.holds_special_token(text))), None)

    def cut_problem(self, marked: Marked, max_length: int) -> Marked | None:
        """Return a solution within so many tokens, its problem cut from the left, or None where that is not enough."""
        excess = len(marked.input_ids) - max_length
        if excess <= 0:
            return marked
        kept = int(self.encoder.starts_with_bos)
        if excess > marked.num_prompt - kept:
            return None
        ids = [*marked.input_ids[:kept], *marked.input_ids[kept + excess :]]
        return Marked(ids, [place - excess for place in marked.places], marked.num_prompt - excess)

    def cut_steps(self, marked: Marked, max_length: int) -> Marked | None:
        """Return a solution within so many tokens, its last steps left out, or None where not even the first fits."""
        if len(marked.input_ids) <= max_length:
            return marked
        places = [place for place in marked.places if place < max_length]
        return Marked(marked.input_ids[: places[-1] + 1], places, marked.num_prompt) if places else None

    def _turns(self, solution: Solution, marks: tuple[str, str]) -> list[Message]:
        """Return the dialogue, with marks for its verdicts and behind the problem."""
        verdict, border = marks
        *before, asked = apply_system_turn(solution.messages, self.encoder.recipe.system_turn)
        steps = solution.steps if self.readout.is_stepwise else [solution.text.strip()]
        first = {"role": "user", "content": f"{asked['content']}{border} {steps[0]}"}
        answered = {"role": "assistant", "content": verdict}
        later = [turn for step in steps[1:] for turn in ({"role": "user", "content": step}, answered)]
        return [*before, first, answered, *later]

    def _history(self, solution: Solution) -> list[str]:
        """Return the verdicts that are shown."""
        num_labels = len(solution.steps) if self.readout.is_stepwise else 1
        labels = solution.labels or [None] * num_labels
        return [BAD if label is not None and label < 0.5 else GOOD for label in labels]

    def _encode_answers(self, solutions: Sequence[Solution]) -> list[Marked]:
        encoder, asked = self.encoder, []
        marks = [_unused(solution)[0] for solution in solutions]
        for solution, mark in zip(solutions, marks, strict=True):
            turns = apply_system_turn(solution.messages, encoder.recipe.system_turn)
            asked += [([*turns, {"role": "assistant", "content": text}], False) for text in (mark, solution.text)]
        rendered = render_all(encoder.tokenizer, encoder.template_text, asked)
        marked = []
        found = self._encodings(rendered[1::2])
        for solution, mark, opened, text, encoding in zip(
            solutions, marks, rendered[::2], rendered[1::2], found, strict=True
        ):
            start = opened.find(mark)
            # Some templates strip what a turn says.
            lead = 0 if text.startswith(solution.text, start) else len(solution.text) - len(solution.text.lstrip())
            if start < 0 or not text.startswith(solution.text[lead:].rstrip(), start):
                raise UserError(
                    "the chat template changes an answer, so the ends of its steps cannot be told; set "
                    "tokens.template to chatml"
                )
            ends = solution.step_ends or [len(solution.text.rstrip())]
            places = [_token_at(encoding, start - lead + end - 1) for end in ends]
            marked.append(Marked(list(encoding.ids), places, _token_at(encoding, start)))
        return marked

    def _encodings(self, texts: Sequence[str]) -> "list[Encoding]":
        found: list[Encoding] = self.encoder.tokenizer.backend_tokenizer.encode_batch(
            list(texts), add_special_tokens=False
        )
        return found

    def _sign_ids(self) -> tuple[int, int]:
        """Return the ids of + and - where the template puts a verdict.

        Raises:
            UserError: one of them is not a token of its own there.
        """
        asked = [([*PROBE, {"role": "assistant", "content": sign}], False) for sign in (GOOD, BAD)]
        texts = render_all(self.encoder.tokenizer, self.encoder.template_text, asked)
        good, bad = (encoding.ids for encoding in self._encodings(texts))
        differing = [place for place, (a, b) in enumerate(zip(good, bad, strict=False)) if a != b]
        if len(good) != len(bad) or len(differing) != 1:
            raise UserError(
                f"the tokenizer reads {GOOD} or {BAD} after the template's mark of a reply as part of a larger token, "
                "and a verdict must be a token of its own; set tokens.template to chatml"
            )
        return good[differing[0]], bad[differing[0]]

    def _check_signs(self, found: Sequence[int], signs: Sequence[str]) -> None:
        assert self.readout.sign_ids is not None
        good, bad = self.readout.sign_ids
        if list(found) != [good if sign == GOOD else bad for sign in signs]:
            raise UserError(
                "a verdict is part of a larger token in a conversation, so it has no logit of its own; set "
                "tokens.template to chatml"
            )


def _unused(solution: Solution) -> tuple[str, str]:
    """Return two characters that no text of a solution holds."""
    held = set(solution.text).union(*(message["content"] for message in solution.messages))
    first, second, *_ = (place for place in PLACES if place not in held)
    return first, second


def _token_at(encoding: "Encoding", character: int) -> int:
    """Return the token that holds a character of the text."""
    token = encoding.char_to_token(character)
    if token is None:
        raise UserError(
            f"the tokenizer leaves character {character} of a conversation out, where a label stands; take another "
            "base model"
        )
    return int(token)
