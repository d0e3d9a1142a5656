"""Requests that another web page makes a browser send, to a real ``rmw ui``: none is obeyed; those of its own are."""

import http.client
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

import pytest
from starlette.types import Scope
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from rm_workflow.assets.web_guard import why_foreign
from rm_workflow_tests.assets.web import LAUNCH, WebUi, graphql, web_ui_of

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
NUM_RUNS = "{ runsOrError { ... on Runs { count } } }"
LAUNCH_DATA = {"query": LAUNCH, "variables": {"job": "quickstart_data"}}
AS_JSON = json.dumps(LAUNCH_DATA)
AS_FORM = urlencode({"query": LAUNCH, "variables": json.dumps(LAUNCH_DATA["variables"])})


@pytest.fixture(scope="module")
def web_ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUi]:
    with web_ui_of(tmp_path_factory.mktemp("home"), Path(__file__).parents[2]) as web_ui:
        yield web_ui


def ask(
    web_ui: WebUi, method: str, path: str, headers: Mapping[str, str | None], body: str | None = None
) -> tuple[int, str]:
    """Send one request with exactly these headers (``Host`` is the real one unless given; None sends none)."""
    address = urlsplit(web_ui.address).netloc
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in {"Host": address, **headers}.items():
        if value is not None:
            connection.putheader(name, value.replace("PORT", address.rpartition(":")[2]))
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body.encode() if body is not None else None)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def num_runs(web_ui: WebUi) -> int:
    return graphql(web_ui.address, NUM_RUNS, {})["runsOrError"]["count"]


FOREIGN_HOSTS = [
    *("evil.example", "evil.example:PORT", "127.0.0.1.evil.example:PORT", "localhost.evil.example", "localhost.:PORT"),
    *("user@127.0.0.1:PORT", "127.0.0.1:PORT@evil.example", "127.0.0.1:PORT, evil.example", "0x7f000001:PORT"),
    *("2130706433:PORT", "0.0.0.0:PORT", "192.0.2.7:PORT", "[::]:PORT", "[::1", "127.0.0.1:", "", None),
]


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_a_host_that_is_not_loopback_is_refused(web_ui: WebUi, host: str | None):
    status, text = ask(web_ui, "GET", "/server_info", {"Host": host})
    # The HTTP parser itself refuses a request without any.
    assert status in (403, 400), text
    assert "header Host" in text or status == 400


@pytest.mark.parametrize("host", ["127.0.0.1:PORT", "localhost:PORT", "LOCALHOST:PORT", "[::1]:PORT", "localhost:8080"])
def test_loopback_by_any_name_and_behind_a_tunnel_is_answered(web_ui: WebUi, host: str):
    own = {"Host": host, "Origin": f"http://{host}", **JSON}
    status, text = ask(web_ui, "POST", "/graphql", own, json.dumps({"query": NUM_RUNS}))
    assert status == 200, text
    assert json.loads(text)["data"]["runsOrError"]["count"] == num_runs(web_ui)


FOREIGN_ORIGINS = [
    *("http://evil.example", "http://127.0.0.1:1", "http://127.0.0.1", "http://localhost:PORT", "null", "file://", ""),
    *("https://127.0.0.1:PORT", "http://127.0.0.1:PORT.evil.example", "http://127.0.0.1:PORT/"),
]


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_a_launch_from_another_origin_starts_no_run(web_ui: WebUi, origin: str):
    before = num_runs(web_ui)
    status, text = ask(web_ui, "POST", "/graphql", {"Origin": origin, **JSON}, AS_JSON)
    assert (status, "header Origin" in text) == (403, True)
    assert num_runs(web_ui) == before


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD", "DELETE"])
@pytest.mark.parametrize("path", ["/", "/graphql", "/server_info", "/report_asset_materialization/quickstart_mixture"])
def test_no_method_or_path_is_open_to_another_origin(web_ui: WebUi, method: str, path: str):
    status, _ = ask(web_ui, method, path, {"Origin": "http://evil.example", **JSON}, "{}" if method == "POST" else None)
    assert status == 403


@pytest.mark.parametrize("path", ["/graphql", "/%67raphql", "//graphql", "/graphql/"])
@pytest.mark.parametrize("accept", ["*/*", "image/avif,image/webp,*/*;q=0.8", None])
def test_a_launch_by_link_or_picture_starts_no_run(web_ui: WebUi, path: str, accept: str | None):
    before = num_runs(web_ui)
    status, text = ask(web_ui, "GET", f"{path}?{AS_FORM}", {"Accept": accept})
    assert status in (415, 404, 200)
    assert "LaunchRunSuccess" not in text
    assert num_runs(web_ui) == before


def test_a_launch_by_a_page_that_is_opened_starts_no_run(web_ui: WebUi):
    before = num_runs(web_ui)
    status, text = ask(web_ui, "GET", f"/graphql?{AS_FORM}", {"Accept": "text/html,*/*;q=0.8"})
    assert (status, "LaunchRunSuccess" in text) == (200, False)
    assert num_runs(web_ui) == before


@pytest.mark.parametrize(
    "kind",
    [
        *("application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain", "application/graphql"),
        *("text/plain; application/json", "text/plain;charset=application/json", "application/jsonp", "", None),
    ],
)
def test_a_launch_by_a_form_starts_no_run(web_ui: WebUi, kind: str | None):
    before = num_runs(web_ui)
    body = LAUNCH if kind == "application/graphql" else AS_JSON
    status, text = ask(web_ui, "POST", f"/graphql?{AS_FORM}", {"Content-Type": kind}, body)
    assert (status, "must be JSON" in text) == (415, True)
    assert num_runs(web_ui) == before


def test_a_materialization_reported_by_a_form_is_refused(web_ui: WebUi):
    path = f"/report_asset_materialization/quickstart_mixture?{urlencode({'description': 'forged'})}"
    assert ask(web_ui, "POST", path, FORM, "")[0] == 415


def websocket(web_ui: WebUi, **headers: str | None) -> str:
    """Open the websocket of the pages and return the type of the first answer."""
    address = web_ui.address.replace("http", "ws") + "/graphql"
    origin = headers.pop("origin")
    with connect(
        address, origin=Origin(origin) if origin else None, subprotocols=[Subprotocol("graphql-ws")], proxy=None
    ) as opened:
        opened.send(json.dumps({"type": "connection_init"}))
        return json.loads(opened.recv(timeout=30))["type"]


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1"])
def test_a_websocket_from_another_origin_is_refused(web_ui: WebUi, origin: str):
    with pytest.raises(InvalidStatus) as refused:
        websocket(web_ui, origin=origin)
    assert refused.value.response.status_code == 403


def test_a_websocket_of_its_own_pages_and_of_a_program_is_answered(web_ui: WebUi):
    assert websocket(web_ui, origin=web_ui.address) == "connection_ack"
    assert websocket(web_ui, origin=None) == "connection_ack"


def test_other_pages_may_not_frame_it(web_ui: WebUi):
    connection = http.client.HTTPConnection(urlsplit(web_ui.address).netloc, timeout=60)
    connection.request("GET", f"/jobs/{quote('quickstart_data')}")
    assert connection.getresponse().headers["X-Frame-Options"] == "SAMEORIGIN"


@pytest.mark.parametrize(
    ("host", "own"),
    [
        *(("192.0.2.7:3000", True), ("localhost:3000", True), ("[2001:db8::1]:3000", True), ("gpubox:3000", True)),
        *(("GPUBOX", True), ("gpubox.evil.example:3000", False), ("evil.example", False), ("192.0.2.7.evil", False)),
    ],
)
def test_beyond_loopback_addresses_and_the_machines_name_are_its_own(
    monkeypatch: pytest.MonkeyPatch, host: str, own: bool
):
    monkeypatch.setattr("socket.gethostname", lambda: "GpuBox")
    scope: Scope = {"type": "http", "server": ("192.0.2.7", 3000), "headers": [(b"host", host.encode())]}
    assert (why_foreign(scope) is None) == own
