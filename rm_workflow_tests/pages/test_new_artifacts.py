"""Pages of homes that change or hold little: new scores, benchmarks' items, hostile texts, nothing at all."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.pages import addresses, pairs, site
from rm_workflow_tests.cli.conftest import RECIPE, Answer, Project, lines, project, rmw  # noqa: F401 (fixtures)
from rm_workflow_tests.evaluation.stored_scores import publish_benchmark, publish_scores
from rm_workflow_tests.hostile import LINES
from rm_workflow_tests.pages.test_pages import Links, shown, words

MARKUP = "</pre><script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    """An empty home, which the pages show."""
    monkeypatch.setenv("RMW_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RMW_CATALOG", raising=False)
    monkeypatch.chdir(tmp_path)
    return ArtifactStore(tmp_path / "home")


def test_an_empty_home_says_what_to_run(store: ArtifactStore, client: TestClient):
    assert "rmw run quickstart" in words(shown(client, addresses.START))
    assert "No mixture was made yet" in words(shown(client, addresses.search("x")))
    assert client.get(addresses.pair("0" * 32)).status_code == 404


def test_new_scores_stand_on_the_leaderboard_at_once(store: ArtifactStore, client: TestClient):
    publish_scores(store, "first", [1.0, 1.0, -1.0, 1.0] * 15)
    assert "1 of 1" in words(shown(client, addresses.START))
    publish_scores(store, "second", [1.0] * 60)
    text = words(shown(client, addresses.START))
    assert text.index("second_checkpoint") < text.index("first_checkpoint")
    assert "of 2" in text


def test_the_items_of_a_benchmark_stand_by_margin_and_show_their_replies(store: ArtifactStore, client: TestClient):
    rows = [
        {"id": str(n), "subset": "alpacaeval-easy", "prompt": f"Why {n}? {MARKUP}", "chosen": "So.", "rejected": "No."}
        for n in range(3)
    ]
    bench = publish_benchmark(store, "toy", "rewardbench", rows)
    items = {row["meta"]: row["item_id"] for row in item_rows(bench.folder)}
    ids = list(items.values())
    scores = {ids[0]: [2.0, 1.0], ids[1]: [0.0, 3.0], ids[2]: [1.0, 1.5]}
    artifact = publish_scores(store, "toy", [1.0], {"toy": (bench, scores)})
    checkpoint = next(f"{one['asset']}@{one['version']}" for one in artifact.manifest["inputs"])
    answer = shown(client, addresses.benchmark(checkpoint, "toy"))
    found = [link for link in Links(answer.text).found if "/scores/toy/" in link]
    assert found == [addresses.item(checkpoint, "toy", ids[number]) for number in (1, 2, 0)]
    assert "-3.000 +0.000 +3.000" in words(answer)
    item = shown(client, found[0])
    assert "correct , score +0.000 So." in words(item)
    assert "wrong , score +3.000 No." in words(item)
    assert not {"script", "img"} & Links(item.text).tags
    assert "<script>document.title = 'owned'</script>" in words(item)
    assert client.get(addresses.item(checkpoint, "toy", "nothing")).status_code == 404


def test_leaked_rows_are_marked_and_told_beside_the_number_of_the_score(store: ArtifactStore, client: TestClient):
    rows = [{"prompt": f"{n} + 1?", "answers": ["It is 1.", "It is 2."], "label": [1, 0]} for n in range(4)]
    bench = publish_benchmark(store, "toy", "best_of_n", rows)
    ids = [row["item_id"] for row in item_rows(bench.folder)]
    scores = {name: [1.0, 0.0] for name in ids}
    leaked = {"test": ["p1"], "toy": ids[:2]}
    artifact = publish_scores(store, "toy", [1.0, -1.0, 2.0], {"toy": (bench, scores)}, leaked)
    checkpoint = next(f"{one['asset']}@{one['version']}" for one in artifact.manifest["inputs"])
    told = words(shown(client, addresses.benchmark(checkpoint, "test")))
    assert "1 of the 3 pairs below stands in the train data, marked leaked : the score leaves it out ( p1 )." in told
    assert told.count("leaked") == 2
    assert told.index("hh -1.000 -1.000 +0.000 leaked") < told.index("shp +1.000")
    page = shown(client, addresses.benchmark(checkpoint, "toy"))
    told = words(page)
    assert "2 of the 4 items below stand in the train data, marked leaked : the score leaves them out" in told
    assert told.count("leaked") == 3
    links = [path for path in Links(page.text).found if "/scores/toy/" in path]
    assert links[:2] == [addresses.item(checkpoint, "toy", name) for name in sorted(ids[:2])]
    publish_scores(store, "clean", [1.0])
    clean = next(path for path in Links(shown(client, addresses.START).text).found if "clean_checkpoint" in path)
    assert "leaked" not in words(shown(client, f"{clean}/scores/test"))


def item_rows(folder: Path) -> list[dict[str, str]]:
    import pyarrow.parquet as pq

    return pq.read_table(folder / "items.parquet").to_pylist()


def test_a_version_that_is_used_again_stands_once_over_time(
    project: Project,  # noqa: F811
    rmw: Callable[..., Answer],  # noqa: F811
    client: TestClient,
):
    def over_time() -> str:
        return words(shown(client, addresses.recipe("toy"))).partition("toy_mixture over time")[2]

    for _ in range(3):
        assert rmw("run", "toy", "--until", "mixture").code == 0
    store = ArtifactStore(project.home)
    first = store.latest("toy_mixture")
    assert first is not None
    assert over_time().count(first.version[:12]) == 1
    assert f"{first.version[:12]} 3 110" in over_time()
    project.write_rows(lines(range(50)))
    assert rmw("run", "toy", "--until", "mixture").code == 0
    second = store.latest("toy_mixture")
    assert second is not None
    assert f"{second.version[:12]} 1 60" in over_time()


def test_a_changed_catalogue_is_read_again_and_no_other(
    project: Project,  # noqa: F811
    client: TestClient,
):
    page = shown(client, addresses.recipe("toy"))
    read = site._catalog.cache_info().misses
    shown(client, addresses.recipe("toy"))
    shown(client, addresses.START)
    assert site._catalog.cache_info().misses == read
    project.write_catalog(recipe=f"description: A lighthouse.\n{RECIPE}")
    assert "lighthouse" not in words(page)
    assert "A lighthouse." in words(shown(client, addresses.recipe("toy")))
    project.write_catalog(recipe="base: 5\n")
    answer = client.get(addresses.recipe("toy"))
    assert (answer.status_code, "toy.yaml:1" in words(answer)) == (422, True)


def test_hostile_texts_are_only_read(
    project: Project,  # noqa: F811
    rmw: Callable[..., Answer],  # noqa: F811
    client: TestClient,
):
    usable = [line.decode() for line, is_row in LINES.values() if is_row]
    marked = json.dumps({"prompt": f"Q: {MARKUP}", "chosen": f"A: {MARKUP}\x1b[2J", "rejected": f"R: {MARKUP}\x00"})
    project.write_rows("".join(f"{line}\n" for line in [*usable, marked]))
    answer = rmw("run", "toy", "--until", "mixture")
    assert answer.code == 0, answer.err
    hits = [
        link
        for text in ("<script>", "DROP TABLE", "word word", "שלום", "\u2028b", "\u0301\u0301")
        for link in Links(shown(client, addresses.search(text)).text).found
        if "/pairs/" in link
    ]
    assert len(set(hits)) >= 5
    for link in set(hits):
        page = shown(client, link)
        assert not {"script", "img"} & Links(page.text).tags
        assert "\x1b" not in page.text
        assert "\x00" not in page.text
        assert len(page.text) < 4 * pairs.MOST_CHARACTERS + 10_000
    long = shown(
        client,
        next(link for link in Links(shown(client, addresses.search("word word")).text).found if "/pairs/" in link),
    )
    assert "characters, cut)" in words(long)
    assert "\\x1b[2J" in words(shown(client, hits[0]))
