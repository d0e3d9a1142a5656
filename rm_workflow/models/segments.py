"""Rows of segments: many token sequences in one row, none attending to another, what several begin with once.

Training lays out the pairs of a micro-batch so (``training/layouts.py``) and the scorer the responses of a prompt
(``evaluation/batching.py``); ``models/attention.py`` is the mask. What stands once is decided on tokens, not on texts.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

Ids = npt.NDArray[np.int32]

# FlexAttention works in blocks of so many tokens and is compiled for each length of a row: rows on a GPU are filled up
# to one of so many lengths.
BLOCK = 128
LENGTHS_OF_ROWS = 8
TAKEN_LAYERS = frozenset({"full_attention", "sliding_attention"})


class Row:
    """A row that grows by segments.

    Attributes:
        length: tokens so far.
    """

    def __init__(self) -> None:
        self.length = 0
        self._tokens: list[Ids] = []
        self._places: list[npt.NDArray[np.int64]] = []
        self._segments: list[tuple[int, int, int]] = []

    def add(self, sequences: Sequence[Ids], num_common: int = 0) -> list[int]:
        """Append sequences whose first ``num_common`` tokens are the same; return where the last token of each is."""
        root = self.append(sequences[0][:num_common]) if num_common else -1
        ends = []
        for sequence in sequences:
            self.append(sequence[num_common:], root, num_common)
            ends.append(self.length - 1)
        return ends

    def fill(self, multiple: int, token_id: int) -> None:
        """Fill the row up to a multiple of so many tokens with a segment of one token id."""
        if padding := -self.length % multiple:
            self.append(np.full(padding, token_id, dtype=np.int32))

    def tensors(self) -> "dict[str, Tensor]":
        """Return input_ids and position_ids [1, T], and segments [S, 3]: the table of ``attention.py``.

        Positions of a segment count on from those of the segment it begins with.
        """
        import torch

        return {
            "input_ids": torch.from_numpy(np.concatenate(self._tokens).astype(np.int64))[None],
            "position_ids": torch.from_numpy(np.concatenate(self._places))[None],
            "segments": torch.tensor(self._segments),
        }

    def append(self, tokens: Ids, prefix: int = -1, first_place: int = 0) -> int:
        """Append a segment and return its number.

        Args:
            prefix: number of the segment that it goes on from, or -1.
            first_place: position of its first token.
        """
        end = self.length + len(tokens)
        self._tokens.append(tokens)
        self._places.append(np.arange(first_place, first_place + len(tokens)))
        self._segments.append((self.length, end, prefix))
        self.length = end
        return len(self._segments) - 1


def num_common(first: Ids, second: Ids) -> int:
    """Return how many first tokens two sequences have in common, each keeping one of its own."""
    shorter = min(len(first), len(second)) - 1
    differs = first[:shorter] != second[:shorter]
    return int(differs.argmax()) if differs.any() else shorter


def multiple_of_rows(device: str, budget: int) -> int:
    """Return what the tokens of a row are a multiple of on a device, for rows of about ``budget`` tokens."""
    return BLOCK * max(1, budget // (BLOCK * LENGTHS_OF_ROWS)) if device == "cuda" else 1


def obstacle(model: "PreTrainedModel", device: str, longest: int) -> str | None:
    """Return why a body cannot attend by segments, or None where it can.

    Args:
        device: ``cpu`` or ``cuda``.
        longest: tokens of the longest sequence.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    others = set(getattr(config, "layer_types", None) or ()) - TAKEN_LAYERS
    if model.config._attn_implementation != "sdpa" or not model._can_set_attn_implementation():
        return f"attention {model.config._attn_implementation} takes no segments"
    if others:
        return f"layers of kind {', '.join(sorted(others))} take no segments"
    if device != "cpu" and window and window < longest:
        return f"the body attends to {window} tokens and a conversation has {longest}"
    return None
