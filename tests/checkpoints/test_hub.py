"""Downloads from a small Hub on loopback that cuts, corrupts, and has several revisions."""

import hashlib
import http.server
import json
import pathlib

import pytest
from checkpoints.test_download import CONTENT, SHA256, Site, corrupt, cut, finish, start

from keras_vit.checkpoints import download
from keras_vit.checkpoints.download import resolve

# --- the Hub ---


class HubHandler(http.server.BaseHTTPRequestHandler):
    """As much of the Hub's interface as huggingface_hub asks for. `site.repos`: {repo: {revision or commit: {file: bytes}}}."""

    def log_message(self, *args):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        site = self.server
        path = download.urllib.parse.unquote(self.path.partition("?")[0])
        with site.lock:
            site.requests.append((self.command, path))
        parts = path.removeprefix("/api/models").strip("/").split("/")
        repo = "/".join(parts[:2])
        if repo == "some/gated":
            return self.answer(403, X_Error_Code="GatedRepo")
        if repo == "some/refused":
            return self.answer(403)
        if repo not in site.repos:
            return self.answer(404, X_Error_Code="RepoNotFound")
        rest = "/".join(parts[3:]) or "main"
        revision = next((r for r in site.repos[repo] if rest == r or rest.startswith(r + "/")), None)
        if revision is None:
            return self.answer(404, X_Error_Code="RevisionNotFound")
        files = site.repos[repo][revision]
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        site.repos[repo][commit] = files
        if path.startswith("/api/models"):
            entries = [
                {"type": "file", "path": n, "size": len(b), "oid": hashlib.sha1(b).hexdigest(), **lfs(n, b)} for n, b in files.items()
            ]
            info = {"id": repo, "modelId": repo, "sha": commit, "siblings": [{"rfilename": n} for n in files]}
            return self.answer(200, json.dumps(entries if parts[2:3] == ["tree"] else info).encode(), Content_Type="application/json")
        name = rest.removeprefix(revision + "/")
        if name not in files:
            return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        body = files[name]
        etag = lfs(name, body)["lfs"]["oid"] if lfs(name, body) else hashlib.sha1(body).hexdigest()
        with site.lock:
            fault = site.faults.pop(0) if self.command == "GET" and lfs(name, body) and site.faults else None
        if fault is corrupt:
            body = bytes([body[0] ^ 1]) + body[1:]
        headers = {"ETag": f'"{etag}"', "X_Repo_Commit": commit}
        begin = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-")
        if self.command == "GET" and begin.isdigit() and int(begin):
            headers["Content_Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
            return self.answer(206, body[int(begin) :], **headers)
        if fault is cut:
            self.answer(200, b"", **headers, Content_Length=str(len(body)))
            return self.wfile.write(body[:100_000])
        self.answer(200, body, **headers)

    do_HEAD = do_GET


def lfs(name, body):
    large = name.endswith((".safetensors", ".bin"))
    return {"lfs": {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 130}} if large else {}


RESOLVE = """
try:
    path = download.resolve(sys.argv[1], **eval(sys.argv[2]))
    print(path, *(sorted(p.name for p in path.rglob("*")) if path.is_dir() else []), sep="|")
except Exception as error:
    print(type(error).__name__, error, sep="|")
"""


@pytest.fixture
def hub(tmp_path):
    with Site(HubHandler) as site:
        files = {
            "config.json": b"{}",
            "model.safetensors": CONTENT,
            "pytorch_model.bin": b"p",
            "onnx/model.onnx": b"o",
            "tf_model.h5": b"h",
        }
        older = {**files, "model.safetensors": CONTENT[::-1]}
        site.repos = {
            "timm/vit": {"main": files, "v1": older, "refs/pr/2": older},
            "old/bin": {"main": {"config.json": b"{}", "pytorch_model.bin": b"p", "flax_model.msgpack": b"f", "sub/x.safetensors": b"s"}},
            "odd/name": {"main": {"vit.safetensors": b"s", "pytorch_model.bin": b"p"}},
            "no/weights": {"main": {"README.md": b"r"}},
        }

        def ask(source, offline=False, **arguments):
            environment = {"HF_ENDPOINT": site.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
            environment |= {"HF_HUB_OFFLINE": "1"} if offline else {}
            return finish(start(RESOLVE, source, repr(arguments), **environment)).split("|")

        site.ask = ask
        yield site


def test_hub_brings_what_is_needed_once_and_works_offline(hub):
    path, *names = hub.ask("hf://timm/vit")
    assert names == ["config.json", "model.safetensors"]
    assert (pathlib.Path(path) / "model.safetensors").read_bytes() == CONTENT
    asked = len([r for r in hub.requests if r[0] == "GET" and "resolve" in r[1]])
    assert hub.ask("hf://timm/vit/", sha256=SHA256, size=len(CONTENT)) == [path, *names]
    assert len([r for r in hub.requests if r[0] == "GET" and "resolve" in r[1]]) == asked == 2
    before = len(hub.requests)
    assert hub.ask("hf://timm/vit", offline=True) == [path, *names]
    assert len(hub.requests) == before
    hub.__exit__()
    assert hub.ask("hf://timm/vit") == [path, *names]  # nobody answers: the cache does
    kind, message = hub.ask("hf://odd/name")
    assert kind == "ConnectionError" and "not in the local cache. Received: hf://odd/name" in message


def test_hub_revisions_and_single_files(hub):
    for revision in ("v1", "refs/pr/2", "refs%2Fpr%2F2"):
        path, *_ = hub.ask(f"hf://timm/vit@{revision}")
        assert (pathlib.Path(path) / "model.safetensors").read_bytes() == CONTENT[::-1]
    (path,) = hub.ask("hf://timm/vit@v1/onnx/model.onnx")
    assert pathlib.Path(path).read_bytes() == b"o"


def test_hub_falls_back_to_a_pickle_only_without_safetensors(hub):
    assert hub.ask("hf://old/bin")[1:] == ["config.json", "pytorch_model.bin"]
    assert hub.ask("hf://odd/name")[1:] == ["vit.safetensors"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("hf://some/missing", "does not exist, or it is private"),
        ("hf://some/gated/model.safetensors", "it is gated: accept its terms on http://127.0.0.1"),
        ("hf://some/refused", "refuses your access token"),
        ("hf://timm/vit@v9", "must be a branch, tag or commit"),
        ("hf://timm/vit/missing.safetensors", "The file must exist"),
        ("hf://no/weights", "must hold safetensors or pytorch_model.bin"),
        ("hf://timm/--vit..x", "must be valid"),
    ],
)
def test_hub_errors(hub, source, words):
    kind, message = hub.ask(source)
    assert kind == "ValueError" and words in message and message.endswith(f"Received: {source}") and "\n" not in message


@pytest.mark.parametrize("source", ["hf://timm", "hf://", "hf://timm/vit@", "hf://timm/vit/../x", "hf://timm/vit@v1/..", "hf:///vit"])
def test_hub_sources_are_well_formed(source):
    with pytest.raises(ValueError, match="must read `hf://owner/repo"):
        resolve(source)


def test_hub_download_that_is_cut_or_corrupted(hub):
    hub.faults = [cut]
    path, *_ = hub.ask("hf://timm/vit")
    assert (pathlib.Path(path) / "model.safetensors").read_bytes() == CONTENT
    hub.faults = [corrupt]
    path, *_ = hub.ask("hf://timm/vit@v1")
    assert (pathlib.Path(path) / "model.safetensors").read_bytes() == CONTENT[::-1]
    hub.faults = [corrupt] * 2
    kind, message = hub.ask("hf://old/bin")
    assert kind == "ConnectionError" and "damaged on its way from the Hub, twice" in message
    path, *_ = hub.ask("hf://old/bin")
    assert (pathlib.Path(path) / "pytorch_model.bin").read_bytes() == b"p"


def test_hub_file_that_is_not_the_expected_one(hub):
    kind, message = hub.ask("hf://timm/vit", sha256="0" * 64)
    assert kind == "ValueError" and f"its sha256 is {SHA256}, not 000" in message
    assert hub.ask("hf://timm/vit", size=3)[1].startswith("The Hub's file must be the one that was asked for: it has 300000 bytes, not 3.")


def test_hub_shared_by_processes(hub, tmp_path):
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
    answers = [finish(p) for p in [start(RESOLVE, "hf://timm/vit", "{}", **environment) for _ in range(3)]]
    assert len(set(answers)) == 1 and (pathlib.Path(answers[0].split("|")[0]) / "model.safetensors").read_bytes() == CONTENT
