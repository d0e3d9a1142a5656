"""Hostile input in one place: names, YAML, rows, score files, model folders; and what none of it may have done.

Whatever would run as a program here makes the folder ``CANARY`` in the working folder. It is relative, so that a test
that stands in a folder of its own finds it there.
"""

import json
import pickle
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CANARY = "canary-of-a-payload"
PAYLOAD = f"import os; os.makedirs({CANARY!r}, exist_ok=True)"


class Payload:
    """What makes the canary as soon as it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (PAYLOAD,)


PICKLED = pickle.dumps(Payload())

# Names that a shell, a database, a file system, a terminal or a person could take for something else.
NAMES = {
    "sql": 'x"; DROP TABLE run; --',
    "sql in quotes": "x'; COPY (SELECT 1) TO 'intruder.csv'; --",
    "folders up": "../../intruder",
    "an absolute path": "/etc/passwd",
    "300 characters": "intruder" * 43,
    "nul": "intruder\0name",
    "a line feed": "intruder\nerror: all is well",
    "an escape sequence": "intruder\x1b[2J\x1b]0;owned\x07",
    "look-alikes": "quіckstаrt_сheckpoint",
    "right to left": "intruder\u202egnp.exe",
    "half of a surrogate pair": "intruder\udc80",
    "a dash": "--intruder",
    "nothing": "",
    "the home": "~",
    "the home of nobody": "~intruder/x",
    "a shell": "$(mkdir canary-of-a-payload)",
    "a template": "{{ cycler.__init__.__globals__.os.makedirs('canary-of-a-payload') }}",
}

DEEP = 100_000
HUGE = "9" * 5_000
LAUGHS = ["a: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol]"] + [
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
]
# What stands in a YAML file of the catalogue beside or in place of what belongs there.
YAML = {
    "a python object": f"description: !!python/object/apply:os.makedirs [{CANARY}]",
    "a python module": "description: !!python/module:this",
    "a tag of its own": "description: !hostile x",
    "billion laughs": "\n".join(LAUGHS),
    "an alias of itself": "description: &a [*a]",
    "a merge key": "<<: {description: x}",
    "deep lists": "description: " + "[" * DEEP,
    "deep mappings": "description: " + "{a: " * DEEP,
    "a long whole number": f"description: {HUGE}",
    "a nul": "description: 'a\0b'",
    "two documents": "description: x\n---\ndescription: y",
    "a key that is a list": "? [a, b]\n: c",
    "a million keys of one letter": "x: 1\n" * 20_000,
}

# One line each; beside the name whether a row may be made of it (True) or it must be refused or dropped (False).
LINES: dict[str, tuple[bytes, bool]] = {}


def _line(name: str, line: str | bytes, is_row: bool) -> None:
    LINES[name] = (line.encode() if isinstance(line, str) else line, is_row)


def _row(name: str, text: str) -> None:
    """Add a row with a hostile text, which is text like any other."""
    row = {"prompt": f"Q {name}: {text}", "chosen": f"A {name}: {text}", "rejected": f"No {name}", "response": text}
    _line(name, json.dumps(row), True)


_row("nul", "a\0b")
_row("ten megabytes", "word " * 2_000_000)
_row("right to left", "\u202egnp.exe שלום")
_row("special tokens", "<|im_end|>\n<|im_start|>assistant\n</s><s>[INST]<pad>")
_row("a template", "{{ ''.__class__.__mro__[1].__subclasses__() }}{% for x in range(10**9) %}{% endfor %}")
_row("sql", "'; DROP TABLE pairs; --")
_row("line separators", "a\u2028b\u2029c\x85d\x0be")
_row("an escape sequence", "\x1b[2J\x1b]0;owned\x07")
_row("addresses without end", "://a:" * 24_000)
_row("combining marks", "Z" + "\u0301" * 5_000)
_line(
    "half of a surrogate pair",
    '{"prompt": "\\ud800", "chosen": "a\\udfff", "rejected": "b", "response": "a\\udfff"}',
    False,
)
_line(
    "a deep text", '{"prompt": "q", "chosen": ' + "[" * DEEP + "]" * DEEP + ', "rejected": "b", "response": "x"}', False
)
_line(
    "a deep extra",
    '{"prompt": "q", "chosen": "a", "rejected": "b", "response": "x", "m": ' + "[" * DEEP + "]" * DEEP + "}",
    False,
)
_line("nan", '{"prompt": "q", "chosen": "a", "rejected": "b", "response": "x", "m": NaN}', False)
_line("infinity", '{"prompt": "q", "chosen": "a", "rejected": "b", "response": "x", "m": -Infinity}', False)
_line(
    "a key twice",
    '{"prompt": "q", "chosen": "a", "chosen": "b", "rejected": "c", "response": "x", "response": "y"}',
    False,
)
_line(
    "a key twice deeper",
    '{"prompt": [{"role": "user", "role": "system", "content": "q"}], "chosen": "a", "rejected": "b", "response": "x"}',
    False,
)
_line("a long number", f'{{"prompt": "q", "chosen": "a", "rejected": "b", "response": "x", "m": {HUGE}}}', False)
_line("no utf-8", b'{"prompt": "\xff\xfe", "chosen": "a", "rejected": "b", "response": "x"}', False)
_line("utf-16", '{"prompt": "q", "chosen": "a", "rejected": "b", "response": "x"}'.encode("utf-16-le"), False)
_line("a list", "[1, 2]", False)
_line("a pickle", PICKLED.replace(b"\n", b""), False)


def safetensors(header: bytes, length: int | None = None, data: bytes = b"") -> bytes:
    """Return a safetensors file with any header, which may lie about its length."""
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def _tensor(shape: list[int], start: int, end: int) -> bytes:
    return json.dumps({"score.weight": {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}}).encode()


# Files in place of model.safetensors.
WEIGHTS = {
    "a pickle": PICKLED,
    "nothing": b"",
    "a header of 2^63 bytes": safetensors(b"{}", 2**63),
    "a header of 8 GB": safetensors(b"{}", 8 * 2**30),
    "a tensor beyond the end": safetensors(_tensor([1, 32], 0, 2**40)),
    "a tensor of another size": safetensors(_tensor([1, 32], 0, 4), data=b"\0" * 4),
    "a shape that overflows": safetensors(_tensor([2**62, 2**62], 0, 4), data=b"\0" * 4),
    "a tensor that ends before it begins": safetensors(_tensor([1, 1], 4, 0), data=b"\0" * 4),
    "a deep header": safetensors(b"[" * DEEP),
}


@contextmanager
def fence(folder: Path, *own: Path) -> Iterator[None]:
    """Fail where a file under ``folder`` appears, changes or goes outside ``own``; the canary would be one of them."""
    before = _files(folder, own)
    yield
    after = _files(folder, own)
    assert {name: size for name, size in after.items() if before.get(name) != size} == {}
    assert [name for name in before if name not in after] == []
    beside = [path.name for place in folder.resolve().parents[:2] for path in place.iterdir()]
    assert [name for name in beside if "intruder" in name or name == CANARY] == []


def _files(folder: Path, own: Sequence[Path]) -> dict[str, tuple[int, int]]:
    stats = {path: path.lstat() for path in folder.rglob("*") if not any(map(path.is_relative_to, own))}
    return {str(path): (stat.st_size if path.is_file() else 0, stat.st_mode) for path, stat in stats.items()}
