"""A twin on the Hub: pushed to a server on this machine that speaks its protocol, and opened from there."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from huggingface_hub import ModelCard

from textsiam.models.ensemble import Ensemble
from textsiam.models.twin import Twin


class FakeHub(ThreadingHTTPServer):
    """Repositories by name, commits by branch, files by path."""

    daemon_threads = True

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, Any]] = {}
        self.uploaded: dict[str, bytes] = {}
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def files(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]]:
        """Return the commit that a revision stands for, and its files."""
        known = self.repos[repo]
        commit = known["branches"].get(revision, revision)
        return commit, known["commits"][commit]


class Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def answer(self, status: int, value: object = None, body: bytes = b"", **headers: str) -> None:
        body = json.dumps(value).encode() if value is not None else body
        self.send_response(status)
        for name, text in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def refused(self) -> bool:
        if self.headers.get("Authorization") == "Bearer hf_good":
            return False
        self.answer(401, {"error": "Invalid username or password."})
        return True

    def do_PUT(self) -> None:
        content = self.body()
        assert hashlib.sha256(content).hexdigest() == self.path.rpartition("/")[2]
        self.server.uploaded[self.path.rpartition("/")[2]] = content
        self.answer(200, {})

    def do_POST(self) -> None:
        content, path = self.body(), unquote(self.path.partition("?")[0])
        if self.refused():
            return
        if path == "/api/validate-yaml":
            assert yaml.safe_load(json.loads(content)["content"].split("---")[1])["library_name"]
            self.answer(200, {"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            asked = json.loads(content)
            name = f"{asked.get('organization') or 'anna'}/{asked['name']}"
            fresh = {"branches": {"main": "0" * 40}, "commits": {"0" * 40: {}}}
            known = self.server.repos.setdefault(name, fresh | {"private": asked.get("visibility") == "private"})
            self.answer(200 if known["branches"] == {"main": "0" * 40} else 409, {"url": f"{self.server.url}/{name}"})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                one | {"actions": {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}"}}}
                for one in json.loads(content)["objects"]
            ]
            self.answer(200, {"transfer": "basic", "objects": objects})
        else:
            found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(branch|preupload|commit)/(.+)", path)
            assert found, path
            repo, what, branch = found.groups()
            getattr(self, what)(self.server.repos[repo], repo, branch, content)

    def branch(self, known: dict[str, Any], repo: str, branch: str, content: bytes) -> None:
        known["branches"].setdefault(branch, known["branches"]["main"])
        self.answer(200, {})

    def preupload(self, known: dict[str, Any], repo: str, branch: str, content: bytes) -> None:
        files = [
            {"path": one["path"], "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
             "shouldIgnore": False}
            for one in json.loads(content)["files"]
        ]  # fmt: skip
        self.answer(200, {"files": files})

    def commit(self, known: dict[str, Any], repo: str, branch: str, content: bytes) -> None:
        files = dict(known["commits"][known["branches"][branch]])
        for line in map(json.loads, content.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.uploaded[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = hashlib.sha1(content).hexdigest()
        known["commits"][oid], known["branches"][branch] = files, oid
        self.answer(200, {"commitUrl": f"{self.server.url}/{repo}/commit/{oid}", "commitOid": oid})

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        about = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if about is None and file is None:
            self.answer(404, {"error": "not found"})
            return
        try:
            repo, revision = (about[1], about[3] or "main") if about else (file[1], file[2])
            commit, files = self.server.files(repo, revision)
            hidden = self.server.repos[repo]["private"] and self.refused()
        except KeyError:
            self.answer(404, {"error": "not found"}, X_Error_Code="RepoNotFound")
            return
        if hidden:
            return
        if about:
            listed = [
                {
                    "type": "file",
                    "path": name,
                    "rfilename": name,
                    "size": len(body),
                    "oid": hashlib.sha1(body).hexdigest(),
                }
                for name, body in files.items()
            ]
            info = {"id": repo, "sha": commit, "siblings": listed, "private": False, "tags": []}
            self.answer(200, listed if about[2] == "tree" else info)
        elif file[3] in files:
            body = files[file[3]]
            self.answer(200, None, body, ETag=f'"{hashlib.sha1(body).hexdigest()}"', X_Repo_Commit=commit)
        else:
            self.answer(404, None, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=commit)

    do_HEAD = do_GET


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


SCRIPT = """
import contextlib, io, json, os, sys
import numpy as np
from textsiam import Ensemble, Twin
from textsiam.cli import main
from textsiam.models.ensemble import open_scorer

first, second, ensemble = sys.argv[1:]
said, told = [], {}


def command(*arguments):
    sys.argv = ["textsiam", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main()
        except SystemExit as end:
            return [int(end.code or 0), out.getvalue(), err.getvalue()]


told["refused"] = command("push", first, "anna/forum")
os.environ["HF_TOKEN"] = "hf_good"
told["pushed"] = command("push", first, "anna/forum", "--private", "--json")
told["url"] = Twin.from_pretrained(second).push_to_hub("anna/forum", revision="next")
open_scorer(ensemble).push_to_hub("anna/both")
texts = ["Why is the sky blue?", "How do I sort a list?"]


def same(found, folder):
    return bool(np.array_equal(found.encode(texts), open_scorer(folder).encode(texts)))


told["main"] = same(Twin.from_pretrained("anna/forum", token="hf_good"), first)
told["next"] = same(Twin.from_pretrained("anna/forum", revision="next"), second)
told["at"] = same(open_scorer("anna/forum@next"), second)
told["both"] = [same(open_scorer("anna/both"), ensemble), same(Ensemble.from_pretrained("anna/both"), ensemble)]
told["local"] = same(Twin.from_pretrained("anna/forum", local_files_only=True), first)
told["decision"] = Twin.from_pretrained("anna/forum").decision.threshold
told["scored"] = command("score", "anna/forum@next", *texts, "--json")
for name, arguments in {"nowhere": {"revision": "nowhere"}, "absent": {"local_files_only": True}}.items():
    try:
        Twin.from_pretrained("anna/other" if name == "absent" else "anna/forum", **arguments)
    except ValueError as error:
        told[name] = str(error)
print(json.dumps(told))
"""


def test_a_round_trip(hub: FakeHub, twin: Twin, pairs, tmp_path: Path) -> None:
    twin.provenance = {"measured": [{"twin": "trained", "AP": 0.875, "accuracy": 0.75}], "model": "owner/base"}
    twin.calibrate(pairs).save_pretrained(tmp_path / "first")
    Ensemble([twin, twin]).save_pretrained(tmp_path / "both")
    twin.left[0].model.embeddings.word_embeddings.weight.data += 1
    twin.save_pretrained(tmp_path / "second")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    folders = [str(tmp_path / name) for name in ("first", "second", "both")]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *folders], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["refused"][0] == 1
    assert "cannot push to 'anna/forum': " in told["refused"][2]
    assert "401" in told["refused"][2]
    assert told["refused"][2].strip().endswith("; the token is read from HF_TOKEN")
    assert json.loads(told["pushed"][1])["url"].startswith(f"{hub.url}/anna/forum/commit/")
    assert hub.repos["anna/forum"]["private"] is True
    assert told["url"] == f"{hub.url}/anna/forum/commit/{hub.repos['anna/forum']['branches']['next']}"
    assert [told[name] for name in ("main", "next", "at", "local")] == [True] * 4
    assert told["both"] == [True, True]
    assert told["decision"] == twin.decision.threshold
    assert told["scored"][0] == 0
    assert "nowhere" in told["nowhere"]
    assert "anna/other" in told["absent"]
    _, files = hub.files("anna/forum", "main")
    assert files.keys() == {str(p.relative_to(folders[0])) for p in Path(folders[0]).rglob("*") if p.is_file()}
    card = ModelCard(files["README.md"].decode())
    assert 'Twin.from_pretrained("anna/forum")' in card.text
    assert [(r.metric_type, r.metric_value) for r in card.data.eval_results] == [
        ("average_precision", 0.875),
        ("accuracy", 0.75),
    ]
    assert card.data.base_model == "owner/base"
