from pathlib import Path

import pytest

from rm_workflow_tests.reporting.published import Home, quickstart_home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home that holds nothing yet; ``publish`` or ``evidence`` writes what stands behind a checkpoint."""
    return quickstart_home(tmp_path / "home")
