"""Whose requests the web UI obeys: those of its own pages and of programs on this machine, of no other web page.

The web UI has no login, and a browser sends it what any open page asks for. Three things betray such a page:

- ``Host`` is a name of the page's own, which its owner lets point here (DNS rebinding)
- ``Origin``, which browsers add to every POST and websocket, and pages cannot change, is not this server
- it is a request that a browser sends to foreign servers without ``Origin`` or asking them first: a GET, as a link or a
  picture makes it, or a form. So no GET runs GraphQL, and what is sent must be JSON.

Programs send no ``Origin`` and a ``Host`` that they were given, and notice nothing. The port in ``Host`` is not looked
at: it is another one behind ``ssh -L``.
"""

import re
import socket
from ipaddress import ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?")
GRAPHQL = "/graphql"
READING = ("GET", "HEAD")
POLICY_VIOLATION = 1008  # close code of RFC 6455, section 7.4.1


class OwnRequestsOnly:
    """ASGI middleware that answers other web pages' requests with 403 or 415 and one sentence."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        refused = why_foreign(scope)
        if refused and scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": refused})
        if refused:
            return await PlainTextResponse(f"{refused}\n", status_code=403)(scope, receive, send)
        if scope["type"] == "http" and (unsafe := why_unsafe(scope)):
            return await PlainTextResponse(f"{unsafe}\n", status_code=415)(scope, receive, send)
        return await self.app(scope, receive, _unframed(send))


def why_foreign(scope: Scope) -> str | None:
    """Return a sentence if a request was not meant for this server or comes from another server's page."""
    headers = Headers(scope=scope)
    hosts, origins = headers.getlist("host"), headers.getlist("origin")
    if len(hosts) != 1 or not _is_own(hosts[0], _local_address(scope)):
        told = ", ".join(hosts)
        return f"refused: {told!r} (header Host) is no name of this server; open the address that rmw ui printed"
    if any(origin.lower() != f"http://{hosts[0]}".lower() for origin in origins):
        told = ", ".join(origins)
        return f"refused: {told!r} (header Origin) is not http://{hosts[0]}; only its own pages may ask this server"
    return None


def why_unsafe(scope: Scope) -> str | None:
    """Return a sentence if a request is one that browsers let any page send, and would change something."""
    headers = Headers(scope=scope)
    if scope["method"] in READING:
        # Dagster answers with the page of its GraphQL editor where one is asked for, and runs nothing.
        runs_query = scope["path"].endswith(GRAPHQL) and "text/html" not in headers.get("accept", "")
        return "refused: GraphQL is answered to POST alone, with a JSON body" if runs_query else None
    kinds = [kind.partition(";")[0].strip().lower() for kind in headers.getlist("content-type")]
    if kinds != ["application/json"]:
        return "refused: what is sent here must be JSON, with the header Content-Type: application/json"
    return None


def _local_address(scope: Scope) -> str:
    """Return the address of this machine at which the request arrived."""
    server: tuple[str, int | None] = scope["server"]
    return server[0]


def _is_own(host: str, arrived_at: str) -> bool:
    """Return whether a ``Host`` names this machine by what no stranger can let point here.

    Who listens beyond loopback is also reached by any address (a container's is not the one that is typed) and by the
    machine's name.
    """
    parts = HOST.fullmatch(host.lower())
    if not parts:
        return False
    name = parts["name"].strip("[]")
    beyond_loopback = not ip_address(arrived_at).is_loopback
    try:
        return ip_address(name).is_loopback or beyond_loopback
    except ValueError:
        return name == "localhost" or (beyond_loopback and name == socket.gethostname().lower())


def _unframed(send: Send) -> Send:
    """Forbid other pages to show these pages in a frame, in which a click can be stolen."""

    async def send_unframed(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["X-Frame-Options"] = "SAMEORIGIN"
        await send(message)

    return send_unframed
