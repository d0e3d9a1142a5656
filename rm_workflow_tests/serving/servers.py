"""A real ``rmw serve`` in a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STARTING_SECONDS = 300  # some seconds, where the machine is not taken by others


@dataclass
class Server:
    """A running server.

    Attributes:
        url: where it listens.
        lines: of its stderr so far.
    """

    process: subprocess.Popen
    url: str = ""
    lines: list[str] = field(default_factory=list)

    def ask(self, path: str, body: Any = None, token: str | None = None, raw: bytes | None = None, **headers: str):
        """Return (status, answer) of one request; with a body it is a POST."""
        sent = raw if raw is not None else None if body is None else json.dumps(body).encode()
        named = {"Content-Type": "application/json"} | {key.replace("_", "-"): value for key, value in headers.items()}
        if token:
            named["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(self.url + path, sent, named)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, _read(answer)
        except urllib.error.HTTPError as error:
            return error.code, _read(error)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return how the process ended."""
        self.process.send_signal(number)
        return self.process.wait(STARTING_SECONDS)


def _read(answer: Any) -> Any:
    text = answer.read().decode()
    return json.loads(text) if answer.headers.get_content_type() == "application/json" else text


def start(checkpoint: Path, home: Path, *options: str, token: str | None = None) -> Server:
    """Start a server on a free port, or on the one that options name, and wait until it answers."""
    environment = {**os.environ, "RMW_HOME": str(home), "OMP_NUM_THREADS": "1"}
    environment.pop("RMW_SERVE_TOKEN", None)
    if token:
        environment["RMW_SERVE_TOKEN"] = token
    port = () if "--port" in options else ("--port", "0")
    command = [sys.executable, "-m", "rm_workflow.cli.main", "serve", str(checkpoint), "--precision", "fp32", *port]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, env=environment, text=True)
    server, is_told = Server(process), threading.Event()

    def read() -> None:
        for line in process.stderr or ():
            server.lines.append(line)
            found = re.search(r"serving .*: (http://\S+) ", line)
            if found:
                server.url = found[1]
                is_told.set()
        is_told.set()

    threading.Thread(target=read, daemon=True).start()
    if not is_told.wait(STARTING_SECONDS):
        process.kill()
    assert server.url, "".join(server.lines)
    return server
