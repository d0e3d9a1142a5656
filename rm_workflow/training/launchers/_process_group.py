"""A command as its own group of processes, which never outlives whoever started it.

A launcher such as ``accelerate launch`` that gets a signal alone may leave the real trainer on the GPU. Here the whole
group gets SIGTERM, time to end cleanly, then SIGKILL. One that needs the others for its own clean end gets SIGTERM
alone.
"""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence

from rm_workflow.redaction import redact
from rm_workflow.training.launchers import Tell
from rm_workflow.training.process import GRACE_LINE

# At least; and this much longer than the trainer says that it gives itself for writing a large state.
GRACE_SECONDS = 100.0
MORE_SECONDS = 10.0
POLL_SECONDS = 0.2
STDERR_DESCRIPTOR = 2


class ProcessGroup:
    """A running command; its stdout goes to our stderr.

    Args:
        descriptors: open files of this process that the command gets under the same numbers.
        ends_others: the command alone gets SIGTERM and ends what it started itself.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        tell: Tell,
        descriptors: Sequence[int] = (),
        *,
        ends_others: bool = False,
    ) -> None:
        self._ends_others = ends_others
        self._asked: list[float] = []
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=STDERR_DESCRIPTOR,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=descriptors,
        )
        self._reader = threading.Thread(target=self._read, args=(tell,), daemon=True)
        self._reader.start()

    def _read(self, tell: Tell) -> None:
        assert self._process.stderr is not None
        for raw in self._process.stderr:
            line = redact(raw.decode("utf-8", "replace")).rstrip()
            if line.startswith(GRACE_LINE):
                self._asked.append(float(line.removeprefix(GRACE_LINE)))
            tell(line)

    def wait(self) -> int:
        """Wait for the end of the command and return its exit code, negative for a signal."""
        return self._process.wait()

    def stop(self) -> None:
        """End what still runs of the group; all that it printed has then been told."""
        if self._ends_others:
            self._process.terminate()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
        started = time.monotonic()
        while self._process.poll() is None and time.monotonic() - started < self._grace_seconds():
            time.sleep(POLL_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(timeout=5)

    def _grace_seconds(self) -> float:
        return max([GRACE_SECONDS, *(seconds + MORE_SECONDS for seconds in self._asked)])
