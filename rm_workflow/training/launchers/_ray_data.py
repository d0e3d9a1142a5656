"""Tokenises and scores on a Ray cluster: batches go through Ray Data to a pool of actors.

Whoever asks writes its batches to one Arrow file on a file system that all machines see, and starts a process that
joins the cluster, ``python -m rm_workflow.training.launchers._ray_data``. A row of the data set is the number of a
batch; an actor reads it, and what becomes of it goes back through a pipe as it comes::

    8 bytes: number of the batch; 8 bytes: length; the table as an Arrow stream

So nothing is kept by the cluster, and what was answered when it vanishes or the run is cancelled is not lost.
"""

import argparse
import contextlib
import importlib
import json
import os
import socket
import struct
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from rm_workflow.errors import UserError
from rm_workflow.map_batches import Work, made
from rm_workflow.redaction import SECRET_VARIABLE
from rm_workflow.training import process
from rm_workflow.training.launchers import _ray_cluster
from rm_workflow.training.launchers._process_group import ProcessGroup
from rm_workflow.training.launchers._told import Told

BATCHES = "batches.arrow"
HEADER = struct.Struct("<qQ")
# Of a worker on the CPU; it computes with as many threads.
CPUS_VARIABLE = "RMW_RAY_CPUS"
# Ray starts a worker that died again and gives it the same batch; one that wants too much memory would die for ever.
MOST_TRIES = 3
# Without an answer of the cluster's head.
LOST_SECONDS = 10.0
ANSWERS = pa.schema([("number", pa.int64()), ("table", pa.large_binary()), ("error", pa.string())])


def map_batches(work: Work, batches: Iterable[pa.RecordBatch], folder: Path) -> Generator[tuple[int, pa.Table]]:
    """Yield what the cluster's workers make of each batch, with its number, as they come.

    Args:
        folder: seen by all machines; a file of all batches is there meanwhile.

    Raises:
        UserError: a worker's, or there is no cluster, it is too small, or it vanished.
    """
    with tempfile.TemporaryDirectory(prefix="ray_", dir=folder) as scratch:
        file = Path(scratch) / BATCHES
        num_batches = _write(file, work, batches)
        if num_batches:
            yield from _answered(work, file, num_batches)


def _write(file: Path, work: Work, batches: Iterable[pa.RecordBatch]) -> int:
    num_batches = 0
    with pa.ipc.new_file(file, work.schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            num_batches += 1
    return num_batches


def _answered(work: Work, file: Path, num_batches: int) -> Iterator[tuple[int, pa.Table]]:
    """Yield the answers of the process that has them from the cluster; it ends with this call however that ends."""
    told = Told()
    readable, writable = os.pipe()
    asked = {"worker": work.worker, "arguments": dict(work.arguments), "device": work.device, "file": str(file)}
    options = ["--work", json.dumps(asked), "--answers", str(writable), "--parent-pid", str(os.getpid())]
    num_answered = 0
    with os.fdopen(readable, "rb") as answers:
        try:
            command = [sys.executable, "-m", __name__, *options]
            environment = _ray_cluster.variables_of_driver()
            group = ProcessGroup(command, environment, told, descriptors=(writable,), ends_others=True)
        finally:
            os.close(writable)
        try:
            for answer in _received(answers):
                num_answered += 1
                yield answer
            code = group.wait()
        finally:
            group.stop()
    if told.errors:
        raise UserError(told.errors[-1])
    if code or num_answered < num_batches:
        last_line = told.last_lines[-1] if told.last_lines else "(none)"
        raise UserError(
            f"the process that asked the Ray cluster ended with code {code} after {num_answered} of {num_batches} "
            f"batches; its last line: {last_line}; run the same command again"
        )


def _received(answers: IO[bytes]) -> Iterator[tuple[int, pa.Table]]:
    """Yield answers until the other side ends, be it in the middle of one."""
    while len(header := answers.read(HEADER.size)) == HEADER.size:
        number, size = HEADER.unpack(header)
        table = answers.read(size)
        if len(table) < size:
            return
        yield number, pa.ipc.open_stream(table).read_all()


class Worker:
    """An actor of the pool: does the work on the batches of a file.

    Args:
        work: ``worker``, ``arguments`` and ``file``.
        environment: variables of the process that asks.
    """

    def __init__(self, work: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        os.environ.update(environment)
        process.set_environment()
        self._problem = ""
        self._folder = Path(work["file"]).parent
        if not Path(work["file"]).exists():
            self._problem = _ray_cluster.not_seen(work["file"])
            return
        self._batches = pa.ipc.open_file(pa.memory_map(work["file"]))
        try:
            self._worker = made(work["worker"], work["arguments"])
        except UserError as error:
            self._problem = str(error)

    def __call__(self, asked: pa.Table) -> pa.Table:
        """Return rows of ``ANSWERS``; Ray would wrap an error, and try again."""
        rows = [{"number": number, **self._answer(number)} for number in asked["number"].to_pylist()]
        return pa.Table.from_pylist(rows, ANSWERS)

    def _answer(self, number: int) -> dict[str, Any]:
        if self._problem:
            return {"error": self._problem}
        try:
            with self._tried(number):
                table = self._worker(self._batches.get_batch(number))
        except UserError as error:
            return {"error": str(error)}
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return {"table": sink.getvalue().to_pybytes()}

    @contextlib.contextmanager
    def _tried(self, number: int) -> Iterator[None]:
        """Leave a file for each try of a batch that ended by the death of its worker.

        Raises:
            UserError: there were too many.
        """
        if len(list(self._folder.glob(f"try_{number}_*"))) >= MOST_TRIES:
            raise UserError(
                f"a worker of the Ray cluster died {MOST_TRIES} times over one batch, most likely because memory ran "
                f"out; give each more of a machine ({CPUS_VARIABLE}), or lower batch_tokens where it is for scores"
            )
        trying = self._folder / f"try_{number}_{uuid.uuid4().hex}"
        trying.touch()
        try:
            yield
        finally:
            trying.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Have batches mapped by a cluster and return the exit code."""
    options = _parse(arguments)
    process.end_with_parent(options.parent_pid)
    process.end_on_signals()
    # Read when Ray is imported; what it says of its own doings is no line of ours.
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    try:
        _ray_cluster.connect(1)
        # Ray sets answers of its own when it starts.
        process.end_on_signals()
        threading.Thread(target=_watch_cluster, daemon=True).start()
        with os.fdopen(options.answers, "wb") as answers:
            _map(json.loads(options.work), answers)
        return 0
    except process.Terminated as ended:
        return ended.exit_code
    except UserError as error:
        _tell(f"error: {error}")
    except (ray.exceptions.RayTaskError, ray.exceptions.UserCodeException):
        # A fault of ours, with its traceback.
        raise
    except (ray.exceptions.RayError, ConnectionError) as error:
        _tell(f"error: {_lost(error)}")
    finally:
        _ray_cluster.leave()
    return 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=__name__, description="Map the batches of a file on a Ray cluster.")
    parser.add_argument("--work", required=True, help="JSON: worker, arguments, device and file")
    parser.add_argument("--answers", type=int, required=True, help="open file that answers are written to")
    parser.add_argument("--parent-pid", type=int, help="process to end with; default: whoever started this one")
    return parser.parse_args(arguments)


def _map(work: Mapping[str, Any], answers: IO[bytes]) -> None:
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    each = resources(work["device"])
    # Holds the place of one worker, so that a busy cluster is waited for and one that is too small is told.
    group = placement_group([each])
    asked = "a worker", f"lower {CPUS_VARIABLE}"
    _ray_cluster.is_placed(group, each, lambda: False, _tell, *asked)
    remove_placement_group(group)
    with pa.memory_map(work["file"]) as file:
        num_batches = pa.ipc.open_file(file).num_record_batches
    present = ray.cluster_resources()
    fitting = min(int(present.get(name, 0.0) // number) for name, number in each.items())
    num_workers = max(1, min(fitting, num_batches))
    _tell(f"{num_batches} batches for {num_workers} workers of the Ray cluster")
    for number, table, error in _answers(work, each, num_batches, num_workers):
        if error:
            raise UserError(error)
        answers.write(HEADER.pack(number, len(table)))
        answers.write(table)
        answers.flush()


def resources(device: str) -> dict[str, float]:
    """Return what a worker takes of the cluster.

    Raises:
        UserError: the variable holds no number of CPUs.
    """
    text = os.environ.get(CPUS_VARIABLE, "1")
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{CPUS_VARIABLE} is {text!r}, which is no number of CPUs; set it to one, as 4")
    return {"CPU": float(text)} | ({"GPU": 1.0} if device == "cuda" else {})


def carried_variables() -> dict[str, str]:
    """Return the variables of this process that workers get, who ask no other machine and need no secret."""
    carried = _ray_cluster.carried_variables()
    return {name: value for name, value in carried.items() if not SECRET_VARIABLE.search(name)}


def _answers(
    work: Mapping[str, Any], each: Mapping[str, float], num_batches: int, num_workers: int
) -> Iterator[tuple[int, bytes, str | None]]:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    numbers = ray.data.from_items(
        [{"number": number} for number in range(num_batches)], override_num_blocks=num_batches
    )
    mapped = numbers.map_batches(
        Worker,
        fn_constructor_args=(dict(work), carried_variables()),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=num_workers, initial_size=num_workers),
        num_cpus=each["CPU"],
        num_gpus=each.get("GPU", 0.0),
        runtime_env=_ray_cluster.runtime_environment(),
    )
    for found in mapped.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in found.to_pylist():
            yield row["number"], row["table"], row["error"]


def _watch_cluster() -> None:
    """End this process when the cluster is gone, for which Ray Data would wait a minute and then say nothing."""
    import ray

    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    seen = time.monotonic()
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=LOST_SECONDS).close()
            seen = time.monotonic()
        except OSError as error:
            if time.monotonic() - seen > LOST_SECONDS:
                _tell(f"error: {_lost(error)}")
                os._exit(1)
        time.sleep(_ray_cluster.POLL_SECONDS)


def _lost(error: Exception) -> str:
    return (
        f"the Ray cluster no longer answers ({type(error).__name__}); start it again and run the same command again: "
        "it goes on from the scores that are there"
    )


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    # By its own name, by which the cluster's processes import it.
    code = importlib.import_module("rm_workflow.training.launchers._ray_data").main()
    sys.stdout.flush()
    sys.stderr.flush()
    # At Python's own end a lost cluster would be waited for.
    os._exit(code)
