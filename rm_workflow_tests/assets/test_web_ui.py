"""A real web UI on an empty home, driven as a person drives it: materialize the data, look at the pages."""

import contextlib
import html
import json
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode

import dagster as dg
import pytest
from playwright.sync_api import Locator, Page

from rm_workflow.artifacts import Artifact
from rm_workflow.assets.checkpoints import describe_checkpoint
from rm_workflow.assets.instance import open_instance
from rm_workflow.assets.publishing import presented
from rm_workflow.assets.web_ui import WaitingServer
from rm_workflow.settings import load_settings
from rm_workflow_tests.assets.browser import CHROMIUM, chromium_page
from rm_workflow_tests.assets.web import LAUNCH, START_SECONDS, WebUi, graphql, wait_until, web_ui_of
from rm_workflow_tests.cli.lived_in import live_in

pytestmark = pytest.mark.browser

SCHEDULE = """
query ($name: String!) {
  scheduleOrError(scheduleSelector: {
    repositoryLocationName: "rm_workflow", repositoryName: "__repository__", scheduleName: $name
  }) { ... on Schedule { scheduleState { status } } }
}
"""
SCHEDULED = "quickstart"

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
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RMW_HOME", str(folder))
        for name in ("RMW_CATALOG", "RMW_HUB_MIRROR", "DAGSTER_HOME"):
            patch.delenv(name, raising=False)
        report_checkpoint(live_in().checkpoints[-1])
    with web_ui_of(folder, Path(__file__).parents[2]) as web_ui:
        yield web_ui


def report_checkpoint(checkpoint: Artifact) -> None:
    """Tell the Dagster of this home of a checkpoint as its asset does; nothing is trained for it."""
    with open_instance(load_settings()) as instance:
        metadata = presented(describe_checkpoint(checkpoint))
        instance.report_runless_asset_event(dg.AssetMaterialization(checkpoint.asset, metadata=metadata))


def test_it_listens_on_loopback_alone(web_ui: WebUi):
    assert web_ui.listening() == {"127.0.0.1"}


def test_a_server_that_waits_ends_with_the_process_that_would_have_told_it():
    server = WaitingServer()
    assert server.process.poll() is None
    server.end()
    assert server.process.wait(timeout=START_SECONDS) == 0


@pytest.mark.slow
def test_it_listens_where_it_is_told_to(tmp_path: Path):
    with web_ui_of(tmp_path / "home", Path(__file__).parents[2], host="0.0.0.0") as everywhere:
        assert "0.0.0.0" in everywhere.listening()


@pytest.mark.slow
def test_one_that_a_script_started_in_the_background_ends_by_sigterm(tmp_path: Path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a script's shell does with what ends with &
    try:
        with web_ui_of(tmp_path / "home", Path(__file__).parents[2]) as behind:
            behind.process.terminate()
            behind.process.wait(timeout=START_SECONDS)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def page(web_ui: WebUi) -> Iterator[Page]:
    with chromium_page() as page:
        yield page


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
    plot(page, "plot_funnel").click()
    funnel = page.locator("img[alt='funnel']")
    funnel.wait_for()
    assert funnel.evaluate("image => image.complete && image.naturalWidth > 300")


def plot(page: Page, name: str) -> Locator:
    """Return what shows a plot, in the row with its name."""
    return page.locator("tr", has_text=name).get_by_text("[Show Markdown]")


def test_a_checkpoints_page_shows_loss_and_steps_and_its_curves_by_one_click(web_ui: WebUi, page: Page):
    page.goto(f"{web_ui.address}/assets/quickstart_checkpoint")
    page.get_by_text("2 steps in 1.5 s").first.wait_for()
    assert page.get_by_text("Row count").count() == 0
    plot(page, "plot_training_curves").click()
    curves = page.locator("img[alt='training curves']")
    curves.wait_for()
    assert curves.evaluate("image => image.complete && image.naturalWidth > 300")


def test_from_the_checkpoints_asset_to_the_leaderboard_to_a_row_to_its_data(web_ui: WebUi, page: Page):
    page.goto(f"{web_ui.address}/assets/quickstart_checkpoint")
    path = page.locator("tr", has_text="lineage_page").locator("a").first.get_attribute("href")
    page.goto(f"{web_ui.address}{path}")
    assert page.locator("img[alt='training curves']").evaluate("image => image.complete && image.naturalWidth > 300")
    page.get_by_role("link", name="Leaderboard").click()
    page.get_by_role("link", name="0.500").first.click()
    page.locator("tbody a").first.click()
    page.get_by_role("heading", name="What became of it").wait_for()
    assert page.locator("pre").count() == 3
    page.get_by_role("link", name="quickstart_mixture").first.click()
    page.get_by_role("heading", name="quickstart_mixture over time").wait_for()
    assert page.locator("svg.bar rect.dropped").count() > 5


def test_a_search_finds_a_pair(web_ui: WebUi, page: Page):
    page.goto(f"{web_ui.address}/rmw")
    page.get_by_role("link", name="Search").click()
    page.get_by_role("searchbox").fill("LIGHTHOUSES")
    page.get_by_role("button", name="Search").click()
    page.locator("tbody a").first.click()
    page.get_by_role("heading", name="Pair ").wait_for()
    assert "lighthouses" in page.inner_text("body").lower()


def test_its_pages_fit_a_narrow_window_in_the_dark(web_ui: WebUi, page: Page):
    page.set_viewport_size({"width": 800, "height": 900})
    page.emulate_media(color_scheme="dark")
    for path in ("/rmw", "/rmw/recipes/quickstart", "/rmw/search?text=the"):
        page.goto(web_ui.address + path)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    page.set_viewport_size({"width": 1500, "height": 1000})
    page.emulate_media(color_scheme="light")


def test_a_schedule_is_switched_on_and_off(web_ui: WebUi, page: Page):
    name = f"{SCHEDULED}_retraining"
    page.goto(f"{web_ui.address}/locations/rm_workflow/schedules/{name}")
    switch = page.locator("input[type='checkbox']").first
    switch.wait_for(state="attached")
    for status in ("RUNNING", "STOPPED"):
        switch.locator("xpath=..").click()
        wait_until(lambda wanted=status: schedule_status(web_ui, name) == wanted, f"the schedule to be {status}")


def schedule_status(web_ui: WebUi, name: str) -> str:
    found = graphql(web_ui.address, SCHEDULE, {"name": name})["scheduleOrError"]
    return found["scheduleState"]["status"]


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
    before = web_ui.run_ids()
    forged = {"query": LAUNCH, "variables": json.dumps({"job": "quickstart_data"})}
    text = FORGING_PAGE.replace("ADDRESS", web_ui.address).replace("WEBSOCKET", web_ui.address.replace("http", "ws"))
    text = text.replace("FORGED", html.escape(urlencode(forged))).replace("BODY", json.dumps(json.dumps(forged)))
    with served(text) as address:
        page.goto(address)
        page.wait_for_function("document.title == 'asked'")
    assert web_ui.run_ids() == before


def test_a_name_that_is_let_point_here_shows_nothing(web_ui: WebUi, page: Page):
    page.goto(web_ui.address.replace("127.0.0.1", "evil.example"))
    assert "no name of this server" in page.inner_text("body")


def test_its_own_page_materializes(web_ui: WebUi, page: Page):
    before = web_ui.run_ids()
    page.goto(f"{web_ui.address}/assets/raw_sample_ratings")
    page.get_by_role("button", name="Materialize").first.click()
    wait_until(lambda: web_ui.run_ids() > before, "a run started by the button")
    (run_id,) = web_ui.run_ids() - before
    assert web_ui.wait_for_end(run_id) == "SUCCESS"


def test_the_recipes_group_page_draws_its_assets(web_ui: WebUi, materialized: str, page: Page):
    page.goto(f"{web_ui.address}/locations/rm_workflow/asset-groups/quickstart/lineage")
    # The graph cuts longer names in the middle.
    for name in ("quickstart_mixture", "quickstart_tokens", "quickstart_scores"):
        page.get_by_text(name, exact=True).first.wait_for()
