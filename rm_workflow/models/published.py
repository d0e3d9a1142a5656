"""Token recipes of published reward models, which come without a ``token_recipe.json``.

A table for models whose way of scoring is known; for any other model the chat template of its own tokenizer is a guess,
and called so wherever a score is shown. A wrong recipe costs points without a word: FsfairX loses about 1 % on
RewardBench with a BOS (RLHFlow/RLHF-Reward-Modeling#16).
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rm_workflow.catalog.models import TokenRecipe
from rm_workflow.errors import UserError
from rm_workflow.models.tokens import OWN_TEMPLATES, TOKEN_RECIPE, Encoder, load_tokenizer

Origin = Literal["stored", "published", "guessed"]


@dataclass(frozen=True)
class Published:
    """How models with these hub ids read a conversation.

    Attributes:
        hub_ids: regular expression over whole hub ids.
        source: where that is stated.
        template: as in a token recipe; ``native`` is the template that the model's tokenizer carries.
        max_length: tokens that it was trained with; None for its whole window.
        with_bos: a conversation begins with one BOS where tokenizer or template have one.
        objective: what its verdicts are about, of a generative model; ``end`` where a head gives one reward.
    """

    hub_ids: str
    source: str
    template: Literal["native", "hh_transcript"] = "native"
    max_length: int | None = None
    with_bos: bool = True
    objective: str = "end"


PUBLISHED = (
    Published(
        "weqweasdas/RM-Mistral-7B",
        "its card and RLHFlow/RLHF-Reward-Modeling:bradley-terry-rm/mistral_7B_rm.py: the template's BOS is deleted, "
        "the tokenizer's comes back",
        max_length=4096,
    ),
    Published(
        "sfairXC/FsfairX-LLaMA3-RM-v0.1",
        "its card deletes the BOS, and the Llama-3 tokenizer of its time added none (RLHFlow/RLHF-Reward-Modeling#16)",
        max_length=4096,
        with_bos=False,
    ),
    Published(
        r"Skywork/Skywork-Reward-(Llama-3\.1-8B|Gemma-2-27B)(-v0\.2)?",
        "SkyworkAI/Skywork-Reward:README.md: the template has no BOS, the tokenizer adds it",
    ),
    Published(
        r"Skywork/Skywork-Reward-V2-.+",
        "its card: a BOS that the template writes is cut, the tokenizer adds it where it has one",
        max_length=16384,
    ),
    Published(
        r"allenai/(Llama-3\.1-Tulu-3-8B-RM|.+-RM-RB2)",
        "allenai/reward-bench:scripts/run_v2.py, by which its card was scored: one BOS where the tokenizer adds it",
    ),
    Published(
        "usama10/qwen-7b-reward-model",
        "its card: the text of an HH-RLHF row, then EOS as TRL appends it",
        template="hh_transcript",
        max_length=512,
    ),
    *(
        Published(
            rf"RLHFlow/Llama3\.1-8B-{kind}-(Mistral|Deepseek)-Data",
            "RLHFlow/RLHF-Reward-Modeling:math-rm: the chat template of its tokenizer, packed to 8,192 tokens",
            max_length=8192,
            objective=objective,
        )
        for kind, objective in (("ORM", "generative_orm"), ("PRM", "generative_prm"))
    ),
)


def published(hub_id: str | None) -> Published | None:
    """Return the entry of a hub id, or None."""
    return next((entry for entry in PUBLISHED if hub_id and re.fullmatch(entry.hub_ids, hub_id)), None)


def load_encoder(
    folder: Path, hub_id: str | None, window: int, pad_token_id: int | None, name: str
) -> tuple[Encoder, Origin]:
    """Return the encoder of a model that came without a token recipe, and whether it is known or guessed.

    Args:
        folder: where its tokenizer is.
        hub_id: org/name on the hub, or None for a folder of somebody's own.
        window: tokens that the model has positions for.
        pad_token_id: the pad of the model's config; None chooses one.
        name: what errors call the model.

    Raises:
        UserError: the tokenizer carries no chat template, so there is nothing to guess from.
    """
    entry = published(hub_id)
    recipe = TokenRecipe(
        template=entry.template if entry else "native",
        max_length=min(window, entry.max_length or window) if entry else window,
        over_length="truncate_prompt_left",
    )
    if recipe.template not in OWN_TEMPLATES:
        _require_template(folder, name)
    encoder = Encoder.load(folder, recipe, entry.with_bos if entry else True, pad_token_id)
    return encoder, "published" if entry else "guessed"


def _require_template(folder: Path, name: str) -> None:
    if load_tokenizer(folder).chat_template is None:
        raise UserError(
            f"{name} has no {TOKEN_RECIPE} and its tokenizer no chat template, so nobody knows how it reads a "
            f"conversation; put the {TOKEN_RECIPE} of a checkpoint with the same template there"
        )
