import socket

import pytest


@pytest.fixture(autouse=True)
def _no_waiting(waits: list[float]) -> None:
    """Wait for nothing in these tests."""


@pytest.fixture
def unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
