"""Trains on a Ray cluster: the one at ``RAY_ADDRESS`` (``auto`` finds one), else one of its own on this machine.

Ray places one actor a machine of ``training.distributed``, which starts there what ``local`` starts here: the trainer,
or ``accelerate launch`` with its place among the machines. Ray Train is not used: it runs training as a function in a
thread of Ray's worker, where no signal arrives, so that a trainer could not write its state when it is ended.

Ray itself runs in a process of its own, ``python -m rm_workflow.training.launchers.ray``: a cluster that vanishes may
take the processes that are connected to it along, and that must not be Dagster's.
"""

import argparse
import importlib
import math
import os
import queue
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

from rm_workflow.catalog.models import Distributed
from rm_workflow.errors import UserError
from rm_workflow.training import launch, process, training_state
from rm_workflow.training.entry import dagster_log
from rm_workflow.training.launchers import Running, Tell, Training
from rm_workflow.training.launchers._process_group import ProcessGroup

ADDRESS = "RAY_ADDRESS"
# What a trainer on another machine needs to know of this one.
CARRIED = ("RMW_", "HF_", "WANDB_", "NCCL_", "GLOO_", "TORCH_", "PYTORCH_", "CUDA_DEVICE_ORDER", "OMP_", "GOMP_")
# Secrets of this project that no trainer needs.
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


def check() -> None:
    """Need the package ``ray``.

    Raises:
        UserError: it is not installed.
    """
    if find_spec("ray") is None:
        raise UserError(
            "RMW_LAUNCHER is ray, whose package is not installed; install it (pip install 'rm-workflow[ray]') or set "
            "RMW_LAUNCHER to local"
        )


def start(training: Training, tell: Tell) -> Running:
    """Start the process that has the training done by a cluster."""
    options = [
        *("--machines", str(training.distributed.machines), "--processes", str(training.distributed.processes)),
        *("--strategy", training.distributed.strategy, "--device", training.device, "--out", str(training.out)),
        *("--parent-pid", str(os.getpid())),
    ]
    command = [sys.executable, "-m", __name__, *options, "--", *training.arguments]
    # Without an address the cluster is of this run alone, and so is the token that its processes show each other.
    own = {} if os.environ.get(ADDRESS) else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    return ProcessGroup(command, {"RAY_USAGE_STATS_ENABLED": "0", **own, **training.environment}, tell)


class Machine:
    """An actor: the trainer's processes on one machine of the cluster."""

    def __init__(self) -> None:
        self._told: queue.Queue[str | int] = queue.Queue()
        self._group: ProcessGroup | None = None
        self._lock = threading.Lock()
        self._is_stopped = False

    def address(self) -> tuple[str, int]:
        """Return where the first of several machines is met: its address and a port that is free."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    def run(
        self,
        distributed: Mapping[str, Any],
        arguments: Sequence[str],
        environment: Mapping[str, str],
        place: tuple[int, str, int],
    ) -> Iterator[str | int]:
        """Train, and yield what the trainer prints and at last its exit code.

        Args:
            place: the number of this machine, and where the first one is met.
        """
        missing = [path for path in arguments[1::2] if not Path(path).exists()]
        if missing:
            yield (
                f"error: the machine {socket.gethostname()} of the Ray cluster has no {missing[0]}; put RMW_HOME on a "
                "file system that all its machines see at the same path"
            )
            yield 1
            return
        with self._lock:
            if self._is_stopped:
                yield 128 + signal.SIGTERM
                return
            # The trainer ends with this process, of which it knows even where a launcher stands between.
            words = [*arguments, "--parent-pid", str(os.getpid())]
            command = launch.command(Distributed(**distributed), words, *place)
            self._group = group = ProcessGroup(command, environment, self._told.put)
        threading.Thread(target=self._tell_end, args=(group,), daemon=True).start()
        while True:
            told = self._told.get()
            yield told
            if isinstance(told, int):
                return

    def _tell_end(self, group: ProcessGroup) -> None:
        code = group.wait()
        group.stop()
        self._told.put(code)

    def stop(self) -> None:
        """End the trainer; returns when no process of it is left."""
        with self._lock:
            self._is_stopped = True
        if self._group:
            self._group.stop()


class Stop:
    """Whether a signal, or the end of the process that started this one, asks for the end."""

    def __init__(self) -> None:
        self.number = 0
        self.listen()

    def listen(self) -> None:
        """Take signals, for which Ray sets an answer of its own when it starts."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.number = self.number or number


def main(arguments: Sequence[str] | None = None) -> int:
    """Have a training done by a cluster and return its exit code."""
    options = _parse(arguments)
    process.end_with_parent(options.parent_pid)
    process.ENDING.deferred = True
    import ray

    with dagster_log() as log:

        def tell(line: str) -> None:
            print(line, file=sys.stderr, flush=True)
            if log and not line.startswith("error: "):
                log(line)

        stop = Stop()
        try:
            _connect(options.machines * options.processes)
            stop.listen()
            return _train(options, stop, tell)
        except UserError as error:
            tell(f"error: {error}")
        except (ray.exceptions.RayError, ConnectionError) as error:
            tell(f"error: {_lost(error, options.out)}")
        finally:
            _leave()
        return 1


def _leave() -> None:
    """Part from the cluster, which ends one of our own; a lost one does not answer."""
    import ray

    leaving = threading.Thread(target=ray.shutdown, daemon=True)
    leaving.start()
    leaving.join(LEAVING_SECONDS)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=__name__, description="Train one checkpoint on a Ray cluster.")
    parser.add_argument("--machines", type=int, default=1, help="actors, spread over the cluster's machines")
    parser.add_argument("--processes", type=int, default=1, help="processes of each, with a CPU and maybe a GPU each")
    parser.add_argument("--strategy", choices=("ddp", "fsdp"), default="ddp")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, required=True, help="folder that the trainer writes to")
    parser.add_argument("--parent-pid", type=int, help="process to end with; default: whoever started this one")
    parser.add_argument("arguments", nargs="+", help="of the trainer, after --")
    return parser.parse_args(arguments)


def _connect(num_processes: int) -> None:
    """Join the cluster, or start one of this machine alone that takes so many processes.

    Raises:
        UserError: there is no cluster at the address.
    """
    import ray

    address = os.environ.get(ADDRESS)
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if not address:
        # CPUs are what Ray counts, not what it gives: processes share the machine as they do without it.
        num_cpus = max(num_processes, os.cpu_count() or 1)
        ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **quiet)
        return
    # To an address where nothing answers Ray itself goes on asking for many minutes.
    giving_up = threading.Timer(CONNECTING_SECONDS, _give_up, (address,))
    giving_up.daemon = True
    giving_up.start()
    try:
        _check_port(address)
        ray.init(address=address, **quiet)
    except Exception as error:
        raise UserError(NO_CLUSTER.format(address=address, why=_first_line(error))) from None
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


def _train(options: argparse.Namespace, stop: Stop, tell: Tell) -> int:
    import ray
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    each = {"CPU": float(options.processes)} | ({"GPU": float(options.processes)} if options.device == "cuda" else {})
    group = placement_group([each] * options.machines, strategy="SPREAD")
    if not _is_placed(group, each, options.machines, stop, tell):
        return 128 + stop.number
    # `run` waits for lines while `stop` waits for the end.
    resources = {"num_cpus": each["CPU"], "num_gpus": each.get("GPU", 0.0), "max_concurrency": 4}
    python_path = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    machines = [
        ray.remote(Machine)
        .options(
            **resources,
            runtime_env={"env_vars": python_path},
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number),
        )
        .remote()
        for number in range(options.machines)
    ]
    first = ray.get(machines[0].address.remote())
    distributed = Distributed(machines=options.machines, processes=options.processes, strategy=options.strategy)
    environment = {name: os.environ[name] for name in os.environ if name.startswith(CARRIED) and name not in KEPT_BACK}
    streams = [
        machine.run.options(num_returns="streaming").remote(
            distributed.model_dump(), options.arguments, environment, (number, *first)
        )
        for number, machine in enumerate(machines)
    ]
    return _follow(machines, streams, stop, tell)


def _longest_wait() -> float:
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


def _is_placed(group: Any, each: Mapping[str, float], machines: int, stop: Stop, tell: Tell) -> bool:
    """Wait for the cluster's resources and return whether they are ours; where not, a signal came.

    Raises:
        UserError: the whole cluster has less and did not grow in time.
    """
    import ray

    wanted = {name: number * machines for name, number in each.items()}
    longest = _longest_wait()
    started, has_told = time.monotonic(), False
    while not group.wait(POLL_SECONDS):
        if stop.number:
            return False
        present = ray.cluster_resources()
        short = [name for name, number in wanted.items() if present.get(name, 0.0) < number]
        asked = " and ".join(f"{number:.0f} {name}s" for name, number in wanted.items())
        if not has_told:
            tell(f"waiting for {asked} of the Ray cluster")
            has_told = True
        if short and time.monotonic() - started > longest:
            raise UserError(
                f"the Ray cluster has {present.get(short[0], 0.0):.0f} {short[0]}s and the training asks for {asked}; "
                f"add machines to it, or lower training.distributed (waited {longest:.0f} s, {WAIT_VARIABLE})"
            )
    return True


def _follow(machines: Sequence[Any], streams: Sequence[Any], stop: Stop, tell: Tell) -> int:
    """Pass on what the machines print until all have ended; return the first exit code that is not 0.

    A signal, or the failure of one machine, ends all.
    """
    import ray

    running, code, is_stopping = list(streams), 0, False
    while running:
        ready, _ = ray.wait(running, num_returns=1, timeout=POLL_SECONDS)
        for stream in ready:
            told = ray.get(next(stream))
            if isinstance(told, str):
                tell(told)
            else:
                running.remove(stream)
                code = code or told
        if (stop.number or code) and not is_stopping:
            is_stopping = True
            for machine in machines:
                machine.stop.remote()
    # As a shell says it: a negative code would be lost on the way out.
    return 128 - code if code < 0 else code


def _lost(error: Exception, out: Path) -> str:
    """Return what to say where the cluster is gone, after its trainer, which noticed, has written its state."""
    deadline = time.monotonic() + process.SAVING_GRACE_SECONDS
    while time.monotonic() < deadline and _is_held(out):
        time.sleep(POLL_SECONDS)
    return (
        f"the Ray cluster no longer answers ({type(error).__name__}); start it again and run the recipe again"
        f"{training_state.goes_on(out)}"
    )


def _is_held(out: Path) -> bool:
    try:
        with process.locked(out):
            return False
    except UserError:
        return True


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


if __name__ == "__main__":
    # By its own name, by which the cluster's processes import it.
    code = importlib.import_module("rm_workflow.training.launchers.ray").main()
    sys.stdout.flush()
    sys.stderr.flush()
    # At Python's own end a lost cluster would be waited for.
    os._exit(code)
