"""Final answers: which marks tell them, and what math-verify makes of them."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import pytest

from rm_workflow.evaluation import grading
from rm_workflow.evaluation.grading import Verdict, classes_of, extract_answer, grade


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("Step 1: 2 + 3 = 5.\nStep 2: The answer is: 5", "5"),
        ("so it is 5\nA: 5", "5"),
        ("2 + 3 = <<2+3=5>>5\n#### 1,024", "1024"),
        (r"it is $\boxed{\frac{1}{2}}$, or \boxed{\sqrt{2}}", r"\sqrt{2}"),
        (r"The answer is: $\frac{1}{2}$.", r"\frac{1}{2}"),
        ("The answer is: $18.", "18"),
        ("A: first\nA: (1, 2)", "(1, 2)"),
        (r"\boxed{5", None),
        ("I give up.", None),
        ("The answer is: ", None),
        ("", None),
    ],
)
def test_the_last_mark_of_the_strongest_kind_tells_the_answer(solution: str, answer: str | None):
    assert extract_answer(solution) == answer


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        ("72", "72.00", Verdict(True)),
        ("1,024", "1024", Verdict(True)),
        (r"\frac{1}{2}", "0.5", Verdict(True)),
        ("72", "The answer is 72 dollars.", Verdict(True)),
        ("72", "72 dollars", Verdict(True)),
        ("x+1", "1+x", Verdict(True)),
        ("(1,2)", "(2, 1)", Verdict(False)),
        ("72", "73", Verdict(False)),
        ("72", "no idea", Verdict(False, "unparsable")),
        ("72", "", Verdict(False, "unparsable")),
        ("no idea", "72", Verdict(False, "unparsable_gold")),
        ("no idea", "no idea", Verdict(True, "unparsable_gold")),
    ],
)
def test_an_answer_is_compared_with_the_reference_answer(gold: str, answer: str, verdict: Verdict):
    assert grade(gold, answer) == verdict


def test_the_reference_answer_comes_first():
    assert grade("1 < x < 2", "(1, 2)").right
    assert not grade("(1, 2)", "1 < x < 2").right


def test_threads_may_grade_and_no_signal_handler_is_touched():
    before = signal.getsignal(signal.SIGALRM)
    with ThreadPoolExecutor(8) as pool:
        verdicts = list(pool.map(lambda number: grade("7", str(number)), [5, 6, 7, 8] * 20))
    assert [verdict.right for verdict in verdicts] == [False, False, True, False] * 20
    assert threading.current_thread() is threading.main_thread()
    assert signal.getsignal(signal.SIGALRM) is before


def test_an_answer_that_does_not_end_is_counted_as_a_time_out_and_the_next_one_is_graded(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(grading, "_WORKERS", [])
    monkeypatch.setattr(grading, "SECONDS", 1)
    found, told = classes_of([["9^{9^{9^9}}", "5", "5.0"]], grading.MATH_VERIFY)

    assert found == [[0, 1, 1]]
    assert told == {
        "name": "math-verify",
        "version": version("math-verify"),
        "graded": 3,
        "timeouts": 2,
        "unparsable": 0,
        "unparsable_gold": 0,
    }


def test_a_process_that_hangs_or_dies_is_ended_and_started_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(grading, "_WORKERS", [])
    monkeypatch.setattr(grading, "WORKER", "rm_workflow_tests.evaluation.silent_worker")
    monkeypatch.setattr(grading, "PATIENCE", 0.2)
    before = time.monotonic()
    assert grade("5", "5") == Verdict(False, "timeout")
    assert time.monotonic() - before < 20
    monkeypatch.undo()
    monkeypatch.setattr(grading, "_WORKERS", [])
    assert grade("5", "5").right
    grading._WORKERS[0].process.kill()
    grading._WORKERS[0].process.wait()
    assert grade("5", "5").right


def test_classes_by_string_and_by_value_number_answers_as_they_are_first_seen():
    answers = [["0.5", None, r"\frac{1}{2}", "2", "1/2", "two", "two"]]
    by_string, told = classes_of(answers, grading.STRING)
    assert (by_string, told) == ([[0, -1, 1, 2, 3, 4, 4]], None)
    by_value, told = classes_of(answers, grading.MATH_VERIFY)
    assert by_value == [[0, -1, 0, 1, 0, 2, 2]]
    assert told is not None
    assert (told["graded"], told["timeouts"], told["unparsable"]) == (5, 0, 2)
