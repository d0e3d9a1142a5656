"""How the pairs of one optimiser step lie in rows of tokens; no layout changes the loss of a step or its gradients.

(With dropout the draws differ, as they do between any two micro-batches; layouts that share tokens are then not used.)

- ``padded``: one row a response, pairs in the order of the step (TRL's own way; the reference).
- ``grouped``: the same with pairs of like length together, so that little is padded.
- ``packed``: all responses of a micro-batch in one row, none attending to another; nothing is padded.
- ``shared``: ``packed``, and the tokens that both sides of a pair begin with stand once.
- ``kwise``: ``packed``, and each response of a prompt stands once however many pairs of the step it is in, the tokens
  that the prompt's responses begin with once for all.

``padded`` and ``grouped`` need no mask: rows are padded on the right, and no token of a causal body attends to what
follows it. The others are one row of segments (``models/segments.py``). What stands once is decided on tokens:
responses whose prompts are not equal token by token share nothing. Shapes: R rows, T tokens of a row, P pairs of a
micro-batch, S segments.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from rm_workflow.models import segments
from rm_workflow.training.data import TrainPairs
from rm_workflow.training.micro_batches import Collator, MicroBatch, within_budget, within_sum

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Layout = Literal["padded", "grouped", "packed", "shared", "kwise"]

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
ONE_ROW = frozenset({"packed", "shared", "kwise"})
SHARING = frozenset({"shared", "kwise"})
# Below this ratio of tokens sharing does not pay for the pieces that attention is cut into.
SHARING_PAYS_FROM = 1.05
# Tokens of so many steps, which hold a keyed and therefore fair sample, tell the ratio.
SAMPLED_STEPS = 200


@dataclass(frozen=True)
class Tree:
    """Responses of a row whose first ``num_common`` tokens stand once; with 0 they are simply beside each other."""

    responses: tuple[int, ...]
    num_common: int
    num_tokens: int


@dataclass(frozen=True)
class Bundle:
    """Pairs that stay in one micro-batch, with the trees that hold their responses."""

    positions: tuple[int, ...]
    trees: tuple[Tree, ...]

    @cached_property
    def num_tokens(self) -> int:
        """Return the tokens that are computed."""
        return sum(tree.num_tokens for tree in self.trees)


@dataclass(frozen=True)
class StepCollator(Collator):
    """Turns the pairs of one optimiser step into its micro-batches.

    Attributes:
        budget: tokens of one micro-batch, padding included; one longer pair still makes a micro-batch.
        device: ``cuda`` fills rows up to few lengths (``segments.LENGTHS_OF_ROWS``).
    """

    pairs: TrainPairs
    layout: Layout
    budget: int
    pad_token_id: int
    device: str = "cpu"

    def units(self, positions: Sequence[int]) -> list[Any]:
        """Return the bundles of these pairs, or the positions themselves where each response has a row."""
        if self.layout in ONE_ROW:
            return list(bundles(self.pairs, positions, self.layout, self.budget))
        if self.layout == "grouped":
            # By key where lengths are equal, so that the order is the same in every process.
            return sorted(positions, key=lambda position: (self.width(position), self.pairs.pair_key[position]))
        return list(positions)

    def cut(self, units: Sequence[Any], budget: int) -> Iterator[Sequence[Any]]:
        """Cut bundles, or positions, into runs within a budget of tokens."""
        if self.layout in ONE_ROW:
            return within_sum(units, [bundle.num_tokens for bundle in units], budget)
        return within_budget(units, [2 * self.width(position) for position in units], budget)

    def lay_out(self, run: Sequence[Any]) -> MicroBatch:
        """Return the micro-batch of a run."""
        if self.layout in ONE_ROW:
            return one_row(self.pairs, run, self.pad_token_id, self.multiple)
        return padded_batch(self.pairs, run, self.pad_token_id)

    def cost(self, run: Sequence[Any]) -> int:
        """Return the tokens that a run computes, padding included."""
        if self.layout in ONE_ROW:
            return sum(bundle.num_tokens for bundle in run)
        return 2 * len(run) * max(self.width(position) for position in run)

    @property
    def multiple(self) -> int:
        """Return what the tokens of a row are a multiple of."""
        return segments.multiple_of_rows(self.device, self.budget)

    def width(self, position: int) -> int:
        """Return the tokens of the longer side of a pair."""
        return max(self.pairs.lengths(position))


def bundles(pairs: TrainPairs, positions: Sequence[int], layout: Layout, budget: int) -> Iterator[Bundle]:
    """Yield the bundles of a step in a layout of one row: one a pair, in ``kwise`` one a prompt within the budget."""
    groups = _by_prompt(pairs, positions) if layout == "kwise" else [[position] for position in positions]
    for group in groups:
        yield from _bundled(pairs, group, layout in SHARING, budget)


def _by_prompt(pairs: TrainPairs, positions: Sequence[int]) -> Iterable[list[int]]:
    prompts: dict[str, list[int]] = {}
    for position in positions:
        prompts.setdefault(pairs.prompt_id[position], []).append(position)
    return prompts.values()


def _bundled(pairs: TrainPairs, positions: Sequence[int], share: bool, budget: int) -> Iterator[Bundle]:
    responses = dict.fromkeys(int(side[position]) for position in positions for side in (pairs.chosen, pairs.rejected))
    bundle = Bundle(tuple(positions), tuple(trees(pairs, list(responses), share)))
    if len(positions) == 1 or bundle.num_tokens <= budget:
        yield bundle
        return
    half = len(positions) // 2
    yield from _bundled(pairs, positions[:half], share, budget)
    yield from _bundled(pairs, positions[half:], share, budget)


def trees(pairs: TrainPairs, responses: Sequence[int], share: bool = True) -> Iterator[Tree]:
    """Yield a tree for all responses of equal prompts, or one for each response."""
    groups: dict[bytes | int, list[int]] = {}
    for response in responses:
        groups.setdefault(pairs.prompt(response) if share else response, []).append(response)
    for group in groups.values():
        num_common = pairs.num_common(group)
        num_tokens = sum(len(pairs.ids(response)) for response in group) - (len(group) - 1) * num_common
        yield Tree(tuple(group), num_common, num_tokens)


def one_row(pairs: TrainPairs, bundled: Sequence[Bundle], pad_token_id: int, multiple: int = 1) -> MicroBatch:
    """Lay out bundles in one row.

    Args:
        multiple: the row is filled up with a segment of padding to a multiple of so many tokens.

    Returns:
        As ``padded_batch`` with R = 1, and position_ids [1, T] and segments [S, 3] as ``segments.Row`` gives them.
    """
    import torch

    row = segments.Row()
    chosen_end, rejected_end = [], []
    for bundle in bundled:
        ends = {response: end for tree in bundle.trees for response, end in _add(row, pairs, tree)}
        chosen_end += [ends[int(pairs.chosen[position])] for position in bundle.positions]
        rejected_end += [ends[int(pairs.rejected[position])] for position in bundle.positions]
    row.fill(multiple, pad_token_id)
    index = np.asarray([position for bundle in bundled for position in bundle.positions], dtype=np.int64)
    return {
        **row.tensors(),
        "row_index": torch.zeros(2 * len(index), dtype=torch.int64),
        "end_index": torch.tensor(chosen_end + rejected_end),
        **_of_pairs(pairs, index),
    }


def _add(row: segments.Row, pairs: TrainPairs, tree: Tree) -> Iterator[tuple[int, int]]:
    """Append a tree and yield where the last token of each response stands."""
    ends = row.add([pairs.ids(response) for response in tree.responses], tree.num_common)
    return zip(tree.responses, ends, strict=True)


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
        "input_ids": torch.from_numpy(padded_rows(rows, pad_token_id)),
        "row_index": torch.arange(len(rows)),
        "end_index": torch.tensor([len(row) - 1 for row in rows]),
        **_of_pairs(pairs, index),
    }


def followed(padded: MicroBatch, num_tokens: int, token_id: int) -> MicroBatch:
    """Return padded rows with more tokens behind them, which no reward of a causal body sees."""
    import torch

    more = torch.full((len(padded["input_ids"]), num_tokens), token_id)
    return {**padded, "input_ids": torch.cat([padded["input_ids"], more], dim=1)}


def padded_rows(rows: Sequence[npt.NDArray[np.integer]], fill: int) -> npt.NDArray[np.int64]:
    """Return [R, T] the rows, each filled up on its right."""
    table = np.full((len(rows), max(map(len, rows))), fill, dtype=np.int64)
    for target, row in zip(table, rows, strict=True):
        target[: len(row)] = row
    return table


def _of_pairs(pairs: TrainPairs, index: npt.NDArray[np.int64]) -> MicroBatch:
    import torch

    lengths = [sum(pairs.lengths(int(position))) for position in index]
    return {
        "pair": torch.from_numpy(index),
        "weight": torch.from_numpy(pairs.weight[index]),
        "score_gap": torch.from_numpy(pairs.score_gap[index]),
        "num_tokens": torch.tensor(lengths),
    }


def token_ratio(pairs: TrainPairs, steps: Sequence[Sequence[int]], layout: Layout, budget: int) -> float:
    """Return the tokens of both sides of all pairs over the tokens that a layout of one row computes."""
    steps = steps[:SAMPLED_STEPS]
    stated = sum(sum(pairs.lengths(position)) for step in steps for position in step)
    bundled = itertools.chain.from_iterable(bundles(pairs, step, layout, budget) for step in steps)
    return stated / sum(bundle.num_tokens for bundle in bundled)


def choose(
    requested: str,
    pairs: TrainPairs,
    steps: Sequence[Sequence[int]],
    budget: int,
    model: "PreTrainedModel",
    device: str,
    dropout: float = 0.0,
) -> tuple[Layout, str]:
    """Return the layout to train in and why, for a recipe's ``training.layout``.

    Args:
        requested: ``auto``, with dropout ``packed``, or a layout; one row gives way to ``grouped`` where the body
            cannot take its mask.
        steps: positions of the pairs of each optimiser step.
        budget: tokens of one micro-batch.
        device: ``cpu`` or ``cuda``.
        dropout: of the LoRA adapters; the body's own is off.
    """
    if requested in ("padded", "grouped"):
        return ("padded" if requested == "padded" else "grouped"), "asked for"
    ratios = {layout: token_ratio(pairs, steps, layout, budget) for layout in LAYOUTS if layout in ONE_ROW}
    fewest = "packed" if dropout else _fewest_tokens(ratios)
    layout = fewest if requested == "auto" else next(name for name in LAYOUTS if name == requested)
    reason = f"the pairs have {ratios[layout]:.2f} times the tokens that it computes"
    told = obstacle(layout, pairs.longest, model, device, dropout)
    return ("grouped", f"{layout} is not taken: {told}") if told else (layout, reason)


def _fewest_tokens(ratios: Mapping[Layout, float]) -> Layout:
    best: Layout = "packed"
    for layout in ("shared", "kwise"):
        if ratios[layout] >= SHARING_PAYS_FROM * ratios[best]:
            best = layout
    return best


def obstacle(layout: Layout, longest: int, model: "PreTrainedModel", device: str, dropout: float) -> str | None:
    """Return why a layout of one row is not taken, or None where it is.

    Args:
        longest: tokens of the longest response with its prompt.
        dropout: of the LoRA adapters.
    """
    if dropout and layout in SHARING:
        return "dropout would draw once for what several responses share"
    return segments.obstacle(model, device, longest)
