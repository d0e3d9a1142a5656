"""What the shell is offered, by the protocol that typer's completion script speaks."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rm_workflow.cli import completion
from rm_workflow_tests.cli.conftest import Answer, Project

Rmw = Callable[..., Answer]
# The script asks a program of its own each time; what it must not load would make each TAB a wait.
ASKED = """
import sys
from rm_workflow.cli.main import main
sys.argv = ["rmw"]
try:
    main()
finally:
    print([name for name in ("torch", "transformers", "trl") if name in sys.modules], file=sys.stderr)
"""


def asked(project: Project, words: str) -> subprocess.CompletedProcess[str]:
    variables = {"_RMW_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    return subprocess.run(
        [sys.executable, "-c", ASKED],
        cwd=project.folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_tab_completes_the_recipes_of_the_package_and_the_users_own_without_torch(project: Project):
    done = asked(project, "rmw plan ")
    assert {"toy", "quickstart", "rm_mistral_7b"} <= set(done.stdout.split())
    assert done.stderr.splitlines()[-1] == "[]"


def test_names_are_those_of_files_and_folders(project: Project, monkeypatch: pytest.MonkeyPatch):
    assert completion.recipes("quickstart_r") == ["quickstart_regression"]
    assert completion.sources("to") == ["toy"]
    assert completion.pair_sets("to") == ["toy"]
    assert "sample_rewardbench2" in completion.benchmarks("sample_")
    assert completion.assets("") == []
    for asset in ("toy_checkpoint", "toy_mixture"):
        (project.home / "artifacts" / asset).mkdir(parents=True)
    assert completion.assets("toy_") == ["toy_checkpoint", "toy_mixture"]
    assert completion.checkpoints("") == ["toy_checkpoint"]


def test_a_wrong_environment_is_no_reason_to_say_something_in_a_completion(
    project: Project, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RMW_DEVICE", "abacus")
    assert completion.recipes("toy") == []
    assert completion.assets("") == []


def test_completion_can_be_shown_and_installed(project: Project, rmw: Rmw, tmp_path: Path):
    options = rmw("--help").out
    assert "--install-completion" in options
    assert "--show-completion" in options
    # The shell is told by its process; a bash that asks is a bash that gets its own script.
    shown = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m rm_workflow.cli.main --show-completion; true"],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "_RMW_COMPLETE=complete_bash" in shown.stdout
