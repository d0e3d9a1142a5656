from collections.abc import Iterator
from pathlib import Path

import pytest

from rm_workflow_tests.evaluation.checkpoints import write_checkpoint
from rm_workflow_tests.serving.servers import Server, start


@pytest.fixture(scope="package")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="package")
def server(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server with small limits that many tests ask."""
    options = ("--max-candidates", "100", "--max-megabytes", "1", "--batch-tokens", "512")
    running = start(checkpoint, tmp_path_factory.mktemp("home"), *options)
    yield running
    assert running.stop() == 0
