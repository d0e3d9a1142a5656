"""Labelled responses in memory, and one micro-batch of them as tensors.

What an optimiser step counts is an *item*: a response, or for a ranking a prompt of one source with all its responses.
Shapes: R responses of a micro-batch, each a row but in a layout of one row, T tokens of a row, I items, A targets
(attributes).
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rm_workflow.errors import UserError
from rm_workflow.models import segments
from rm_workflow.training import layouts, objectives
from rm_workflow.training.data import PairKeys, response_rows
from rm_workflow.training.layouts import ONE_ROW, SAMPLED_STEPS, SHARING, SHARING_PAYS_FROM, Layout
from rm_workflow.training.micro_batches import Collator, MicroBatch, within_budget, within_sum

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
        """Return nothing: what the responses of an item share is counted in tokens, whatever their prompts are."""
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
    def longest(self) -> int:
        """Return the tokens of the longest response with its prompt."""
        return int(self._lengths[self.response].max())

    @property
    def place_of_longest(self) -> int:
        """Return the item with the longest response."""
        return int(np.searchsorted(self.item_starts, self._lengths[self.response].argmax(), side="right")) - 1

    def num_common(self, item: int) -> int:
        """Return how many first tokens all responses of an item have in common, each keeping one of its own."""
        first, *others = (self.ids(int(response)) for response in self.response[self.rows_of(item)])
        return min((segments.num_common(first, other) for other in others), default=0)

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
        layout: ``padded`` keeps the order of the step; ``grouped`` lays items of like length side by side; ``packed``
            is one row of responses, none attending to another, and in ``kwise`` what the responses of an item begin
            with stands once.
        budget: tokens of one micro-batch, padding included; one longer item still makes a micro-batch.
        device: ``cuda`` fills rows up to few lengths (``segments.LENGTHS_OF_ROWS``).
    """

    responses: TrainResponses
    layout: Layout
    budget: int
    pad_token_id: int
    device: str = "cpu"

    def units(self, positions: Sequence[int]) -> list[int]:
        """Return the items in the order in which they are cut into micro-batches."""
        if self.layout != "grouped":
            return list(positions)
        keys, ids = self.responses.pair_key, self.responses.pair_id
        return sorted(positions, key=lambda item: (self.tokens_of(item), keys[item], ids[item]))

    def cut(self, units: Sequence[int], budget: int) -> Iterator[Sequence[int]]:
        """Cut items into runs within a budget of tokens."""
        cut = within_sum if self.layout in ONE_ROW else within_budget
        return cut(units, [self.tokens_of(item) for item in units], budget)

    def lay_out(self, run: Sequence[int]) -> MicroBatch:
        """Return the micro-batch of a run of items."""
        if self.layout not in ONE_ROW:
            return response_batch(self.responses, run, self.pad_token_id)
        multiple = segments.multiple_of_rows(self.device, self.budget)
        return one_row(self.responses, run, self.pad_token_id, self.layout in SHARING, multiple)

    def cost(self, run: Sequence[int]) -> int:
        """Return the tokens that a run of items computes, padding included."""
        if self.layout in ONE_ROW:
            return sum(map(self.tokens_of, run))
        lengths = [self.responses.lengths(item) for item in run]
        return int(sum(map(len, lengths)) * max(length.max() for length in lengths))

    def tokens_of(self, item: int) -> int:
        """Return the tokens of one item that are computed when it stands alone."""
        lengths = self.responses.lengths(item)
        if self.layout not in ONE_ROW:
            return int(len(lengths) * lengths.max())
        return _row_tokens(self.responses, item, self.layout in SHARING)


def _row_tokens(responses: TrainResponses, item: int, share: bool) -> int:
    lengths = responses.lengths(item)
    return int(lengths.sum()) - (len(lengths) - 1) * (responses.num_common(item) if share else 0)


def choose_layout(
    requested: str,
    responses: TrainResponses,
    steps: Sequence[Sequence[int]],
    model: "PreTrainedModel",
    device: str,
    dropout: float,
) -> tuple[Layout, str]:
    """Return the layout to train in and why, for a recipe's ``training.layout``, as ``layouts.choose`` does for pairs.

    Of the layouts of one row ``shared`` and ``kwise`` are the same here, and only rankings share anything.
    """
    if requested in ("padded", "grouped"):
        return ("padded" if requested == "padded" else "grouped"), "asked for"
    sampled = list(itertools.chain.from_iterable(steps[:SAMPLED_STEPS]))
    stated = sum(int(responses.lengths(item).sum()) for item in sampled)
    ratio = stated / sum(_row_tokens(responses, item, share=True) for item in sampled)
    is_auto = requested == "auto"
    may_share = requested != "packed" and not (is_auto and dropout)
    layout: Layout = "kwise" if may_share and ratio > (SHARING_PAYS_FROM if is_auto else 1) else "packed"
    told = layouts.obstacle(layout, responses.longest, model, device, dropout)
    reason = f"the responses have {ratio if layout == 'kwise' else 1:.2f} times the tokens that it computes"
    return ("grouped", f"{layout} is not taken: {told}") if told else (layout, reason)


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
    return {
        "input_ids": torch.from_numpy(layouts.padded_rows(ids, pad_token_id)),
        "row_index": torch.arange(len(ids)),
        "end_index": torch.tensor([len(row) - 1 for row in ids]),
        **_of_items(responses, items),
    }


def one_row(
    responses: TrainResponses, items: Sequence[int], pad_token_id: int, share: bool, multiple: int = 1
) -> MicroBatch:
    """Lay out the responses of items in one row.

    Args:
        share: what the responses of an item begin with stands once.
        multiple: the row is filled up with a segment of padding to a multiple of so many tokens.

    Returns:
        As ``response_batch``, and position_ids [1, T] and segments [S, 3] as ``segments.Row`` gives them.
    """
    import torch

    row, ends = segments.Row(), []
    for item in items:
        ids = [responses.ids(int(response)) for response in responses.response[responses.rows_of(item)]]
        ends += row.add(ids, responses.num_common(item) if share else 0)
    row.fill(multiple, pad_token_id)
    return {
        **row.tensors(),
        "row_index": torch.zeros(len(ends), dtype=torch.int64),
        "end_index": torch.tensor(ends),
        **_of_items(responses, items),
    }


def _of_items(responses: TrainResponses, items: Sequence[int]) -> MicroBatch:
    import torch

    of_items = [responses.rows_of(item) for item in items]
    return {
        "item_index": torch.arange(len(items)).repeat_interleave(torch.tensor([len(of_item) for of_item in of_items])),
        "targets": torch.from_numpy(responses.targets[np.concatenate(of_items)]),
        "pair": torch.tensor(list(items)),
        "weight": torch.from_numpy(responses.weight[list(items)]),
        "num_tokens": torch.tensor([int(responses.lengths(item).sum()) for item in items]),
    }
