"""A server process: its signals and its end."""

import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from rm_workflow.serving.app import Served, make_app

BACKLOG = 1024
# What is being scored when a signal comes may take as long as a request may, and its answer has to be sent.
SENDING_SECONDS = 5


def serve(served: Served, bound: socket.socket, say_ready: Callable[[], None]) -> None:
    """Serve until a signal comes; what is running then is answered first.

    Args:
        say_ready: called when whoever connects is heard.

    Raises:
        UserError: the checkpoint cannot score texts.
    """
    config = uvicorn.Config(
        make_app(served),
        log_config=None,
        access_log=False,
        backlog=BACKLOG,
        server_header=False,
        timeout_graceful_shutdown=int(served.limits.seconds) + SENDING_SECONDS,
    )
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    bound.listen(BACKLOG)
    say_ready()
    _Server(config).run(sockets=[bound])


class _Server(uvicorn.Server):
    """uvicorn's server, which ends by its own will: a signal is no failure of a process that it asked to stop."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, _: FrameType | None) -> None:
        # A second Ctrl-C waits for nobody.
        self.force_exit = self.should_exit and number == signal.SIGINT
        self.should_exit = True
