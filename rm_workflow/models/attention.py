"""Attention among the segments of one row: the one mask behind training's packed layouts and the scorer.

A row is a sequence of segments, and a table says what they are, one line ``(begin, end, prefix)`` each: tokens
``begin`` to ``end`` of the row attend to earlier tokens of their own segment and, where ``prefix`` is not -1, to all
tokens of the segment of that number and of its own prefix. A prompt with two replies and a conversation that shares
nothing are::

    (0, 40, -1)  (40, 70, 0)  (70, 95, 0)  (95, 180, -1)

On a GPU prefixes are one deep.

- CPU: one sdpa call a segment, so next to nothing is computed that the mask would drop. A dense mask over the same
  row took 1.3 to 3.6 times as long for a step (widths of SmolLM2-135M, rows of 1,200 to 5,000 tokens).
- CUDA: FlexAttention under a block mask, whose empty blocks are skipped; no mask of T x T is ever stored.

Shapes: T tokens of the row, S segments, h heads, d their width.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rm_workflow.models.segments import BLOCK

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask
    from transformers import PreTrainedModel

SEGMENTS = "rm_workflow_segments"


def by_segment(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend segment by segment, as transformers calls an attention function; anything but a table goes to sdpa.

    Args:
        query: [1, h, T, d]; key and value likewise, with their own number of heads.
        attention_mask: [1, 1, S, 3], the table of segments: transformers hands a mask of four dimensions on as it is.
        sliding_window: tokens that a token attends to, itself included; None for all.
    """
    if attention_mask is None or attention_mask.dtype != torch.int64:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    table = attention_mask[0, 0].tolist()
    sizes = [end - begin for begin, end, _ in table]
    # Cut at once: each slice by itself would have a gradient of the whole row, all but its own part of it zeros.
    query_of, key_of, value_of = (torch.split_with_sizes(states, sizes, dim=2) for states in (query, key, value))
    attended = []
    for number, (begin, end, prefix) in enumerate(table):
        queries, keys, values = query_of[number], key_of[number], value_of[number]
        if prefix >= 0:
            before = _before(table, prefix)
            keys, values = _joined(key_of, [*before, number]), _joined(value_of, [*before, number])
            # With the queries of a shorter prefix before them sdpa's causal flag does, which halves the work of a mask.
            if sum(sizes[one] for one in before) < end - begin:
                queries = _joined(query_of, [*before, number])
        mask = _causal(queries.shape[2], keys.shape[2], sliding_window, query.device)
        found = sdpa_attention_forward(module, queries, keys, values, mask, **options)[0]
        attended.append(found[:, begin - end :])
    return torch.cat(attended, dim=1), None


def _before(table: list[list[int]], prefix: int) -> list[int]:
    """Return the number of a segment and of the prefixes that it has itself, the first of them first."""
    found = []
    while prefix >= 0:
        found.append(prefix)
        prefix = table[prefix][2]
    return found[::-1]


def _joined(states_of: Sequence[Tensor], numbers: Sequence[int]) -> Tensor:
    """Return the states of some segments, one behind the other."""
    return torch.cat([states_of[number] for number in numbers], dim=2)


def _causal(num_queries: int, num_keys: int, window: int | None, device: torch.device) -> Tensor | None:
    """Return the mask of the last queries of a causal sequence, None where sdpa's own causal flag says the same."""
    if num_queries == num_keys and (window is None or window >= num_keys):
        return None
    offset = num_keys - num_queries
    mask = torch.ones(1, 1, num_queries, num_keys, dtype=torch.bool, device=device).tril(offset)
    return mask.triu(offset - window + 1) if window is not None and window < num_keys else mask


AttentionInterface.register(SEGMENTS, by_segment)
AttentionMaskInterface.register(SEGMENTS, sdpa_mask)


def use_segments(model: "PreTrainedModel", device: str) -> None:
    """Let the body of a model attend by segments; rows without a table are computed as before."""
    model.set_attn_implementation("flex_attention" if device == "cuda" else SEGMENTS)


def use_plain(model: "PreTrainedModel") -> None:
    """Undo ``use_segments``."""
    if model.config._attn_implementation in ("flex_attention", SEGMENTS):
        model.set_attn_implementation("sdpa")


def arguments(micro_batch: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what a body needs beside the tokens of a micro-batch: nothing where plain causal attention is meant."""
    if "segments" not in micro_batch:
        return {}
    segments = micro_batch["segments"]
    length = micro_batch["input_ids"].shape[1]
    mask = block_mask(segments, length) if segments.is_cuda else segments[None, None]
    return {"position_ids": micro_batch["position_ids"], "attention_mask": mask}


def block_mask(segments: Tensor, length: int) -> "BlockMask":
    """Return the table of segments [S, 3] as FlexAttention reads it, on the device of the table.

    Which blocks are empty, full or partly masked is told by the segments that reach into them, so nothing of T x T is
    made on the way either.

    Args:
        length: T, a multiple of ``BLOCK``.
    """
    from torch.nn.attention.flex_attention import BlockMask

    begin, end, prefix = segments.unbind(dim=1)
    number = torch.arange(len(segments), device=segments.device)
    reaches = (number[:, None] == number) | (prefix[:, None] == number)
    first = torch.arange(0, length, BLOCK, device=segments.device)[:, None]
    holds = (begin < first + BLOCK) & (end > first)
    seen = (holds.float() @ reaches.float() @ holds.float().T > 0).tril()
    in_one_segment = holds.sum(dim=1) == 1
    full = (seen & in_one_segment[:, None] & in_one_segment).tril(-1)

    segment = torch.bucketize(torch.arange(length, device=segments.device), end.contiguous(), right=True)
    prefix = prefix[segment]

    def attends(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        in_reach = (segment[query] == segment[key]) | (prefix[query] == segment[key])
        return in_reach & (query >= key)

    return BlockMask.from_kv_blocks(*_listed(seen & ~full), *_listed(full), BLOCK_SIZE=BLOCK, mask_mod=attends)


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many blocks of keys each block of queries has, and which, those first."""
    numbers = blocks.int().argsort(dim=1, descending=True, stable=True)
    return blocks.sum(dim=1).int()[None, None], numbers.int()[None, None]
