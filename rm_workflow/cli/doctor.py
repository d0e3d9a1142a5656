"""``rmw doctor``: what of this machine and home would stop work or spoil it, and what to do about it."""

import dataclasses
import sys

import typer

from rm_workflow.cli.output import print_json, print_table
from rm_workflow.cli.run import JsonOption
from rm_workflow.settings import load_settings


def register(app: typer.Typer) -> None:
    """Add this group's verb."""
    app.command("doctor")(doctor_command)


def doctor_command(json_: JsonOption = False) -> None:
    """Look at versions, device, memory, disk, limits and the home; exit 1 where something would stop work."""
    from rm_workflow.doctor import examine

    findings = list(examine(load_settings()))
    if json_:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        print_table("doctor", [dataclasses.asdict(finding) for finding in findings])
    if any(finding.level == "error" for finding in findings):
        sys.exit(1)
