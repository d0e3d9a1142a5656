"""How the pairs of one optimiser step lie in rows of tokens; no layout changes the loss of a step or its gradients.

(With dropout the draws differ, as they do between any two micro-batches; ``shared`` is then not used.)

- ``padded``: one row a response, pairs in the order of the step (TRL's own way; the reference).
- ``grouped``: the same with pairs of like length together, so that next to nothing is padded.
- ``shared``: one row a pair. The tokens that both sides begin with stand once; the rest of either side attends to them
  and to itself, never to the other side, and its positions count on from them.

In ``padded`` and ``grouped`` no mask is needed: rows are padded on the right, and no token of a causal body attends to
what follows it. Shapes: R rows, T tokens of a row, P pairs of a micro-batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from rm_workflow.training.data import TrainPairs

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

Layout = Literal["padded", "grouped", "shared"]
MicroBatch = Mapping[str, "Tensor"]

# Sharing costs a mask and positions; below this ratio of tokens it does not pay for them.
SHARING_PAYS_FROM = 1.25
PADDING = -1


@dataclass(frozen=True)
class StepCollator:
    """Turns the rows of one optimiser step into its micro-batches.

    The data loader's batch is the whole step, so the number of micro-batches may differ from step to step and the
    loss can be normalised over the step before the first of them is computed.

    Attributes:
        budget: tokens of one micro-batch, padding included; one longer pair still makes a micro-batch.
    """

    pairs: TrainPairs
    layout: Layout
    budget: int
    pad_token_id: int

    def __call__(self, rows: Sequence[Mapping[str, int]]) -> dict[str, list[MicroBatch]]:
        """Return ``{"micro_batches": [...]}`` for dataset rows ``{"pair": position}``."""
        positions = [int(row["pair"]) for row in rows]
        if self.layout != "padded":
            # By key where lengths are equal, so that the order is the same in every process.
            positions.sort(key=lambda position: (self.tokens_of(position), self.pairs.pair_key[position]))
        lay_out = shared_batch if self.layout == "shared" else padded_batch
        groups = within_budget(positions, [self.tokens_of(position) for position in positions], self.budget)
        return {"micro_batches": [lay_out(self.pairs, group, self.pad_token_id) for group in groups]}

    def tokens_of(self, position: int) -> int:
        """Return the tokens of one pair with its padding when it stands alone."""
        chosen, rejected = self.pairs.lengths(position)
        if self.layout == "shared":
            return chosen + rejected - int(self.pairs.num_common[position])
        return 2 * max(chosen, rejected)


def within_budget(positions: Sequence[int], tokens: Sequence[int], budget: int) -> Iterator[Sequence[int]]:
    """Cut positions into runs whose number times their greatest ``tokens`` stays within the budget."""
    start, widest = 0, 0
    for end, width in enumerate(tokens):
        widest = max(widest, width)
        if end > start and (end + 1 - start) * widest > budget:
            yield positions[start:end]
            start, widest = end, width
    yield positions[start:]


def padded_batch(pairs: TrainPairs, positions: Sequence[int], pad_token_id: int) -> MicroBatch:
    """Lay out pairs as TRL's collator does: chosen rows, then rejected rows, padded on the right.

    Returns:
        input_ids [R, T]; row_index, end_index [2 P]: where the last token of each response stands, chosen ones first;
        pair, weight, score_gap, num_tokens (both sides) [P].
    """
    import torch

    index = np.asarray(positions, dtype=np.int64)
    rows = [pairs.ids(response) for response in np.concatenate([pairs.chosen[index], pairs.rejected[index]])]
    return {
        "input_ids": torch.from_numpy(_padded(rows, pad_token_id)),
        "row_index": torch.arange(len(rows)),
        "end_index": torch.tensor([len(row) - 1 for row in rows]),
        **_of_pairs(pairs, index),
    }


def shared_batch(pairs: TrainPairs, positions: Sequence[int], pad_token_id: int) -> MicroBatch:
    """Lay out each pair in one row: common tokens, rest of the chosen side, rest of the rejected side, padding.

    Returns:
        As ``padded_batch``, and position_ids [R, T], attention_mask [R, 1, T, T] (True where a query attends to a key).
    """
    import torch

    index = np.asarray(positions, dtype=np.int64)
    num_common = pairs.num_common[index]
    chosen = [pairs.ids(response) for response in pairs.chosen[index]]
    rejected = [pairs.ids(response) for response in pairs.rejected[index]]
    rest = [row[common:] for row, common in zip(rejected, num_common, strict=True)]
    places = [
        np.concatenate([np.arange(len(ids)), np.arange(common, common + len(tail))])
        for ids, tail, common in zip(chosen, rest, num_common, strict=True)
    ]
    # 0 is what both sides attend to, 1 and 2 are the sides.
    sides = [
        np.repeat([0, 1, 2], [common, len(ids) - common, len(tail)])
        for ids, tail, common in zip(chosen, rest, num_common, strict=True)
    ]
    chosen_end = [len(ids) - 1 for ids in chosen]
    rejected_end = [len(ids) + len(tail) - 1 for ids, tail in zip(chosen, rest, strict=True)]
    return {
        "input_ids": torch.from_numpy(
            _padded([np.concatenate(both) for both in zip(chosen, rest, strict=True)], pad_token_id)
        ),
        "position_ids": torch.from_numpy(_padded(places, 0)),
        "attention_mask": torch.from_numpy(_attends(_padded(sides, PADDING))),
        "row_index": torch.arange(len(index)).repeat(2),
        "end_index": torch.tensor(chosen_end + rejected_end),
        **_of_pairs(pairs, index),
    }


def _padded(rows: Sequence[npt.NDArray[np.integer]], fill: int) -> npt.NDArray[np.int64]:
    table = np.full((len(rows), max(map(len, rows))), fill, dtype=np.int64)
    for target, row in zip(table, rows, strict=True):
        target[: len(row)] = row
    return table


def _attends(sides: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return [R, 1, T, T]: a token attends to itself and to earlier tokens of its own side or of the common part.

    Padding attends to padding: a query with no key at all would give NaN, which gradients carry everywhere.
    """
    query, key = sides[:, :, None], sides[:, None, :]
    earlier = np.tri(sides.shape[1], dtype=np.bool_)
    mask: npt.NDArray[np.bool_] = earlier & ((query == key) | ((key == 0) & (query > 0)))
    return mask[:, None]


def _of_pairs(pairs: TrainPairs, index: npt.NDArray[np.int64]) -> MicroBatch:
    import torch

    lengths = [sum(pairs.lengths(int(position))) for position in index]
    return {
        "pair": torch.from_numpy(index),
        "weight": torch.from_numpy(pairs.weight[index]),
        "score_gap": torch.from_numpy(pairs.score_gap[index]),
        "num_tokens": torch.tensor(lengths),
    }


def token_ratio(pairs: TrainPairs) -> float:
    """Return the tokens of both sides over the tokens that the shared layout computes; 1 where nothing is common."""
    return pairs.num_tokens / (pairs.num_tokens - int(pairs.repeat @ pairs.num_common))


def choose(
    requested: str, pairs: TrainPairs, model: "PreTrainedModel", device: str, dropout: float = 0.0
) -> tuple[Layout, str]:
    """Return the layout to train in and why, for a recipe's ``training.layout``.

    Args:
        requested: ``auto`` or a layout; ``shared`` gives way to ``grouped`` where the body cannot take its mask.
        device: ``cpu`` or ``cuda``.
        dropout: of the LoRA adapters; the body's own is off.
    """
    ratio = token_ratio(pairs)
    saved = f"both sides have {ratio:.2f} times the tokens of the shared layout"
    if requested == "padded":
        return "padded", "asked for"
    if requested == "grouped" or (requested == "auto" and ratio < SHARING_PAYS_FROM):
        return "grouped", saved
    obstacle = _obstacle_to_sharing(pairs, model, device, dropout)
    return ("grouped", f"{saved}, but {obstacle}") if obstacle else ("shared", saved)


def _obstacle_to_sharing(pairs: TrainPairs, model: "PreTrainedModel", device: str, dropout: float) -> str | None:
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if dropout:
        return "dropout would draw once for what both sides share"
    if device != "cpu":
        return "its mask of T x T is built for the CPU only"
    if model.config._attn_implementation != "sdpa":
        return f"attention {model.config._attn_implementation} takes no mask of T x T"
    if window and window < pairs.longest:
        return f"the body attends to {window} tokens and a conversation has {pairs.longest}"
    return None
