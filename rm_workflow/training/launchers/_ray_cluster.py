"""A Ray cluster as launchers use it: joined by a process of their own, waited for while it is busy, and left.

Ray runs in a process of its own because a cluster that vanishes may take the processes that are connected to it along,
and that must not be Dagster's.
"""

import math
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rm_workflow.errors import UserError
from rm_workflow.training.launchers import Tell

ADDRESS = "RAY_ADDRESS"
# What a process on another machine needs to know of this one.
CARRIED = ("RMW_", "HF_", "WANDB_", "NCCL_", "GLOO_", "TORCH_", "PYTORCH_", "CUDA_DEVICE_ORDER", "OMP_", "GOMP_")
# Secrets of this project that no such process needs.
KEPT_BACK = ("RMW_SERVE_TOKEN", "RMW_ENDPOINT_API_KEY")
POLL_SECONDS = 0.5
LEAVING_SECONDS = 15.0
CONNECTING_SECONDS = 60.0
NO_CLUSTER = (
    "no Ray cluster answers at RAY_ADDRESS {address} ({why}); start one there, unset the variable for a cluster of "
    "this machine alone, or, if it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
)
# A cluster that is too small now may grow.
WAIT_VARIABLE, WAIT_SECONDS = "RMW_RAY_WAIT", 300.0


def variables_of_driver() -> dict[str, str]:
    """Return the variables, beside those of this process, of the one that joins a cluster."""
    # Without an address the cluster is of this run alone, and so is the token that its processes show each other.
    own = {} if os.environ.get(ADDRESS) else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    return {"RAY_USAGE_STATS_ENABLED": "0", **own}


def carried_variables() -> dict[str, str]:
    """Return the variables of this process that those on other machines get."""
    return {name: os.environ[name] for name in os.environ if name.startswith(CARRIED) and name not in KEPT_BACK}


def runtime_environment() -> dict[str, Any]:
    """Return where the cluster's processes import this package from; all may read it, so no secret stands in it."""
    return {"env_vars": {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}}


def connect(num_cpus: int) -> None:
    """Join the cluster, or start one of this machine alone with so many CPUs at least.

    Raises:
        UserError: there is no cluster at the address.
    """
    import ray

    address = os.environ.get(ADDRESS)
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if not address:
        # CPUs are what Ray counts, not what it gives: processes share the machine as they do without it.
        wanted = max(num_cpus, os.cpu_count() or 1)
        ray.init(address="local", num_cpus=wanted, include_dashboard=False, **quiet)
        return
    # To an address where nothing answers Ray itself goes on asking for many minutes.
    giving_up = threading.Timer(CONNECTING_SECONDS, _give_up, (address,))
    giving_up.daemon = True
    giving_up.start()
    try:
        _check_port(address)
        ray.init(address=address, **quiet)
    except Exception as error:
        raise UserError(NO_CLUSTER.format(address=address, why=first_line(error))) from None
    finally:
        giving_up.cancel()


def _check_port(address: str) -> None:
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECTING_SECONDS).close()


def _give_up(address: str) -> None:
    why = f"not within {CONNECTING_SECONDS:.0f} s"
    print(f"error: {NO_CLUSTER.format(address=address, why=why)}", file=sys.stderr, flush=True)
    os._exit(1)


def leave() -> None:
    """Part from the cluster, which ends one of our own; a lost one does not answer."""
    import ray

    leaving = threading.Thread(target=ray.shutdown, daemon=True)
    leaving.start()
    leaving.join(LEAVING_SECONDS)


def longest_wait() -> float:
    """Return how many seconds a cluster that is too small may take to grow.

    Raises:
        UserError: the variable holds no such number.
    """
    text = os.environ.get(WAIT_VARIABLE, str(WAIT_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise UserError(f"{WAIT_VARIABLE} is {text!r}, which is no number of seconds; set it to one, as 300")
    return seconds


def is_placed(
    group: Any, wanted: Mapping[str, float], is_stopping: Callable[[], bool], tell: Tell, asker: str, mend: str
) -> bool:
    """Wait for the cluster's resources and return whether they are ours; where not, it is to stop.

    Args:
        group: placement group of ``wanted``.
        asker: what asks for them, for the sentence.
        mend: beside more machines.

    Raises:
        UserError: the whole cluster has less and did not grow in time.
    """
    import ray

    longest = longest_wait()
    started, has_told = time.monotonic(), False
    while not group.wait(POLL_SECONDS):
        if is_stopping():
            return False
        present = ray.cluster_resources()
        short = [name for name, number in wanted.items() if present.get(name, 0.0) < number]
        asked = " and ".join(f"{number:.0f} {name}s" for name, number in wanted.items())
        if not has_told:
            tell(f"waiting for {asked} of the Ray cluster")
            has_told = True
        if short and time.monotonic() - started > longest:
            raise UserError(
                f"the Ray cluster has {present.get(short[0], 0.0):.0f} {short[0]}s and {asker} asks for {asked}; "
                f"add machines to it, or {mend} (waited {longest:.0f} s, {WAIT_VARIABLE})"
            )
    return True


def not_seen(path: Path | str) -> str:
    """Return what to say where this machine of the cluster has no such file."""
    return (
        f"the machine {socket.gethostname()} of the Ray cluster has no {path}; put RMW_HOME on a file system that all "
        "its machines see at the same path"
    )


def first_line(error: Exception) -> str:
    """Return the first line of what an error says."""
    return str(error).strip().partition("\n")[0]
