"""What a process that a launcher started prints."""

import collections
import sys

KEPT_LINES = 30
ERROR = "error: "


class Told:
    """What is printed: passed on to stderr, but for errors, which whoever started the process says.

    Attributes:
        last_lines: of all of it.
        errors: kept however many lines of its own a launcher prints after them.
    """

    def __init__(self) -> None:
        self.last_lines: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
        self.errors: list[str] = []

    def __call__(self, line: str) -> None:
        """Take a line."""
        self.last_lines.append(line)
        if line.startswith(ERROR):
            self.errors.append(line.removeprefix(ERROR))
        else:
            print(line, file=sys.stderr, flush=True)
