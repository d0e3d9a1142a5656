"""A real web UI on an empty home, driven as a person drives it: materialize the data, look at the pages."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, sync_playwright

pytestmark = pytest.mark.browser

CHROMIUM = shutil.which("chromium")
CHROMIUM_FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
START_SECONDS = 120
RUN_SECONDS = 240

LAUNCH = """
mutation ($job: String!) {
  launchRun(executionParams: {
    selector: {
      repositoryLocationName: "rm_workflow", repositoryName: "__repository__", jobName: $job
    }
    runConfigData: "{}"
  }) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } }
}
"""
STATUS = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def graphql(address: str, query: str, variables: dict[str, Any]) -> dict[str, Any]:
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{address}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["data"]


def wait_until_up(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "the web UI ended while it started"
        try:
            urllib.request.urlopen(f"{address}/server_info", timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError(f"the web UI did not answer within {START_SECONDS} s")


@pytest.fixture(scope="module")
def web_ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (Debian package chromium)")
    port = free_port()
    home = tmp_path_factory.mktemp("home")
    process = subprocess.Popen(
        [sys.executable, "-m", "rm_workflow.cli.main", "ui", "--port", str(port)],
        env={**os.environ, "RMW_HOME": str(home)},
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_up(address, process)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def page(web_ui: str) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


@pytest.fixture(scope="module")
def materialized(web_ui: str) -> str:
    launched = graphql(web_ui, LAUNCH, {"job": "quickstart_data"})["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    run_id = launched["run"]["runId"]
    deadline = time.monotonic() + RUN_SECONDS
    status = "STARTING"
    while status not in ("SUCCESS", "FAILURE", "CANCELED"):
        assert time.monotonic() < deadline, f"the run is still {status} after {RUN_SECONDS} s"
        time.sleep(1)
        status = graphql(web_ui, STATUS, {"id": run_id})["runOrError"]["status"]
    assert status == "SUCCESS"
    return run_id


def test_the_mixtures_page_shows_row_count_and_funnel(web_ui: str, materialized: str, page: Page):
    planted = json.loads((Path(__file__).parents[2] / "data/samples/planted.json").read_text("utf-8"))
    kept = planted["counts"]["mixtures"]["quickstart_mixture"]["kept"]
    page.goto(f"{web_ui}/assets/quickstart_mixture")
    page.get_by_text("Row count").first.wait_for()
    assert page.get_by_text(str(kept), exact=True).count() + page.get_by_text(f"{kept:,}", exact=True).count() > 0
    page.get_by_text("[Show Markdown]").first.click()
    funnel = page.locator("img[alt='funnel']")
    funnel.wait_for()
    assert funnel.evaluate("image => image.complete && image.naturalWidth > 300")


def test_the_recipes_group_page_draws_its_assets(web_ui: str, materialized: str, page: Page):
    page.goto(f"{web_ui}/locations/rm_workflow/asset-groups/quickstart/lineage")
    # The graph cuts longer names in the middle.
    for name in ("quickstart_mixture", "quickstart_tokens", "quickstart_scores"):
        page.get_by_text(name, exact=True).first.wait_for()
