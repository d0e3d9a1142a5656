"""What every request passes before anything reads it: token, size, time and encoding of its body; and its count."""

import asyncio
import hmac
import json
import time
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rm_workflow.serving.limits import Limits
from rm_workflow.serving.metrics import Metrics
from rm_workflow.serving.refusals import RefusedError

HEALTH = "/health"
# A body beyond this is cut off without an answer that is sure to be heard.
HEARD_OUT_BYTES = 256_000_000
# What tells how to ask is no secret; what asks the model, and how much it was asked, is.
OPEN = frozenset({HEALTH, "/docs", "/openapi.json"})


class Gate:
    """An ASGI middleware around the whole application.

    Args:
        token: that requests must bear, or None.
    """

    def __init__(self, app: ASGIApp, limits: Limits, token: str | None, metrics: Metrics) -> None:
        self._app, self._limits, self._token, self._metrics = app, limits, token, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 500

        async def count_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            headers = {name.lower(): found for name, found in scope["headers"]}
            self._check_token(scope["path"], headers)
            body = await self._body(headers, receive)
            await self._app(scope, _replayed(body, receive), count_status)
        except RefusedError as refused:
            await _answer(refused, count_status)
        except ClientGoneError:
            status = 499  # as nginx calls it; nobody reads an answer
        finally:
            self._metrics.count_request(scope["path"], status, time.monotonic() - started)

    def _check_token(self, path: str, headers: Mapping[bytes, bytes]) -> None:
        if self._token is None or path in OPEN:
            return
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._token.encode()):
            raise RefusedError(
                401,
                "header Authorization must be 'Bearer TOKEN' with this server's token",
                {"www-authenticate": "Bearer"},
            )

    async def _body(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        try:
            async with asyncio.timeout(self._limits.seconds):
                body = await self._read(receive, headers.get(b"content-length", b""))
        except TimeoutError:
            raise RefusedError(
                408, f"the body did not come within {self._limits.seconds:g} s; send it at once"
            ) from None
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise RefusedError(400, f"the body is not UTF-8 at byte {error.start}; send JSON in UTF-8") from None
        return body

    async def _read(self, receive: Receive, length: bytes) -> bytes:
        body = bytearray()
        num_bytes = int(length) if length.isdigit() else 0
        is_too_large, num_read = num_bytes > self._limits.max_bytes, 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            piece = message.get("body", b"")
            num_read += len(piece)
            is_too_large = is_too_large or num_read > self._limits.max_bytes
            # A client that is still sending hears no answer: what is too large is thrown away as it comes.
            if is_too_large:
                body.clear()
            else:
                body += piece
            if is_too_large and (not message.get("more_body") or num_read > HEARD_OUT_BYTES):
                raise RefusedError(
                    413,
                    f"the body is larger than {self._limits.megabytes:g} MB; send fewer conversations in one request",
                )
            if not message.get("more_body"):
                return bytes(body)


class ClientGoneError(Exception):
    """The client closed the connection before its request was there."""


def _replayed(body: bytes, receive: Receive) -> Receive:
    is_given = False

    async def replay() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _answer(refused: RefusedError, send: Send) -> None:
    content = json.dumps(refused.body(), ensure_ascii=False).encode("utf-8", "replace")
    headers = {"content-type": "application/json", "content-length": str(len(content)), **refused.headers}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": pairs})
    await send({"type": "http.response.body", "body": content})
