"""Drop a pair whose prompt or one of whose responses is too short or too long, or whose responses differ too much.

A prompt's length is that of its turns, joined by a space. Words are what stands between white space; where a language
writes none, set characters. ``max_ratio`` compares the characters of the longer response with those of the shorter
one: pairs that length alone decides teach length.

length: {response: {min_words: 2, max_words: 1000}, max_ratio: 10}

    keeps   "The Danube." against "I do not know."
    drops   "The Danube." against "No."                 the rejected response has fewer than 2 words
"""

from collections.abc import Iterator
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rm_workflow.preferences.rules import RuleParameters

NEEDS_SCORES = False

Limit = Annotated[int, Field(ge=1)]
BOUNDS = "{min_words, max_words, min_characters, max_characters}, each a whole number from 1"


class Bounds(BaseModel):
    """Limits of one text, both ends allowed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    min_words: Limit | None = None
    max_words: Limit | None = None
    min_characters: Limit | None = None
    max_characters: Limit | None = None

    @model_validator(mode="after")
    def _in_order(self) -> "Bounds":
        for unit in ("words", "characters"):
            least, most = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            if least and most and least > most:
                raise ValueError(f"min_{unit} is {least} and max_{unit} {most}, so that no length is between them")
        return self

    def limits(self) -> Iterator[tuple[str, str, int]]:
        """Yield (unit, comparison that breaks the limit, limit) of each limit that is set."""
        for unit in ("words", "characters"):
            for end, comparison in (("min", "<"), ("max", ">")):
                if limit := getattr(self, f"{end}_{unit}"):
                    yield unit, comparison, limit


class Parameters(RuleParameters):
    """Limits of the prompt and of each response, and of the longer response against the shorter one."""

    prompt: Annotated[Bounds, Field(description=BOUNDS)] = Bounds()
    response: Annotated[Bounds, Field(description="the same")] = Bounds()
    max_ratio: Annotated[float | None, Field(ge=1, lt=1_000_000, description="a number from 1")] = None

    @model_validator(mode="after")
    def _some_limit(self) -> "Parameters":
        if self.max_ratio is None and not [*self.prompt.limits(), *self.response.limits()]:
            raise ValueError("no limit is set; set one of prompt, response and max_ratio")
        return self


def sql(parameters: Parameters) -> str:
    """Select the candidates that break a limit, with the first one that they break."""
    broken = "\n".join(
        f"when {breaks} then {{'reason': '{reason}', 'detail': {detail}}}"
        for breaks, reason, detail in _conditions(parameters)
    )
    return f"""
        -- length: prompt and responses within their limits; texts are measured once each, by id
        with shown as (
            select chosen_id as response_id from candidates
            union
            select rejected_id from candidates
        ),
        measured_responses as (
            select response_id, {_measure("text", parameters.response)}
            from responses semi join shown using (response_id)
        ),
        prompt_texts as (
            select prompt_id, array_to_string([message.content for message in messages], ' ') as text
            from prompts
            where {any(parameters.prompt.limits())} and prompt_id in (select prompt_id from candidates)
        ),
        measured_prompts as (
            select prompt_id, {_measure("text", parameters.prompt)} from prompt_texts
        ),
        judged as (
            select
                pair_id,
                case
                    {broken}
                end as broken
            from candidates
            join measured_responses chosen on chosen.response_id = chosen_id
            join measured_responses rejected on rejected.response_id = rejected_id
            left join measured_prompts prompt using (prompt_id)
        )
        select pair_id, broken.reason, broken.detail
        from judged
        where broken is not null
    """


def _conditions(parameters: Parameters) -> Iterator[tuple[str, str, str]]:
    """Yield (SQL of a broken limit, reason, SQL of the detail) in the order in which they are tried."""
    texts = (("prompt", "the prompt", parameters.prompt),)
    sides = ((side, f"the {side} response", parameters.response) for side in ("chosen", "rejected"))
    for table, name, bounds in (*texts, *sides):
        for unit, comparison, limit in bounds.limits():
            than = f"{'fewer' if comparison == '<' else 'more'} than {limit} {unit}"
            yield f"{table}.{unit} {comparison} {limit}", f"{name} has {than}", f"{table}.{unit} || ' {unit}'"
    if parameters.max_ratio is not None:
        longer, shorter = (f"{end}(chosen.characters, rejected.characters)" for end in ("greatest", "least"))
        yield (
            f"{longer} > {parameters.max_ratio!r} * {shorter}",
            f"one response is more than {parameters.max_ratio:g} times as long as the other",
            "chosen.characters || ' against ' || rejected.characters || ' characters'",
        )


def _measure(text: str, bounds: Bounds) -> str:
    """Return SQL for the columns words and characters; words cost more and are counted only where asked for."""
    counts_words = any(unit == "words" for unit, _, _ in bounds.limits())
    words = f"len(regexp_extract_all({text}, '[^\\s\\p{{Z}}]+'))" if counts_words else "null::bigint"
    return f"{words} as words, length({text}) as characters"
