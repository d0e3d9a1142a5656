"""Two processes that are asked for the same thing at the same moment."""

import multiprocessing
import os
from multiprocessing.synchronize import Barrier
from pathlib import Path

from rm_workflow.artifacts import ArtifactStore, Built, Request
from rm_workflow_tests.faults.homes import look

NUM_ROUNDS = 100
FILES = ("a.txt", "b.txt", "folder/c.txt")


def request(number: int) -> Request:
    return Request("pairs_toy", "pairs", "1", {"round": number}, requested="r")


def publish_all(home: Path, barrier: Barrier) -> None:
    """Answer each round's request as soon as the other process does; the files tell who wrote them."""
    store = ArtifactStore(home)

    def build(out: Path) -> Built:
        (out / "folder").mkdir()
        for file in FILES:
            (out / file).write_text(str(os.getpid()))
        return Built({})

    for number in range(NUM_ROUNDS):
        barrier.wait(60)
        store.sweep()
        artifact = store.materialize(request(number), build, f"run-{os.getpid()}").artifact
        assert len({artifact.file(file).read_text() for file in FILES}) == 1


def test_of_two_runs_that_publish_one_key_at_once_one_wins_and_both_finish_100_times(memory: Path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    processes = [context.Process(target=publish_all, args=(memory, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    found = look(memory)
    assert found.partial == ()
    assert len(found.artifacts) == NUM_ROUNDS
    # Every file of an artifact has the same bytes: those of the one that won.
    assert all(len({*files.values()}) == 1 for files in found.artifacts.values())
    store = ArtifactStore(memory)
    events = list(store.events())
    assert [event["sequence"] for event in events] == list(range(1, 2 * NUM_ROUNDS + 1))
    assert all(
        {event["run_id"] for event in events if event["version"] == request(number).version}
        == {f"run-{process.pid}" for process in processes}
        for number in range(NUM_ROUNDS)
    )
    assert store.sweep() == 0
    assert len([*store.staging.iterdir()]) == 1
