"""Tokenising and scoring by Ray Data on a real cluster of this machine: equal results, and how they end."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rm_workflow.errors import UserError
from rm_workflow.evaluation.parts import Parts
from rm_workflow.evaluation.pass_batches import elsewhere
from rm_workflow.evaluation.scorer import Scorer
from rm_workflow.training import launchers, tokens
from rm_workflow_tests.evaluation.checkpoints import write_checkpoint
from rm_workflow_tests.models.tiny import tiny_tokenizer
from rm_workflow_tests.training.ray_cluster import actors, running_cluster
from rm_workflow_tests.training.test_tokens import Preferences

pytestmark = pytest.mark.slow(seconds=30)

SECONDS = 120.0
REFUSING = "{% if messages[0]['content'] == 'Refuse.' %}{{ raise_exception('no such question') }}{% endif %}"
RENDERING = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def map_batches(cluster, monkeypatch):
    for name, value in cluster.items():
        monkeypatch.setenv(name, value)
    return launchers.get("ray").mapper()


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_tokens_are_byte_for_byte_those_of_one_process_and_so_is_a_refusal(
    cluster, map_batches, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(tokens, "ROWS_AT_ONCE", 2048)
    preferences = Preferences(tmp_path)
    for number in range(2500):
        preferences.pair(f"Name river {number}.", "The Danube.", "No.")
    preferences.write(tiny_tokenizer(REFUSING + RENDERING))

    def build(out: str, **arguments) -> dict[str, bytes]:
        (tmp_path / out).mkdir()
        recipe = tokens.TokenRecipe()
        tokens.build_tokens(
            preferences.mixture, [preferences.raw], preferences.model, recipe, tmp_path / out, **arguments
        )
        return {path.name: path.read_bytes() for path in (tmp_path / out).iterdir()}

    assert build("spread", map_batches=map_batches) == build("local")
    assert "3 batches for 2 workers of the Ray cluster" in capfd.readouterr().err

    preferences.pair("Refuse.", "Yes.", "No.")
    preferences.write(tiny_tokenizer(REFUSING + RENDERING))
    with pytest.raises(UserError) as here:
        build("refused")
    with pytest.raises(UserError) as there:
        build("refused_there", map_batches=map_batches)
    assert str(there.value) == str(here.value)
    wait_until(lambda: not actors(cluster))


class Asked:
    """Sequences that are scored one a pass, so that a scoring can be met half way."""

    def __init__(self, folder: Path) -> None:
        (folder / "model").mkdir()
        self.scorer = Scorer.load(write_checkpoint(folder / "model"), layout="alone")
        self.sequences = [[10 + number % 200, 5 + number // 200, *range(10, 40)] for number in range(400)]
        self.reads = [[len(one) - 1] for one in self.sequences]
        self.work = folder / "work"

    def score(self, **arguments) -> list[float]:
        return [float(one[0]) for one in self.scorer.score_reads(self.sequences, self.reads, **arguments)]


class Halfway(Exception):
    pass


def test_scores_are_those_of_one_process_and_go_on_after_any_end(cluster, map_batches, tmp_path):
    asked = Asked(tmp_path)
    expected = asked.score()
    compute = elsewhere(map_batches, asked.scorer, tmp_path)
    seen: list[int] = []

    def until(limit: int, then: Callable[[], None]) -> Callable[[int, int], None]:
        def progress(done: int, total: int) -> None:
            seen.append(done)
            if done == limit:
                then()

        return progress

    # Ended from within, as Ctrl-C and a cancelled step do.
    def halfway() -> None:
        assert sum("MapWorker" in name for name in actors(cluster).values()) == 2
        raise Halfway

    with pytest.raises(Halfway):
        asked.score(compute=compute, parts=Parts(asked.work), progress=until(20, halfway))
    wait_until(lambda: not actors(cluster))
    assert Parts(asked.work).num_found == 20
    assert seen == list(range(1, 21))

    # A worker that dies is replaced.
    def kill_one() -> None:
        worker = next(number for number, name in actors(cluster).items() if "MapWorker" in name)
        os.kill(worker, signal.SIGKILL)

    found = asked.score(compute=compute, parts=Parts(asked.work), progress=until(60, kill_one))
    assert found == pytest.approx(expected, abs=1e-5)
    assert not list(tmp_path.glob("ray_*"))

    # The cluster is killed whole, as a machine that loses its power.
    lost = until(30, lambda: os.killpg(int(cluster["HEAD"]), signal.SIGKILL))
    with pytest.raises(UserError, match=r"^the Ray cluster no longer answers \(\w+\); start it again and run the same"):
        asked.score(compute=compute, progress=lost)
    assert not _drivers()


def _drivers() -> list[str]:
    """Return the processes that ask a cluster for this one."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"launchers._ray_data" in command and str(os.getpid()).encode() in command:
            found.append(folder.name)
    return found
