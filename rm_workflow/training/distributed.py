"""One checkpoint trained by several processes, with the steps, losses and gradients of a single one.

Every process builds the same optimiser step and computes its share of the step's micro-batches. The shares are balanced
by tokens; a process with fewer computes again what has no weight, so that all make the same number of passes and none
waits for ever. Losses are divided by the weight of the whole step and gradients summed, so a step is that of one
process but for the order in which floats are added.

- ``ddp``: each process holds the whole model; gradients are exchanged in the last pass of a step.
- ``fsdp``: weights, gradients and optimiser states are cut into as many parts as there are processes (FSDP2). Gradients
  are exchanged in every pass, because keeping them until the last would need them whole.

Alone (no launcher) every function here gives back what it got.
"""

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import _get_default_store
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from rm_workflow.errors import UserError
from rm_workflow.models.reward_model import transformers_model, whole_head
from rm_workflow.training import launch, process
from rm_workflow.training.metrics import Window, merged, window_of
from rm_workflow.training.micro_batches import Collator, MicroBatch

Anything = TypeVar("Anything")

# The first process may read a large model while the others wait; that one has died the launcher notices at once.
TIMEOUT = timedelta(hours=1)
FILLER = "filler"


def join(device: str) -> None:
    """Meet the other processes, if a launcher started any and it has not been done yet.

    Args:
        device: ``cpu`` (gloo) or ``cuda`` (NCCL, and gloo for figures that live on the CPU).

    Raises:
        UserError: there are more processes on this machine than GPUs.
    """
    if launch.size() == 1 or dist.is_initialized():
        return
    dist.init_process_group("gloo" if device == "cpu" else "cpu:gloo,cuda:nccl", timeout=TIMEOUT)
    if device == "cpu":
        return
    present = torch.cuda.device_count()
    if launch.local_rank() >= present:
        raise UserError(
            f"more processes are started on this machine than it has GPUs ({present}); set "
            f"training.distributed.processes to {present} (--num_processes of accelerate launch counts all machines)"
        )
    torch.cuda.set_device(launch.local_rank())


def leave() -> None:
    """Part from the others after a good end; after a failure they may no longer answer.

    Nothing may hold a model of ``replicate`` any more: freed later than the group, it would wait for ever.
    """
    if dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()


def size() -> int:
    """Return the number of processes that have met."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first_to_fail() -> bool:
    """Return whether no other process has failed before; what fails next mostly fails because of the first."""
    if not dist.is_initialized():
        return True
    try:
        return int(_get_default_store().add("failures", 1)) == 1
    except RuntimeError:  # the process that kept the count is gone
        return launch.is_main()


def is_lost(error: Exception) -> bool:
    """Return whether an error says that another process no longer answers: it has failed, or the system ended it."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def summed(values: Tensor) -> Tensor:
    """Return the sum of each process's tensor, the same in all."""
    if size() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


def gathered(mine: Anything) -> list[Anything]:
    """Return what each process gave, in the order of the processes, in all of them."""
    if size() == 1:
        return [mine]
    everyone: list[Any] = [None] * size()
    dist.all_gather_object(everyone, mine)
    return everyone


def largest(number: int) -> int:
    """Return the largest of the numbers that the processes gave, in all of them."""
    if size() == 1:
        return number
    # On the CPU, so that nothing waits for what a GPU still computes.
    shared = torch.tensor(number)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return int(shared.item())


def end_if_asked() -> None:
    """End all processes at this very point where a signal has come to any of them.

    Raises:
        Terminated: in all of them; each notices its own signal at another moment.
    """
    if size() == 1:
        process.raise_if_asked()
        return
    number = largest(process.ENDING.asked or 0)
    if number:
        process.ENDING.asked = None
        raise process.Terminated(number)


def first_does(work: Callable[[], Anything]) -> Anything:
    """Return, in all processes, what the first of them alone does; it uses the disk and the others wait.

    Raises:
        UserError: in all processes where it is raised in the first.
    """
    if size() == 1:
        return work()
    told: list[Any] = [None, None]
    if launch.is_main():
        try:
            told[0] = work()
        except UserError as error:
            told[1] = str(error)
    dist.broadcast_object_list(told, src=0)
    if told[1] is not None:
        raise UserError(told[1])
    result: Anything = told[0]
    return result


def summed_window(window: Window) -> Window:
    """Return the figures of all processes since the last logging step, the same in all."""
    return window if size() == 1 else merged([window_of(stored) for stored in gathered(window.stored())])


def window_of_this_process(windows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return this process's part of the figures that the processes of a state had, be it another number of them."""
    if len(windows) == size():
        return windows[launch.rank()]
    return merged([window_of(stored) for stored in windows] if launch.is_main() else []).stored()


@dataclass(frozen=True)
class ShareCollator:
    """Lays out one process's share of the micro-batches of each optimiser step.

    A pass that only fills up is a copy of a micro-batch of the step, without weight and marked by ``FILLER``.
    """

    whole: Collator
    rank: int
    size: int

    def __call__(self, rows: Sequence[Mapping[str, int]]) -> dict[str, list[MicroBatch]]:
        """Return ``{"micro_batches": [...]}``, of equal number in every process."""
        runs = evened(self.whole, [int(row["pair"]) for row in rows], self.size)
        costs = [self.whole.cost(run) for run in runs]
        shares = balanced(costs, self.size)
        mine = [self.whole.lay_out(runs[number]) for number in shares[self.rank]]
        missing = max(map(len, shares)) - len(mine)
        if missing:
            least = self.whole.lay_out(runs[int(np.argmin(costs))])
            filler = {**least, "weight": torch.zeros_like(least["weight"]), FILLER: torch.tensor(True)}
            mine += [filler] * missing
        return {"micro_batches": mine}


def collator_of_this_process(whole: Collator) -> Collator | ShareCollator:
    """Return the collator of the whole step or, among several processes, that of this one's share."""
    return whole if size() == 1 else ShareCollator(whole, dist.get_rank(), size())


def evened(whole: Collator, positions: Sequence[int], num_processes: int) -> list[Sequence[Any]]:
    """Cut a step into runs as small as they get without more passes than the budget of tokens asks for.

    With 3 micro-batches for 2 processes one of them would idle in every second pass; 4 smaller ones keep both busy.
    What stays together (the pairs of a prompt, in layout ``kwise``) is not cut for that.
    """
    units = whole.units(positions)
    most = -(-len(list(whole.cut(units, whole.budget))) // num_processes) * num_processes
    low, high = 1, whole.budget
    # A greater budget never gives more runs, so the least that gives few enough is found by halving.
    while low < high:
        middle = (low + high) // 2
        if len(list(whole.cut(units, middle))) <= most:
            high = middle
        else:
            low = middle + 1
    return list(whole.cut(units, low))


def balanced(costs: Sequence[int], num_processes: int) -> list[list[int]]:
    """Deal numbered items to processes: the dearest first, to the process with the least that has room.

    No process gets more than ceil(items / processes), so the number of passes is as small as it can be.

    Returns:
        For each process the numbers of its items, dearest first.
    """
    most = -(-len(costs) // num_processes)
    shares: list[list[int]] = [[] for _ in range(num_processes)]
    loads = [0] * num_processes
    for number in sorted(range(len(costs)), key=lambda number: (-costs[number], number)):
        rank = min((r for r in range(num_processes) if len(shares[r]) < most), key=lambda r: (loads[r], r))
        shares[rank].append(number)
        loads[rank] += costs[number]
    return shares


def replicate(model: nn.Module) -> nn.Module:
    """Return a model that exchanges its gradients with the others; alone, or cut into parts, the model itself."""
    if size() == 1 or isinstance(model, FSDPModule):
        return model
    # No device_ids: inputs are on the device already. All weights take part in every pass.
    return DistributedDataParallel(model, find_unused_parameters=False, gradient_as_bucket_view=True)


def shard(model: nn.Module, device: str) -> None:
    """Cut a model into parts in place, one part a process; the weights are those of the first process.

    Layers are units of their own: a process holds its part of all of them, and one or two whole.

    Args:
        model: with its weights in the first process; those of the others may be on ``meta``.
        device: ``cpu`` or ``cuda``, which gets the parts.
    """
    weights = model.state_dict() if launch.is_main() else {}
    mesh = init_device_mesh(device, (size(),))
    classifier = transformers_model(model)
    body = getattr(classifier, classifier.base_model_prefix)
    embedding, head = body.get_input_embeddings(), whole_head(model)
    # A weight that stands under two names stays with the whole model, which has both in one part.
    is_tied = getattr(head, "weight", None) is embedding.weight
    for unit in [*body.layers, *([] if is_tied else [embedding])]:
        fully_shard(unit, mesh=mesh)
    fully_shard(model, mesh=mesh)
    # Only the parts get memory, and on the same device in all processes: else the weights are sent by different ways.
    model._apply(  # type: ignore[no-untyped-call]
        lambda part: torch.empty_like(part, device=device) if part.is_meta else part
    )
    set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))
    # By this transformers' Trainer knows that the model is in its place and exchanges its gradients by itself.
    classifier._is_distributed_loading_by_transformers = True


def is_sharded(model: nn.Module) -> bool:
    """Return whether the model is cut into parts, so that any use of it takes all processes."""
    return isinstance(model, FSDPModule)


def whole_weights(model: nn.Module) -> dict[str, Any]:
    """Return all weights of a model cut into parts, on the CPU of the first process; the others get nothing."""
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def within(model: nn.Module, compute: Callable[[nn.Module], Tensor]) -> Tensor:
    """Return ``compute(inner model)``, called inside the forward pass of the wrapper around the model.

    Wrappers gather weights before their own ``forward`` and arm the exchange of gradients after it; a reward is read
    below it, by calls of the body and the head.
    """
    inner: Any = model.module if isinstance(model, DistributedDataParallel) else model
    if inner is model and not is_sharded(model):
        return compute(model)
    # A copy, because FSDP hangs its hooks on what comes back, and chunks of it are views.
    inner.forward = lambda: compute(inner).clone()
    try:
        result: Tensor = model()
    finally:
        del inner.forward
    if isinstance(model, FSDPModule) and not torch.is_grad_enabled():
        # What is left whole for a backward pass that does not come would go to the optimizer in place of its part.
        model.reshard()
    return result


@contextlib.contextmanager
def gradients(model: nn.Module, exchange: bool) -> Iterator[None]:
    """Run a forward and a backward pass; DDP exchanges gradients in the last of a step only (``exchange``)."""
    keeps = isinstance(model, DistributedDataParallel) and not exchange
    with model.no_sync() if keeps else contextlib.nullcontext():  # type: ignore[operator]
        yield
