"""``dagster dev`` in this process, with the guarded web server in place of Dagster's.

All else is Dagster's: code servers, daemon, who watches and ends them, arguments.

Dagster starts the web server once the definitions are loaded, and it then takes seconds to load its own code. Here its
process loads that code meanwhile and waits for its arguments (``WaitingServer``).
"""

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import click
from dagster._cli import dev
from dagster._utils.warnings import SupersessionWarning
from dagster_shared.ipc import open_ipc_subprocess

DAGSTERS_SERVER = "dagster_webserver"
WAITING_SERVER = "rm_workflow.assets.waiting_web_server"


class WaitingServer:
    """The process of the web server, which waits for its arguments; it ends by itself where this process does."""

    def __init__(self) -> None:
        self._telling, listening = socket.socketpair()
        with listening:
            number = listening.fileno()
            self.process = open_ipc_subprocess([sys.executable, "-m", WAITING_SERVER, str(number)], pass_fds=[number])

    def start(self, arguments: Sequence[str], file_numbers: Sequence[int]) -> None:
        """Let it serve.

        Args:
            arguments: of ``dagster-webserver``; they name ``file_numbers``.
            file_numbers: open files of this process that the server needs too.
        """
        # Dagster has set variables since the process began.
        told = {"arguments": list(arguments), "file_numbers": list(file_numbers), "environment": dict(os.environ)}
        # Who watches the process tells of one that is gone.
        with self._telling, contextlib.suppress(BrokenPipeError):
            socket.send_fds(self._telling, [b" "], list(file_numbers))
            self._telling.sendall(json.dumps(told).encode())

    def end(self) -> None:
        """End it where it was never told to serve."""
        self._telling.close()


def serve(arguments: Sequence[str]) -> None:
    """Run the web UI with its daemon until it is interrupted.

    Args:
        arguments: of ``dagster dev``.

    Raises:
        KeyboardInterrupt: it was interrupted before it served.
    """
    server = WaitingServer()

    def start(command: Sequence[str], **options: Any) -> Any:
        if DAGSTERS_SERVER not in command:
            return open_ipc_subprocess(command, **options)
        server.start(command[command.index(DAGSTERS_SERVER) + 1 :], options["pass_fds"])
        return server.process

    # Dagster prints its lines itself; the command line would print them once more.
    logging.getLogger("dagster").propagate = False
    # Dagster would have people call its other program, which starts no guarded server.
    warnings.filterwarnings("ignore", category=SupersessionWarning)
    # A script's shell starts what it ends with & deaf to SIGINT, and Dagster then makes it deaf to SIGTERM too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    dev.open_ipc_subprocess = start  # type: ignore[attr-defined, assignment]
    try:
        dev.dev_command.main(list(arguments), prog_name="dagster dev", standalone_mode=False)
    except click.Abort:
        # Ctrl-C before Dagster watches for it.
        raise KeyboardInterrupt from None
    finally:
        server.end()
