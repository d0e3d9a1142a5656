"""A real Ray cluster of this machine, and what of ours runs on it."""

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil

from rm_workflow_tests.assets.web import free_port

# As Ray names the actors of a pool, and ours of a training. Ray Data's own bookkeeping stays with the cluster.
ACTORS = ("ray::MapWorker", "ray::Machine")


@contextlib.contextmanager
def running_cluster() -> Iterator[dict[str, str]]:
    """Yield the variables under which a cluster of two CPUs answers, and the process group by which it is killed."""
    port = str(free_port())
    head_of = (
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port", port, "--num-cpus", "2"),
        *("--include-dashboard", "false", "--disable-usage-stats"),
    )
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    head = subprocess.Popen(
        head_of, env={**os.environ, **token}, start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    try:
        assert head.stdout is not None
        said = next(found for line in head.stdout if (found := re.search(r"Local node IP: (\S+)", line)))
        next(line for line in head.stdout if "Ray runtime started" in line)
        yield {**token, "RAY_ADDRESS": f"{said[1]}:{port}", "HEAD": str(head.pid)}
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        head.wait()


def actors(cluster: dict[str, str]) -> dict[int, str]:
    """Return the process of each actor that the cluster runs, by its id."""
    found = {}
    for process in psutil.Process(int(cluster["HEAD"])).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, IndexError):
            name = process.cmdline()[0]
            if name.startswith(ACTORS):
                found[process.pid] = name
    return found
