"""Each process loads the module of its own verb alone; the command line as a whole is the same."""

import subprocess
import sys
from importlib import import_module

import pytest
import typer

from rm_workflow.cli.main import VERBS


@pytest.mark.parametrize("module", VERBS)
def test_a_module_registers_the_verbs_that_are_listed_with_it(module: str):
    app = typer.Typer()
    import_module(f"rm_workflow.cli.{module}").register(app)
    registered = [command.name for command in app.registered_commands] + [one.name for one in app.registered_groups]
    assert registered == list(VERBS[module])


def test_a_process_loads_its_own_verb_and_the_help_lists_all():
    of_ui = said("-v", "-m", "rm_workflow.cli.main", "ui", "--help")
    assert "Start the web UI" in of_ui.stdout
    assert "import 'rm_workflow.cli.ui'" in of_ui.stderr
    assert "import 'rm_workflow.cli.serve'" not in of_ui.stderr
    help_of_all = said("-m", "rm_workflow.cli.main", "--help").stdout
    assert [verb for verbs in VERBS.values() for verb in verbs if f" {verb} " not in help_of_all] == []


def said(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
