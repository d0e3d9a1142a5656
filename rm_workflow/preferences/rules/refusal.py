"""Drop a pair in which a response does nothing but refuse.

A response is only a refusal when it has at most ``max_words`` words and each of its sentences is one of those below, at
least one of them a refusal; a sentence that turns to help makes it an answer. ``side`` says which response must be one:
``chosen``, ``rejected``, ``both`` of them, or ``either``.

refusal: {side: chosen}

    keeps   "I'm sorry, but I can't open files. Paste the text here and I will read it."
    drops   "I'm sorry, but I can't help with that."

English only, and narrow on purpose: a refusal that is missed does less harm than an answer that is lost. The patterns
are RE2 over a lower-case sentence with straight apostrophes and single spaces.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from rm_workflow.database import quote_literal
from rm_workflow.preferences.rules import RuleParameters

NEEDS_SCORES = False

SORRY = (
    r"(?:(?:i'm|i am) (?:so |very |really |truly )?(?:sorry|afraid)|sorry|i (?:do )?(?:sincerely )?apologi[sz]e"
    r"|(?:my )?apologies|unfortunately)"
)
ASSISTANT = r"as an? (?:responsible |ethical )?(?:ai|artificial intelligence|(?:large )?language model|assistant)[^,]*"
OPENING = rf"(?:no,? )?(?:{SORRY},? ?)?(?:but |that )?(?:{ASSISTANT},? )?(?:{SORRY},? ?)?(?:but |that )?"
CANNOT = (
    r"i(?: am|'m)? (?:really |simply |just )?(?:can't|cannot|can not|won't|will not|not able to|unable to|not going to"
    r"|not allowed to|not permitted to|don't feel comfortable|do not feel comfortable|not comfortable|uncomfortable"
    r"|must decline to|have to decline to)(?: be able to)?"
)
HELP = r"(?:help|assist|comply|answer|answering|helping|assisting|respond to|fulfil+|engage in|participate in)\b"
GIVE = (
    r"(?:give|giving|provide|providing|discuss|discussing|share|sharing|generate|create|write|writing|produce|do|say)"
    r" (?:you |any )?(?:with )?(?:that|this|such|your|any|instructions|information|advice|details|guidance|help)\b"
)

REFUSALS = (
    # I'm sorry, but as an AI language model I cannot help you with that
    rf"{OPENING}{CANNOT} (?:{HELP}|{GIVE})",
    # I must decline
    rf"{OPENING}i (?:must|have to|will have to) (?:respectfully )?(?:decline|refuse)\b",
    # Sorry, I can't
    rf"{OPENING}i (?:can't|cannot|won't|will not)(?: do (?:that|this|it))?$",
    # That is not something I can help with
    rf"{OPENING}(?:this|that|it)(?: is|'s) (?:not something (?:that )?i can|something (?:that )?{CANNOT}) {HELP}",
)
COMPANIONS = (
    # I'm sorry for the inconvenience
    rf"{SORRY}(?:,? (?:about|for) (?:that|this|(?:the|any) (?:inconvenience|confusion)))?$",
    # It would be illegal and harmful to others
    r"(?:it|this|that|doing so)(?: is| would be|'s) (?:illegal|unethical|harmful|dangerous|inappropriate|against)\b",
    # Is there anything else I can help you with; please let me know if there is
    r"(?:is there (?:anything|something) else|what else|how else|can i help you with (?:anything|something) else)\b",
    r"(?:please |but )?(?:let me know|feel free to ask) if (?:there is|there's|you have) any",
    r"(?:thank you|thanks) for (?:your )?understanding$",
)
# What makes an answer of the rest of a refusing sentence.
TURNS = r"\b(?:but|however|although|though|instead|rather|here|such as|you can|you could|until|unless|without|yet)\b|:"

SIDES = {
    "chosen": "chosen_refuses",
    "rejected": "rejected_refuses",
    "both": "chosen_refuses and rejected_refuses",
    "either": "chosen_refuses or rejected_refuses",
}


class Parameters(RuleParameters):
    """``side``: the responses that must be only a refusal; ``max_words``: longer ones are none."""

    side: Annotated[
        Literal["chosen", "rejected", "both", "either"], Field(description="chosen, rejected, both or either")
    ]
    max_words: Annotated[int, Field(ge=1, le=1000, description="a whole number from 1 to 1000")] = 60


def sql(parameters: Parameters) -> str:
    """Select the candidates whose ``side`` is only a refusal."""
    refusal, companion = quote_literal(_any(REFUSALS)), quote_literal(_any(COMPANIONS))
    return f"""
        -- refusal: {parameters.side} is no response of up to {parameters.max_words} words that only refuses
        with shown as (
            select chosen_id as response_id from candidates
            union
            select rejected_id from candidates
        ),
        short as (
            select response_id, trim(regexp_replace(replace(lower(text), '’', ''''), '\\s+', ' ', 'g')) as text
            from responses semi join shown using (response_id)
            where len(regexp_extract_all(text, '\\S+')) <= {parameters.max_words}
        ),
        sentences as (
            select
                response_id,
                list_filter(
                    list_transform(regexp_split_to_array(text, '[.!?]+( |$)'), lambda part: trim(part, ' ,.*"')),
                    lambda part: part <> ''
                ) as parts
            from short
        ),
        judged as (
            select
                response_id,
                list_transform(
                    parts,
                    lambda part: regexp_matches(part, {refusal})
                        and not regexp_matches(regexp_replace(part, {refusal}, ''), {quote_literal(TURNS)})
                ) as refuses,
                list_transform(parts, lambda part: regexp_matches(part, {companion})) as accompanies
            from sentences
        ),
        refusals as (
            select response_id
            from judged
            where list_bool_or(refuses)
                and list_bool_and(list_transform(list_zip(refuses, accompanies), lambda one: one[1] or one[2]))
        ),
        sides as (
            select
                pair_id,
                chosen_id in (select response_id from refusals) as chosen_refuses,
                rejected_id in (select response_id from refusals) as rejected_refuses
            from candidates
        )
        select
            pair_id, 'a response does nothing but refuse' as reason,
            concat_ws(' and ', if(chosen_refuses, 'chosen', null), if(rejected_refuses, 'rejected', null)) as detail
        from sides
        where {SIDES[parameters.side]}
    """


def _any(patterns: Sequence[str]) -> str:
    return f"^(?:{'|'.join(f'(?:{pattern})' for pattern in patterns)})"
