"""Tokenised pairs in memory and the steps they are trained in.

A pair is two row numbers of ``responses.parquet``, so a response's tokens are held once however many pairs use it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rm_workflow.errors import UserError
from rm_workflow.keys import content_id
from rm_workflow.models.segments import num_common
from rm_workflow.training.run_config import num_items


@dataclass(frozen=True)
class PairKeys:
    """What decides which pairs an optimiser step holds.

    Attributes:
        pair_key: [pairs] content of the pair; seeds the order of pairs.
        pair_id: [pairs] one occurrence of the pair; settles equal keys.
        prompt_id: [pairs] content of the prompt; seeds the order of prompts.
        repeat: [pairs] how often an epoch shows the pair.
    """

    pair_key: Sequence[str]
    pair_id: Sequence[str]
    prompt_id: Sequence[str]
    repeat: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.pair_key)

    @property
    def per_epoch(self) -> int:
        """Return the pairs of one epoch, each as often as it is repeated."""
        return int(self.repeat.sum())


@dataclass(frozen=True)
class TrainPairs(PairKeys):
    """The pairs of one split of a tokens artifact.

    Attributes:
        token_ids: the tokens of all responses, one after another.
        starts: [responses + 1] where each response begins in ``token_ids``.
        prompt_length: [responses] leading tokens that the prompt alone has too.
        response_ids: [responses] content ids, for messages.
        chosen: [pairs] row of the chosen response.
        rejected: [pairs] row of the rejected response.
        weight: [pairs] weight in the loss.
        score_gap: [pairs] chosen score - rejected score; NaN where a score is missing.
        source: [pairs] name of the source.
    """

    token_ids: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    prompt_length: npt.NDArray[np.int64]
    response_ids: Sequence[str]
    chosen: npt.NDArray[np.int64]
    rejected: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float32]
    score_gap: npt.NDArray[np.float32]
    source: Sequence[str]

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
        return max(self.lengths(self.place_of_longest))

    @property
    def place_of_longest(self) -> int:
        """Return the position of the pair with the longest side."""
        lengths = np.diff(self.starts)
        return int(np.maximum(lengths[self.chosen], lengths[self.rejected]).argmax())

    def prompt(self, response: int) -> bytes:
        """Return the tokens of a response's prompt; responses share a prompt where these are equal."""
        start = self.starts[response]
        return self.token_ids[start : start + self.prompt_length[response]].tobytes()

    def num_common(self, responses: Sequence[int]) -> int:
        """Return how many first tokens all responses have in common, each keeping one of its own.

        Counted on the tokens themselves, whatever the texts say: replies may begin alike too.
        """
        first, *others = (self.ids(response) for response in responses)
        return min((num_common(first, other) for other in others), default=0)

    @cached_property
    def unshared(self) -> dict[str, int]:
        """Return the pairs whose sides share no prompt in tokens, by reason.

        ``prompt_not_prefix``: the first characters of a reply merged with the end of the prompt on one side only;
        ``other_context``: the sides answer different conversations.
        """
        counts = {"prompt_not_prefix": 0, "other_context": 0}
        for sides in zip(self.chosen.tolist(), self.rejected.tolist(), strict=True):
            if self.prompt(sides[0]) != self.prompt(sides[1]):
                is_one_prompt = self.num_common(sides) >= min(self.prompt_length[list(sides)])
                counts["prompt_not_prefix" if is_one_prompt else "other_context"] += 1
        return counts


def load_pairs(folder: Path, split: str = "train") -> TrainPairs:
    """Read one split of a tokens artifact (``responses.parquet``, ``pairs.parquet``).

    Raises:
        UserError: a pair names a response that ``responses.parquet`` does not hold.
    """
    responses = pq.read_table(folder / "responses.parquet", columns=["response_id", "input_ids", "prompt_length"])
    pairs = _read_split(folder, split)
    lists = responses["input_ids"].combine_chunks().cast(pa.large_list(pa.int32()))
    return TrainPairs(
        token_ids=lists.flatten().to_numpy(),
        starts=np.concatenate([[0], np.cumsum(pc.list_value_length(lists).to_numpy())]).astype(np.int64),
        prompt_length=np.asarray(responses["prompt_length"].to_numpy(), dtype=np.int64),
        response_ids=responses["response_id"].to_pylist(),
        chosen=response_rows(pairs["chosen_id"], responses["response_id"], folder / "pairs.parquet"),
        rejected=response_rows(pairs["rejected_id"], responses["response_id"], folder / "pairs.parquet"),
        weight=_floats(pairs["weight"]),
        score_gap=_floats(pairs["chosen_score"]) - _floats(pairs["rejected_score"]),
        source=pairs["source"].to_pylist(),
        **_keys(pairs),
    )


def load_pair_keys(folder: Path, split: str = "train") -> PairKeys:
    """Read what decides the steps of one split of a tokens artifact, without its tokens."""
    return PairKeys(**_keys(_read_split(folder, split)))


def _read_split(folder: Path, split: str) -> pa.Table:
    pairs = pq.read_table(folder / "pairs.parquet")
    return pairs.filter(pc.equal(pairs["split"], split))


def _keys(pairs: pa.Table) -> dict[str, Any]:
    names = ("pair_key", "pair_id", "prompt_id")
    repeat = np.asarray(pairs["repeat"].to_numpy(), dtype=np.int64)
    return {**{name: pairs[name].to_pylist() for name in names}, "repeat": repeat}


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


def training_steps(
    pairs: PairKeys, seed: int, epochs: float, batch_size: int, grouping: str = "pairs"
) -> list[list[int]]:
    """Return the positions of the pairs of each optimiser step, by ``training.grouping``.

    ``pairs``: ``batch_size`` of the keyed order, the last step what is left. ``prompts``: whole prompts in keyed order,
    as many as fit into ``batch_size`` (InstructGPT, arXiv 2203.02155: shuffled pairs of one prompt overfit).

    Raises:
        UserError: a prompt has more pairs than a step.
    """
    if grouping == "pairs":
        order = training_order(pairs, seed, epochs)
        return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    steps: list[list[int]] = [[]]
    for prompt in _training_prompts(pairs, seed, epochs):
        if len(prompt) > batch_size:
            raise UserError(
                f"training.grouping prompts: a prompt has {len(prompt)} pairs and a step takes "
                f"{batch_size}; raise training.batch_size to {len(prompt)} or set training.grouping to pairs"
            )
        if len(steps[-1]) + len(prompt) > batch_size:
            steps.append([])
        steps[-1] += prompt
    return steps


def _training_prompts(pairs: PairKeys, seed: int, epochs: float) -> Iterator[list[int]]:
    """Yield the pairs of whole prompts, epoch after epoch, until ``epochs`` of all pairs are reached."""
    left = num_items(pairs.per_epoch, epochs)
    for epoch in range(-(-left // pairs.per_epoch)):
        for prompt in _keyed_prompts(pairs, seed, epoch):
            if left <= 0:
                return
            yield prompt
            left -= len(prompt)


def _keyed_prompts(pairs: PairKeys, seed: int, epoch: int) -> list[list[int]]:
    """Return the pairs of each prompt in the order of one epoch; a second showing of its pairs has a place of its own.

    A pure function of (seed, epoch, prompt_id, n-th showing), within a prompt of (pair_key, pair_id).
    """
    prompts: dict[tuple[str, str], list[int]] = {}
    by_content = sorted(range(len(pairs)), key=lambda position: (pairs.pair_key[position], pairs.pair_id[position]))
    for position in by_content:
        prompt_id = pairs.prompt_id[position]
        for showing in range(pairs.repeat[position]):
            key = content_id(["order", seed, epoch, "prompt", prompt_id, *([showing] if showing else [])])
            prompts.setdefault((key, prompt_id), []).append(position)
    return [prompts[key] for key in sorted(prompts)]


def keyed_order(pairs: PairKeys, seed: int, epoch: int) -> list[int]:
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


def training_order(pairs: PairKeys, seed: int, epochs: float) -> list[int]:
    """Return the positions of all pairs to be seen, epoch after epoch, the last one cut where ``epochs`` says."""
    total = num_items(pairs.per_epoch, epochs)
    order: list[int] = []
    for epoch in range(-(-total // pairs.per_epoch)):
        order += keyed_order(pairs, seed, epoch)
    return order[:total]
