"""What a person finds on the lineage pages: from leaderboard to rows, to a pair, and back to its data."""

import html
import re
from html.parser import HTMLParser
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from httpx2 import Response
from starlette.testclient import TestClient

from rm_workflow.artifacts import ArtifactStore, Built, Request
from rm_workflow.catalog.models import Promotion
from rm_workflow.database import connect
from rm_workflow.errors import UserError
from rm_workflow.evaluation import promotion
from rm_workflow.evaluation.run_table import Run
from rm_workflow.pages import addresses, search
from rm_workflow.pages.checkpoints import PAGE_ROWS
from rm_workflow.pages.site import Link, numeric_columns
from rm_workflow_tests.cli.lived_in import LivedIn
from rm_workflow_tests.evaluation.stored_scores import publish_scores
from rm_workflow_tests.hostile import NAMES


class Links(HTMLParser):
    """Collects the addresses that a page leads to, and the names of its tags and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.found += [value for name, value in attrs if name in ("href", "src") and value]


def words(answer: Response) -> str:
    """Return what a person reads, on one line."""
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", answer.text.partition("<body>")[2])).split())


def shown(client: TestClient, path: str) -> Response:
    answer = client.get(path)
    assert answer.status_code == 200, words(answer)
    return answer


def margins(lived_in: LivedIn, checkpoint: str) -> dict[str, float]:
    """Return the margin of each test pair, worst first."""
    (scores,) = (
        lived_in.store.find("quickstart_scores", folder.name)
        for folder in (lived_in.store.artifacts / "quickstart_scores").iterdir()
        if checkpoint.partition("@")[2] in (folder / "manifest.json").read_text("utf-8")
    )
    assert scores is not None
    rows = pq.read_table(scores.file("test_pairs.parquet")).to_pylist()
    ordered = sorted((row["score_chosen"] - row["score_rejected"], row["pair_id"]) for row in rows)
    return {pair_id: margin for margin, pair_id in ordered}


def test_the_start_page_is_there_with_a_slash_too(lived_in: LivedIn, client: TestClient):
    assert words(shown(client, f"{addresses.START}/")) == words(shown(client, addresses.START))


def test_an_empty_home_says_what_to_do_first_and_which_recipes_cannot_be_used(
    lived_in: LivedIn, client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "catalog/recipes").mkdir(parents=True)
    (tmp_path / "catalog/recipes/bad.yaml").write_text("extends: quickstart\ntraining: {\n")
    monkeypatch.setenv("RMW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RMW_CATALOG", str(tmp_path / "catalog"))
    answer = shown(client, addresses.START)
    assert "rmw run quickstart" in words(answer)
    assert {addresses.job("quickstart"), "/assets"} <= set(Links(answer.text).found)
    assert "bad.yaml:3: not valid YAML" in words(answer)
    assert "bad.yaml:3: not valid YAML" in words(client.get(addresses.recipe("bad")))


def test_main_is_called_with_the_run_of_the_sweep_that_made_it(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RMW_HOME", str(tmp_path))
    monkeypatch.delenv("RMW_CATALOG", raising=False)
    store = ArtifactStore(tmp_path)
    run = Run("lr3e-4", {}, publish_scores(store, "quickstart", [1.0] * 40, partition="lr3e-4"))
    promotion.promote(store, "quickstart", Promotion(), run, [run])
    store.materialize(Request("quickstart_mixture", "mixture", "1", {}), lambda out: Built({}), "run")
    name = str(run.checkpoint).replace("@", "[lr3e-4]@")[: len("quickstart_checkpoint[lr3e-4]@") + 12]
    assert f">{name}</a>" in shown(client, addresses.START).text.partition("<h2>Recipes</h2>")[2]


def test_columns_of_numbers_stand_right_and_no_ids():
    rows = [
        {
            "score": Link("0.583", "x"),
            "n": "1,200",
            "margin": "-0.5",
            "rate": "5e-4",
            "id": "12345678901",
            "run": "s0",
        },
        {"score": "", "n": "7", "margin": "+12.250", "rate": None, "id": "1", "run": "1", "empty": ""},
    ]
    assert numeric_columns(rows) == ["score", "n", "margin", "rate"]


def test_every_link_leads_to_a_page_that_runs_and_fetches_nothing(lived_in: LivedIn, client: TestClient):
    seen: dict[str, Response] = {}
    waiting = [addresses.START]
    per_kind: dict[str, int] = {}
    while waiting:
        path = waiting.pop(0)
        kind = re.sub(r"[0-9a-f]{12,}|recipes/\w+|page=\d+", "", path)
        per_kind[kind] = per_kind.get(kind, 0) + 1
        if path in seen or not path.startswith(addresses.START) or per_kind[kind] > 3:
            continue
        seen[path] = answer = shown(client, path)
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["cache-control"] == "no-store"
        if answer.headers["content-type"].startswith("text/html"):
            page = Links(answer.text)
            assert "script" not in page.tags
            assert not [name for name in page.attributes if name.startswith("on") or name == "style"]
            waiting += page.found
    kinds = ("/recipes/", "/checkpoints/", "/scores/test", "/pairs/", "/search", "curves.png", "look.css")
    assert [kind for kind in kinds if not any(kind in path for path in seen)] == []


def test_the_leaderboard_shows_score_interval_and_verdict_and_leads_to_the_rows(lived_in: LivedIn, client: TestClient):
    start = shown(client, addresses.START)
    for checkpoint in lived_in.checkpoints:
        assert f'href="{addresses.benchmark(checkpoint.id, "test")}">0.500<' in start.text
    assert "0.500 0.400 to 0.600 400" in words(start)
    assert "unknown" in words(start)
    mixture = lived_in.store.latest("quickstart_mixture")
    assert mixture is not None
    assert f"quickstart_mixture@{mixture.version[:12]}" in words(start)


def test_the_rows_behind_a_score_stand_worst_first_on_pages_that_hold_all_of_them(
    lived_in: LivedIn, client: TestClient
):
    checkpoint = lived_in.checkpoints[-1].id
    expected = margins(lived_in, checkpoint)
    path: str | None = addresses.benchmark(checkpoint, "test")
    listed: list[str] = []
    while path:
        answer = shown(client, path)
        found = re.findall(rf'href="{addresses.START}/pairs/([0-9a-f]+)"', answer.text)
        assert len(found) <= PAGE_ROWS
        listed += found
        following = re.search('rel="next" href="([^"]+)"', answer.text)
        path = html.unescape(following[1]) if following else None
    assert listed == list(expected)
    worst = shown(client, addresses.benchmark(checkpoint, "test"))
    assert f"{next(iter(expected.values())):+.3f}" in words(worst)
    assert f"{len(expected)} pairs, the lowest margin first" in words(worst)


def test_a_pair_shows_its_texts_its_scores_and_its_way(lived_in: LivedIn, client: TestClient):
    mixture = lived_in.store.latest("quickstart_mixture")
    assert mixture is not None
    rows = pq.read_table(mixture.file("pairs.parquet")).to_pylist()
    trained = next(row for row in rows if row["split"] == "train")
    answer = shown(client, addresses.pair(trained["pair_id"]))
    raw = lived_in.store.latest(f"raw_{trained['source']}")
    assert raw is not None
    texts = {row["response_id"]: row["text"] for row in pq.read_table(raw.file("responses.parquet")).to_pylist()}
    for side in ("chosen_id", "rejected_id"):
        assert " ".join(texts[trained[side]].split()) in words(answer)
    assert f"raw row {trained['source']}:{trained['file']}:{trained['row']}" in words(answer)
    assert f"Trained on by: quickstart_checkpoint@{lived_in.checkpoints[0].version[:12]}" in words(answer)
    assert "No checkpoint here was tested on it." in words(answer)
    tested, margin = next(iter(margins(lived_in, lived_in.checkpoints[-1].id).items()))
    answer = shown(client, addresses.pair(tested))
    assert f"{margin:+.3f}" in words(answer)
    assert "Trained on by: none" in words(answer)


def test_a_dropped_pair_says_which_rule_dropped_it(lived_in: LivedIn, client: TestClient):
    mixture = lived_in.store.latest("quickstart_mixture")
    assert mixture is not None
    dropped = pq.read_table(mixture.file("dropped.parquet")).to_pylist()[0]
    answer = shown(client, addresses.pair(dropped["pair_id"]))
    assert f"quickstart_mixture {dropped['rule']} {dropped['reason']}" in words(answer)


def test_the_recipes_page_shows_the_funnel_the_runs_and_counts_over_time(lived_in: LivedIn, client: TestClient):
    answer = shown(client, addresses.recipe("quickstart"))
    mixture = lived_in.store.latest("quickstart_mixture")
    assert mixture is not None
    facts = mixture.facts
    assert f"quickstart_mixture: {facts['candidates']:,} in, {facts['kept']:,} kept" in words(answer)
    by_source = re.findall(r"sample_\w+ sample ([\d,]+)", words(answer))
    assert sum(int(number.replace(",", "")) for number in by_source) == facts["dropped"]["sample"]
    versions = {event["version"] for event in lived_in.store.events(asset="quickstart_mixture")}
    over_time = words(answer).partition("quickstart_mixture over time")[2]
    assert all(version[:12] in over_time for version in versions)
    assert "It has no main." in words(answer)
    assert addresses.benchmark(lived_in.checkpoints[-1].id, "test") in answer.text
    assert "Its mixture was not made yet" in words(shown(client, addresses.recipe("rm_mistral_7b")))


def test_search_finds_pairs_by_text_whatever_its_case_and_says_what_it_leaves_out(
    lived_in: LivedIn, client: TestClient
):
    mixture = lived_in.store.latest("quickstart_mixture")
    assert mixture is not None
    row = pq.read_table(mixture.file("pairs.parquet")).to_pylist()[0]
    raw = lived_in.store.latest(f"raw_{row['source']}")
    assert raw is not None
    texts = {one["response_id"]: one["text"] for one in pq.read_table(raw.file("responses.parquet")).to_pylist()}
    text = texts[row["chosen_id"]][:60].upper()
    answer = shown(client, addresses.search(text))
    assert addresses.pair(row["pair_id"]) in answer.text
    assert "chosen" in words(answer)
    everywhere = shown(client, addresses.search("e"))
    assert f"The first {search.MOST_HITS} pairs:" in words(everywhere)
    assert len(re.findall(f'href="{addresses.START}/pairs/', everywhere.text)) == search.MOST_HITS
    assert "No pair holds it." in words(shown(client, addresses.search("'; drop table pairs; --")))
    assert "No pair holds it." in words(shown(client, addresses.search("50% _like_ %")))
    assert "pair" not in words(shown(client, addresses.search())).partition("at most 50 pairs.")[2]


def test_a_search_text_that_is_too_long_is_refused(lived_in: LivedIn, client: TestClient):
    answer = client.get(addresses.search("x" * (search.MOST_CHARACTERS + 1)))
    assert answer.status_code == 422
    assert "201 characters" in words(answer)


def test_a_search_that_takes_too_long_is_stopped_with_a_sentence():
    endless = "select count(*) from range(10000000) a, range(10000000) b where a.range + b.range < 0"
    with connect() as con, pytest.raises(UserError, match=r"stopped after 0\.2 s"), search._interrupted(con, 0.2):
        con.execute(endless)
    with connect() as con, pytest.raises(duckdb.ParserException), search._interrupted(con, 60):
        con.execute("no sql")


BAD = ["quickstart_checkpoint@0", "quickstart_checkpoint@" + "0" * 32, "../../etc/passwd", *NAMES.values()]
PLACES = ("/recipes/{}", "/checkpoints/{}", "/checkpoints/{}/scores/test", "/pairs/{}", "/checkpoints/{}/curves.png")


def quoted(text: str) -> str:
    return addresses.quote(text.encode("utf-8", "surrogateescape"), safe="")


@pytest.mark.parametrize("name", BAD)
def test_a_name_of_nothing_is_not_found_in_one_sentence(lived_in: LivedIn, client: TestClient, name: str):
    for place in PLACES:
        answer = client.get(addresses.START + place.format(quoted(name)))
        assert answer.status_code == 404, (place, words(answer))
        assert "Traceback" not in answer.text
        assert not {"script", "img"} & Links(answer.text).tags


@pytest.mark.parametrize("page", ["0", "-1", "10", "999999999", "1" * 5000, "٣", "x", "1.5", ""])
def test_a_page_that_is_not_there_is_not_found(lived_in: LivedIn, client: TestClient, page: str):
    path = addresses.benchmark(lived_in.checkpoints[0].id, "test")
    answer = client.get(path, params={"page": page})
    assert answer.status_code == 404
    assert "there is no page" in words(answer)


def test_benchmarks_that_were_not_scored_are_not_found(lived_in: LivedIn, client: TestClient):
    checkpoint = lived_in.checkpoints[0].id
    assert "has no scores on 'rewardbench'" in words(client.get(addresses.benchmark(checkpoint, "rewardbench")))
    assert client.get(addresses.item(checkpoint, "test", "x")).status_code == 404


def test_nothing_can_be_sent(client: TestClient):
    assert client.post(addresses.START).status_code == 405
    assert client.delete(addresses.recipe("quickstart")).status_code == 405
