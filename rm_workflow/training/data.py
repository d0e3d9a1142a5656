"""Tokenised pairs in memory, the order they are trained in, and their micro-batches.

A pair is two row numbers of ``responses.parquet``, so a response's tokens are held once however many pairs use it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rm_workflow.errors import UserError
from rm_workflow.keys import content_id
from rm_workflow.training.run_config import num_items

if TYPE_CHECKING:
    from torch import Tensor

MicroBatch = Mapping[str, "Tensor"]


@dataclass(frozen=True)
class TrainPairs:
    """The pairs of one split of a tokens artifact.

    Attributes:
        token_ids: the tokens of all responses, one after another.
        starts: [responses + 1] where each response begins in ``token_ids``.
        response_ids: [responses] content ids, for messages.
        chosen: [pairs] row of the chosen response.
        rejected: [pairs] row of the rejected response.
        weight: [pairs] weight in the loss.
        score_gap: [pairs] chosen score - rejected score; NaN where a score is missing.
        source: [pairs] name of the source.
        pair_key: [pairs] content of the pair; seeds the order.
        pair_id: [pairs] one occurrence of the pair; settles equal keys.
    """

    token_ids: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    response_ids: Sequence[str]
    chosen: npt.NDArray[np.int64]
    rejected: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float32]
    score_gap: npt.NDArray[np.float32]
    source: Sequence[str]
    pair_key: Sequence[str]
    pair_id: Sequence[str]

    def __len__(self) -> int:
        return len(self.chosen)

    def ids(self, response: int) -> npt.NDArray[np.int32]:
        """Return the token ids of one response with its prompt."""
        return self.token_ids[self.starts[response] : self.starts[response + 1]]

    @property
    def num_tokens(self) -> int:
        """Return the tokens of one pass over the pairs, both sides, without padding."""
        lengths = np.diff(self.starts)
        return int(lengths[self.chosen].sum() + lengths[self.rejected].sum())


def load_pairs(folder: Path, split: str = "train") -> TrainPairs:
    """Read one split of a tokens artifact (``responses.parquet``, ``pairs.parquet``).

    Raises:
        UserError: a pair names a response that ``responses.parquet`` does not hold.
    """
    responses = pq.read_table(folder / "responses.parquet", columns=["response_id", "input_ids"])
    pairs = pq.read_table(folder / "pairs.parquet")
    pairs = pairs.filter(pc.equal(pairs["split"], split))
    lists = responses["input_ids"].combine_chunks().cast(pa.large_list(pa.int32()))
    response_ids = responses["response_id"].to_pylist()
    return TrainPairs(
        token_ids=lists.flatten().to_numpy(),
        starts=np.concatenate([[0], np.cumsum(pc.list_value_length(lists).to_numpy())]).astype(np.int64),
        response_ids=response_ids,
        chosen=_rows(pairs["chosen_id"], responses["response_id"], folder),
        rejected=_rows(pairs["rejected_id"], responses["response_id"], folder),
        weight=_floats(pairs["weight"]),
        score_gap=_floats(pairs["chosen_score"]) - _floats(pairs["rejected_score"]),
        source=pairs["source"].to_pylist(),
        pair_key=pairs["pair_key"].to_pylist(),
        pair_id=pairs["pair_id"].to_pylist(),
    )


def _rows(wanted: pa.ChunkedArray, have: pa.ChunkedArray, folder: Path) -> npt.NDArray[np.int64]:
    rows = pc.index_in(wanted, value_set=have.combine_chunks())
    if rows.null_count:
        missing = wanted.filter(pc.is_null(rows))[0].as_py()
        raise UserError(
            f"{folder.name}/pairs.parquet: response {missing} is not in responses.parquet; rebuild the tokens"
        )
    return np.asarray(rows.to_numpy(), dtype=np.int64)


def _floats(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float32)


def keyed_order(pairs: TrainPairs, seed: int, epoch: int) -> list[int]:
    """Return the positions of the pairs in the order of one epoch.

    A pure function of (seed, epoch, pair_key): rows in another order, more rows or another number of processes leave
    the order of any two pairs as it was.
    """
    keys = [
        (content_id(["order", seed, epoch, pair_key]), pair_id)
        for pair_key, pair_id in zip(pairs.pair_key, pairs.pair_id, strict=True)
    ]
    return sorted(range(len(pairs)), key=keys.__getitem__)


def training_order(pairs: TrainPairs, seed: int, epochs: float) -> list[int]:
    """Return the positions of all pairs to be seen, epoch after epoch, the last one cut where ``epochs`` says."""
    total = num_items(len(pairs), epochs)
    order: list[int] = []
    for epoch in range(-(-total // len(pairs))):
        order += keyed_order(pairs, seed, epoch)
    return order[:total]


def micro_batches(positions: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Yield the pairs of a step in groups of ``size``, the last one short."""
    for start in range(0, len(positions), size):
        yield positions[start : start + size]


def padded_batch(pairs: TrainPairs, positions: Sequence[int], pad_token_id: int) -> MicroBatch:
    """Lay out pairs as TRL's collator does: chosen rows, then rejected rows, padded on the right.

    Returns:
        input_ids, attention_mask [2 * pairs, length]; end_index [2 * pairs], the last token of each row; pair, weight,
        score_gap [pairs].
    """
    import torch

    index = np.asarray(positions, dtype=np.int64)
    rows = [pairs.ids(response) for response in np.concatenate([pairs.chosen[index], pairs.rejected[index]])]
    lengths = np.asarray([len(row) for row in rows], dtype=np.int64)
    input_ids = np.full((len(rows), int(lengths.max())), pad_token_id, dtype=np.int64)
    for target, row in zip(input_ids, rows, strict=True):
        target[: len(row)] = row
    return {
        "input_ids": torch.from_numpy(input_ids),
        "attention_mask": torch.from_numpy((np.arange(input_ids.shape[1]) < lengths[:, None]).astype(np.int64)),
        "end_index": torch.from_numpy(lengths - 1),
        "pair": torch.from_numpy(index),
        "weight": torch.from_numpy(pairs.weight[index]),
        "score_gap": torch.from_numpy(pairs.score_gap[index]),
    }


@dataclass(frozen=True)
class StepCollator:
    """Turns the rows of one optimiser step into its micro-batches.

    The data loader's batch is the whole step, so the number of micro-batches may differ from step to step and the
    loss can be normalised over the step before the first of them is computed.
    """

    pairs: TrainPairs
    micro_batch_size: int
    pad_token_id: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[MicroBatch]]:
        """Return ``{"micro_batches": [...]}`` for dataset rows ``{"pair": position}``."""
        # Pairs of like length go together: most of the padding is gone, and a step's loss does not depend on the order.
        positions = sorted((int(row["pair"]) for row in rows), key=self._padded_length)
        groups = micro_batches(positions, self.micro_batch_size)
        return {"micro_batches": [padded_batch(self.pairs, group, self.pad_token_id) for group in groups]}

    def _padded_length(self, position: int) -> tuple[int, str]:
        """Return the length of a pair's longer side, and its key so that the order is the same in every process."""
        starts = self.pairs.starts
        sides = (int(self.pairs.chosen[position]), int(self.pairs.rejected[position]))
        return max(int(starts[row + 1] - starts[row]) for row in sides), self.pairs.pair_key[position]
