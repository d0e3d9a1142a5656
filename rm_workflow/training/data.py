"""Tokenised pairs in memory and the order they are trained in.

A pair is two row numbers of ``responses.parquet``, so a response's tokens are held once however many pairs use it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rm_workflow.errors import UserError
from rm_workflow.keys import content_id
from rm_workflow.training.run_config import num_items


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
        repeat: [pairs] how often an epoch shows the pair.
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
    repeat: npt.NDArray[np.int64]
    score_gap: npt.NDArray[np.float32]
    source: Sequence[str]
    pair_key: Sequence[str]
    pair_id: Sequence[str]

    def __len__(self) -> int:
        return len(self.chosen)

    def ids(self, response: int) -> npt.NDArray[np.int32]:
        """Return the token ids of one response with its prompt."""
        return self.token_ids[self.starts[response] : self.starts[response + 1]]

    def lengths(self, position: int) -> tuple[int, int]:
        """Return the tokens of the chosen and of the rejected side of a pair."""
        chosen, rejected = int(self.chosen[position]), int(self.rejected[position])
        return len(self.ids(chosen)), len(self.ids(rejected))

    @property
    def num_tokens(self) -> int:
        """Return the tokens of one epoch, both sides, without padding."""
        lengths = np.diff(self.starts)
        return int(self.repeat @ (lengths[self.chosen] + lengths[self.rejected]))

    @property
    def longest(self) -> int:
        """Return the tokens of the longest side of a pair."""
        lengths = np.diff(self.starts)
        return int(max(lengths[self.chosen].max(), lengths[self.rejected].max()))

    @cached_property
    def num_common(self) -> npt.NDArray[np.int64]:
        """Return [pairs] how many first tokens both sides have in common, each side keeping one of its own.

        Counted on the tokens themselves, whatever the texts say: a template may tokenise one prompt in two ways.
        """
        both = ((self.ids(int(c)), self.ids(int(r))) for c, r in zip(self.chosen, self.rejected, strict=True))
        return np.asarray([_num_common(chosen, rejected) for chosen, rejected in both], dtype=np.int64)


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
        chosen=response_rows(pairs["chosen_id"], responses["response_id"], folder / "pairs.parquet"),
        rejected=response_rows(pairs["rejected_id"], responses["response_id"], folder / "pairs.parquet"),
        weight=_floats(pairs["weight"]),
        repeat=np.asarray(pairs["repeat"].to_numpy(), dtype=np.int64),
        score_gap=_floats(pairs["chosen_score"]) - _floats(pairs["rejected_score"]),
        source=pairs["source"].to_pylist(),
        pair_key=pairs["pair_key"].to_pylist(),
        pair_id=pairs["pair_id"].to_pylist(),
    )


def response_rows(wanted: pa.ChunkedArray, have: pa.ChunkedArray, file: Path) -> npt.NDArray[np.int64]:
    """Return the row of each wanted response among those of ``responses.parquet``.

    Args:
        file: where the wanted ones stand, for the sentence.

    Raises:
        UserError: one is not there.
    """
    rows = pc.index_in(wanted, value_set=have.combine_chunks())
    if rows.null_count:
        missing = wanted.filter(pc.is_null(rows))[0].as_py()
        raise UserError(
            f"{file.parent.name}/{file.name}: response {missing} is not in responses.parquet; rebuild the tokens"
        )
    return np.asarray(rows.to_numpy(), dtype=np.int64)


def _floats(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float32)


def _num_common(chosen: npt.NDArray[np.int32], rejected: npt.NDArray[np.int32]) -> int:
    shorter = min(len(chosen), len(rejected)) - 1
    differs = chosen[:shorter] != rejected[:shorter]
    return int(differs.argmax()) if differs.any() else shorter


class Keyed(Protocol):
    """What the order of pairs, or of the items of another objective, is made from."""

    @property
    def pair_key(self) -> Sequence[str]:
        """Return the content of each, which seeds its place."""

    @property
    def pair_id(self) -> Sequence[str]:
        """Return what settles equal keys."""

    @property
    def repeat(self) -> npt.NDArray[np.int64]:
        """Return how often an epoch shows each."""


def keyed_order(pairs: Keyed, seed: int, epoch: int) -> list[int]:
    """Return the positions of the pairs in the order of one epoch, each as often as it is repeated.

    A pure function of (seed, epoch, pair_key, n-th showing): rows in another order, more rows or another number of
    processes leave the order of any two pairs as it was.
    """
    keys = [
        (content_id(["order", seed, epoch, pair_key, *([showing] if showing else [])]), pair_id, position)
        for position, (pair_key, pair_id, repeat) in enumerate(
            zip(pairs.pair_key, pairs.pair_id, pairs.repeat.tolist(), strict=True)
        )
        for showing in range(repeat)
    ]
    return [position for _, _, position in sorted(keys)]


def training_order(pairs: Keyed, seed: int, epochs: float) -> list[int]:
    """Return the positions of all pairs to be seen, epoch after epoch, the last one cut where ``epochs`` says."""
    per_epoch = int(pairs.repeat.sum())
    total = num_items(per_epoch, epochs)
    order: list[int] = []
    for epoch in range(-(-total // per_epoch)):
        order += keyed_order(pairs, seed, epoch)
    return order[:total]
