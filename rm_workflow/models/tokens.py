"""Token recipes: how a conversation becomes token ids, in training, scoring and serving alike.

Everything that decides the ids is in one template text: the base model's own (or one of ours), a BOS where the
tokenizer has one and the template forgets it, and the pinned date. The text and its hash are stored with a
checkpoint, and the saved tokenizer carries the same text, so plain ``apply_chat_template`` gives the same ids.

With the ``chatml`` template the conversation ``[{"role": "user", "content": "Hi"}]`` and the reply ``Hello`` become::

    <|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\nHello<|im_end|>\\n

The reward is read at the last token.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, ValidationError

from rm_workflow.catalog.models import TokenRecipe
from rm_workflow.errors import UserError
from rm_workflow.models import chat_templates
from rm_workflow.models.saved_config import carry_older_keys, read_object

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Message = Mapping[str, str]
# Turns, and whether the mark that opens the next reply follows them.
Asked = tuple[Sequence[Message], bool]

TOKEN_RECIPE = "token_recipe.json"
TOKEN_RECIPE_FORMAT = 1

# No default system turn, unlike the templates that SmolLM2 and Qwen ship.
CHATML = (
    r"{% for message in messages %}"
    r"{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    r"{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The text of a raw HH-RLHF row, then EOS: what TRL feeds for a row without a template. The generation prompt ends at
# the colon, because the space belongs to the first token of the reply.
HH_TRANSCRIPT = (
    r"{% for message in messages %}"
    r"{% if message['role'] == 'system' %}{{ raise_exception('an HH transcript has no system turn') }}{% endif %}"
    r"{{ '\n\n' + {'user': 'Human', 'assistant': 'Assistant'}[message['role']] + ': ' + message['content'] }}"
    r"{% endfor %}"
    r"{{ '\n\nAssistant:' if add_generation_prompt else eos_token }}"
)
# A variable of the template's own hides the tokenizer's.
WITHOUT_BOS = "{% set bos_token = '' %}"
OWN_TEMPLATES = {"chatml": CHATML, "hh_transcript": HH_TRANSCRIPT}

PROBE = [{"role": "user", "content": "Name a river."}]
PROBE_REPLY = "The Danube."
# An empty pattern would match everywhere.
NEVER = r"(?!)"


class StoredRecipe(TokenRecipe):
    """What of ``token_recipe.json`` is needed to make its encoder; the rest is compared with it."""

    model_config = ConfigDict(extra="ignore")

    template_text: str
    template_hash: str
    starts_with_bos: bool
    pad_token_id: int


@dataclass(frozen=True)
class Encoded:
    """One conversation as token ids.

    Attributes:
        input_ids: prompt and reply; the reward is read at the last one.
        prompt_length: leading ids that the prompt alone (with the mark that opens the reply) has too.
        prompt_is_prefix: all ids of the prompt alone are such leading ids. False where the first characters of the
            reply merged with the end of the prompt.
    """

    input_ids: list[int]
    prompt_length: int
    prompt_is_prefix: bool

    @property
    def end_index(self) -> int:
        """Return the index where the reward is read."""
        return len(self.input_ids) - 1


@dataclass(frozen=True)
class Encoder:
    """A tokenizer under a token recipe.

    Attributes:
        tokenizer: carries the recipe's template and pad token.
        template_text: the Jinja text that is rendered.
        starts_with_bos: every conversation begins with one BOS that is no turn mark; truncation keeps it.
        reply_mark_length: tokens of the mark that opens the reply; truncation keeps them.
    """

    tokenizer: "PreTrainedTokenizerFast"
    recipe: TokenRecipe
    template_text: str
    starts_with_bos: bool
    reply_mark_length: int

    @classmethod
    def load(
        cls, model_folder: Path, recipe: TokenRecipe, with_bos: bool = True, pad_token_id: int | None = None
    ) -> "Encoder":
        """Load the tokenizer of a base model and bind it to a recipe.

        Args:
            with_bos: begin with one BOS where tokenizer or template have one; False leaves out the template's too.
            pad_token_id: the pad that a published model names; None chooses one.

        Raises:
            UserError: the folder holds no fast tokenizer, the template is missing or cannot be rendered, or no token is
                left that could pad.
        """
        tokenizer = load_tokenizer(model_folder)
        text = _pin_date(_template_text(tokenizer, recipe, model_folder), recipe.date)
        if not with_bos:
            text = WITHOUT_BOS + text
        adds_bos = with_bos and _adds_bos(tokenizer)
        if adds_bos and _probe_ids(tokenizer, text)[0] != tokenizer.bos_token_id:
            text = "{{ bos_token }}" + text
        named_pad = None if pad_token_id is None else tokenizer.convert_ids_to_tokens(pad_token_id)
        tokenizer.pad_token = named_pad or choose_pad_token(tokenizer, text)
        return cls._bind(tokenizer, recipe, text, adds_bos)

    @classmethod
    def from_checkpoint(cls, folder: Path, tokenizer_folder: Path | None = None) -> "Encoder":
        """Load the recipe stored in ``folder`` with the tokenizer beside it, or with that of ``tokenizer_folder``.

        Raises:
            UserError: ``token_recipe.json`` is missing, broken, or does not fit its own hash or the tokenizer.
        """
        path = folder / TOKEN_RECIPE
        if not path.is_file():
            raise UserError(
                f"{folder} has no {TOKEN_RECIPE}, so its chat template, end token and padding are unknown; "
                "take a folder that rm_workflow saved, or import the model first"
            )
        found = read_object(path)
        stored = _stored_recipe(path, found)
        if template_hash(stored.template_text) != stored.template_hash:
            raise UserError(f"{path}: template_text was changed after saving (template_hash differs); restore the file")
        chat_templates.refuse_costly(stored.template_text, f"{path}: template_text")
        tokenizer = load_tokenizer(tokenizer_folder or folder)
        pad_token = tokenizer.convert_ids_to_tokens(stored.pad_token_id)
        if pad_token is None:
            raise UserError(
                f"{path}: pad_token_id {stored.pad_token_id} is no token of the tokenizer in "
                f"{tokenizer_folder or folder}; use the tokenizer that the checkpoint was trained with"
            )
        tokenizer.pad_token = pad_token
        recipe = TokenRecipe(**{field: getattr(stored, field) for field in TokenRecipe.model_fields})
        encoder = cls._bind(tokenizer, recipe, stored.template_text, stored.starts_with_bos)
        differing = sorted(key for key, value in encoder.as_json().items() if found.get(key) != value)
        if differing:
            raise UserError(
                f"{path}: {', '.join(differing)} of the stored recipe differ from the tokenizer in "
                f"{tokenizer_folder or folder}; use the tokenizer that the checkpoint was trained with"
            )
        return encoder

    @classmethod
    def _bind(
        cls, tokenizer: "PreTrainedTokenizerFast", recipe: TokenRecipe, text: str, starts_with_bos: bool
    ) -> "Encoder":
        tokenizer.chat_template = text
        tokenizer.padding_side = "right"
        # A tokenizer.json may carry its own truncation and padding, which would change ids without a word.
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        return cls(tokenizer, recipe, text, starts_with_bos, _reply_mark_length(tokenizer, text))

    @property
    def template_hash(self) -> str:
        """Return the sha256 of the template text."""
        return template_hash(self.template_text)

    @property
    def pad_token_id(self) -> int:
        """Return the id that pads; never the end of a conversation."""
        return int(self.tokenizer.pad_token_id)

    def encode(self, messages: Sequence[Message], response: str) -> Encoded:
        """Return the ids of one conversation, whatever their number."""
        return self.encode_many([(messages, response)])[0]

    def encode_many(self, conversations: Sequence[tuple[Sequence[Message], str]]) -> list[Encoded]:
        """Return the ids of many conversations, in their order; equal texts are tokenised once.

        Raises:
            UserError: the template refuses a conversation.
        """
        asked: list[Asked] = []
        for messages, response in conversations:
            turns = apply_system_turn(messages, self.recipe.system_turn)
            asked += [(turns, True), ([*turns, {"role": "assistant", "content": response}], False)]
        rendered = render_all(self.tokenizer, self.template_text, asked)
        return self.encode_rendered(rendered[0::2], rendered[1::2])

    def encode_rendered(self, prompts: Sequence[str], wholes: Sequence[str]) -> list[Encoded]:
        """Return the ids of conversations that are texts already, prompts and wholes, as ``render`` makes them."""
        ids = self._ids([*prompts, *wholes])
        return [_encoded(ids[prompt], ids[whole]) for prompt, whole in zip(prompts, wholes, strict=True)]

    def render(self, messages: Sequence[Message], response: str) -> str:
        """Return the text of one conversation as it is tokenised (special tokens are spelt out)."""
        turns = apply_system_turn(messages, self.recipe.system_turn)
        return render_text(
            self.tokenizer, self.template_text, [*turns, {"role": "assistant", "content": response}], False
        )

    def fit(self, encoded: Encoded) -> Encoded | None:
        """Return the conversation within ``max_length`` under the over-length policy, or None where it cannot be."""
        excess = len(encoded.input_ids) - self.recipe.max_length
        if excess <= 0:
            return encoded
        room = encoded.prompt_length - self.kept_prompt_length
        if self.recipe.over_length == "drop" or excess > room:
            return None
        first = [encoded.input_ids[0]] if self.starts_with_bos else []
        kept = first + encoded.input_ids[excess + len(first) :]
        return Encoded(kept, encoded.prompt_length - excess, encoded.prompt_is_prefix)

    @property
    def kept_prompt_length(self) -> int:
        """Return how many prompt tokens truncation always keeps: BOS and the mark that opens the reply."""
        return int(self.starts_with_bos) + max(1, self.reply_mark_length)

    def holds_special_token(self, text: str) -> str | None:
        """Return the first special token whose string stands in ``text``, or None.

        Such a string would be read as the token itself: a forged turn, a second BOS, padding.
        """
        found = self._special_strings.search(text)
        return found.group() if found else None

    @cached_property
    def _special_strings(self) -> re.Pattern[str]:
        # Gemma lists line breaks and HTML tags as added tokens that are not special: they are ordinary text.
        strings = {
            token.content
            for token in self.tokenizer.added_tokens_decoder.values()
            if token.special or (token.content.strip() and token.content in self.template_text)
        }
        longest_first = sorted(strings, key=lambda text: (-len(text), text))
        return re.compile("|".join(map(re.escape, longest_first)) or NEVER)

    def as_json(self) -> dict[str, Any]:
        """Return what ``token_recipe.json`` holds."""
        return {
            "format": TOKEN_RECIPE_FORMAT,
            **self.recipe.model_dump(),
            "template_text": self.template_text,
            "template_hash": self.template_hash,
            "starts_with_bos": self.starts_with_bos,
            "bos_token_id": self.tokenizer.bos_token_id,
            "eos_token_id": self.tokenizer.eos_token_id,
            "pad_token_id": self.pad_token_id,
            "end_token_id": _probe_ids(self.tokenizer, self.template_text)[-1],
        }

    def write_recipe(self, folder: Path) -> None:
        """Write ``token_recipe.json``."""
        text = json.dumps(self.as_json(), ensure_ascii=False, indent=1, sort_keys=True)
        (folder / TOKEN_RECIPE).write_text(text + "\n", "utf-8")

    def save(self, folder: Path) -> None:
        """Write ``token_recipe.json`` and the tokenizer with the recipe's template and pad token."""
        # A tokenizer of the generic class gives token types in transformers 4, which a decoder's forward pass refuses.
        self.tokenizer.init_kwargs["model_input_names"] = list(self.tokenizer.model_input_names)
        self.tokenizer.save_pretrained(str(folder))
        carry_older_keys(folder)
        self.write_recipe(folder)

    def _ids(self, texts: Sequence[str]) -> dict[str, list[int]]:
        unique = list(dict.fromkeys(texts))
        encodings = self.tokenizer.backend_tokenizer.encode_batch_fast(unique, add_special_tokens=False)
        return {text: encoding.ids for text, encoding in zip(unique, encodings, strict=True)}


def _stored_recipe(path: Path, found: dict[str, Any]) -> StoredRecipe:
    missing = [name for name in StoredRecipe.model_fields if name not in found]
    if missing:
        raise UserError(f"{path}: field {missing[0]} is missing; restore the file")
    try:
        return StoredRecipe.model_validate(found)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise UserError(f"{path}: field {problem['loc'][0]}: {problem['msg']}; restore the file") from None


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerFast":
    """Load the tokenizer of a local folder; nothing is fetched and no code of the folder is run."""
    from transformers import AutoTokenizer

    if not (folder / "tokenizer.json").is_file():
        raise UserError(f"{folder} has no tokenizer.json; save the tokenizer there in the fast format")
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises nothing narrower
        reason = " ".join(str(error).split())
        raise UserError(
            f"{folder}: its tokenizer cannot be read ({reason}); fetch or save its tokenizer.json and "
            "tokenizer_config.json again"
        ) from error
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise UserError(f"{folder}: its tokenizer has no fast form; save it there as tokenizer.json")
    loaded: PreTrainedTokenizerFast = tokenizer
    return loaded


def template_hash(text: str) -> str:
    """Return the sha256 of a template text."""
    return hashlib.sha256(text.encode()).hexdigest()


def apply_system_turn(messages: Sequence[Message], policy: str) -> list[Message]:
    """Return the messages after the recipe's policy for a leading system turn.

    ``native`` leaves it to the template, ``merge_into_user`` puts it before the first user turn with a blank line
    between, ``drop`` leaves it out (SmolLM2's own template then writes its default system turn).
    """
    if policy == "native" or not messages or messages[0]["role"] != "system":
        return list(messages)
    system, *rest = messages
    if policy == "drop":
        return rest
    if not rest or rest[0]["role"] != "user":
        return [{"role": "user", "content": system["content"]}, *rest]
    return [{"role": "user", "content": f"{system['content']}\n\n{rest[0]['content']}"}, *rest[1:]]


def choose_pad_token(tokenizer: "PreTrainedTokenizerFast", template_text: str) -> str:
    """Return an existing special token that no conversation holds; the embedding is never resized.

    In this order: the tokenizer's own pad token; one named for padding; one reserved or unused; the special token with
    the highest id; the unknown token. EOS, BOS and everything that the template writes are out, because transformers
    pools at the last token that is not the pad.
    """
    written = {tokenizer.convert_ids_to_tokens(token) for token in _probe_ids(tokenizer, template_text)}
    written |= {tokenizer.eos_token, tokenizer.bos_token}
    special = [
        token.content
        for _, token in sorted(tokenizer.added_tokens_decoder.items(), reverse=True)
        if token.special and token.content not in written and token.content not in template_text
    ]
    if tokenizer.pad_token in special:
        return str(tokenizer.pad_token)
    named = [token for token in special if "pad" in token.lower()]
    reserved = [token for token in special if re.search("reserved|unused", token.lower())]
    others = [token for token in special if token != tokenizer.unk_token]
    candidates = [*named, *reserved, *others, *special]
    if not candidates:
        raise UserError(
            f"the tokenizer in {tokenizer.name_or_path} has no special token left to pad with (besides those that the "
            "template writes); add a <pad> token to it that the model's embedding has room for"
        )
    return candidates[0]


def _template_text(tokenizer: "PreTrainedTokenizerFast", recipe: TokenRecipe, folder: Path) -> str:
    if recipe.template == "hh_transcript" and tokenizer.eos_token is None:
        raise UserError(
            f"tokens.template hh_transcript ends with EOS, and the tokenizer in {folder} names no EOS token"
        )
    if recipe.template in OWN_TEMPLATES:
        return OWN_TEMPLATES[recipe.template]
    if tokenizer.chat_template is None:
        raise UserError(
            f"the base model in {folder} has no chat template; set tokens.template to one of {', '.join(OWN_TEMPLATES)}"
        )
    text = str(tokenizer.get_chat_template())
    chat_templates.refuse_costly(text, f"the chat template of the model in {folder}")
    return text


def _pin_date(text: str, date: str) -> str:
    """Return a template that prints ``date`` instead of today; one that prints no date is returned as it is.

    Llama-3.1 reads ``date_string`` and falls back to ``strftime_now``; others call ``strftime_now`` at once.
    """
    try:
        day = datetime.strptime(date, "%d %b %Y")
    except ValueError:
        raise UserError(f"tokens.date is {date!r}; write it like '26 Jul 2024'") from None
    prelude = ""
    if "date_string" in text:
        prelude += f"{{% set date_string = '{date}' %}}\n"
    if "strftime_now(" in text:
        formats = [form for _, form in re.findall(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)", text)]
        if len(formats) != text.count("strftime_now("):
            raise UserError(
                "the base model's chat template builds a date that cannot be pinned; set tokens.template to one of "
                f"{', '.join(OWN_TEMPLATES)}"
            )
        dates = json.dumps({form: day.strftime(form) for form in formats}, sort_keys=True)
        # A macro of this name hides the function that reads the clock.
        prelude += f"{{% macro strftime_now(form) %}}{{{{ {dates}[form] }}}}{{% endmacro %}}\n"
    return prelude + text


def _adds_bos(tokenizer: "PreTrainedTokenizerFast") -> bool:
    ids = tokenizer.backend_tokenizer.encode("a", add_special_tokens=True).ids
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]


def render_text(
    tokenizer: "PreTrainedTokenizerFast", text: str, turns: Sequence[Message], add_generation_prompt: bool
) -> str:
    """Return one conversation as text, with or without the mark that opens the next reply."""
    return render_all(tokenizer, text, [(turns, add_generation_prompt)])[0]


def render_all(tokenizer: "PreTrainedTokenizerFast", text: str, asked: Sequence[Asked]) -> list[str]:
    """Return each conversation as text, with or without the mark that opens the next reply."""
    lengths = [sum(len(turn["content"]) for turn in turns) for turns, _ in asked]
    rendered: list[str] = []
    turns: Sequence[Message] = []
    try:
        with chat_templates.limited(sum(lengths)) as clock:
            for (turns, add_generation_prompt), length in zip(asked, lengths, strict=True):
                with clock.timed():
                    whole = str(
                        tokenizer.apply_chat_template(
                            [dict(turn) for turn in turns],
                            chat_template=text,
                            tokenize=False,
                            add_generation_prompt=add_generation_prompt,
                        )
                    )
                chat_templates.refuse_long(whole, length)
                rendered.append(whole)
    except UserError:
        raise
    except Exception as error:  # a template is a program, which can raise anything
        raise UserError(
            f"the chat template refuses a conversation with the turns {_roles(turns)}: {error}; set tokens.system_turn "
            "to merge_into_user or drop, or choose another tokens.template"
        ) from None
    return rendered


def _roles(turns: Sequence[Message]) -> str:
    return ", ".join(turn["role"] for turn in turns)


def _probe_ids(tokenizer: "PreTrainedTokenizerFast", text: str) -> list[int]:
    rendered = render_text(tokenizer, text, [*PROBE, {"role": "assistant", "content": PROBE_REPLY}], False)
    return list(tokenizer.backend_tokenizer.encode(rendered, add_special_tokens=False).ids)


def _reply_mark_length(tokenizer: "PreTrainedTokenizerFast", text: str) -> int:
    encode = tokenizer.backend_tokenizer.encode
    opened = encode(render_text(tokenizer, text, PROBE, True), add_special_tokens=False).ids
    closed = encode(render_text(tokenizer, text, PROBE, False), add_special_tokens=False).ids
    return len(opened) - _shared_length(opened, closed)


def _encoded(prompt: list[int], whole: list[int]) -> Encoded:
    shared = _shared_length(prompt, whole)
    return Encoded(whole, min(shared, len(whole) - 1), shared == len(prompt))


def _shared_length(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
