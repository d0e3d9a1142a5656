"""The process in which math-verify compares answers: ``[gold, answer]`` in, a verdict out, a JSON line each.

Its memory is bounded where the system can do that: an answer such as 9^{9^{9^9}} must not take the machine's.
"""

import json
import logging
import re
import sys
from typing import Any

MOST_MEMORY = 4 << 30  # bytes
# Two letters that belong to no command of LaTeX: "72 dollars" is a number in a text, and no product of letters.
WORDS = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}")
MARKS = ("$", "\\boxed", "\\[", "\\(")


def main() -> None:
    """Answer each line of stdin until it ends."""
    _bound_memory()
    # What libraries print must not stand among the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    logging.disable(logging.WARNING)
    seconds = int(sys.argv[1])
    for line in sys.stdin:
        gold, answer = json.loads(line)
        answers.write(json.dumps(judge(gold, answer, seconds)) + "\n")
        answers.flush()


def judge(gold: str, answer: str, seconds: int) -> dict[str, Any]:
    """Return the fields of a verdict."""
    from math_verify import verify
    from math_verify.errors import TimeoutException

    same = gold.strip() == answer.strip() != ""
    try:
        readings = [_read(text, seconds) for text in (gold, answer)]
        if not all(readings):
            return {"right": same, "problem": "unparsable_gold" if not readings[0] else "unparsable"}
        right = verify(readings[0], readings[1], timeout_seconds=seconds, raise_on_error=True)
        return {"right": bool(right), "problem": None}
    except (TimeoutException, MemoryError):
        return {"right": same, "problem": "timeout"}
    except Exception:  # whatever sympy raises on what it was given
        return {"right": same, "problem": "unparsable"}


def _read(text: str, seconds: int) -> list[Any]:
    """Return what math-verify reads in a text; one without words or marks of LaTeX is taken for a formula."""
    from math_verify import parse

    if not any(mark in text for mark in MARKS) and not WORDS.search(text):
        found = parse(f"${text}$", parsing_timeout=seconds, fallback_mode="no_fallback", raise_on_error=True)
        if found:
            return list(found)
    return list(parse(text, parsing_timeout=seconds, fallback_mode="no_fallback", raise_on_error=True))


def _bound_memory() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (ImportError, ValueError, OSError):  # another system, or a lower bound already
        return


if __name__ == "__main__":
    main()
