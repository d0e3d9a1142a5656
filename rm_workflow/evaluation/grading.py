"""Final answers of worked solutions: found by fixed marks, compared by math-verify.

math-verify stops a comparison that does not end by an alarm signal, which only the main thread of a process can take,
and which stops nothing inside C code. So it runs in a process of its own, ended where it does not answer in time:
``grade`` may be called from any thread, no signal handler of the caller is touched, and a hostile answer costs seconds,
not the run.

The reference answer comes first: math-verify is not symmetric.
"""

import atexit
import json
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from queue import Empty, Queue
from typing import Any

from rm_workflow.evaluation.progress import Progress

STRING, MATH_VERIFY = EQUIVALENCES = ("string", "math-verify")
NO_CLASS = -1
SECONDS = 5  # math-verify's own time for reading and for comparing an answer
PATIENCE = 3 * SECONDS + 15  # two readings, a comparison, and the start of the process
WORKER = "rm_workflow.evaluation.grading_worker"
TIMEOUT, UNPARSABLE_GOLD, UNPARSABLE = "timeout", "unparsable_gold", "unparsable"

# What stands before a final answer, in the order of precedence; the last place in a solution counts.
BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
HASHES = re.compile(r"####\s*([^\n]*)")
SENTENCE = re.compile(r"(?i:the (?:final )?answer is|final answer:|answer:)\s*:?\s*([^\n]*)")
LETTER = re.compile(r"(?:^|\n)A:\s*([^\n]*)")


@dataclass(frozen=True)
class Verdict:
    """What the grader says of one answer.

    Attributes:
        right: whether it equals the reference answer; False where that could not be told.
        problem: ``timeout``, ``unparsable_gold`` or ``unparsable`` (the answer), or None.
    """

    right: bool
    problem: str | None = None


@dataclass
class Tally:
    """How often the grader could not tell; part of every result that stands on it."""

    graded: int = 0
    timeouts: int = 0
    unparsable: int = 0
    unparsable_gold: int = 0

    def add(self, verdict: Verdict) -> None:
        """Count one verdict."""
        self.graded += 1
        self.timeouts += verdict.problem == TIMEOUT
        self.unparsable += verdict.problem == UNPARSABLE
        self.unparsable_gold += verdict.problem == UNPARSABLE_GOLD

    def described(self) -> dict[str, Any]:
        """Return the counts with name and version of the grader."""
        return {**grader(), **asdict(self)}


def grader() -> dict[str, str]:
    """Return name and version of the grader."""
    return {"name": MATH_VERIFY, "version": version("math-verify")}


def grade(gold: str, answer: str) -> Verdict:
    """Compare an answer, or a whole solution that holds one, with the reference answer.

    Either may be plain ("1,024"), LaTeX with or without dollar signs, or boxed. Two that cannot be read are equal where
    they are the same text.
    """
    return _worker().grade(gold, answer)


def extract_answer(solution: str) -> str | None:
    r"""Return the final answer of a solution as text, or None where no mark says which it is.

    Marks, the first kind that is there and of it the last: ``\boxed{...}``, ``####``, "The answer is", a line "A: ...".

    >>> extract_answer("2 + 3 = 5 The answer is: $5.")
    '5'
    >>> extract_answer("I give up.") is None
    True
    """
    boxed = _last_boxed(solution)
    if boxed is not None:
        return _plain(boxed)
    for mark in (HASHES, SENTENCE, LETTER):
        found = mark.findall(solution)
        if found:
            return _plain(found[-1])
    return None


def _last_boxed(text: str) -> str | None:
    """Return what stands in the last box whose braces close."""
    for start in reversed([found.end() for found in BOXED.finditer(text)]):
        depth = 1
        for place in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                return text[start:place]
    return None


def _plain(answer: str) -> str | None:
    """Return an answer without the marks round it, None where nothing is left.

    Commas between thousands go, so that "1,024" and "1024" are one string.
    """
    bare = answer.strip().rstrip(".").strip()
    for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        if bare.startswith(opening) and bare.endswith(closing) and len(bare) > len(opening) + len(closing):
            bare = bare[len(opening) : -len(closing)].strip()
    bare = bare.lstrip("$").strip()
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", bare) or None


def classes_of(
    answers: Sequence[Sequence[str | None]], equivalence: str, progress: Progress | None = None
) -> tuple[list[list[int]], dict[str, Any] | None]:
    """Return the class of each problem's answers, and what the grader did (None where strings are compared).

    Classes are numbered as they are first seen; a candidate without answer has -1. By math-verify an answer joins the
    first class whose first answer it equals.
    """
    if equivalence == STRING:
        return [_string_classes(found) for found in answers], None
    tally = Tally()
    found = []
    for done, of_problem in enumerate(answers, start=1):
        found.append(_graded_classes(of_problem, tally))
        if progress:
            progress(done, len(answers))
    return found, tally.described()


def _string_classes(answers: Sequence[str | None]) -> list[int]:
    known: dict[str, int] = {}
    return [known.setdefault(answer, len(known)) if answer else NO_CLASS for answer in answers]


def _graded_classes(answers: Sequence[str | None], tally: Tally) -> list[int]:
    firsts: list[str] = []
    known: dict[str, int] = {}
    for answer in filter(None, answers):
        if answer in known:
            continue
        known[answer] = len(firsts)
        for number, first in enumerate(firsts):
            verdict = grade(first, answer)
            tally.add(verdict)
            if verdict.right:
                known[answer] = number
                break
        else:
            firsts.append(answer)
    return [known[answer] if answer else NO_CLASS for answer in answers]


@dataclass
class _Worker:
    """The process that holds math-verify, started at the first question and again after one that it did not answer."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    process: subprocess.Popen[str] | None = None
    answers: "Queue[str | None]" = field(default_factory=Queue)

    def grade(self, gold: str, answer: str) -> Verdict:
        """Ask one question; threads take turns."""
        with self.lock:
            process = self._running()
            assert process.stdin, "the process has a pipe"
            try:
                process.stdin.write(json.dumps([gold, answer]) + "\n")
                process.stdin.flush()
                line = self.answers.get(timeout=PATIENCE)
            except (BrokenPipeError, Empty):
                line = None
            if line is None:  # it is stuck, or was ended for lack of memory
                self.stop()
                return Verdict(False, TIMEOUT)
            return Verdict(**json.loads(line))

    def _running(self) -> "subprocess.Popen[str]":
        if self.process is None or self.process.poll() is not None:
            pipe = subprocess.PIPE
            command = [sys.executable, "-m", WORKER, str(SECONDS)]
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, encoding="utf-8")
            self.answers = Queue()
            threading.Thread(target=_pass_on, args=(self.process, self.answers), daemon=True).start()
        return self.process

    def stop(self) -> None:
        """End the process."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


def _pass_on(process: "subprocess.Popen[str]", answers: "Queue[str | None]") -> None:
    assert process.stdout, "the process has a pipe"
    for line in process.stdout:
        answers.put(line)
    answers.put(None)


_WORKERS: list[_Worker] = []
_STARTING = threading.Lock()


def _worker() -> _Worker:
    with _STARTING:
        if not _WORKERS:
            _WORKERS.append(_Worker())
            atexit.register(_WORKERS[0].stop)
    return _WORKERS[0]
