"""``rmw ui``: the Dagster web UI with its daemon, on the project's own DAGSTER_HOME."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from rm_workflow.artifacts import prepare_home
from rm_workflow.assets.instance import end_dead_runs, open_instance
from rm_workflow.errors import UserError
from rm_workflow.settings import load_settings

LOOPBACK = "127.0.0.1"


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command("ui")(ui_command)


def ui_command(port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 3000) -> None:
    """Start the web UI with schedules on loopback; it has no login, so it listens nowhere else."""
    settings = load_settings()
    prepare_home(settings.home)
    with open_instance(settings) as instance:
        end_dead_runs(instance)
    dagster = Path(sys.executable).with_name("dagster")
    if not dagster.exists():
        raise UserError(f"the dagster command is missing beside {sys.executable}; install the project with pip again")
    arguments = ["dev", "-m", "rm_workflow.definitions", "-h", LOOPBACK, "-p", str(port)]
    if settings.project and (settings.project / "workspace.yaml").exists():
        os.chdir(settings.project)
        arguments = ["dev", "-w", "workspace.yaml", "-h", LOOPBACK, "-p", str(port)]
    typer.echo(f"web UI: http://{LOOPBACK}:{port}  (home: {settings.home}; Ctrl-C ends it)", err=True)
    os.execv(dagster, [str(dagster), *arguments])
