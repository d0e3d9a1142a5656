"""How the processes that train one checkpoint are started and know of each other; imports no torch.

``accelerate launch`` (or ``torchrun``) starts one process a device and tells each by environment variables who it is.
Asking accelerate for FSDP sets ``ACCELERATE_USE_FSDP``; with ``torchrun`` the variable can be set by hand.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from typing import Literal

from rm_workflow.catalog.models import Distributed
from rm_workflow.errors import UserError
from rm_workflow.training import process

Strategy = Literal["ddp", "fsdp"]
TRAINER = "rm_workflow.training.entry"
PORT = 29500
# What torchrun and accelerate tell a process of its place among others.
PLACE = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "TORCH_NCCL_ASYNC_ERROR_HANDLING"),
)
PLACE_PREFIXES = ("TORCHELASTIC_", "ACCELERATE_", "FSDP_")
THREADS = "OMP_NUM_THREADS"


def command(
    distributed: Distributed,
    arguments: Sequence[str],
    machine: int | str = "RANK",
    first_machine: str = "FIRST_MACHINE",
    port: int = PORT,
) -> list[str]:
    """Return the command that trains with ``arguments`` in as many processes as a recipe asks for.

    Args:
        machine: of several, the number of the one that it is for, from 0.
        first_machine: address of number 0.
        port: free there.
    """
    if distributed.num_processes == 1:
        return [sys.executable, "-m", TRAINER, *arguments]
    threads = max(1, (os.cpu_count() or 1) // distributed.processes)
    # What is not said here accelerate takes from the user's own file of defaults, or warns of.
    options: dict[str, str | int] = {
        "--num_machines": distributed.machines,
        "--num_processes": distributed.num_processes,
        "--num_cpu_threads_per_process": threads,
        "--mixed_precision": "no",
        "--dynamo_backend": "no",
        "--main_process_port": 0,
    }
    if distributed.machines > 1:
        options |= {"--machine_rank": machine, "--main_process_ip": first_machine, "--main_process_port": port}
    flat = [str(part) for option in options.items() for part in option]
    kind = ["--use_fsdp", "--fsdp_version", "2"] if distributed.strategy == "fsdp" else ["--multi_gpu"]
    return [sys.executable, "-m", "accelerate.commands.launch", *flat, *kind, "-m", TRAINER, *arguments]


def refuse_machines(distributed: Distributed, arguments: Sequence[str]) -> None:
    """Refuse to start a training that takes other machines too.

    Raises:
        UserError: it does; the sentence holds the command for them.
    """
    if distributed.machines > 1:
        raise UserError(
            f"training.distributed.machines is {distributed.machines}, so start the trainer by hand on each of them, "
            "with RANK from 0 and RMW_HOME on a file system that all see (RMW_LAUNCHER=ray does it on a Ray cluster), "
            "and run this again when it has ended: " + shlex.join(command(distributed, arguments))
        )


def is_launched() -> bool:
    """Return whether a launcher started this process, be it the only one."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def rank() -> int:
    """Return the number of this process among all that train together; 0 prints, writes and saves."""
    return int(os.environ["RANK"]) if is_launched() else 0


def local_rank() -> int:
    """Return the number of this process on its machine, which is the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0")) if is_launched() else 0


def size() -> int:
    """Return the number of processes that train together, over all machines."""
    return int(os.environ["WORLD_SIZE"]) if is_launched() else 1


def is_main() -> bool:
    """Return whether this process prints, writes and saves."""
    return rank() == 0


def take_strategy() -> Strategy:
    """Return how the launcher wants the model to be spread, and take the variables that say so out of the environment.

    transformers and accelerate would act on them as well, each in its own way.

    Raises:
        UserError: DeepSpeed, FSDP 1 or offloading to the CPU is asked for.
    """
    if _is_true("ACCELERATE_USE_DEEPSPEED"):
        raise UserError(
            "accelerate launch asks for DeepSpeed, which this trainer does not run under; use --use_fsdp "
            "--fsdp_version 2 in its place"
        )
    if not _is_true("ACCELERATE_USE_FSDP"):
        return "ddp"
    if os.environ.get("FSDP_VERSION", "2") != "2":
        raise UserError("accelerate launch asks for FSDP version 1; add --fsdp_version 2 (fsdp_version: 2 in its file)")
    if _is_true("FSDP_OFFLOAD_PARAMS"):
        raise UserError("accelerate launch asks for --fsdp_offload_params, which is not built; take more processes")
    for name in [name for name in os.environ if name == "ACCELERATE_USE_FSDP" or name.startswith("FSDP_")]:
        del os.environ[name]
    return "fsdp"


def environment_of_one() -> dict[str, str]:
    """Return the environment for a process that computes alone on the CPU when the others have left.

    It knows of no launcher, sees no GPU and has the threads of all processes of this machine.
    """
    kept = {
        name: value for name, value in os.environ.items() if name not in PLACE and not name.startswith(PLACE_PREFIXES)
    }
    threads = os.environ.get(THREADS, "")
    if is_launched() and threads.isdigit():
        kept[THREADS] = str(int(threads) * int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    # peft would put an adapter there first.
    return {**kept, **process.OFFLINE, "CUDA_VISIBLE_DEVICES": ""}


def see_one_gpu() -> None:
    """Hide all GPUs but the first from a process that trains alone: transformers would spread each batch over them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0]


def _is_true(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("1", "true", "yes")
