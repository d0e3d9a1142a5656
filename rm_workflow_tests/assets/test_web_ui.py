"""A real web UI on an empty home, driven as a person drives it: materialize the data, look at the pages."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from rm_workflow_tests.assets.web import WebUi, web_ui_of

pytestmark = pytest.mark.browser

CHROMIUM = shutil.which("chromium")
CHROMIUM_FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@pytest.fixture(scope="module")
def web_ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUi]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (Debian package chromium)")
    with web_ui_of(tmp_path_factory.mktemp("home"), Path(__file__).parents[2]) as web_ui:
        yield web_ui


def test_it_listens_on_loopback_alone(web_ui: WebUi):
    assert web_ui.listening() == {"127.0.0.1"}


@pytest.mark.slow
def test_it_listens_where_it_is_told_to(tmp_path: Path):
    with web_ui_of(tmp_path / "home", Path(__file__).parents[2], host="0.0.0.0") as everywhere:
        assert "0.0.0.0" in everywhere.listening()


@pytest.fixture(scope="module")
def page(web_ui: WebUi) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


@pytest.fixture(scope="module")
def materialized(web_ui: WebUi) -> str:
    run_id = web_ui.launch("quickstart_data")
    assert web_ui.wait_for_end(run_id) == "SUCCESS"
    return run_id


def test_the_mixtures_page_shows_row_count_and_funnel(web_ui: WebUi, materialized: str, page: Page):
    planted = json.loads((Path(__file__).parents[2] / "data/samples/planted.json").read_text("utf-8"))
    kept = planted["counts"]["mixtures"]["quickstart_mixture"]["kept"]
    page.goto(f"{web_ui.address}/assets/quickstart_mixture")
    page.get_by_text("Row count").first.wait_for()
    assert page.get_by_text(str(kept), exact=True).count() + page.get_by_text(f"{kept:,}", exact=True).count() > 0
    page.get_by_text("[Show Markdown]").first.click()
    funnel = page.locator("img[alt='funnel']")
    funnel.wait_for()
    assert funnel.evaluate("image => image.complete && image.naturalWidth > 300")


def test_the_recipes_group_page_draws_its_assets(web_ui: WebUi, materialized: str, page: Page):
    page.goto(f"{web_ui.address}/locations/rm_workflow/asset-groups/quickstart/lineage")
    # The graph cuts longer names in the middle.
    for name in ("quickstart_mixture", "quickstart_tokens", "quickstart_scores"):
        page.get_by_text(name, exact=True).first.wait_for()
