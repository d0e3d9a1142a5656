"""Chat templates are programs of whoever published the model: what they may do, how long and how large.

transformers renders them in jinja2's immutable sandbox, out of which no attribute leads. A template in it can still
compute for ever or fill the memory (a loop in a loop, ``'a' * 10 ** 10``). So one that costs more than a conversation
can need is refused before it is rendered, and each rendering has a time limit and, on Linux, a limit of memory. What it
gives has a limit of length, as it takes longer to be tokenised than to be written.
"""

import contextlib
import ctypes
import difflib
import json
import re
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rm_workflow.errors import UserError

if TYPE_CHECKING:
    from jinja2 import nodes

# The longest in use, with tools and all, have about 20,000 characters.
LARGEST_TEMPLATE = 200_000
SECONDS = 1.0
POLL_SECONDS = 0.1
MEMORY_BYTES = 512 * 1024 * 1024
# Of what a conversation's texts are copied to on their way.
BYTES_A_CHARACTER = 64
LARGEST_FACTOR = 1_000
# Characters that a conversation may have beyond those of its texts.
LARGEST_ADDITION = 1_000_000
# Each can compute for minutes in one call, which no limit of time interrupts; no chat template needs them.
REFUSED_FILTERS = frozenset({"center", "pprint", "striptags", "urlize", "wordwrap", "xmlattr"})
# A tag that transformers adds to the language; it says which tokens an assistant wrote.
GENERATION_TAG = re.compile(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}")
STATUS = Path("/proc/self/status")


class TooSlowError(UserError):
    """Ends a rendering from another thread, which can raise a class alone."""

    def __init__(self) -> None:
        super().__init__(
            f"the chat template takes more than {SECONDS:g} s for one conversation; set tokens.template to one of ours"
        )


def refuse_costly(text: str, named: str) -> None:
    """Refuse a template that is no chat template: too long, broken, or with operations that can compute for ever.

    Args:
        named: whose template it is, for the sentence.

    Raises:
        UserError: it is refused.
    """
    from jinja2 import Environment, TemplateSyntaxError

    if len(text) > LARGEST_TEMPLATE:
        raise UserError(
            f"{named} has {len(text):,} characters, and a chat template may have {LARGEST_TEMPLATE:,}; "
            "set tokens.template to one of ours or take another model"
        )
    try:
        parsed = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(GENERATION_TAG.sub("", text))
    except (TemplateSyntaxError, RecursionError) as error:
        raise UserError(f"{named} cannot be read ({error}); set tokens.template to one of ours") from None
    costly = _costly_operation(parsed)
    if costly:
        raise UserError(
            f"{named} holds {costly}, with which it could compute for ever; set tokens.template to one of ours or take "
            "another model"
        )


def _costly_operation(template: "nodes.Template") -> str | None:
    from jinja2 import nodes

    for power in template.find_all(nodes.Pow):
        return f"a power (line {power.lineno})"
    for product in template.find_all(nodes.Mul):
        if not any(_is_small(side) for side in (product.left, product.right)):
            return f"a product without a factor of at most {LARGEST_FACTOR:,} (line {product.lineno})"
    for filtered in template.find_all(nodes.Filter):
        if filtered.name in REFUSED_FILTERS:
            return f"the filter {filtered.name} (line {filtered.lineno})"
    for loop in template.find_all(nodes.For):
        if loop.recursive:
            return f"a recursive loop (line {loop.lineno})"
    return None


def _is_small(side: "nodes.Expr") -> bool:
    from jinja2 import nodes

    return isinstance(side, nodes.Const) and isinstance(side.value, int) and abs(side.value) <= LARGEST_FACTOR


def stored_template(folder: Path) -> str | None:
    """Return the chat template that a model's folder holds, as transformers saves it, or None."""
    file, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if file.is_file():
        return file.read_text("utf-8")
    found = json.loads(config.read_text("utf-8")).get("chat_template") if config.is_file() else None
    return found if isinstance(found, str) else None


def difference(base: str | None, used: str) -> str:
    """Return what a template changes in the base model's own, as lines of a unified diff; empty where nothing is."""
    lines = difflib.unified_diff((base or "").splitlines(), used.splitlines(), "base", "used", lineterm="")
    return "\n".join(lines)


@contextlib.contextmanager
def limited(num_characters: int) -> Iterator["Clock"]:
    """Limit what is rendered within the context: each text in time, all of them in memory.

    Args:
        num_characters: of the conversations that are rendered.

    Raises:
        UserError: a limit was met.
    """
    clock = Clock()
    watching = threading.Thread(target=clock.watch, name="template-clock", daemon=True)
    watching.start()
    try:
        with _less_memory(MEMORY_BYTES + num_characters * BYTES_A_CHARACTER):
            yield clock
    except RecursionError:
        raise UserError(
            "the chat template calls itself again and again for one conversation; set tokens.template to one of ours"
        ) from None
    except MemoryError:
        raise UserError(
            f"the chat template needs more than {MEMORY_BYTES // 1024**2} MB for a conversation; "
            "set tokens.template to one of ours"
        ) from None
    finally:
        clock.stop()
        watching.join()


def refuse_long(rendered: str, num_characters: int) -> None:
    """Refuse what a template made of a conversation where it is far longer than its texts.

    Args:
        num_characters: of the conversation's texts.

    Raises:
        UserError: it is.
    """
    if len(rendered) > num_characters + LARGEST_ADDITION:
        raise UserError(
            f"the chat template makes {len(rendered):,} characters of a conversation with {num_characters:,}, and may "
            f"add {LARGEST_ADDITION:,}; set tokens.template to one of ours"
        )


class Clock:
    """Watches how long the thread that made it takes for each text."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._started: float | None = None

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Limit the time within the context."""
        self._started = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._started = None

    def watch(self) -> None:
        """Raise ``TooSlowError`` in the thread that renders, once it takes too long."""
        while not self._stopped.wait(POLL_SECONDS):
            with self._lock:
                if self._started is not None and time.monotonic() > self._started + SECONDS:
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(
                        ctypes.c_ulong(self._thread), ctypes.py_object(TooSlowError)
                    )
                    return

    def stop(self) -> None:
        """End the watch."""
        self._stopped.set()


@contextlib.contextmanager
def _less_memory(num_bytes: int) -> Iterator[None]:
    """Let this process take at most so much more memory than it has, where the kernel says what it has."""
    used = _data_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = None if used is None else used + num_bytes
    if wanted is None or (soft != resource.RLIM_INFINITY and soft < wanted):
        yield
        return
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int | None:
    if not STATUS.exists():
        return None
    found = re.search(r"^VmData:\s+(\d+) kB$", STATUS.read_text("utf-8"), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None
