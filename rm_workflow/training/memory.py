"""What to do when the memory does not suffice: the run ends with the token budget that was seen to fit."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rm_workflow.errors import UserError
from rm_workflow.training import distributed
from rm_workflow.training.micro_batches import MicroBatch
from rm_workflow.training.training_state import goes_on

if TYPE_CHECKING:
    from rm_workflow.training.trainer import PairTrainer

CPU_MESSAGE = "can't allocate memory"
# Adam keeps two fp32 numbers for each trained parameter, from its first step on.
MOMENTS = 2
SMALLEST_BUDGET = 16


ADVICE = (
    "out of memory: weights, gradients and the optimizer's state do not fit beside each other; train a LoRA "
    "(training.lora), share the model (training.distributed with strategy fsdp) or, where steps were made before, "
    "lower training.micro_batch_tokens"
)


class OutOfMemory(UserError):
    """The memory does not suffice; says what to lower."""


@contextmanager
def told_in_one_sentence(out: Path) -> Iterator[None]:
    """End what runs within with one sentence where memory does not suffice, wherever that is seen.

    A micro-batch has a better one (``guarded``). This is for all else: the model on its way to the device, the first
    step of the optimizer, which allocates its state, an evaluation, the proof. Both name the state from which the run
    goes on.

    Args:
        out: folder of the trainer.

    Raises:
        OutOfMemory: it does not.
    """
    try:
        yield
    except OutOfMemory as error:
        raise OutOfMemory(f"{error}{goes_on(out)}") from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"{ADVICE}{goes_on(out)}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether there was no memory, on a GPU or for a CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or CPU_MESSAGE in str(error)


def guarded(trainer: "PairTrainer", batch: MicroBatch, compute: Callable[[], Tensor]) -> Tensor:
    """Return what ``compute`` makes of one micro-batch, or end the run with a sentence where memory does not suffice.

    Raises:
        OutOfMemory: it does not fit; names ``micro_batch_tokens`` that do, as tried on the pairs of this micro-batch.
    """
    try:
        return compute()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    # Outside the handler: the traceback of the exception holds the tensors that filled the memory.
    raise OutOfMemory(advice(trainer, batch))


def advice(trainer: "PairTrainer", batch: MicroBatch) -> str:
    """Return what to change so that the pairs of this micro-batch fit into the memory."""
    pairs, tokens = batch["pair"].tolist(), batch["input_ids"].numel()
    if distributed.size() > 1:
        # The others wait for this process, so nothing can be tried.
        return (
            f"out of memory in a micro-batch of {tokens} tokens; set training.micro_batch_tokens to {tokens // 2} or "
            "less (it changes no result)"
        )
    fitting = fitting_budget(trainer, pairs, tokens)
    if fitting is None:
        longest = max(sum(trainer.pairs.lengths(pair)) for pair in pairs)
        return (
            f"out of memory, even with one pair at a time (up to {longest} tokens); lower tokens.max_length, set "
            "training.activation_checkpointing, or train a LoRA"
        )
    return (
        f"out of memory in a micro-batch of {tokens} tokens; set training.micro_batch_tokens to {fitting}, which was "
        "tried on the same pairs and fits (it changes no result)"
    )


def fitting_budget(trainer: "PairTrainer", pairs: list[int], failed: int) -> int | None:
    """Return the first of half, a quarter, ... of ``failed`` tokens with which these pairs fit, or None."""
    budget = failed // 2
    while budget >= SMALLEST_BUDGET:
        trainer.trained_model.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        collator = replace(trainer.collator, budget=budget)
        batches = collator([{"pair": pair} for pair in pairs])["micro_batches"]
        if _fits(trainer, batches):
            return budget
        if len(batches) == len(set(pairs)):
            return None
        budget //= 2
    return None


def _fits(trainer: "PairTrainer", batches: Sequence[MicroBatch]) -> bool:
    trained = [p for p in trainer.trained_model.parameters() if p.requires_grad]
    try:
        reserved = [] if trainer.state.global_step else [torch.empty_like(p) for p in trained for _ in range(MOMENTS)]
        for batch in batches:
            loss = trainer.compute_loss(trainer.trained_model, trainer._prepare_inputs(dict(batch)))
            trainer.accelerator.backward(loss)
        del reserved
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True
