import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.reporting import html_report, tables
from rm_workflow.reporting.worst_pairs import cut, cut_left, worst_pairs
from rm_workflow_tests.evaluation.stored_scores import publish_scores
from rm_workflow_tests.preferences.raw_tables import given
from rm_workflow_tests.reporting.published import ROWS, Home, quickstart_home, without_ranks

HOSTILE = (
    "</pre><script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">\x1b[31m\u202e"
)
CHROMIUM = shutil.which("chromium")
PHONE = {"width": 390, "height": 800}


class Reader(HTMLParser):
    """Collects tags with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


OURS = {
    "checkpoint": "a_checkpoint@v",
    "run": "lr1e-6__s0",
    "item_set": "09ab",
    "items_of": "quickstart_mixture",
    "num_independent": 400,
    "too_few_items": False,
    "selected_among": 6,
    "contamination": "leaky",
    "published": False,
    "ranked_among": 3,
    "score": 0.7,
    "n": 9,
    "ci_low": 0.4,
    "ci_high": 0.9,
    "rank": 1,
    "rank_low": 1,
    "rank_high": 2,
}
LEADERBOARD = {"test": [OURS]}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report in which the pair that the model is most wrong about is one that would like to run something."""
    home = quickstart_home(tmp_path_factory.mktemp("home"))
    home.rows = [*ROWS[:3], given(f"Why? {HOSTILE}", f"So. {HOSTILE}", f"Thus. {HOSTILE}", 3)]
    home.probes["probes"]["injection"]["examples"][0]["reply"] = f"So. {HOSTILE}"
    return html_report.report([home.evidence()], LEADERBOARD)


def test_the_report_needs_nothing_but_itself(text: str):
    reader = Reader(text)
    assert text.startswith("<!doctype html>")
    assert all(str(one["src"]).startswith("data:image/png;base64,") for one in reader.of("img"))
    assert all(str(one["href"]).startswith("#") for one in reader.of("a"))
    assert not reader.of("script")
    assert not reader.of("link")
    assert "url(" not in text
    targets = {one["id"] for _, one in reader.tags if "id" in one}
    assert {str(one["href"])[1:] for one in reader.of("a")} <= targets


def test_every_part_stands_in_it(text: str):
    images = {str(one["alt"]).split()[0].rstrip(":") for one in Reader(text).of("img")}
    assert images == {"scores", "training", "reliability", "histogram", "funnel", "probes"}
    for part in ("group_in_test", "0.750 to 0.840", "supported", "no evidence", "quickstart_mixture"):
        assert part in text
    assert "a_checkpoint[lr1e-6__s0]@v" in text
    assert "chosen among 6 runs by this score" in text


def test_a_text_of_a_data_set_is_only_ever_read(text: str):
    reader = Reader(text)
    assert "&lt;script&gt;document.title" in text
    assert not reader.of("script")
    assert not [one for _, one in reader.tags if any(name.startswith("on") for name in one)]
    assert "\\x1b[31m\\x202e" in text
    assert "\x1b" not in text
    (policy,) = [one["content"] for one in reader.of("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy).startswith("default-src 'none'")


@pytest.mark.browser
def test_a_browser_runs_nothing_of_it_and_a_phone_scrolls_down_only(text: str, tmp_path: Path):
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        pytest.skip("chromium is not installed (Debian package chromium)")
    file = tmp_path / "report.html"
    file.write_text(text, "utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport=PHONE)  # type: ignore[arg-type]
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        assert page.title() == "quickstart: report"
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 300)")
        # A plot is seen whole; a table that is wider scrolls in its own box.
        ends = "[...document.querySelectorAll('img, .wide')].map(one => one.getBoundingClientRect().right)"
        assert max(page.evaluate(ends)) <= PHONE["width"]
        assert page.evaluate("[...document.images].every(image => !image.closest('.wide'))")
        assert page.evaluate("[...document.querySelectorAll('table')].every(table => table.closest('.wide'))")
        browser.close()


def test_the_pairs_most_wrong_come_first_with_their_texts(home: Home):
    found = worst_pairs(home.evidence(), 5)
    assert [(pair["prompt"], pair["chosen"], pair["rejected"], pair["margin"]) for pair in found] == [
        ("Question 3?", "Good 3.", "Bad 3.", -1.5),
        ("Question 2?", "Good 2.", "Bad 2.", -0.5),
    ]
    assert [pair["margin"] for pair in worst_pairs(home.evidence(), 1)] == [-1.5]


def test_long_texts_are_cut_where_they_say_least():
    assert cut("a" * 600) == "a" * 600
    assert cut("ab" * 400)[-2:] == "a…"
    assert len(cut("ab" * 400)) == len(cut_left("ab" * 400)) == 600
    assert cut_left("ab" * 400)[:2] == "…b"


def test_what_rewritten_replies_do_is_told_with_the_largest_moves(text: str):
    shown = text.replace("\u00a0", " ")
    for part in (
        "+0.04 (-0.02 to +0.10)",
        "46 of 48",
        "0.250 (0.550 to 0.880, n 24) → 0.750 (",
        "(rejected) So. &lt;/pre&gt;&lt;script&gt;",
    ):
        assert part in shown
    assert "it is right on 0.600 (0.500 to 0.690, n 96)" in text
    assert "the prompt is worth +0.200 (+0.100 to +0.300)" in text


def test_a_checkpoint_that_was_not_probed_says_why(home: Home):
    home.probes = {"num_pairs": 0, "why_none": "all is off", "unit": None, "probes": {}, "prompt_ablated": None}
    drawn = dict.fromkeys(("training_curves.png", "scores.png", "reliability.png"), b"")
    assert "<p>Not measured: all is off.</p>" in html_report.report([replace(home.evidence(), drawn=drawn)])


def test_a_checkpoint_without_scores_has_a_report(home: Home):
    text = html_report.report([home.evidence(until="checkpoint")])
    assert "This checkpoint was not evaluated." in text
    assert "There is no scored test split." in text


def test_the_leaderboard_has_ranks_with_uncertainty_and_what_others_published(tmp_path: Path, home: Home):
    store = ArtifactStore(tmp_path / "scored")
    gains = {"bad": 0.0, "good": 2.0, "nearly": 1.9}
    for seed, (recipe, gain) in enumerate(gains.items()):
        publish_scores(store, recipe, (np.random.default_rng(seed).normal(size=200) + gain).tolist())
    rows = html_report.leaderboard_rows(store)
    assert next(iter(rows)) == "test"
    best = rows["test"][0]["checkpoint"]
    shown = tables.leaderboard(rows["test"], best)
    assert [(row["rank"], row[""]) for row in shown] == [
        ("1 (1 to 2) of 3", "this one"),
        ("2 (1 to 2) of 3", ""),
        ("3 of 3", ""),
    ]
    assert [row["checkpoint"].partition("@")[0] for row in shown][2] == "bad_checkpoint"
    assert html_report.num_scored(rows, "good_checkpoint") == 1
    text = html_report.report([home.evidence()], rows)
    reference = next(
        row for row in tables.leaderboard(rows["rewardbench2"], best) if "Llama-3.1-70B" in row["checkpoint"]
    )
    assert (reference["score"], reference["n"], reference["rank"]) == ("0.761", "", "")
    for part in ("1 (1 to 2) of 3", reference["checkpoint"], "published: model card of", "<h3>rewardbench2</h3>"):
        assert part in text


def test_the_leaderboard_has_the_newest_scores_of_each_checkpoint_best_first(
    home: Home, monkeypatch: pytest.MonkeyPatch
):
    # The benchmarks of this home have no items.
    monkeypatch.setattr("rm_workflow.evaluation.standings._item_sets", without_ranks)
    home.publish()
    home.scores["test"]["score"] = 0.9
    home.recipe = home.recipe.model_copy(update={"training": home.recipe.training.model_copy(update={"seed": 1})})
    second = home.publish()
    home.scores["test"]["score"] = 0.85
    evaluation = home.recipe.evaluation.model_copy(update={"batch_tokens": 512})
    home.recipe = home.recipe.model_copy(update={"evaluation": evaluation})
    assert home.publish()["checkpoint"].version == second["checkpoint"].version
    rows = html_report.leaderboard_rows(home.store)
    assert [row["score"] for row in rows["test"]] == [0.85, 0.8]
    assert rows["test"][0]["checkpoint"] == second["checkpoint"].id
    assert html_report.num_scored(rows, "quickstart_checkpoint") == 2
    marked = [row[""] for row in tables.leaderboard(rows["test"], second["checkpoint"].id)]
    assert marked == ["this one", ""]


def test_best_of_n_stands_in_the_report_with_its_curve(home: Home):
    home.add_best_of_n("gsm8k_rollouts_best_of_4")
    text = html_report.report([home.evidence()])
    assert "Best of N: gsm8k_rollouts_best_of_4" in text
    assert text.count('alt="accuracy over the number of candidates, a line for each method"') == 1
    assert "strongest generator: strong" in text
    assert "Best of N" not in html_report.report([quickstart_home(home.home / "other").evidence()])
