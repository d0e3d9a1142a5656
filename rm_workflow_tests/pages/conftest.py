"""The pages of a home, asked through Starlette's client: no server, no browser."""

from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from rm_workflow.pages.routes import routes
from rm_workflow_tests.cli.lived_in import LivedIn, live_in


@pytest.fixture(scope="module")
def lived_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LivedIn]:
    """A home with two runs of the quickstart."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("RMW_HOME", str(folder / "home"))
        for name in ("RMW_CATALOG", "RMW_HUB_MIRROR"):
            patch.delenv(name, raising=False)
        yield live_in()


@pytest.fixture(scope="session")
def client() -> TestClient:
    """Asks the pages of the home that RMW_HOME names at the time."""
    return TestClient(Starlette(routes=routes()), base_url="http://127.0.0.1", follow_redirects=False)
