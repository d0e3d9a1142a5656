"""Labelled solutions in memory, the blocks that an optimiser step counts, and one micro-batch of them as tensors.

An item is a solution with all its labels; the loss is over labels: of a step the mean over all label tokens, each
weighted as its solution is. A block is as many solutions, in the order of training, as fit into ``tokens.max_length``
tokens; none is split over two. A step counts blocks, so that it always holds about as many tokens. How a step is laid
out and cut into micro-batches is another thing and never changes its loss beyond rounding: solutions of one row do not
attend to each other and their positions begin at 0.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rm_workflow.errors import UserError
from rm_workflow.models import segments
from rm_workflow.models.readout import Readout, stored_readout
from rm_workflow.training import layouts
from rm_workflow.training.data import response_rows, training_order
from rm_workflow.training.layouts import ONE_ROW
from rm_workflow.training.micro_batches import MicroBatch
from rm_workflow.training.responses import Floats, ResponseCollator, Rows, TrainResponses

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TrainSolutions(TrainResponses):
    """The labelled solutions of the train split of a tokens artifact; each is an item.

    Attributes:
        label_starts: [solutions + 1] where the labels of each begin in the two below.
        read_at: [labels] index, in its solution, of the token at which the model says what it thinks of the label: the
            one before a verdict, the last one of a step.
        label_value: [labels] probability that the step, or the solution, is right.
        readout: how the model says it.
    """

    label_starts: Rows
    read_at: Rows
    label_value: Floats
    readout: Readout

    def labels_of(self, item: int) -> slice:
        """Return the labels of a solution."""
        return slice(int(self.label_starts[item]), int(self.label_starts[item + 1]))

    def blocks(self, order: Sequence[int], block_tokens: int) -> Iterator[list[int]]:
        """Yield the solutions of each block, filled one after another in their order."""
        block: list[int] = []
        filled = 0
        for item in order:
            more = int(self.lengths(item)[0])
            if block and filled + more > block_tokens:
                yield block
                block, filled = [], 0
            block.append(item)
            filled += more
        if block:
            yield block

    def block_steps(
        self, seed: int, epochs: float, batch_size: int, block_tokens: int
    ) -> tuple[list[list[int]], list[int]]:
        """Return the solutions of each optimiser step, and how many blocks each step has.

        Args:
            batch_size: blocks of one step; the last one has what is left.
        """
        blocks = list(self.blocks(training_order(self, seed, epochs), block_tokens))
        cut = [blocks[start : start + batch_size] for start in range(0, len(blocks), batch_size)]
        return [[item for block in step for item in block] for step in cut], [len(step) for step in cut]


def load_solutions(folder: Path, objective: str) -> TrainSolutions:
    """Read the train split of a tokens artifact (``responses.parquet``, ``labelled.parquet``) for an objective.

    Raises:
        UserError: a label names a solution that is not there, or the tokens are of another objective.
    """
    readout = stored_readout(folder)
    if readout is None or readout.objective != objective:
        raise UserError(f"{folder} holds no tokens for objective {objective}; rebuild the tokens with this recipe")
    responses = pq.read_table(folder / "responses.parquet", columns=["response_id", "input_ids"])
    table = pq.read_table(folder / "labelled.parquet")
    table = table.filter(pc.equal(table["split"], "train"))
    table = table.sort_by([(name, "ascending") for name in ("prompt_id", "source", "label_id")])
    lists = responses["input_ids"].combine_chunks().cast(pa.large_list(pa.int32()))
    before = 1 if readout.kind == "signs" else 0
    count = len(table)
    return TrainSolutions(
        token_ids=lists.flatten().to_numpy(),
        starts=_starts(lists),
        response_ids=responses["response_id"].to_pylist(),
        response=response_rows(table["response_id"], responses["response_id"], folder / "labelled.parquet"),
        item_starts=np.arange(count + 1, dtype=np.int64),
        prompt=_numbers(table["prompt_id"].to_pylist(), table["source"].to_pylist()),
        targets=np.zeros((count, 0), dtype=np.float32),
        scales={},
        weight=np.asarray(table["weight"].to_numpy(), dtype=np.float32),
        source=table["source"].to_pylist(),
        label_starts=_starts(table["label_positions"].combine_chunks()),
        read_at=np.asarray(table["label_positions"].combine_chunks().flatten().to_numpy(), dtype=np.int64) - before,
        label_value=np.asarray(table["label_values"].combine_chunks().flatten().to_numpy(), dtype=np.float32),
        readout=readout,
        pair_key=table["response_id"].to_pylist(),
        pair_id=table["label_id"].to_pylist(),
        prompt_id=table["prompt_id"].to_pylist(),
        repeat=np.asarray(table["repeat"].to_numpy(), dtype=np.int64),
    )


def _starts(lists: Any) -> Rows:
    return np.concatenate([[0], np.cumsum(pc.list_value_length(lists).to_numpy())]).astype(np.int64)


def _numbers(prompts: Iterable[str], sources: Iterable[str]) -> Rows:
    """Return [solutions] the number of each one's prompt in its source."""
    places = list(zip(prompts, sources, strict=True))
    numbers = {place: number for number, place in enumerate(dict.fromkeys(places))}
    return np.asarray([numbers[place] for place in places], dtype=np.int64)


@dataclass(frozen=True)
class SolutionCollator(ResponseCollator):
    """Turns the solutions of one optimiser step into its micro-batches."""

    responses: TrainSolutions

    def lay_out(self, run: Sequence[int]) -> MicroBatch:
        """Return the micro-batch of a run of solutions."""
        if self.layout not in ONE_ROW:
            return solution_batch(self.responses, run, self.pad_token_id)
        return solution_row(self.responses, run, self.pad_token_id, segments.multiple_of_rows(self.device, self.budget))


def solution_batch(solutions: TrainSolutions, items: Sequence[int], pad_token_id: int) -> MicroBatch:
    """Lay out solutions one a row, padded on the right.

    Returns:
        input_ids [R, T]; row_index, end_index [L]: where each label is read; targets [L, 1]; item_index [L], 0 .. L-1;
        pair (the solution) and weight [L]; num_tokens [R].
    """
    import torch

    ids = [solutions.ids(int(solutions.response[item])) for item in items]
    reads = [solutions.read_at[solutions.labels_of(item)] for item in items]
    return {
        "input_ids": torch.from_numpy(layouts.padded_rows(ids, pad_token_id)),
        "row_index": torch.arange(len(items)).repeat_interleave(torch.tensor([len(read) for read in reads])),
        "end_index": torch.from_numpy(np.concatenate(reads)),
        **_of_labels(solutions, items),
    }


def solution_row(solutions: TrainSolutions, items: Sequence[int], pad_token_id: int, multiple: int = 1) -> MicroBatch:
    """Lay out solutions in one row, none attending to another.

    Args:
        multiple: the row is filled up with a segment of padding to a multiple of so many tokens.

    Returns:
        As ``solution_batch``, and position_ids [1, T] and segments [S, 3] as ``segments.Row`` gives them.
    """
    import torch

    row, reads = segments.Row(), []
    for item in items:
        reads.append(row.length + solutions.read_at[solutions.labels_of(item)])
        row.add([solutions.ids(int(solutions.response[item]))])
    row.fill(multiple, pad_token_id)
    end_index = torch.from_numpy(np.concatenate(reads))
    return {
        **row.tensors(),
        "row_index": torch.zeros_like(end_index),
        "end_index": end_index,
        **_of_labels(solutions, items),
    }


def _of_labels(solutions: TrainSolutions, items: Sequence[int]) -> "dict[str, Tensor]":
    import torch

    numbers = [solutions.labels_of(item) for item in items]
    pair = np.concatenate([np.full(one.stop - one.start, item) for one, item in zip(numbers, items, strict=True)])
    values = np.concatenate([solutions.label_value[one] for one in numbers])
    return {
        "item_index": torch.arange(len(pair)),
        "targets": torch.from_numpy(values)[:, None],
        "pair": torch.from_numpy(pair),
        "weight": torch.from_numpy(solutions.weight[pair]),
        "num_tokens": torch.tensor([int(solutions.lengths(item)[0]) for item in items]),
    }
