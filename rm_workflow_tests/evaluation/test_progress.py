"""How far long work has come, where there is no terminal for a bar."""

import logging

import pytest

from rm_workflow.evaluation import progress
from rm_workflow.evaluation.progress import progress_bar


def test_a_log_says_now_and_then_how_far_work_has_come(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    clock = iter([0.0, 10.0, 40.0, 50.0, 80.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO, "rm_workflow"), progress_bar("scoring") as show:
        for done in (100, 400, 500, 800):
            show(done, 1200)

    assert [record.getMessage() for record in caplog.records] == [
        "scoring: 400 of 1,200, 80 s left",
        "scoring: 800 of 1,200, 40 s left",
    ]
