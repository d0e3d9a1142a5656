"""What the hub answers to who writes: repositories, branches, LFS objects and commits.

``POST /api/repos/create``, ``/api/validate-yaml``, ``/api/models/<id>/{branch,preupload,commit}/<name>``,
``/<id>.git/info/lfs/objects/batch``, ``PUT /upload/<sha256>`` and ``POST /verify``, as huggingface_hub 2.4 asks.
"""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from rm_workflow_tests.hub.hub_server import FakeHub

FIRST = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}


class Uploads(BaseHTTPRequestHandler):
    """The writing half of the server."""

    hub: "FakeHub"

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._body()
        if self._is_refused(path):
            return None
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.endswith("/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        if path in ("/api/validate-yaml", "/verify"):
            return self._answer_json(200, {"errors": [], "warnings": []})
        repository, _, rest = path.removeprefix("/api/").partition("/branch/")
        if rest:
            return self._branch(repository, rest)
        repository, _, rest = path.removeprefix("/api/").partition("/preupload/")
        if rest:
            return self._preupload(repository, rest, json.loads(body))
        repository, _, rest = path.removeprefix("/api/").partition("/commit/")
        return self._commit_files(repository, rest, body)

    def do_PUT(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._body()
        if self._is_refused(path):
            return None
        sha256 = path.removeprefix("/upload/")
        if hashlib.sha256(body).hexdigest() != sha256:
            return self._answer_json(400, {"error": "other bytes than announced"})
        self.hub.objects[sha256] = body
        return self._answer_json(200, {})

    def _is_refused(self, path: str) -> bool:
        hub = self.hub
        hub.written.append((f"{self.command} {path}", self.headers.get("Authorization")))
        fault = hub.next_fault(f"{self.command} {path}")
        # An upload's URL is signed; it takes no token.
        is_let_in = path.startswith("/upload/") or self.headers.get("Authorization") == f"Bearer {hub.write_token}"
        status = fault.status or (None if is_let_in else 401)
        if status:
            self._answer_json(status, {"error": "refused"})
        return status is not None

    def _create(self, asked: dict[str, Any]) -> None:
        repository = f"models/{asked['organization']}/{asked['name']}"
        if repository in self.hub.commits:
            return self._answer_json(409, {"error": "there already", "url": f"{self.hub.url}/{repository}"})
        self.hub.visibility[repository] = asked.get("visibility")
        self.hub.put(self._commit_id(FIRST), dict(FIRST), repository)
        return self._answer_json(200, {"url": f"{self.hub.url}/{repository.removeprefix('models/')}"})

    def _branch(self, repository: str, name: str) -> None:
        branches = self.hub.branches.setdefault(repository, {})
        if name in branches:
            return self._answer_json(409, {"error": "there already"})
        branches[name] = self.hub.newest[repository]
        return self._answer_json(200, {})

    def _preupload(self, repository: str, revision: str, asked: dict[str, Any]) -> None:
        if repository not in self.hub.commits:
            return self._answer_json(404, {"error": "no such repository"})
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for file in asked["files"]
        ]
        return self._answer_json(200, {"files": modes})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for one in asked["objects"]:
            upload = {"href": f"{self.hub.url}/upload/{one['oid']}", "header": {}}
            actions = {"actions": {"upload": upload, "verify": {"href": f"{self.hub.url}/verify", "header": {}}}}
            objects.append({**one, **({} if one["oid"] in self.hub.objects else actions)})
        self._answer_json(200, {"transfer": "basic", "objects": objects})

    def _commit_files(self, repository: str, revision: str, body: bytes) -> None:
        hub = self.hub
        before = hub.newest[repository] if revision == "main" else hub.branches[repository][revision]
        files = dict(hub.commits[repository][before])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = hub.objects[value["oid"]]
                hub.large.add(value["path"])
            if line["key"] == "deletedFile":
                del files[value["path"]]
        commit = self._commit_id(files)
        hub.commits[repository][commit] = files
        if revision == "main":
            hub.newest[repository] = commit
        else:
            hub.branches[repository][revision] = commit
        page = f"{hub.url}/{repository.removeprefix('models/')}/commit/{commit}"
        self._answer_json(200, {"success": True, "commitOid": commit, "commitUrl": page})

    def _commit_id(self, files: dict[str, bytes]) -> str:
        digest = hashlib.sha1(str(len(self.hub.written)).encode())
        for name, content in sorted(files.items()):
            digest.update(name.encode() + content)
        return digest.hexdigest()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer_json(self, status: int, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
