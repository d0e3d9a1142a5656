"""A server on this machine that speaks what huggingface_hub asks of the hub, with faults by the path.

It answers ``/api/{datasets,models}/<id>[/revision/<r>]``, ``.../tree/<commit>``, and HEAD and GET of
``[/datasets]/<id>/resolve/<r>/<file>`` with ``ETag`` (git's hash), ``X-Repo-Commit`` and ranges. Large files are
redirected with ``X-Linked-Etag`` (sha256) and ``X-Linked-Size`` to a signed URL on another host name. What is written
to it: ``hub_uploads.py``.
"""

import hashlib
import json
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from rm_workflow_tests.hub.hub_uploads import Uploads

REPOSITORY = "org/rows"
OLD, NEW = "a" * 40, "b" * 40
SIGNATURE = "X-Amz-Signature=sentinel-of-a-signature"


@dataclass
class Fault:
    """What happens to one request instead of the right answer.

    Attributes:
        status: this status and nothing else.
        headers: in place of the right ones or beside them.
        cut_after: the connection ends after so many bytes of the body, though more were announced.
        reset: it ends with a TCP reset.
        body: these bytes, announced as if they were the file.
        no_ranges: the whole file, whatever range was asked for.
    """

    status: int | None = None
    code: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    reset: bool = False
    body: bytes | None = None
    no_ranges: bool = False


@dataclass(frozen=True)
class Asked:
    """One request as the server saw it."""

    line: str
    range: str | None
    authorization: str | None


@dataclass
class FakeHub:
    """What the server holds.

    Attributes:
        commits: repository -> commit -> file -> bytes; a model's repository is called ``models/<id>``.
        newest: repository -> the commit of ``main``; REPOSITORY starts at OLD.
        large: files that are redirected as LFS files are.
        faults: ``GET <file>``, ``HEAD <file>`` or ``INFO <repository>`` -> faults, used up one by one.
        refusal: (status, error code) of every answer.
        hold: file -> what a GET of it waits for.
        branches: repository -> branch beside main -> its commit.
        objects: sha256 -> an uploaded large file.
        visibility: repository that was made here -> what was asked for.
        write_token: who has it may write.
        written: each request that writes, with its authorization.
    """

    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    newest: dict[str, str] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    refusal: tuple[int, str] | None = None
    hold: dict[str, threading.Event] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    branches: dict[str, dict[str, str]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    visibility: dict[str, str | None] = field(default_factory=dict)
    write_token: str = "hf_sentinelOfAWriteToken"
    written: list[tuple[str, str | None]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def put(self, commit: str, files: dict[str, bytes], repository: str = REPOSITORY) -> None:
        """Publish files at a commit, which becomes the newest; the others of the commit stay."""
        self.commits.setdefault(repository, {}).setdefault(commit, {}).update(files)
        self.newest[repository] = commit

    def fail(self, what: str, *faults: Fault) -> None:
        self.faults.setdefault(what, []).extend(faults)

    def next_fault(self, what: str) -> Fault:
        waiting = self.faults.get(what)
        return waiting.pop(0) if waiting else Fault()

    def lines(self, start: str = "") -> list[str]:
        return [asked.line for asked in self.asked if asked.line.startswith(start)]

    def ranges(self, file: str) -> list[str | None]:
        """Return the ranges asked of a file, one for each GET; None is the whole file."""
        return [
            asked.range
            for asked in self.asked
            if asked.line.startswith("GET ") and asked.line.split("?")[0].endswith(file)
        ]


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(Uploads):
    hub: FakeHub
    other_headers: Mapping[str, str] = {}

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self) -> None:
        hub, headers = self.hub, self.headers
        hub.asked.append(Asked(f"{self.command} {self.path}", headers.get("Range"), headers.get("Authorization")))
        if hub.refusal:
            return self._refuse(*hub.refusal)
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/"):
            return self._info(path.removeprefix("/api/").removeprefix("datasets/"))
        if path.startswith("/large/"):
            return self._bytes(*path.removeprefix("/large/").split("@", 2))
        return self._resolve(path.removeprefix("/datasets/").lstrip("/"))

    def _info(self, path: str) -> None:
        repository, _, rest = path.partition("/revision/")
        repository, _, tree = repository.partition("/tree/")
        tree, _, folder = tree.partition("/")
        commits = self.hub.commits.get(repository)
        fault = self.hub.next_fault(f"INFO {repository}")
        if fault.status:
            return self._refuse(fault.status, fault.code, fault.headers)
        if commits is None:
            return self._refuse(404, "RepoNotFound")
        commit = self._commit(repository, rest or tree or "main")
        if commit not in commits:
            return self._refuse(404, "RevisionNotFound")
        if tree:
            inside = [one for one in commits[commit].items() if one[0].startswith(folder)]
            return self._json([self._entry(*one) for one in inside]) if inside else self._refuse(404, "EntryNotFound")
        siblings = [{"rfilename": name} for name in commits[commit]]
        return self._json({"id": repository.removeprefix("models/"), "sha": commit, "siblings": siblings})

    def _entry(self, name: str, content: bytes) -> dict[str, object]:
        entry: dict[str, object] = {"type": "file", "path": name, "size": len(content), "oid": git_hash(content)}
        if name in self.hub.large:
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return entry

    def _commit(self, repository: str, revision: str) -> str:
        if revision == "main":
            return self.hub.newest[repository]
        return self.hub.branches.get(repository, {}).get(revision, revision)

    def _resolve(self, path: str) -> None:
        repository, _, rest = path.partition("/resolve/")
        repository = repository if repository in self.hub.commits else f"models/{repository}"
        if repository not in self.hub.commits:
            return self._refuse(404, "RepoNotFound")
        revision, file = rest.split("/", 1)
        commit = self._commit(repository, revision)
        files = self.hub.commits[repository].get(commit)
        if files is None:
            return self._refuse(404, "RevisionNotFound")
        if self.command == "HEAD":
            fault = self.hub.next_fault(f"HEAD {file}")
            if fault.status:
                return self._refuse(fault.status, fault.code, fault.headers)
            self.other_headers = fault.headers
        if file not in files:
            return self._refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
        if file not in self.hub.large:
            return self._bytes(repository, commit, file)
        content = files[file]
        linked = {
            "X-Repo-Commit": commit,
            "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Linked-Size": str(len(content)),
            "Location": f"http://localhost:{self.hub.port}/large/{repository}@{commit}@{file}?{SIGNATURE}",
        }
        return self._send(302, b"", linked)

    def _bytes(self, repository: str, commit: str, file: str) -> None:
        content = self.hub.commits[repository][commit][file]
        headers = {"ETag": f'"{git_hash(content)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if self.command == "HEAD":
            return self._send(200, content, headers)
        if file in self.hub.hold:
            self.hub.hold[file].wait(10)
        fault = self.hub.next_fault(f"GET {file}")
        if fault.status:
            return self._refuse(fault.status, fault.code, fault.headers)
        content = content if fault.body is None else fault.body
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if start and not fault.no_ranges:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self._send(206, content[start:], headers, fault)
        return self._send(200, content, headers, fault)

    def _refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, b"", {**({"X-Error-Code": code} if code else {}), **(headers or {})})

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str], fault: Fault | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body)), **self.other_headers}.items():
            self.send_header(name, value)
        self.end_headers()
        cut = fault.cut_after if fault else None
        if self.command == "GET":
            self.wfile.write(body[:cut])
        if fault and fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that were killed."""


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve a hub on a free port of this machine while the block runs."""
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.port = server.server_port
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
