"""Where ``rmw ui`` listens; that a real one obeys is tested with the web UI itself."""

import socket
from collections.abc import Callable
from importlib import metadata

import pytest

from rm_workflow.assets import web_ui
from rm_workflow.pages import addresses
from rm_workflow_tests.cli.conftest import Answer, Project

Rmw = Callable[..., Answer]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the arguments with which Dagster would have been started."""
    arguments: list[str] = []
    monkeypatch.setattr(web_ui, "serve", arguments.extend)
    return arguments


def listens_on(started: list[str]) -> str:
    return started[started.index("-h") + 1]


@pytest.mark.parametrize("host", [(), ("--host", "127.0.0.1"), ("--host", "::1")])
def test_on_loopback_there_is_no_warning(project: Project, rmw: Rmw, started: list[str], host: tuple[str, ...]):
    answer = rmw("ui", *host)
    assert answer.code == 0, answer.err
    assert listens_on(started) == (host[-1] if host else "127.0.0.1")
    assert "warning" not in answer.err


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::"])
def test_elsewhere_it_warns_that_there_is_no_login(project: Project, rmw: Rmw, started: list[str], host: str):
    answer = rmw("ui", "--host", host)
    assert answer.code == 0
    assert listens_on(started) == host
    assert f"warning: the web UI has no login: whoever reaches {host} port 3000 can run code here" in answer.err


@pytest.mark.parametrize(
    ("host", "shown"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"), ("192.0.2.7", "192.0.2.7")]
)
def test_the_address_that_is_printed_can_be_opened(
    project: Project, rmw: Rmw, started: list[str], host: str, shown: str
):
    assert f"web UI: http://{shown}:3000{addresses.START} " in rmw("ui", "--host", host).err


@pytest.mark.parametrize("host", ["localhost", "evil.example", "0", "", "127.0.0.1 -p 1", "$(id)"])
def test_what_is_no_address_is_refused_before_anything_starts(
    project: Project, rmw: Rmw, started: list[str], host: str
):
    answer = rmw("ui", "--host", host)
    assert answer.code == 2
    assert "--host" in answer.error
    assert "is no IP address" in answer.error
    assert started == []


def test_a_port_in_use_is_told_before_anything_starts(project: Project, rmw: Rmw, started: list[str]):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        answer = rmw("ui", "--port", str(port))
    assert answer.code == 1
    assert answer.error == f"error: port {port} of 127.0.0.1 is in use by another program; name another with --port"
    assert started == []


def test_the_version_is_that_of_the_package(rmw: Rmw):
    answer = rmw("--version")
    assert (answer.code, answer.out) == (0, f"rmw {metadata.version('rm_workflow')}\n")
