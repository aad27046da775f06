"""A Hugging Face Hub in memory, on 127.0.0.1: just enough to create, fill, list and download repositories.

The client reads its environment when it is imported: `StubHub.environment` is for a process of its own, and
`StubHub.connect` turns the client of this one.
"""

import base64
import hashlib
import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from huggingface_hub import close_session, constants

REPO = r"(?P<repo>[^/]+/[^/]+)"
API = rf"/api/(?:models|datasets)/{REPO}"
FILES = rf"/(?:datasets/)?{REPO}"
LARGE = (".parquet",)  # uploaded by Git LFS; the rest comes with the commit


class StubHub:
    """`repos` maps a name to its commits, oldest first; a commit is (hash, {path: content}); `private` holds names."""

    def __init__(self, user="tester"):
        self.user = user
        self.repos = {}
        self.private = set()
        self.blobs = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.server.shutdown()
        self.server.server_close()

    def files(self, repo):
        """The files of the newest commit."""
        return self.repos[repo][-1][1]

    def environment(self, home):
        """The variables with which a client talks to this Hub and keeps its cache in `home`."""
        here = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_TOKEN": "hf_stub", "HF_HUB_DISABLE_XET": "1"}
        return {**os.environ, **here, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}

    def connect(self, monkeypatch, home):
        """Let the client in this process talk to this Hub while a test runs, and keep its cache in `home`."""
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "127.0.0.1")
        monkeypatch.setenv("HF_TOKEN", "hf_stub")
        settings = {
            "ENDPOINT": self.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": self.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(home),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
        }
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value)
        # transformers keeps a client of its own, with the address of the Hub that it was made with
        monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)
        close_session()  # it was opened with the old environment


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub = None

    def handle_request(self):
        path = unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for method, pattern, answer in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method:
                return answer(self, **match.groupdict())
        self.fail("NotImplemented")

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def log_message(self, *arguments):
        pass

    def send(self, body, status=200, **headers):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def fail(self, code):
        self.send({"error": code}, status=404, X_Error_Code=code, X_Error_Message=code)

    def commit_at(self, repo, revision):
        """A commit by hash or branch; answers 404 and gives None if there is no such repository or commit."""
        if repo not in self.hub.repos:
            return self.fail("RepoNotFound")
        commits = {sha: (sha, files) for sha, files in self.hub.repos[repo]}
        commits["main"] = self.hub.repos[repo][-1]
        return commits.get(revision or "main") or self.fail("RevisionNotFound")

    def validate(self):
        self.send({"errors": [], "warnings": []})

    def create(self):
        wanted = json.loads(self.body)
        name = f"{wanted.get('organization') or self.hub.user}/{wanted['name']}"
        status = 409 if name in self.hub.repos else 200
        if status == 200 and wanted.get("visibility") == "private":
            self.hub.private.add(name)
        self.hub.repos.setdefault(name, [("0" * 40, {})])
        self.send({"url": f"{self.hub.url}/{name}", "name": name, "id": name}, status=status)

    def preupload(self, repo, revision):
        modes = {
            file["path"]: "lfs" if file["path"].endswith(LARGE) else "regular"
            for file in json.loads(self.body)["files"]
        }
        self.send({"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]})

    def lfs_batch(self, repo):
        objects = json.loads(self.body)["objects"]
        for item in objects:
            item["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}
        self.send({"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")

    def lfs_upload(self, blob):
        self.hub.blobs[blob] = self.body
        self.send({})

    def commit(self, repo, revision):
        files = dict(self.hub.files(repo))
        for operation in map(json.loads, self.body.splitlines()):
            if operation["key"] == "file":
                files[operation["value"]["path"]] = base64.b64decode(operation["value"]["content"])
            elif operation["key"] == "lfsFile":
                files[operation["value"]["path"]] = self.hub.blobs[operation["value"]["oid"]]
            elif operation["key"] == "deletedFile":
                files.pop(operation["value"]["path"])
        sha = hashlib.sha1(self.body).hexdigest()
        self.hub.repos[repo].append((sha, files))
        url = f"{self.hub.url}/{repo}/commit/{sha}"
        self.send({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def info(self, repo, revision=None):
        if commit := self.commit_at(repo, revision):
            siblings = [{"rfilename": path} for path in commit[1]]
            about = {"private": repo in self.hub.private, "tags": [], "siblings": siblings}
            self.send({"_id": "0", "id": repo, "sha": commit[0], **about})

    def tree(self, repo, revision):
        if commit := self.commit_at(repo, revision):
            self.send(
                [{"type": "file", "path": p, "size": len(data), "oid": oid(data)} for p, data in commit[1].items()]
            )

    def resolve(self, repo, revision, path):
        if commit := self.commit_at(repo, revision):
            sha, files = commit
            if path not in files:
                return self.fail("EntryNotFound")
            self.send(files[path], ETag=f'"{oid(files[path])}"', X_Repo_Commit=sha)


def oid(content):
    """git's hash of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


ROUTES = [
    (["POST"], "/api/validate-yaml", _Handler.validate),
    (["POST"], "/api/repos/create", _Handler.create),
    (["POST"], rf"{API}/preupload/(?P<revision>[^/]+)", _Handler.preupload),
    (["POST"], rf"{FILES}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    (["PUT"], r"/lfs/(?P<blob>[^/]+)", _Handler.lfs_upload),
    (["POST"], rf"{API}/commit/(?P<revision>[^/]+)", _Handler.commit),
    (["GET"], rf"{API}/tree/(?P<revision>[^/]+)", _Handler.tree),
    (["GET"], rf"{API}(?:/revision/(?P<revision>[^/]+))?", _Handler.info),
    (["GET", "HEAD"], rf"{FILES}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
]
