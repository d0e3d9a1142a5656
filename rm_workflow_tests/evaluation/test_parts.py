import math
import re
from pathlib import Path

import pytest

from rm_workflow.evaluation import parts
from rm_workflow.evaluation.parts import Parts


def test_scores_are_found_again_by_another_process(tmp_path: Path):
    first = Parts(tmp_path)
    first.add([b"a", b"b"], [1.5, -2.0])
    first.flush()
    first.add([b"c"], [0.1 + 0.2])
    first.flush()

    second = Parts(tmp_path)

    assert second.num_found == 3
    assert second.find([b"b", b"c", b"a"]) == [-2.0, 0.1 + 0.2, 1.5]
    assert second.find([b"a", b"d"]) is None


def test_parts_of_a_second_run_stand_beside_those_of_the_first(tmp_path: Path):
    for key in (b"a", b"b"):
        run = Parts(tmp_path)
        run.add([key], [1.0])
        run.flush()

    assert Parts(tmp_path).find([b"a", b"b"]) == [1.0, 1.0]


def test_scores_are_written_as_they_come_once_in_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now = 0.0
    monkeypatch.setattr(parts.time, "monotonic", lambda: now)
    kept = Parts(tmp_path)
    kept.add([b"a"], [1.0])
    assert not list(tmp_path.iterdir())

    now = parts.SECONDS_A_PART
    kept.add([b"b"], [2.0])

    (part,) = tmp_path.iterdir()
    assert re.fullmatch(r"part-000000-[0-9a-f]{64}\.parquet", part.name)
    assert Parts(tmp_path).num_found == 2


def test_a_part_that_was_never_finished_is_not_read(tmp_path: Path):
    (tmp_path / "part-000000.draft").write_bytes(b"half of it")

    assert Parts(tmp_path).num_found == 0


def test_a_score_that_is_no_number_is_computed_again(tmp_path: Path):
    kept = Parts(tmp_path)
    kept.add([b"a"], [math.nan])
    kept.flush()

    assert Parts(tmp_path).find([b"a"]) is None


def test_two_scorings_at_once_keep_the_scores_of_both(tmp_path: Path):
    both = [Parts(tmp_path), Parts(tmp_path)]
    for number, run in enumerate(both):
        run.add([bytes([number])], [float(number)])
        run.flush()

    assert Parts(tmp_path).find([b"\0", b"\1"]) == [0.0, 1.0]
