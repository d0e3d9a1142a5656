"""How an optimiser step becomes micro-batches, be it a step of pairs (``layouts.py``) or of labelled responses."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

MicroBatch = Mapping[str, "Tensor"]


class Collator(ABC):
    """Turns the rows of one optimiser step into its micro-batches.

    The data loader's batch is the whole step, so the number of micro-batches may differ from step to step and the
    loss can be normalised over the step before the first of them is computed. A step is cut before anything is laid
    out, so that several processes can each lay out their share of it (``distributed.py``).
    """

    budget: int

    def __call__(self, rows: Sequence[Mapping[str, int]]) -> dict[str, list[MicroBatch]]:
        """Return ``{"micro_batches": [...]}`` for dataset rows ``{"pair": position}``."""
        return {"micro_batches": list(self.micro_batches([int(row["pair"]) for row in rows]))}

    def micro_batches(self, positions: Sequence[int]) -> Iterator[MicroBatch]:
        """Yield the micro-batches of what stands at these positions."""
        for run in self.cut(self.units(positions), self.budget):
            yield self.lay_out(run)

    @abstractmethod
    def units(self, positions: Sequence[int]) -> list[Any]:
        """Return what stays together in one micro-batch, in the order in which a step is cut."""

    @abstractmethod
    def cut(self, units: Sequence[Any], budget: int) -> Iterator[Sequence[Any]]:
        """Cut units into runs, each of which becomes a micro-batch within a budget of tokens."""

    @abstractmethod
    def lay_out(self, run: Sequence[Any]) -> MicroBatch:
        """Return the micro-batch of a run."""

    @abstractmethod
    def cost(self, run: Sequence[Any]) -> int:
        """Return the tokens that a run computes, padding included."""


def within_sum(units: Sequence[Any], tokens: Sequence[int], budget: int) -> Iterator[list[Any]]:
    """Cut units into runs whose ``tokens`` add up to the budget at most; a larger unit is a run of its own."""
    run: list[Any] = []
    filled = 0
    for unit, more in zip(units, tokens, strict=True):
        if run and filled + more > budget:
            yield run
            run, filled = [], 0
        run.append(unit)
        filled += more
    yield run


def within_budget(positions: Sequence[int], tokens: Sequence[int], budget: int) -> Iterator[Sequence[int]]:
    """Cut positions into runs whose number times their greatest ``tokens`` stays within the budget."""
    start, widest = 0, 0
    for end, width in enumerate(tokens):
        widest = max(widest, width)
        if end > start and (end + 1 - start) * widest > budget:
            yield positions[start:end]
            start, widest = end, width
    yield positions[start:]
