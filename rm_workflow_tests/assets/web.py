"""A real ``rmw ui`` as a process of its own, asked as its web page asks it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

START_SECONDS = 120
RUN_SECONDS = 240
ENDED = ("SUCCESS", "FAILURE", "CANCELED")

LAUNCH = """
mutation ($job: String!) {
  launchRun(executionParams: {
    selector: {
      repositoryLocationName: "rm_workflow", repositoryName: "__repository__", jobName: $job
    }
    runConfigData: "{}"
  }) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } }
}
"""
TERMINATE = """
mutation ($id: String!) {
  terminateRun(runId: $id) { __typename ... on TerminateRunFailure { message } ... on PythonError { message } }
}
"""
RUN_IDS = "{ runsOrError { ... on Runs { results { runId } } } }"
TAGS = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { tags { key value } } } }"
STATUS = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def graphql(address: str, query: str, variables: dict[str, Any]) -> dict[str, Any]:
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{address}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["data"]


def wait_until_up(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "the web UI ended while it started"
        try:
            urllib.request.urlopen(f"{address}/server_info", timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError(f"the web UI did not answer within {START_SECONDS} s")


@contextlib.contextmanager
def web_ui_of(
    home: Path, folder: Path, environment: Mapping[str, str] | None = None, host: str | None = None
) -> Iterator["WebUi"]:
    """Start the web UI with its daemon on a home; what is left of it at the end is killed.

    Args:
        host: where it is told to listen; None tells it nothing.
    """
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "rm_workflow.cli.main", "ui", "--port", str(port), *(["--host", host] if host else [])],
        env={**os.environ, "RMW_HOME": str(home), **(environment or {})},
        cwd=folder,
        start_new_session=True,
    )
    web_ui = WebUi(f"http://127.0.0.1:{port}", process)
    try:
        wait_until_up(web_ui.address, process)
        yield web_ui
    finally:
        web_ui.kill()


class WebUi:
    """A running web UI."""

    def __init__(self, address: str, process: "subprocess.Popen[bytes]") -> None:
        self.address = address
        self.process = process

    def launch(self, job: str) -> str:
        """Start a job and return the id of its run."""
        launched = graphql(self.address, LAUNCH, {"job": job})["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return launched["run"]["runId"]

    def status(self, run_id: str) -> str:
        """Return how far a run is."""
        return graphql(self.address, STATUS, {"id": run_id})["runOrError"]["status"]

    def run_ids(self) -> set[str]:
        """Return the runs there are."""
        return {run["runId"] for run in graphql(self.address, RUN_IDS, {})["runsOrError"]["results"]}

    def tags(self, run_id: str) -> dict[str, str]:
        """Return the tags of a run."""
        found = graphql(self.address, TAGS, {"id": run_id})["runOrError"]["tags"]
        return {tag["key"]: tag["value"] for tag in found}

    def terminate(self, run_id: str) -> None:
        """Cancel a run as the button does."""
        answer = graphql(self.address, TERMINATE, {"id": run_id})["terminateRun"]
        assert answer["__typename"] == "TerminateRunSuccess", answer

    def wait_for_end(self, run_id: str, seconds: float = RUN_SECONDS) -> str:
        """Return the last status of a run, once it has one."""
        wait_until(lambda: self.status(run_id) in ENDED, f"the end of run {run_id}", seconds)
        return self.status(run_id)

    def listening(self) -> set[str]:
        """Return every address on which a process of the web UI listens."""
        root = psutil.Process(self.process.pid)
        sockets = [one for process in [root, *root.children(recursive=True)] for one in process.net_connections("inet")]
        return {one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN}

    def kill(self) -> None:
        """End every process at once: waiting for a tidy end would take up to 15 s for each web UI of the tests."""
        if self.process.poll() is None:
            root = psutil.Process(self.process.pid)
            for process in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self.process.wait()

    def interrupt(self) -> None:
        """Press Ctrl-C, which reaches every process of the terminal."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGINT)
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)


def wait_until(condition: Callable[[], object], what: str, seconds: float = START_SECONDS) -> None:
    """Wait for something to hold."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.5)
