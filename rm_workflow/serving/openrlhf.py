"""Requests as OpenRLHF's remote reward model sends them (openrlhf/utils/remote_rm_utils.py, openrlhf/cli/serve_rm.py).

In and out::

    {"query": ["...prompt and reply..."], "prompts": ["...prompt..."], "labels": [null]}
    {"rewards": [0.7], "scores": [0.7]}

``query`` is decoded with special tokens, so it is rendered with the policy's chat template where the policy has one:

- a prompt that ends with the mark that opens a reply in the reward model's own template is taken as rendered with it;
- a prompt without any special token of the reward model is the text of one user turn;
- any other is rendered with a template that the reward model never saw, and is refused.
"""

import re
from collections.abc import Sequence
from typing import Any

from rm_workflow.evaluation.items import FieldError, texts
from rm_workflow.evaluation.row_verbs import Asked
from rm_workflow.models.tokens import NEVER, Encoder

SLOT = "The Danube."
USER = "Name a river."


class RenderedTexts:
    """The marks of a token recipe's template, by which rendered texts are known."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        whole = encoder.render([{"role": "user", "content": USER}], SLOT)
        opening, _, self._closing = whole.rpartition(SLOT)
        self._mark = opening.rpartition(USER)[2]
        # End of turn, end of text and padding, with the line breaks behind them; those before are the reply's own.
        added = encoder.tokenizer.added_tokens_decoder.values()
        names = sorted({token.content for token in added if token.special}, key=len, reverse=True)
        self._trailing = re.compile(rf"(?:(?:{'|'.join(map(re.escape, names)) or NEVER})\s*)+\Z")

    def read(self, body: dict[str, Any]) -> tuple[list[Asked], list[tuple[str, str]]]:
        """Return conversations, or texts that are rendered: all of a request are of one kind.

        Raises:
            FieldError: names the field.
        """
        queries = texts(body, "query")
        prompts = texts(body, "prompts")
        if len(queries) != len(prompts):
            raise FieldError(f"query holds {len(queries)} texts and prompts {len(prompts)}; give one prompt a query")
        read = [self._read_one(index, *pair) for index, pair in enumerate(zip(queries, prompts, strict=True))]
        asked = [one for one in read if not _is_rendered(one)]
        if asked and len(asked) < len(read):
            raise FieldError("prompts holds rendered texts and plain ones; send them in two requests")
        return asked, [one for one in read if _is_rendered(one)]

    def _read_one(self, index: int, query: str, prompt: str) -> Any:
        if not query.startswith(prompt):
            raise FieldError(f"query[{index}] does not begin with prompts[{index}]; send prompt and reply as one text")
        reply = self._trailing.sub("", query[len(prompt) :])
        special = self._encoder.holds_special_token(prompt)
        if prompt.rstrip().endswith(self._mark.rstrip()) and self._mark.strip():
            # What follows the mark, as the space of an HH transcript, belongs to the reply there.
            return prompt, f"{prompt}{reply}{self._closing}"
        if special:
            raise FieldError(
                f"prompts[{index}] holds {special}, but does not end with {self._mark!r}: it is rendered with another "
                "template than the reward model's; send plain prompts, or give the policy the same chat template"
            )
        return ([{"role": "user", "content": prompt}], reply.strip()), None


def _is_rendered(one: Sequence[Any]) -> bool:
    return isinstance(one[0], str)
