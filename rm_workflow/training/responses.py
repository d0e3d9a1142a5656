"""Labelled responses in memory, and one micro-batch of them as tensors.

What an optimiser step counts is an *item*: a response, or for a ranking a prompt of one source with all its responses.
Shapes: R rows of a micro-batch (one a response), T tokens of a row, I items, A targets (attributes).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rm_workflow.errors import UserError
from rm_workflow.training import objectives
from rm_workflow.training.data import PairKeys, response_rows
from rm_workflow.training.micro_batches import Collator, MicroBatch, within_budget

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
# Attribute -> source -> mean and standard deviation of its ratings there.
Scales = dict[str, dict[str, dict[str, float]]]

OUTCOME = "outcome"


@dataclass(frozen=True)
class TrainResponses(PairKeys):
    """The labelled responses of the train split of a tokens artifact, as the items of one objective.

    An item is ordered and repeated as a pair is: its ``pair_key`` is its content.

    Attributes:
        token_ids: the tokens of all responses, one after another.
        starts: [responses + 1] where each response begins in ``token_ids``.
        response_ids: [responses] content ids, for messages.
        response: [labelled] row of the response; the labelled responses of an item stand side by side.
        item_starts: [items + 1] where each item begins in ``response``.
        prompt: [labelled] number of its prompt in its source.
        targets: [labelled, A] what the objective wants: the rank, the outcome, or the rating of each attribute as a
            standard score, (rating - mean) / standard deviation over the train responses of its source, because
            sources rate on scales of their own; NaN where a rating is missing.
        scales: mean and standard deviation of each attribute by source.
        weight: [items] weight in the loss.
        source: [items] name of the source.
    """

    token_ids: npt.NDArray[np.int32]
    starts: Rows
    response_ids: Sequence[str]
    response: Rows
    item_starts: Rows
    prompt: Rows
    targets: Floats
    scales: Scales
    weight: Floats
    source: Sequence[str]

    @property
    def unshared(self) -> dict[str, int]:
        """Return nothing: each response has a row of its own."""
        return {}

    def ids(self, response: int) -> npt.NDArray[np.int32]:
        """Return the token ids of one response with its prompt."""
        return self.token_ids[self.starts[response] : self.starts[response + 1]]

    def rows_of(self, item: int) -> Rows:
        """Return the labelled responses of an item."""
        return np.arange(self.item_starts[item], self.item_starts[item + 1])

    def lengths(self, item: int) -> Rows:
        """Return the tokens of each response of an item."""
        return self._lengths[self.response[self.rows_of(item)]]

    @property
    def _lengths(self) -> Rows:
        return np.diff(self.starts)

    @property
    def num_tokens(self) -> int:
        """Return the tokens of one epoch, without padding."""
        return int(self.repeat @ np.add.reduceat(self._lengths[self.response], self.item_starts[:-1]))


def load_responses(folder: Path, objective: str, attributes: Sequence[str] = ()) -> TrainResponses:
    """Read the train split of a tokens artifact (``responses.parquet``, ``labelled.parquet``) for an objective.

    A ranking leaves out prompts whose responses have one rank: their loss is 0 whatever the rewards are.

    Args:
        attributes: names of the ratings that regression has one target for each of.

    Raises:
        UserError: a label names a response that is not there, ratings of an attribute do not differ, or more responses
            share a rank than the objective can compute.
    """
    wanted = objectives.ON_RESPONSES[objective]
    responses = pq.read_table(folder / "responses.parquet", columns=["response_id", "input_ids"])
    table = pq.read_table(folder / "labelled.parquet")
    table = table.filter(pc.equal(table["split"], "train"))
    table = table.sort_by([(name, "ascending") for name in ("prompt_id", "source", "label_id")])
    sources, prompt = table["source"].to_pylist(), _numbered(table)
    scales: Scales = {}
    if wanted.target == "rank":
        targets = np.asarray(table["rank"].to_numpy(), dtype=np.float32)[:, None]
        kept = _ranking(targets[:, 0], prompt)
        table, targets, prompt = table.filter(pa.array(kept)), targets[kept], prompt[kept]
        sources = table["source"].to_pylist()
    elif wanted.target == "outcome":
        targets = _values(table, [OUTCOME])
    else:
        targets, scales = _standardised(_values(table, attributes), sources, attributes)
    firsts = _firsts(prompt) if wanted.unit == "prompts" else np.arange(len(table), dtype=np.int64)
    if wanted.target == "rank":
        _check_ties(targets[:, 0], np.append(firsts, len(table)), table)
    lists = responses["input_ids"].combine_chunks().cast(pa.large_list(pa.int32()))
    key, identity = ("prompt_id", "source") if wanted.unit == "prompts" else ("response_id", "label_id")
    items = table.take(pa.array(firsts))
    return TrainResponses(
        token_ids=lists.flatten().to_numpy(),
        starts=np.concatenate([[0], np.cumsum(pc.list_value_length(lists).to_numpy())]).astype(np.int64),
        response_ids=responses["response_id"].to_pylist(),
        response=response_rows(table["response_id"], responses["response_id"], folder / "labelled.parquet"),
        item_starts=np.append(firsts, len(table)),
        prompt=prompt,
        targets=targets,
        scales=scales,
        weight=np.asarray(items["weight"].to_numpy(), dtype=np.float32),
        repeat=np.asarray(items["repeat"].to_numpy(), dtype=np.int64),
        source=items["source"].to_pylist(),
        pair_key=items[key].to_pylist(),
        pair_id=items[identity].to_pylist(),
        prompt_id=items["prompt_id"].to_pylist(),
    )


def _numbered(table: pa.Table) -> Rows:
    """Return [rows] the number of each row's prompt in its source; the rows are sorted by both."""
    places = list(zip(table["prompt_id"].to_pylist(), table["source"].to_pylist(), strict=True))
    changes = [place != before for place, before in zip(places[1:], places, strict=False)]
    return np.cumsum([0, *changes], dtype=np.int64)[: len(places)]


def _firsts(numbers: Rows) -> Rows:
    """Return where each number of an ascending column stands first."""
    return np.unique(numbers, return_index=True)[1].astype(np.int64)


def _ranking(ranks: Floats, prompt: Rows) -> npt.NDArray[np.bool_]:
    """Return [rows] whether the row's prompt has responses of different ranks."""
    firsts = _firsts(prompt)
    differ = np.maximum.reduceat(ranks, firsts) > np.minimum.reduceat(ranks, firsts)
    return np.repeat(differ, np.diff(np.append(firsts, len(prompt))))


def _check_ties(ranks: Floats, starts: Rows, table: pa.Table) -> None:
    for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        _, counts = np.unique(ranks[start:end], return_counts=True)
        if counts[:-1].max(initial=0) > objectives.MOST_TIED:
            raise UserError(
                f"labelled.parquet: {counts[:-1].max()} responses of prompt {table['prompt_id'][start].as_py()} share "
                f"a rank above others, and plackett_luce computes at most {objectives.MOST_TIED}; take objective "
                "regression or scalar_orm, or a source with finer ratings"
            )


def _values(table: pa.Table, names: Sequence[str]) -> Floats:
    """Return [rows, names] the labels, NaN where there is none."""
    labels = [dict(values) for values in table["values"].to_pylist()]
    return np.asarray([[one.get(name, np.nan) for name in names] for one in labels], dtype=np.float32)


def _standardised(values: Floats, sources: Sequence[str], attributes: Sequence[str]) -> tuple[Floats, Scales]:
    by_source = np.asarray(sources, dtype=object)
    targets, scales = np.full_like(values, np.nan), {name: {} for name in attributes}  # type: Floats, Scales
    for column, name in enumerate(attributes):
        for source in sorted(set(sources)):
            rows = (by_source == source) & ~np.isnan(values[:, column])
            if not rows.any():
                continue
            ratings = values[rows, column].astype(np.float64)
            mean, deviation = float(ratings.mean()), float(ratings.std())
            if deviation == 0:
                raise UserError(
                    f"labelled.parquet: all train ratings '{name}' of source {source} are {mean:g}, so nothing can be "
                    "learnt from them; take the rating out of mixture.responses"
                )
            targets[rows, column] = (ratings - mean) / deviation
            scales[name][source] = {"mean": mean, "std": deviation}
    return targets, scales


@dataclass(frozen=True)
class ResponseCollator(Collator):
    """Turns the items of one optimiser step into its micro-batches, as ``layouts.StepCollator`` does with pairs.

    Attributes:
        layout: ``padded`` keeps the order of the step; ``grouped`` lays items of like length side by side.
        budget: tokens of one micro-batch, padding included; one longer item still makes a micro-batch.
    """

    responses: TrainResponses
    layout: str
    budget: int
    pad_token_id: int

    def units(self, positions: Sequence[int]) -> list[int]:
        """Return the items in the order in which they are cut into micro-batches."""
        if self.layout == "padded":
            return list(positions)
        keys, ids = self.responses.pair_key, self.responses.pair_id
        return sorted(positions, key=lambda item: (self.tokens_of(item), keys[item], ids[item]))

    def cut(self, units: Sequence[int], budget: int) -> Iterator[Sequence[int]]:
        """Cut items into runs within a budget of tokens."""
        return within_budget(units, [self.tokens_of(item) for item in units], budget)

    def lay_out(self, run: Sequence[int]) -> MicroBatch:
        """Return the micro-batch of a run of items."""
        return response_batch(self.responses, run, self.pad_token_id)

    def cost(self, run: Sequence[int]) -> int:
        """Return the tokens that a run of items computes, padding included."""
        lengths = [self.responses.lengths(item) for item in run]
        return int(sum(map(len, lengths)) * max(length.max() for length in lengths))

    def tokens_of(self, item: int) -> int:
        """Return the tokens of one item with its padding when it stands alone."""
        lengths = self.responses.lengths(item)
        return int(len(lengths) * lengths.max())


def response_batch(responses: TrainResponses, items: Sequence[int], pad_token_id: int) -> MicroBatch:
    """Lay out the responses of items one a row, padded on the right.

    Returns:
        input_ids [R, T]; row_index, end_index [R]: where the last token of each response stands; item_index [R] and
        targets [R, A]; pair (the item), weight, num_tokens [I].
    """
    import torch

    of_items = [responses.rows_of(item) for item in items]
    rows = np.concatenate(of_items)
    ids = [responses.ids(int(response)) for response in responses.response[rows]]
    input_ids = np.full((len(ids), max(map(len, ids))), pad_token_id, dtype=np.int64)
    for target, row in zip(input_ids, ids, strict=True):
        target[: len(row)] = row
    return {
        "input_ids": torch.from_numpy(input_ids),
        "row_index": torch.arange(len(ids)),
        "end_index": torch.tensor([len(row) - 1 for row in ids]),
        "item_index": torch.arange(len(items)).repeat_interleave(torch.tensor([len(of_item) for of_item in of_items])),
        "targets": torch.from_numpy(responses.targets[rows]),
        "pair": torch.tensor(list(items)),
        "weight": torch.from_numpy(responses.weight[list(items)]),
        "num_tokens": torch.tensor([int(responses.lengths(item).sum()) for item in items]),
    }
