"""Work that is killed half way, without a last word."""

import contextlib
import os
import signal
from collections.abc import Callable


def kill_at(done: int, limit: int) -> None:
    if done > limit:
        os.kill(os.getpid(), signal.SIGKILL)


def killed_in_a_fork(work: Callable[[], object]) -> None:
    """Do work in a copy of this process, which must be killed there."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            work()
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
