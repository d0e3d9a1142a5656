"""Work in a child process whose every call that changes files waits until this process says how the call ends.

The kernel asks (seccomp's user notification, Linux 5.5 or newer), so it makes no difference who calls: Python, the C++
of pyarrow and DuckDB, the Rust of safetensors, or a process that the child starts. A call can go on, fail with an error
number, or be the moment of a SIGKILL; what stands in memory is then lost, as with any kill.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import platform
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Name -> (number on x86_64, number on aarch64 or None, where its path stands). A path is that of an open file
# ("fd", argument), or a text, beside the folder it starts from ("at", argument of the folder, of the text), or a text
# alone ("path", argument). Of a rename or link it is the new name that is told.
CALLS: dict[str, tuple[int, int | None, tuple[Any, ...]]] = {
    "openat": (257, 56, ("at", 0, 1)),
    "write": (1, 64, ("fd", 0)),
    "pwrite": (18, 68, ("fd", 0)),
    "writev": (20, 66, ("fd", 0)),
    "pwritev": (296, 70, ("fd", 0)),
    "sendfile": (40, 71, ("fd", 0)),
    "copy_file_range": (326, 285, ("fd", 2)),
    "fallocate": (285, 47, ("fd", 0)),
    "ftruncate": (77, 46, ("fd", 0)),
    "truncate": (76, 45, ("path", 0)),
    "fsync": (74, 82, ("fd", 0)),
    "fdatasync": (75, 83, ("fd", 0)),
    "rename": (82, None, ("path", 1)),
    "renameat": (264, 38, ("at", 2, 3)),
    "renameat2": (316, 276, ("at", 2, 3)),
    "link": (86, None, ("path", 1)),
    "linkat": (265, 37, ("at", 2, 3)),
    "mkdir": (83, None, ("path", 0)),
    "mkdirat": (258, 34, ("at", 0, 1)),
    "unlink": (87, None, ("path", 0)),
    "unlinkat": (263, 35, ("at", 0, 1)),
    "rmdir": (84, None, ("path", 0)),
}
MACHINES = {"x86_64": 0, "aarch64": 1}
SECCOMP_CALL = {"x86_64": 317, "aarch64": 277}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

# linux/seccomp.h, linux/bpf_common.h
SET_MODE_FILTER, NEW_LISTENER, NO_NEW_PRIVILEGES = 1, 8, 38
ALLOW, NOTIFY = 0x7FFF0000, 0x7FC00000
LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
RECEIVE, SEND = 0xC0502100, 0xC0182101
GO_ON = 1
NOTICE = struct.Struct("QIIiIQ6Q")
ANSWER = struct.Struct("QqiI")
AT_FDCWD = -100

KILL = -1
DEADLINE_SECONDS = 300.0


class UnwatchableError(Exception):
    """This system does not let a process watch the calls of its child."""


@dataclass(frozen=True)
class Call:
    """One call that is about to change files.

    Attributes:
        number: 1 for the first one under the watched folder.
        process: id of the thread that makes it.
    """

    number: int
    name: str
    path: Path
    process: int


Judge = Callable[[Call], int | None]


@dataclass
class Ended:
    """How the child ended.

    Attributes:
        killed: by a judge's ``KILL`` or by ``kill_after``.
        value: what the work returned, through JSON.
        error: type and text of what it raised, or None.
        calls: under the watched folder, in their order; the last one of a kill never happened.
    """

    killed: bool = False
    value: Any = None
    error: str | None = None
    calls: list[Call] = field(default_factory=list)


def go_on(call: Call) -> int | None:
    """Let every call happen."""
    return None


def kill_at(number: int) -> Judge:
    """Return a judge that ends the child before its call of this number."""
    return lambda call: KILL if call.number == number else None


def fail_at(number: int, code: int) -> Judge:
    """Return a judge that lets one call fail, and all others happen."""
    return lambda call: code if call.number == number else None


def watched(work: Callable[[], object], root: Path, judge: Judge = go_on) -> Ended:
    """Do work in a child and ask ``judge`` about every call that changes something under ``root``.

    Args:
        judge: answers with None (go on), an error number, or ``KILL``: the child, and all that it started, is gone
            before the call happens.

    Raises:
        UnwatchableError: the system offers no such watch.
    """
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        _be_watched(work, theirs)
    theirs.close()
    ended = Ended()
    with ours:
        listener = _listener(ours, child)
        try:
            _attend(listener, child, root.resolve(), judge, ended)
        finally:
            os.close(listener)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not ended.killed:
            _take_answer(ours, status, ended)
    return ended


def forked(work: Callable[[], object], kill_after: float | None = None) -> Ended:
    """Do work in a child without watching its calls.

    Args:
        kill_after: seconds after which the child is killed, unless it has ended; None lets it end.
    """
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        os.setsid()
        _answer(work, theirs)
    theirs.close()
    ended = Ended()
    with ours:
        readable, _, _ = select.select([ours], [], [], DEADLINE_SECONDS if kill_after is None else kill_after)
        if not readable:
            assert kill_after is not None, f"the child did not end within {DEADLINE_SECONDS:.0f} s"
            ended.killed = True
            # It may not have become the leader of a group yet.
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        if not ended.killed:
            _take_answer(ours, status, ended)
    return ended


def _be_watched(work: Callable[[], object], channel: socket.socket) -> None:
    try:
        os.setsid()
        listener = _install_filter()
        socket.send_fds(channel, [b"+"], [listener])
        os.close(listener)
    except OSError as error:
        channel.send(f"-{error}".encode())
        os._exit(1)
    _answer(work, channel)


def _answer(work: Callable[[], object], channel: socket.socket) -> None:
    """Do the work, silently, and tell how it ended; by send, which is no call that changes files."""
    try:
        if not os.environ.get("RMW_DEBUG"):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
        told = json.dumps({"value": work()})
    except BaseException as error:
        if os.environ.get("RMW_DEBUG"):
            traceback.print_exc()
        told = json.dumps({"error": f"{type(error).__name__}: {error}"})
    with contextlib.suppress(OSError):
        channel.sendall(told.encode())
    os._exit(0)


def _take_answer(channel: socket.socket, status: int, ended: Ended) -> None:
    text = b"".join(iter(lambda: channel.recv(1 << 16), b""))
    assert text, f"the child ended without an answer (status {status})"
    told = json.loads(text)
    ended.value, ended.error = told.get("value"), told.get("error")


def _listener(channel: socket.socket, child: int) -> int:
    text, descriptors, _, _ = socket.recv_fds(channel, 200, 1)
    if not descriptors:
        os.waitpid(child, 0)
        raise UnwatchableError(text.decode() or "the child ended at once")
    return descriptors[0]


def _install_filter() -> int:
    machine = platform.machine()
    if sys.platform != "linux" or machine not in MACHINES:
        raise OSError(errno.ENOSYS, f"no numbers of calls are known for {sys.platform} {machine}")
    libc = ctypes.CDLL(None, use_errno=True)
    program = _program(machine)
    buffer = ctypes.create_string_buffer(program)
    described = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer)))
    if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    listener: int = libc.syscall(SECCOMP_CALL[machine], SET_MODE_FILTER, NEW_LISTENER, described)
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return listener


def _program(machine: str) -> bytes:
    """Return the filter: files that are opened for reading only, and all other calls, happen unasked."""
    numbers = dict(_numbers(machine))
    flags = 16 + 8 * 2
    lines = [(LOAD, 0, 0, 0), (EQUAL, 0, 2, numbers.pop("openat")), (LOAD, 0, 0, flags)]
    rest = sorted(numbers.values())
    lines += [(ANY_BIT, len(rest) + 1, len(rest), WRITING)]
    lines += [(EQUAL, len(rest) - index, 0, number) for index, number in enumerate(rest)]
    lines += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, NOTIFY)]
    return b"".join(struct.pack("HBBI", *line) for line in lines)


def _numbers(machine: str) -> Iterator[tuple[str, int]]:
    for name, entry in CALLS.items():
        number = entry[MACHINES[machine]]
        if number is not None:
            yield name, number


def _attend(listener: int, child: int, root: Path, judge: Judge, ended: Ended) -> None:
    names = {number: name for name, number in _numbers(platform.machine())}
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not ended.killed:
        assert time.monotonic() < deadline, f"the child did not end within {DEADLINE_SECONDS:.0f} s"
        events = poll.poll(1000)
        if not events:
            continue
        if events[0][1] & select.POLLHUP:
            return
        notice = bytearray(NOTICE.size)
        try:
            fcntl.ioctl(listener, RECEIVE, notice)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                continue
            raise
        number, process, _, called, _, _, *arguments = NOTICE.unpack(notice)
        verdict = _verdict(names[called], process, arguments, root, judge, ended)
        if verdict == KILL:
            ended.killed = True
            os.killpg(child, signal.SIGKILL)
            return
        answer = ANSWER.pack(number, 0, -verdict, 0) if verdict else ANSWER.pack(number, 0, 0, GO_ON)
        # A thread may have ended meanwhile.
        with contextlib.suppress(FileNotFoundError):
            fcntl.ioctl(listener, SEND, bytearray(answer))


def _verdict(name: str, process: int, arguments: list[int], root: Path, judge: Judge, ended: Ended) -> int | None:
    path = _path_of(process, CALLS[name][2], arguments)
    if path is None or not path.is_relative_to(root):
        return None
    call = Call(len(ended.calls) + 1, name, path.relative_to(root), process)
    ended.calls.append(call)
    return judge(call)


def _path_of(process: int, where: tuple[Any, ...], arguments: list[int]) -> Path | None:
    kind, *places = where
    if kind == "fd":
        return _open_path(process, arguments[places[0]])
    text = _text(process, arguments[places[-1]])
    folder = _signed(arguments[places[0]]) if kind == "at" else AT_FDCWD
    if os.path.isabs(text):
        return Path(text)
    started = Path(os.readlink(f"/proc/{process}/cwd")) if folder == AT_FDCWD else _open_path(process, folder)
    return started / text if started else None


def _signed(argument: int) -> int:
    value: int = struct.unpack("i", struct.pack("I", argument & 0xFFFFFFFF))[0]
    return value


def _open_path(process: int, descriptor: int) -> Path | None:
    try:
        found = os.readlink(f"/proc/{process}/fd/{_signed(descriptor)}")
    except OSError:
        return None
    return Path(found) if found.startswith("/") else None


def _text(process: int, address: int) -> str:
    with open(f"/proc/{process}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        found = b""
        while b"\0" not in found:
            # A page at a time: the one after may not exist.
            more = memory.read(4096 - (address + len(found)) % 4096)
            if not more:
                break
            found += more
    return os.fsdecode(found.partition(b"\0")[0])
