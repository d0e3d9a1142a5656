"""A real web UI on an empty home, driven as a person drives it: materialize the data, look at the pages."""

import contextlib
import html
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Page, sync_playwright

from rm_workflow_tests.assets.web import LAUNCH, WebUi, graphql, wait_until, web_ui_of

pytestmark = pytest.mark.browser

CHROMIUM = shutil.which("chromium")
CHROMIUM_FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--host-resolver-rules=MAP evil.example 127.0.0.1",
]
RUN_IDS = "{ runsOrError { ... on Runs { results { runId } } } }"

# Every way in which a page can make a browser ask another server; its title tells when all are through.
FORGING_PAGE = """
<title>asking</title>
<form id="form" method="post" action="ADDRESS/graphql?FORGED" target="answer"></form><iframe name="answer"></iframe>
<script>
  const settled = ask => new Promise(resolve => ask(() => resolve()));
  const send = (body, options) => fetch("ADDRESS/graphql", {method: "POST", body, ...options}).catch(() => null);
  Promise.all([
    settled(end => { const one = new Image(); one.onload = one.onerror = end; one.src = "ADDRESS/graphql?FORGED"; }),
    settled(end => { document.querySelector("iframe").onload = end; form.submit(); }),
    settled(end => { const one = new WebSocket("WEBSOCKET/graphql", "graphql-ws"); one.onerror = one.onopen = end; }),
    send(BODY, {mode: "no-cors"}),
    send(BODY, {headers: {"Content-Type": "application/json"}}),
    fetch("ADDRESS/graphql?FORGED", {mode: "no-cors"}),
    fetch("ADDRESS/report_asset_materialization/quickstart_mixture", {method: "POST", mode: "no-cors"}),
  ]).then(() => { document.title = "asked"; });
</script>
"""


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


def run_ids(web_ui: WebUi) -> set[str]:
    return {run["runId"] for run in graphql(web_ui.address, RUN_IDS, {})["runsOrError"]["results"]}


@contextlib.contextmanager
def served(text: str) -> Iterator[str]:
    """Serve one page from another server of this machine, as evil.example, and return its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(text.encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://evil.example:{server.server_port}/"
        server.shutdown()


def test_a_page_of_another_server_can_start_nothing(web_ui: WebUi, page: Page):
    before = run_ids(web_ui)
    forged = {"query": LAUNCH, "variables": json.dumps({"job": "quickstart_data"})}
    text = FORGING_PAGE.replace("ADDRESS", web_ui.address).replace("WEBSOCKET", web_ui.address.replace("http", "ws"))
    text = text.replace("FORGED", html.escape(urlencode(forged))).replace("BODY", json.dumps(json.dumps(forged)))
    with served(text) as address:
        page.goto(address)
        page.wait_for_function("document.title == 'asked'")
    assert run_ids(web_ui) == before


def test_a_name_that_is_let_point_here_shows_nothing(web_ui: WebUi, page: Page):
    page.goto(web_ui.address.replace("127.0.0.1", "evil.example"))
    assert "no name of this server" in page.inner_text("body")


def test_its_own_page_materializes(web_ui: WebUi, page: Page):
    before = run_ids(web_ui)
    page.goto(f"{web_ui.address}/assets/raw_sample_ratings")
    page.get_by_role("button", name="Materialize").first.click()
    wait_until(lambda: run_ids(web_ui) > before, "a run started by the button")
    (run_id,) = run_ids(web_ui) - before
    assert web_ui.wait_for_end(run_id) == "SUCCESS"


def test_the_recipes_group_page_draws_its_assets(web_ui: WebUi, materialized: str, page: Page):
    page.goto(f"{web_ui.address}/locations/rm_workflow/asset-groups/quickstart/lineage")
    # The graph cuts longer names in the middle.
    for name in ("quickstart_mixture", "quickstart_tokens", "quickstart_scores"):
        page.get_by_text(name, exact=True).first.wait_for()
