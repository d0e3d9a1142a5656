"""Trains, tokenises and scores on a Ray cluster.

It is the one at ``RAY_ADDRESS`` (``auto`` finds one), else one of its own on this machine.

Ray places one actor a machine of ``training.distributed``, which starts there what ``local`` starts here: the trainer,
or ``accelerate launch`` with its place among the machines. Ray Train is not used: it runs training as a function in a
thread of Ray's worker, where no signal arrives, so that a trainer could not write its state when it is ended.

Ray itself runs in a process of its own, ``python -m rm_workflow.training.launchers.ray``. ``_ray_cluster.py`` says how
the cluster is joined, ``_ray_data.py`` tokenises and scores.
"""

import argparse
import importlib
import os
import queue
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
from rm_workflow.map_batches import MapBatches
from rm_workflow.training import launch, process, training_state
from rm_workflow.training.entry import dagster_log
from rm_workflow.training.launchers import Running, Tell, Training, _ray_cluster, _ray_data
from rm_workflow.training.launchers._process_group import ProcessGroup


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
    environment = {**_ray_cluster.variables_of_driver(), **training.environment}
    # A cluster of its own is in its group, and without it the trainer's last lines would be lost.
    return ProcessGroup(command, environment, tell, ends_others=True)


def mapper() -> MapBatches:
    """Return what tokenises and scores by Ray Data on the cluster."""
    return _ray_data.map_batches


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
            yield f"error: {_ray_cluster.not_seen(missing[0])}"
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
            _ray_cluster.connect(options.machines * options.processes)
            stop.listen()
            return _train(options, stop, tell)
        except UserError as error:
            tell(f"error: {error}")
        except (ray.exceptions.RayError, ConnectionError) as error:
            tell(f"error: {_lost(error, options.out)}")
        finally:
            _ray_cluster.leave()
        return 1


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


def _train(options: argparse.Namespace, stop: Stop, tell: Tell) -> int:
    import ray
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    each = {"CPU": float(options.processes)} | ({"GPU": float(options.processes)} if options.device == "cuda" else {})
    group = placement_group([each] * options.machines, strategy="SPREAD")
    wanted = {name: number * options.machines for name, number in each.items()}
    asked = "the training", "lower training.distributed"
    if not _ray_cluster.is_placed(group, wanted, lambda: stop.number > 0, tell, *asked):
        return 128 + stop.number
    # `run` waits for lines while `stop` waits for the end.
    resources = {"num_cpus": each["CPU"], "num_gpus": each.get("GPU", 0.0), "max_concurrency": 4}
    machines = [
        ray.remote(Machine)
        .options(
            **resources,
            runtime_env=_ray_cluster.runtime_environment(),
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number),
        )
        .remote()
        for number in range(options.machines)
    ]
    first = ray.get(machines[0].address.remote())
    distributed = Distributed(machines=options.machines, processes=options.processes, strategy=options.strategy)
    streams = [
        machine.run.options(num_returns="streaming").remote(
            distributed.model_dump(), options.arguments, _ray_cluster.carried_variables(), (number, *first)
        )
        for number, machine in enumerate(machines)
    ]
    return _follow(machines, streams, stop, tell)


def _follow(machines: Sequence[Any], streams: Sequence[Any], stop: Stop, tell: Tell) -> int:
    """Pass on what the machines print until all have ended; return the first exit code that is not 0.

    A signal, or the failure of one machine, ends all.
    """
    import ray

    running, code, is_stopping = list(streams), 0, False
    while running:
        ready, _ = ray.wait(running, num_returns=1, timeout=_ray_cluster.POLL_SECONDS)
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
        time.sleep(_ray_cluster.POLL_SECONDS)
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


if __name__ == "__main__":
    # By its own name, by which the cluster's processes import it.
    code = importlib.import_module("rm_workflow.training.launchers.ray").main()
    sys.stdout.flush()
    sys.stderr.flush()
    # At Python's own end a lost cluster would be waited for.
    os._exit(code)
