"""One scorer for everything: test split, benchmarks and ``rmw score``.

Equal sequences are scored once. The rest is sorted by length and cut into batches of a padded-token budget, longest
first: next to nothing is padded, and a batch that does not fit into memory fails at once. A score is read at the
explicit end of its sequence by the fp32 head, so it depends on its batch only by rounding (fp32: below 1e-5).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from rm_workflow.errors import UserError
from rm_workflow.evaluation.items import RowError
from rm_workflow.evaluation.progress import Progress
from rm_workflow.models import reward_model
from rm_workflow.models.tokens import TOKEN_RECIPE, Encoded, Encoder, Message

Floats = NDArray[np.float64]
Conversation = tuple[Sequence[Message], str]

ADAPTER_CONFIG = "adapter_config.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
HEAD = "score"
DEFAULT_BATCH_TOKENS = 4096


@dataclass(frozen=True)
class Prepared:
    """A conversation as it will be scored, or why it cannot be.

    Attributes:
        truncated: the prompt lost tokens on the left.
        problem: why the row is refused, or None; ``input_ids`` is then empty.
    """

    input_ids: list[int]
    truncated: bool = False
    problem: str | None = None


class Scorer:
    """A reward model ready to score token ids or conversations.

    Attributes:
        window: most tokens that the model has positions for.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        pad_token_id: int,
        encoder: Encoder | None,
        device: str = "cpu",
        precision: str = "fp32",
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ) -> None:
        self.model = model.to(device).eval()  # type: ignore[arg-type]
        self.pad_token_id = pad_token_id
        self.device, self.precision, self.batch_tokens = device, precision, batch_tokens
        self.window: int = model.config.get_text_config().max_position_embeddings
        self._encoder = encoder

    @classmethod
    def load(
        cls,
        folder: Path,
        device: str = "cpu",
        precision: str = "fp32",
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
    ) -> "Scorer":
        """Load a reward model: a Hugging Face sequence-classification folder or a LoRA adapter of one.

        Args:
            device: "cpu" or "cuda".
            precision: "bf16" (autocast; the head stays fp32) or "fp32".
            batch_tokens: tokens of one batch, padding included; one longer sequence still makes a batch.

        Raises:
            UserError: no head or several labels, pickled weights, no pad token, an adapter whose base is not there.
        """
        if not folder.is_dir():
            raise UserError(f"checkpoint folder {folder} does not exist; name a folder with a saved reward model")
        is_adapter = (folder / ADAPTER_CONFIG).is_file()
        _refuse_pickles(folder)
        _check_head(folder, is_adapter)
        recipe_folder = _recipe_folder(folder)
        encoder = Encoder.from_checkpoint(recipe_folder) if recipe_folder else None
        model = _load_adapter(folder) if is_adapter else reward_model.load_reward_model(folder)
        pad = encoder.pad_token_id if encoder else model.config.get_text_config().pad_token_id
        if pad is None:
            raise UserError(f"{folder / 'config.json'}: pad_token_id is missing; set it to a token that no text holds")
        embedding: Any = model.get_input_embeddings()
        if pad >= embedding.num_embeddings:
            raise UserError(f"{folder}: its pad token {pad} has no embedding in the model; take another pad token")
        return cls(model, int(pad), encoder, device, precision, batch_tokens)

    @property
    def encoder(self) -> Encoder:
        """Return the token recipe of the checkpoint.

        Raises:
            UserError: the checkpoint came without one, so texts cannot be scored.
        """
        if self._encoder is None:
            raise UserError(
                f"the checkpoint has no {TOKEN_RECIPE}, so its template is unknown; take one that rm_workflow saved"
            )
        return self._encoder

    def score_ids(self, sequences: Sequence[Sequence[int]], progress: Progress | None = None) -> Floats:
        """Return the reward of each sequence of token ids, in their order, shape [n].

        Raises:
            RowError: a sequence is empty or longer than the model's window.
        """
        keys = [tuple(sequence) for sequence in sequences]
        for index, key in enumerate(keys):
            if not 0 < len(key) <= self.window:
                raise RowError(index, f"it has {len(key)} tokens, and the model takes 1 to {self.window}; shorten it")
        unique = sorted(set(keys), key=lambda key: (-len(key), key))
        scores: dict[tuple[int, ...], float] = {}
        for batch in batches(unique, self.batch_tokens):
            scores.update(zip(batch, self._score_batch(batch), strict=True))
            if progress:
                progress(len(scores), len(unique))
        return np.array([scores[key] for key in keys], dtype=np.float64)

    def score_texts(
        self, conversations: Sequence[Conversation], progress: Progress | None = None
    ) -> tuple[Floats, int]:
        """Return the reward of each (messages, response), shape [n], and how many prompts were truncated from the left.

        Raises:
            RowError: the first row that cannot be scored under the checkpoint's token recipe.
        """
        prepared = self.prepare(conversations)
        for index, row in enumerate(prepared):
            if row.problem:
                raise RowError(index, row.problem)
        scores = self.score_ids([row.input_ids for row in prepared], progress)
        return scores, sum(row.truncated for row in prepared)

    def prepare(self, conversations: Sequence[Conversation]) -> list[Prepared]:
        """Return each conversation as token ids under the token recipe, or its problem."""
        try:
            encoded: list[Encoded | str] = list(self.encoder.encode_many(conversations))
        except UserError:
            encoded = [self._encode_alone(conversation) for conversation in conversations]
        return [self._prepared(*pair) for pair in zip(conversations, encoded, strict=True)]

    def fit_window(self, encoded: Encoded) -> list[int] | None:
        """Return the ids within the model's window, the prompt cut from the left, or None where that is not enough.

        This is for benchmarks, where no item may be refused for a policy of training.
        """
        recipe = self.encoder.recipe.model_copy(
            update={"max_length": self.window, "over_length": "truncate_prompt_left"}
        )
        fitted = replace(self.encoder, recipe=recipe).fit(encoded)
        return fitted.input_ids if fitted else None

    def _encode_alone(self, conversation: Conversation) -> Encoded | str:
        try:
            return self.encoder.encode(*conversation)
        except UserError as error:
            return str(error)

    def _prepared(self, conversation: Conversation, encoded: Encoded | str) -> Prepared:
        if isinstance(encoded, str):
            return Prepared([], problem=encoded)
        messages, response = conversation
        for text in (*(message["content"] for message in messages), response):
            special = self.encoder.holds_special_token(text)
            if special:
                problem = f"a text holds {special}, which the tokenizer reads as a special token; take it out"
                return Prepared([], problem=problem)
        fitted = self.encoder.fit(encoded)
        if fitted is None or len(fitted.input_ids) > self.window:
            recipe = self.encoder.recipe
            problem = (
                f"it has {len(encoded.input_ids)} tokens, and the checkpoint's token recipe allows "
                f"{min(recipe.max_length, self.window)} (over_length: {recipe.over_length}); shorten it"
            )
            return Prepared([], problem=problem)
        return Prepared(fitted.input_ids, truncated=len(fitted.input_ids) < len(encoded.input_ids))

    def _score_batch(self, batch: Sequence[Sequence[int]]) -> list[float]:
        input_ids, end_index = (tensor.to(self.device) for tensor in pad(batch, self.pad_token_id))
        with torch.inference_mode(), torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16"):
            scores = reward_model.rewards(self.model, input_ids, end_index)
        values: list[float] = scores.double().cpu().tolist()
        return values


def batches(sequences: Sequence[tuple[int, ...]], batch_tokens: int) -> Iterator[Sequence[tuple[int, ...]]]:
    """Cut sequences, longest first, into batches of at most ``batch_tokens`` padded tokens or one sequence."""
    start = 0
    while start < len(sequences):
        rows = max(1, batch_tokens // len(sequences[start]))
        yield sequences[start : start + rows]
        start += rows


def pad(batch: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Return right-padded ids [R, T] and the end index [R]."""
    lengths = torch.tensor([len(row) for row in batch])
    width = int(lengths.max())
    input_ids = torch.tensor([[*row, *[pad_token_id] * (width - len(row))] for row in batch])
    return input_ids, lengths - 1


def _recipe_folder(folder: Path) -> Path | None:
    """Return where the token recipe stands: in the folder, or in ``model`` beside an adapter."""
    candidates = (folder, folder.parent / "model") if (folder / ADAPTER_CONFIG).is_file() else (folder,)
    return next((candidate for candidate in candidates if (candidate / TOKEN_RECIPE).is_file()), None)


def _refuse_pickles(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    found = f"only pickled weights ({pickles[0]}), which can run code when they are read" if pickles else "no weights"
    raise UserError(f"{folder} holds {found}; save the model as safetensors there")


def _check_head(folder: Path, is_adapter: bool) -> None:
    """Refuse a folder without a trained head; transformers would draw a random one and only warn."""
    if not is_adapter and not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json; name a folder with a saved reward model")
    if not any(f"{HEAD}.weight" in name or f".{HEAD}." in name for name in _weight_names(folder)):
        raise UserError(
            f"{folder} has no reward head (no {HEAD}.weight in its safetensors files); it is a base model or was saved "
            "without its head, so train it or save it again"
        )
    if is_adapter:
        return
    config = json.loads((folder / "config.json").read_text("utf-8"))
    labels = config.get("num_labels") or len(config.get("id2label") or (0, 1))
    if labels != 1:
        raise UserError(f"{folder / 'config.json'}: the head has {labels} labels (num_labels); a reward model has 1")


def _weight_names(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            yield from file.keys()


def _load_adapter(folder: Path) -> PreTrainedModel:
    """Load the base that an adapter names, put the adapter on it and merge both."""
    from peft import PeftModel

    config = json.loads((folder / ADAPTER_CONFIG).read_text("utf-8"))
    base = Path(config["base_model_name_or_path"] or "")
    if not (base / "config.json").is_file():
        raise UserError(
            f"{folder / ADAPTER_CONFIG}: base_model_name_or_path {str(base)!r} is not a folder with a model here; "
            "write the base model's folder there or use the merged model"
        )
    adapted: Any = PeftModel.from_pretrained(reward_model.load_reward_model(base), str(folder))
    merged: PreTrainedModel = adapted.merge_and_unload()
    return merged
