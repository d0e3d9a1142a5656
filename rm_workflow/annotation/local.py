"""A generator in this process: a causal model of transformers.

Samples are drawn in batches whose seeds come from the texts themselves, so that a problem's solutions do not depend on
which problems came before it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rm_workflow.annotation.generators import Completion, cut_at
from rm_workflow.catalog.models import Annotation
from rm_workflow.errors import UserError
from rm_workflow.keys import content_id

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
SEED_DIGITS = 12


class LocalGenerator:
    """A causal model that samples at a temperature, without top-k or top-p."""

    def __init__(self, folder: Path, annotation: Annotation, device: str, precision: str) -> None:
        """Load model and tokenizer.

        Args:
            folder: the model in the form of the Hugging Face hub, safetensors.
            precision: ``bf16`` or ``fp32``, of the weights too.

        Raises:
            UserError: the folder holds no causal model, or prompt and answer do not fit into it.
        """
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
            model: Any = AutoModelForCausalLM.from_pretrained(
                str(folder), dtype=DTYPES[precision], use_safetensors=True
            )
        except (OSError, ValueError) as error:
            raise UserError(f"annotation.generator {annotation.generator} is no causal model ({error})") from error
        self._model = model.to(device).eval()
        self._annotation = annotation
        self._longest = getattr(model.config, "max_position_embeddings", None)
        ends = self._model.generation_config.eos_token_id or self._tokenizer.eos_token_id
        self._ends = [ends] if isinstance(ends, int) else list(ends or ())
        self._pad = self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else (self._ends or [0])[0]

    def complete(self, prompts: Sequence[str], num_samples: int, seed: int) -> list[list[Completion]]:
        """Return so many continuations of each prompt; see ``Generator``."""
        rows = [prompt for prompt in prompts for _ in range(num_samples)]
        size = self._annotation.batch_size
        found: list[Completion] = []
        for start in range(0, len(rows), size):
            found += self._sample(rows[start : start + size], _seed(seed, start, rows[start : start + size]))
        return [found[start : start + num_samples] for start in range(0, len(rows), num_samples)]

    def _sample(self, prompts: Sequence[str], seed: int) -> list[Completion]:
        asked = [self._tokenizer(prompt)["input_ids"] for prompt in prompts]
        longest = max(map(len, asked))
        room = self._room(longest)
        ids = torch.tensor([[self._pad] * (longest - len(one)) + one for one in asked])
        mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in asked])
        config: Any = GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=True,
            temperature=self._annotation.temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=room,
            pad_token_id=self._pad,
            eos_token_id=self._ends or None,
            stop_strings=self._annotation.stop or None,
        )
        devices = [self._model.device] if self._model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            torch.manual_seed(seed)
            written = self._model.generate(
                input_ids=ids.to(self._model.device),
                attention_mask=mask.to(self._model.device),
                generation_config=config,
                tokenizer=self._tokenizer,
            )
        return [self._read(row[longest:].tolist()) for row in written]

    def _room(self, num_prompt_tokens: int) -> int:
        """Return how many tokens may follow a prompt."""
        if self._longest is None:
            return self._annotation.max_tokens
        room: int = min(self._annotation.max_tokens, self._longest - num_prompt_tokens)
        if room < 1:
            raise UserError(
                f"a problem with its prompt has {num_prompt_tokens} tokens, and annotation.generator "
                f"{self._annotation.generator} reads {self._longest}; take a generator that reads more"
            )
        return room

    def _read(self, ids: list[int]) -> Completion:
        end = next((place for place, token in enumerate(ids) if token in self._ends), None)
        text, stopped = cut_at(
            self._tokenizer.decode(ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False),
            self._annotation.stop,
        )
        return Completion(text, end is not None or stopped)


def _seed(seed: int, start: int, prompts: Sequence[str]) -> int:
    return int(content_id(["rollouts", seed, start, list(prompts)])[:SEED_DIGITS], 16)
