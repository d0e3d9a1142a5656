"""What a checkpoint is scored on, and which one becomes the main of its recipe."""

from typing import Annotated, Literal

from rm_workflow.catalog.models.entry import TEST, Between, Entry, Name, Positive


class Probes(Entry):
    """How many test pairs are scored again with their replies rewritten, and how many without their prompt.

    The first ones by a hash are taken; more pairs hold all of fewer. 0 turns either off.

    Attributes:
        num_pairs: pairs whose replies are rewritten.
        num_prompt_ablated: pairs whose prompt is taken away.
    """

    num_pairs: Annotated[int, Between(0, 100_000)] = 20
    num_prompt_ablated: Annotated[int, Between(0, 100_000)] = 80


class Evaluation(Entry):
    """What a checkpoint is scored on, and how.

    Attributes:
        evaluate_on: ``test`` (the mixture's own test split) and benchmark names.
        batch_tokens: padded tokens in one forward pass; never changes a score beyond rounding.
        precision: of the forward passes; ``auto`` is bf16 autocast where that is faster than fp32, which a rule says.
        deterministic: one forward pass a sequence, so that a score depends on no other sequence, not by a bit.
        max_test_pairs: at most so many pairs of the test split, whole groups of them by a hash; null scores all.
        probes: of the test split, where it is scored.
    """

    evaluate_on: list[Name] = ["test"]
    max_test_pairs: Positive | None = None
    batch_tokens: Positive = 4096
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    deterministic: bool = False
    probes: Probes = Probes()


class Promotion(Entry):
    """Which checkpoint of a recipe becomes its ``main``.

    Attributes:
        metric: the entry of ``evaluate_on`` whose score decides.
        not_worse_on: benchmarks on which a new main may not be surely worse than the present one; null is the metric.
        automatic: ``<recipe>_best`` promotes what passes; else it only tells.
        keep: the best so many runs, which garbage collection leaves with all that they were made from.
    """

    metric: Name = TEST
    not_worse_on: list[Name] | None = None
    automatic: bool = True
    keep: Positive = 3

    @property
    def gates(self) -> list[str]:
        """Return the benchmarks of the comparison with the present main, the metric first."""
        return list(dict.fromkeys([self.metric, *(self.not_worse_on or [])]))
