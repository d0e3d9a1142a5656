"""Progress of long work: a bar on stderr at a terminal, a line in the log now and then elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_LINES = 30.0

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # (done, total)


@contextmanager
def progress_bar(label: str) -> Iterator[Progress]:
    """Show a bar on stderr, or lines in the log, while the block runs; yields the callback that moves it."""
    if not sys.stderr.isatty():
        yield _lines(label)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        *(TextColumn(label), BarColumn(), MofNCompleteColumn()),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(file=sys.stderr)) as bar:
        task = bar.add_task(label, total=None, speed="")

        def show(done: int, total: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, total=total or None, speed=f"{speed:.1f}/s" if speed else "")

        yield show


def _lines(label: str) -> Progress:
    """Return a callback that says now and then how far the work has come and how long it will take."""
    began = told = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told < SECONDS_BETWEEN_LINES or not done:
            return
        told = now
        of_total = f" of {total:,}, {(now - began) * (total - done) / done:.0f} s left" if total else ""
        logger.info("%s: %s%s", label, f"{done:,}", of_total)

    return show
