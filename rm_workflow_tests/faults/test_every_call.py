"""A kill, a loss of power or an error at every single call that changes files, one after the other."""

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from rm_workflow.artifacts import ArtifactStore, Built, Request, prepare_home
from rm_workflow.database import connect, write_parquet
from rm_workflow_tests.faults import states
from rm_workflow_tests.faults.homes import NOTHING, Found, look
from rm_workflow_tests.faults.power import Disk
from rm_workflow_tests.faults.publishing import publish
from rm_workflow_tests.faults.watched import KILL, Call, UnwatchableError, fail_at, watched


@pytest.fixture(scope="module", autouse=True)
def _is_watchable(tmp_path_factory: pytest.TempPathFactory) -> None:
    try:
        watched(lambda: None, tmp_path_factory.mktemp("watched"))
    except UnwatchableError as error:
        pytest.skip(f"calls cannot be watched here: {error}")


def begin(root: Path) -> str:
    """Publish in a home that does not exist yet."""
    prepare_home(root / "home")
    return publish(root / "home")


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> tuple[Found, int]:
    """A publish that nothing disturbed, and the number of its calls."""
    root = tmp_path_factory.mktemp("twin")
    ended = watched(lambda: begin(root), root)
    assert ended.error is None
    return look(root / "home"), len(ended.calls)


def test_the_watch_sees_what_a_publish_does_whoever_calls(memory: Path):
    def work() -> None:
        begin(memory)
        os.truncate(memory / "home/events/.lock", 0)
        shutil.copyfile("/proc/self/cmdline", memory / "copied")

    calls = [(call.name, call.path.name) for call in watched(work, memory).calls]
    assert calls.count(("write", "weights.bin")) == 3
    names = {name for name, _ in calls}
    assert {"mkdir", "openat", "write", "fsync", "rename", "unlink", "truncate"} <= names
    assert ("openat", "copied") in calls


def each_call(root: Path, num_calls: int) -> list[tuple[int, Path]]:
    """Return the number of each call with a folder of its own."""
    folders = [(number, root / str(number)) for number in range(1, num_calls + 1)]
    for _, folder in folders:
        folder.mkdir()
    return folders


@dataclass(frozen=True)
class Stopped:
    """Work that was killed before a call, or was done.

    Attributes:
        survived: a folder with what the disk would hold if the power had gone instead.
    """

    killed: bool
    survived: Path


def stop(work: Callable[[], object], root: Path, number: int | None = None) -> Stopped:
    """Do work until a call, or to its end, and write down what a disk is sure to hold at that moment."""
    disk, survived = Disk(root), root.with_name(f"{root.name}-survived")

    def judge(call: Call) -> int | None:
        if call.number == number:
            return KILL
        disk.saw(call)
        return None

    killed = watched(work, root, judge).killed
    disk.write_survivors(survived)
    disk.close()
    return Stopped(killed, survived)


def test_a_publish_killed_before_any_of_its_calls_leaves_nothing_partial_and_needs_no_repair(
    twin: tuple[Found, int], memory: Path
):
    whole, num_calls = twin
    seen = []
    for number, root in each_call(memory, num_calls):
        stopped = stop(lambda root=root: begin(root), root, number)
        assert stopped.killed
        for left in (root, stopped.survived):
            found = look(left / "home")
            assert found.partial == (), (number, left)
            begin(left)
            again = look(left / "home")
            assert again.partial == ()
            assert again.lost_since(found) == []
            assert again.results() == whole.results()
            assert ArtifactStore(left / "home").sweep() == 0
            seen.append(len(found.artifacts))
    of_kills = seen[::2]
    assert of_kills == sorted(of_kills)
    assert (of_kills[0], of_kills[-1]) == (0, 1)


def test_a_publish_that_was_done_stays_when_the_power_goes(twin: tuple[Found, int], memory: Path):
    (memory / "done").mkdir()
    stopped = stop(lambda: begin(memory / "done"), memory / "done")
    assert not stopped.killed
    found = look(stopped.survived / "home")
    assert found.partial == ()
    assert found.results() == twin[0].results()
    assert len(found.events) == 1


ERRORS = {
    errno.ENOSPC: "the disk is full; free space there",
    errno.EIO: "the disk reports an error; check it",
    errno.EDQUOT: "the disk quota is used up; free space there",
}


def test_an_error_at_any_call_of_a_publish_is_one_sentence_and_damages_nothing(twin: tuple[Found, int], memory: Path):
    whole, num_calls = twin
    for number, root in each_call(memory, num_calls):
        code = [*ERRORS][number % len(ERRORS)]
        ended = watched(lambda root=root: begin(root), root, fail_at(number, code))
        found = look(root / "home")
        assert found.partial == (), number
        # Where the failed call was one of tidying up, the publish is done.
        assert ended.error is None or (
            ended.error.startswith("UserError: cannot write ") and ERRORS[code] in ended.error
        )
        assert ended.error is not None or found.results() == whole.results()
        begin(root)
        again = look(root / "home")
        assert again.lost_since(found) == []
        assert again.results() == whole.results()
        assert ArtifactStore(root / "home").sweep() == 0


def sort_more_than_memory_holds(root: Path) -> str:
    def build(folder: Path) -> Built:
        (folder / "spilled").mkdir()
        with connect(folder / "spilled") as con:
            write_parquet(
                con, "select sha256(i::varchar) as key from range(1_000_000) t(i) order by key", folder / "keys"
            )
        (folder / "spilled").rmdir()
        return Built({})

    prepare_home(root / "home")
    return ArtifactStore(root / "home").materialize(Request("keys", "pairs", "1", {}), build, "run").artifact.id


def test_a_disk_that_spilling_fills_is_one_sentence_and_the_work_is_done_once_there_is_room(
    memory: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RMW_MEMORY_LIMIT", "60MB")
    monkeypatch.setenv("RMW_THREADS", "1")
    (memory / "whole").mkdir()
    undisturbed = watched(lambda: sort_more_than_memory_holds(memory / "whole"), memory / "whole")
    spilled = [call.number for call in undisturbed.calls if call.name == "pwrite" and "spilled" in call.path.parts]
    assert undisturbed.value
    assert len(spilled) > 10
    root = memory / "full"
    root.mkdir()
    for number in (spilled[0], spilled[len(spilled) // 2]):
        ended = watched(lambda: sort_more_than_memory_holds(root), root, fail_at(number, errno.ENOSPC))
        assert (ended.error or "").startswith("UserError: cannot write "), ended.error
        assert ERRORS[errno.ENOSPC] in (ended.error or "")
        assert look(root / "home").artifacts == NOTHING.artifacts
    assert sort_more_than_memory_holds(root) == undisturbed.value


STATES = "out/states"


def save_two(root: Path) -> None:
    for step in (1, 2):
        states.save(root / STATES, step)


def save_third(root: Path) -> int:
    return states.save(root / STATES, 3)


def third(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / STATES / "step_00000003").iterdir()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], int]:
    """The third state, saved undisturbed, and the number of calls it took."""
    root = tmp_path_factory.mktemp("saved")
    save_two(root)
    ended = watched(lambda: save_third(root), root)
    assert ended.value == 3
    return third(root), len(ended.calls)


def test_a_training_state_killed_before_any_of_its_calls_loses_no_more_than_itself(
    saved: tuple[dict[str, bytes], int], memory: Path
):
    whole, num_calls = saved
    found = []
    for number, root in each_call(memory, num_calls):
        save_two(root)
        stopped = stop(lambda root=root: save_third(root), root, number)
        assert stopped.killed
        for left in (root, stopped.survived):
            found.append(states.newest(left / STATES))
            assert save_third(left) == 3
            assert third(left) == whole
            assert sorted(path.name for path in (left / STATES).iterdir()) == ["step_00000002", "step_00000003"]
    assert found[::2] == sorted(found[::2])
    assert {*found} == {2, 3}


def test_training_states_that_were_written_stay_when_the_power_goes(memory: Path):
    (memory / "done/out").mkdir(parents=True)
    stopped = stop(lambda: [states.save(memory / "done" / STATES, step) for step in (1, 2, 3)], memory / "done")
    assert not stopped.killed
    assert states.newest(stopped.survived / STATES) == 3


def test_an_error_at_any_call_of_a_training_state_is_one_sentence_and_keeps_the_state_before(
    saved: tuple[dict[str, bytes], int], memory: Path
):
    whole, num_calls = saved
    for number, root in each_call(memory, num_calls):
        code = [*ERRORS][number % len(ERRORS)]
        save_two(root)
        ended = watched(lambda root=root: save_third(root), root, fail_at(number, code))
        assert states.newest(root / STATES) in (2, 3)
        said = f"UserError: cannot write the training state {root / STATES}/step_00000003: {os.strerror(code)}; make "
        assert ended.value == 3 or (ended.error or "").startswith(said), (number, ended.error)
        assert save_third(root) == 3
        assert third(root) == whole
