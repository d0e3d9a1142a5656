"""The trainer as a process: one at a time in its folder, gone with its parent, ended cleanly by a signal."""

import contextlib
import ctypes
import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rm_workflow.errors import UserError
from rm_workflow.settings import wait_without_spinning

PR_SET_PDEATHSIG = 1
PARENT_POLL_SECONDS = 1.0
GRACE_SECONDS = 10.0
# While a training state may have to be written: at least this long, and for a large one some times what it takes, since
# the disk that a whole cluster ends on is slower than it was.
SAVING_GRACE_SECONDS = 90.0
GRACE_TIMES = 4
# Begins the line by which whoever started the trainer knows how long to wait for it.
GRACE_LINE = "a signal came; seconds that writing the training state may take: "
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class Terminated(BaseException):
    """A signal asked the trainer to end. No ``except Exception`` of a library may swallow it."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number
        super().__init__(signal.Signals(number).name)


@dataclass
class Ending:
    """Whether a signal ends the process at once or is noted for a moment at which its work can be kept.

    Attributes:
        saving_seconds: how long writing the work is expected to take.
    """

    deferred: bool = False
    asked: int | None = None
    saving_seconds: float = 0.0

    @property
    def grace_seconds(self) -> float:
        """Return how long the clean end may take."""
        return max(SAVING_GRACE_SECONDS, GRACE_TIMES * self.saving_seconds) if self.deferred else GRACE_SECONDS


ENDING = Ending()


@contextlib.contextmanager
def deferring_signals() -> Iterator[None]:
    """Only note SIGTERM and SIGINT within the context, which asks for them by ``raise_if_asked``."""
    ENDING.deferred = True
    try:
        yield
    finally:
        ENDING.deferred = False
    raise_if_asked()


def raise_if_asked() -> None:
    """Raise ``Terminated`` where a signal was noted."""
    if ENDING.asked is not None:
        number, ENDING.asked = ENDING.asked, None
        raise Terminated(number)


def set_environment() -> None:
    """Keep libraries from asking the network and threads from spinning; must come before torch is imported."""
    os.environ.update(OFFLINE)
    wait_without_spinning()


def end_on_signals() -> None:
    """Turn SIGTERM and SIGINT into ``Terminated``; a main thread that does not react is ended after a grace time."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _terminate)


def _terminate(number: int, frame: FrameType | None) -> None:
    # A second signal, for instance one to the group and one to the process, must not interrupt the clean end.
    for other in (signal.SIGTERM, signal.SIGINT):
        signal.signal(other, signal.SIG_IGN)
    exit_code = 128 + number
    timer = threading.Timer(ENDING.grace_seconds, os._exit, (exit_code,))
    timer.daemon = True
    timer.start()
    ENDING.asked = number
    if not ENDING.deferred:
        raise_if_asked()
    # Not by print, which the signal may have interrupted; the reader may be gone.
    with contextlib.suppress(OSError):
        os.write(sys.stderr.fileno(), f"{GRACE_LINE}{ENDING.grace_seconds:.0f}\n".encode())


def end_with_parent(parent: int | None = None, starter: int | None = None) -> None:
    """Get SIGTERM when the parent process is gone, even by SIGKILL.

    The kernel's own signal is immediate, and on Linux only; it is tied to the thread that started us. The polling
    thread covers the rest, also while the main thread computes.

    Args:
        parent: pid that must be the parent; closes the gap between its start of us and this call.
        starter: pid to end with beside the parent, where a launcher stands between both.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    expected = parent or os.getppid()
    threading.Thread(target=_watch_parent, args=(expected, starter), name="parent-watch", daemon=True).start()


def _watch_parent(parent: int, starter: int | None) -> None:
    while os.getppid() == parent and (starter is None or _exists(starter)):
        time.sleep(PARENT_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    # Signal handlers run between bytecodes of the main thread; one long call into a library delays them.
    time.sleep(ENDING.grace_seconds)
    os._exit(128 + signal.SIGTERM)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the system lets go of it however the process ends.

    Raises:
        UserError: another trainer holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another trainer is writing to {folder}; wait for it to end, or end it, and run again"
            ) from None
        yield
    finally:
        os.close(descriptor)
