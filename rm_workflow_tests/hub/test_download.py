import hashlib
import json
import logging
import multiprocessing
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from rm_workflow import hub
from rm_workflow.catalog.models import Location
from rm_workflow.errors import UserError
from rm_workflow.hub import download
from rm_workflow_tests.hub.hub_server import NEW, OLD, REPOSITORY, SIGNATURE, FakeHub, Fault
from rm_workflow_tests.preferences.sources import settings

FILE = "data/big.jsonl"
CONTENT = b"".join(b'{"row": %d}\n' % number for number in range(20_000))
TOKEN = "hf_sentinelOfAToken"


@pytest.fixture(params=["small", "large"])
def served(request: pytest.FixtureRequest, fake_hub: FakeHub) -> FakeHub:
    """A hub with one file, once as git holds it and once behind the redirect of an LFS file."""
    fake_hub.put(OLD, {FILE: CONTENT})
    fake_hub.large = {FILE} if request.param == "large" else set()
    return fake_hub


def fetch(home: Path, *files: str) -> list[hub.SourceFile]:
    return hub.resolve_files(Location(hub=REPOSITORY, files={"train": list(files or (FILE,))}), settings(home))


def cached(home: Path, commit: str = OLD) -> Path:
    return home / "cache/hub" / REPOSITORY / commit / FILE


def parts(home: Path) -> list[Path]:
    return list(home.rglob("*.part"))


def bytes_got(hub: FakeHub) -> list[str | None]:
    """Return the ranges of the requests that were answered with bytes."""
    return [
        asked.range
        for asked in hub.asked
        if asked.line.startswith("GET ") and FILE in asked.line and not _redirected(asked, hub)
    ]


def _redirected(asked: object, hub: FakeHub) -> bool:
    return FILE in hub.large and "/resolve/" in asked.line  # type: ignore[attr-defined]


# Broken connections --------------------------------------------------------------------------------------------------


def test_a_whole_file_comes_with_its_hash_and_leaves_no_part(served: FakeHub, tmp_path: Path) -> None:
    (file,) = fetch(tmp_path)
    assert file.path.read_bytes() == CONTENT
    assert file.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert bytes_got(served) == [None]
    assert parts(tmp_path) == []


@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_connection_is_continued_from_the_bytes_at_hand(
    served: FakeHub, tmp_path: Path, waits: list[float], reset: bool
) -> None:
    served.fail(f"GET {FILE}", Fault(cut_after=100_000, reset=reset), Fault(cut_after=50_000), Fault())
    (file,) = fetch(tmp_path)
    assert file.path.read_bytes() == CONTENT
    first, second, third = bytes_got(served)
    at_hand = [int(text.removeprefix("bytes=").removesuffix("-")) for text in (second, third) if text]
    assert first is None
    # a reset may throw away bytes that had not been read yet
    assert 0 <= at_hand[0] <= 100_000 if reset else at_hand == [100_000, 150_000]
    assert len(waits) == 2


def test_another_process_continues_what_a_failed_one_left(
    served: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "PATIENCE", download.Patience(num_failures=1))
    served.fail(f"GET {FILE}", Fault(cut_after=100_000))
    with pytest.raises(UserError, match=r"hub: org/rows .*cannot be reached"):
        fetch(tmp_path)
    assert not cached(tmp_path).exists()
    assert [part.stat().st_size for part in parts(tmp_path)] == [100_000]
    (file,) = fetch(tmp_path)
    assert file.path.read_bytes() == CONTENT
    assert bytes_got(served)[1:] == ["bytes=100000-"]


def test_the_part_of_another_revision_is_not_continued(
    fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "PATIENCE", download.Patience(num_failures=1))
    fake_hub.put(OLD, {FILE: CONTENT})
    fake_hub.fail(f"GET {FILE}", Fault(cut_after=100_000))
    with pytest.raises(UserError):
        fetch(tmp_path)
    fake_hub.put(OLD, {FILE: CONTENT.upper()})
    (file,) = fetch(tmp_path)
    assert file.path.read_bytes() == CONTENT.upper()


def test_a_server_without_ranges_sends_the_file_again_from_its_start(served: FakeHub, tmp_path: Path) -> None:
    served.fail(f"GET {FILE}", Fault(cut_after=100_000), Fault(no_ranges=True))
    (file,) = fetch(tmp_path)
    assert file.path.read_bytes() == CONTENT


def test_a_connection_that_brings_more_each_time_is_not_given_up(
    fake_hub: FakeHub, tmp_path: Path, waits: list[float]
) -> None:
    fake_hub.put(OLD, {FILE: CONTENT})
    num_cuts = 3 * download.PATIENCE.num_failures
    fake_hub.fail(f"GET {FILE}", *[Fault(cut_after=5_000)] * num_cuts)
    (file,) = fetch(tmp_path)
    assert file.path.read_bytes() == CONTENT
    assert len(waits) == num_cuts


def test_a_connection_that_brings_nothing_new_is_given_up_in_one_sentence(
    served: FakeHub, tmp_path: Path, waits: list[float]
) -> None:
    served.fail(f"GET {FILE}", Fault(cut_after=100_000), *[Fault(cut_after=0)] * 20)
    with pytest.raises(UserError, match=r"^source 'x': hub: .*cannot be reached") as caught:
        hub.resolve_files(Location(hub=REPOSITORY, files={"train": [FILE]}), settings(tmp_path), "source 'x'")
    assert "\n" not in str(caught.value)
    assert len(waits) == download.PATIENCE.num_failures - 1
    assert not cached(tmp_path).exists()


# Files that are not what the hub states -------------------------------------------------------------------------------


def test_a_short_file_is_continued_and_never_accepted(served: FakeHub, tmp_path: Path) -> None:
    served.fail(f"GET {FILE}", Fault(body=CONTENT[:1000]))
    (file,) = fetch(tmp_path)
    assert file.path.read_bytes() == CONTENT


def test_a_file_that_stays_short_is_refused(served: FakeHub, tmp_path: Path) -> None:
    served.fail(f"GET {FILE}", *[Fault(body=CONTENT[:1000], no_ranges=True)] * 20)
    with pytest.raises(UserError, match=r"big\.jsonl came short, 1,000 of [\d,]+ bytes again and again; run again"):
        fetch(tmp_path)
    assert not cached(tmp_path).exists()
    assert not (tmp_path / "hub_lock.json").exists()


@pytest.mark.parametrize("wrong", [CONTENT.swapcase(), CONTENT + b"more"])
def test_wrong_bytes_are_fetched_once_more_and_then_refused(served: FakeHub, tmp_path: Path, wrong: bytes) -> None:
    served.fail(f"GET {FILE}", Fault(body=wrong))
    assert fetch(tmp_path / "once")[0].path.read_bytes() == CONTENT
    served.fail(f"GET {FILE}", *[Fault(body=wrong)] * 20)
    with pytest.raises(UserError, match=r"big\.jsonl came with other bytes than the hub states"):
        fetch(tmp_path / "always")
    assert bytes_got(served) == [None] * 4
    assert not cached(tmp_path / "always").exists()


def test_a_file_damaged_in_the_cache_is_fetched_again(
    served: FakeHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fetch(tmp_path)
    cached(tmp_path).write_bytes(CONTENT[:-1] + b"!")
    (file,) = fetch(tmp_path)
    assert file.path.read_bytes() == CONTENT
    assert "big.jsonl of org/rows is damaged in the cache; it is fetched again" in caplog.text


def test_a_file_damaged_in_the_cache_is_refused_without_a_network(
    served: FakeHub, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    fetch(tmp_path)
    cached(tmp_path).write_bytes(b"")
    request.getfixturevalue("unreachable_hub")
    with pytest.raises(UserError, match=r"org/rows is not in the cache and .* cannot be reached"):
        fetch(tmp_path)


def test_other_bytes_at_the_same_commit_are_refused(served: FakeHub, tmp_path: Path) -> None:
    fetch(tmp_path)
    lock = (tmp_path / "hub_lock.json").read_text()
    served.put(OLD, {FILE: CONTENT.swapcase()})
    fetch(tmp_path)
    cached(tmp_path).unlink()
    with pytest.raises(UserError, match=r"has other bytes now at the same commit aaaaaaaaaaaa .* which is refused"):
        fetch(tmp_path)
    assert not cached(tmp_path).exists()
    assert (tmp_path / "hub_lock.json").read_text() == lock
    # a large file is refused by its stated hash, before its bytes are fetched
    assert len(bytes_got(served)) == (1 if served.large else 2)


# Waiting --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("what", [f"INFO {REPOSITORY}", f"HEAD {FILE}", f"GET {FILE}"])
def test_a_busy_hub_is_asked_again_after_growing_waits(
    fake_hub: FakeHub, tmp_path: Path, waits: list[float], what: str, status: int
) -> None:
    fake_hub.put(OLD, {FILE: CONTENT})
    fake_hub.fail(what, *[Fault(status)] * 4)
    assert fetch(tmp_path)[0].path.read_bytes() == CONTENT
    bounds = [(0.5, 1.0), (1.0, 2.0), (2.0, 4.0), (4.0, 8.0)]
    assert [low <= wait <= high for (low, high), wait in zip(bounds, waits, strict=True)] == [True] * 4


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "17"}, 17.0),
        ({"RateLimit": '"api";r=0;t=55'}, 55.0),
    ],
)
def test_the_wait_that_the_hub_asks_for_is_kept(
    fake_hub: FakeHub, tmp_path: Path, waits: list[float], headers: dict[str, str], seconds: float
) -> None:
    fake_hub.put(OLD, {FILE: CONTENT})
    fake_hub.fail(f"GET {FILE}", Fault(429, headers=headers))
    fetch(tmp_path)
    assert waits == [seconds]


def test_a_wait_until_a_date_is_kept(fake_hub: FakeHub, tmp_path: Path, waits: list[float]) -> None:
    until = datetime.now(UTC) + timedelta(seconds=500)
    fake_hub.put(OLD, {FILE: CONTENT})
    fake_hub.fail(f"GET {FILE}", Fault(429, headers={"Retry-After": format_datetime(until, usegmt=True)}))
    fetch(tmp_path)
    (waited,) = waits
    assert 400 < waited <= 500


def test_a_wait_beyond_the_budget_is_told_and_not_waited(fake_hub: FakeHub, tmp_path: Path, waits: list[float]) -> None:
    fake_hub.put(OLD, {FILE: CONTENT})
    fake_hub.fail(f"GET {FILE}", Fault(429, headers={"Retry-After": "3600"}))
    with pytest.raises(UserError, match=r"answers HTTP 429\); run again in 3,600 s, files that came are kept"):
        fetch(tmp_path)
    assert waits == []


def test_a_hub_that_stays_busy_is_given_up_within_the_budget(
    fake_hub: FakeHub, tmp_path: Path, waits: list[float]
) -> None:
    fake_hub.put(OLD, {FILE: CONTENT})
    fake_hub.fail(f"HEAD {FILE}", *[Fault(503)] * 50)
    with pytest.raises(UserError, match=r"cannot be read now \(the hub answers HTTP 503\); run again later"):
        fetch(tmp_path)
    assert len(waits) == download.PATIENCE.num_failures - 1
    assert sum(waits) < download.PATIENCE.budget


@pytest.mark.usefixtures("unreachable_hub")
def test_an_absent_network_is_told_at_once(tmp_path: Path, waits: list[float]) -> None:
    with pytest.raises(UserError, match="cannot be reached"):
        fetch(tmp_path)
    assert waits == []


def test_the_switch_for_no_network_is_one_sentence(
    fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"not in the cache and HF_HUB_OFFLINE .* set RMW_HUB_MIRROR to a folder"):
        fetch(tmp_path)
    assert fake_hub.asked == []


def test_a_long_download_tells_how_far_it_is(
    fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake_hub.put(OLD, {FILE: CONTENT * 20})
    monkeypatch.setattr(download, "PATIENCE", download.Patience(progress_every=0.0))
    with caplog.at_level(logging.INFO, "rm_workflow"):
        fetch(tmp_path)
    assert f"hub: org/rows {FILE}: 6 MB of 6 MB, about 0 s left" in caplog.messages


def test_a_full_disk_is_told_before_the_download(
    fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_hub.put(OLD, {FILE: CONTENT * 20})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1_000_000})())
    with pytest.raises(UserError, match=r"needs 6 MB more, and .* has 1 MB free; free space there"):
        fetch(tmp_path)
    assert bytes_got(fake_hub) == []


# What answers is not the hub ------------------------------------------------------------------------------------------


def test_a_page_in_between_is_told(fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rm_workflow_tests.hub.hub_server.json.dumps", lambda value: "<html>log in</html>")
    with pytest.raises(
        UserError, match=r"org/rows: no JSON .* not how the Hugging Face hub answers; correct HF_ENDPOINT"
    ):
        fetch(tmp_path)


def test_an_answer_for_another_commit_is_told(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.put(OLD, {FILE: CONTENT})
    fake_hub.fail(f"HEAD {FILE}", Fault(headers={"X-Repo-Commit": NEW}))
    with pytest.raises(
        UserError, match=r"big\.jsonl is answered without its hash or with another commit, which is not"
    ):
        fetch(tmp_path)
    assert bytes_got(fake_hub) == []


def test_a_commit_that_vanished_is_told_with_the_mend(fake_hub: FakeHub, tmp_path: Path) -> None:
    fetch(tmp_path, "data/train.jsonl")
    del fake_hub.commits[REPOSITORY][OLD]
    fetch(tmp_path, "data/train.jsonl")
    with pytest.raises(UserError, match=r"no longer has the commit recorded in hub_lock\.json; .*`rmw sources update`"):
        fetch(tmp_path, FILE)


@pytest.mark.parametrize("text", ["{", "[]", '{"datasets": 1}'])
def test_a_damaged_lock_file_is_told(fake_hub: FakeHub, tmp_path: Path, text: str) -> None:
    (tmp_path / "hub_lock.json").write_text(text)
    with pytest.raises(UserError, match=r"hub_lock\.json: not .*; restore it, or delete it"):
        fetch(tmp_path)


# Secrets --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "faults",
    [
        [],
        [Fault(cut_after=1000), Fault(503), Fault()],
        [Fault(403)] * 20,
        [Fault(429, headers={"Retry-After": "9999"})],
        [Fault(cut_after=0)] * 20,
        [Fault(body=b"x")] * 20,
    ],
)
def test_neither_token_nor_signature_is_written_anywhere(
    served: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    faults: list[Fault],
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for logger in ("", *download.LOGGERS_OF_URLS):
        caplog.set_level(logging.DEBUG, logger)
    served.fail(f"GET {FILE}", *faults)
    try:
        fetch(tmp_path)
    except UserError:
        logging.getLogger("rm_workflow").exception("with its whole chain")
    written = [caplog.text, *capfd.readouterr()]
    written += [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    assert [text for text in written if TOKEN in text or SIGNATURE in text] == []
    by_place = {asked.line.split("/")[1]: asked.authorization for asked in served.asked}
    assert by_place["datasets"] == f"Bearer {TOKEN}"
    assert by_place.get("large") is None
    assert any(SIGNATURE in asked.line for asked in served.asked) == bool(served.large)


# Two at once ----------------------------------------------------------------------------------------------------------


def _fetch_in_process(home: Path) -> None:
    (file,) = fetch(home)
    assert file.path.read_bytes() == CONTENT


def test_two_processes_fetch_a_repository_once_and_both_finish(served: FakeHub, tmp_path: Path) -> None:
    served.hold[FILE] = threading.Event()
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_fetch_in_process, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + 10
    while not bytes_got(served) and time.monotonic() < deadline:
        time.sleep(0.01)
    served.hold[FILE].set()
    for process in processes:
        process.join(10)
    assert [process.exitcode for process in processes] == [0, 0]
    assert bytes_got(served) == [None]
    assert json.loads((tmp_path / "hub_lock.json").read_text())["datasets"] == {REPOSITORY: OLD}


# Access and revisions -------------------------------------------------------------------------------------------------


def test_access_is_checked_without_fetching(fake_hub: FakeHub, tmp_path: Path) -> None:
    fake_hub.put(OLD, {FILE: CONTENT})
    there = Location(hub=REPOSITORY, files={"train": [FILE]})
    hub.check_access({"source 'a'": there}, settings(tmp_path))
    assert bytes_got(fake_hub) == []
    wrong = Location(hub=REPOSITORY, files={"train": [FILE, "nope.jsonl"]})
    with pytest.raises(UserError, match=r"^source 'b': hub: org/rows has no file nope\.jsonl"):
        hub.check_access({"source 'a'": there, "source 'b'": wrong}, settings(tmp_path))
    fake_hub.refusal = (403, "GatedRepo")
    with pytest.raises(
        UserError, match=r"^source 'a': hub: org/rows is gated .*https://huggingface\.co/datasets/org/rows"
    ):
        hub.check_access({"source 'a'": there}, settings(tmp_path))


def test_files_that_are_here_are_not_asked_for(fake_hub: FakeHub, tmp_path: Path) -> None:
    fetch(tmp_path, "data/train.jsonl")
    (tmp_path / "mirror/org/other").mkdir(parents=True)
    fake_hub.refusal = (403, "GatedRepo")
    locations = {
        "cached": Location(hub=REPOSITORY, files={"train": ["data/train.jsonl"]}),
        "mirrored": Location(hub="org/other", files={"train": ["a.jsonl"]}),
        "local": Location(path="/nowhere", files={"train": ["a.jsonl"]}),
    }
    before = len(fake_hub.asked)
    hub.check_access(locations, settings(tmp_path, tmp_path / "mirror"))
    assert len(fake_hub.asked) == before


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_hub_does_not_end_the_check_of_access(fake_hub: FakeHub, tmp_path: Path, status: int) -> None:
    fake_hub.refusal = (status, "")
    hub.check_access({"a": Location(hub=REPOSITORY, files={"train": [FILE]})}, settings(tmp_path))


def test_a_revision_is_read_only_after_it_is_taken_and_equal_files_come_once(served: FakeHub, tmp_path: Path) -> None:
    served.put(OLD, {"same.jsonl": b"{}\n"})
    served.large = {FILE, "same.jsonl"}
    fetch(tmp_path, FILE, "same.jsonl")
    served.put(NEW, {FILE: CONTENT.swapcase(), "same.jsonl": b"{}\n"})
    revision = hub.fetch_revision(REPOSITORY, [FILE, "same.jsonl", "gone.jsonl"], NEW, settings(tmp_path))
    assert sorted(revision.files) == [FILE, "same.jsonl"]
    assert fetch(tmp_path)[0].path.read_bytes() == CONTENT
    hub.take(revision, settings(tmp_path))
    assert fetch(tmp_path)[0].path.read_bytes() == CONTENT.swapcase()
    lock = json.loads((tmp_path / "hub_lock.json").read_text())
    assert (lock["datasets"], lock["files"][REPOSITORY].keys()) == ({REPOSITORY: NEW}, {FILE, "same.jsonl"})
    assert len([line for line in served.lines("GET /large/") if "same.jsonl" in line]) == 1
