"""``rmw ui``: the Dagster web UI with its daemon, on the project's own DAGSTER_HOME."""

import os
import sys
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated

import typer

from rm_workflow.artifacts import ArtifactStore, prepare_home
from rm_workflow.assets.failures import record_dead_runs
from rm_workflow.assets.instance import open_instance
from rm_workflow.settings import load_settings

LOOPBACK = "127.0.0.1"
WEB_UI = "rm_workflow.assets.web_ui"
IPV6 = 6
EVERYWHERE = {"0.0.0.0": LOOPBACK, "::": "::1"}


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command("ui")(ui_command)


def ui_command(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 3000,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="IP address to listen on; it has no login.")] = LOOPBACK,
) -> None:
    """Start the web UI with schedules, on loopback alone unless --host says otherwise: it has no login.

    It obeys its own pages and programs; what another page in a browser sends it (Host, Origin) is refused.
    """
    address = _address(host)
    settings = load_settings()
    prepare_home(settings.home)
    with open_instance(settings) as instance:
        record_dead_runs(instance, ArtifactStore(settings.home))
    listen = ["-h", str(address), "-p", str(port)]
    arguments = ["dev", "-m", "rm_workflow.definitions", *listen]
    if settings.project and (settings.project / "workspace.yaml").exists():
        os.chdir(settings.project)
        arguments = ["dev", "-w", "workspace.yaml", *listen]
    if not address.is_loopback:
        typer.echo(
            f"warning: the web UI has no login: whoever reaches {address} port {port} can run code here as you, read "
            "all data and delete it; let no network reach it that you do not trust",
            err=True,
        )
    # The address that stands for all of this machine is none to ask for.
    asked = EVERYWHERE.get(str(address), str(address))
    shown = f"[{asked}]" if address.version == IPV6 else asked
    typer.echo(f"web UI: http://{shown}:{port}  (home: {settings.home}; Ctrl-C ends it)", err=True)
    os.execv(sys.executable, [sys.executable, "-m", WEB_UI, *arguments])


def _address(text: str) -> IPv4Address | IPv6Address:
    """Return an IP address; a name could be that of another network tomorrow."""
    try:
        return ip_address(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no IP address; write one of this machine, as 127.0.0.1", param_hint="--host"
        ) from None
