"""Dagster's web server with our lineage pages, for requests of its own pages only; ``waiting_web_server`` runs it."""

from collections.abc import Sequence
from typing import Any

import dagster_webserver.app
from dagster_webserver.cli import cli
from dagster_webserver.webserver import DagsterWebserver
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from rm_workflow.assets.web_guard import OwnRequestsOnly
from rm_workflow.pages.routes import routes


class GuardedWebserver(DagsterWebserver[Any, Any]):
    """Dagster's web server behind the guard."""

    def build_middleware(self) -> list[Middleware]:
        """Return what each request goes through, the guard first."""
        return [Middleware(OwnRequestsOnly), *super().build_middleware()]

    def build_routes(self) -> list[BaseRoute]:
        """Return the routes of all pages; Dagster's last ones take every path."""
        return [*routes(), *super().build_routes()]  # type: ignore[no-untyped-call]


def serve(arguments: Sequence[str]) -> None:
    """Serve until the process is interrupted.

    Args:
        arguments: of ``dagster-webserver``.
    """
    # Dagster has no option for it.
    dagster_webserver.app.DagsterWebserver = GuardedWebserver  # type: ignore[attr-defined]
    cli(list(arguments), auto_envvar_prefix="DAGSTER_WEBSERVER")
