"""Downloads, against real HTTP servers on loopback that cut, stall, corrupt, redirect and resume; and a small Hub."""

import base64
import hashlib
import http.server
import os
import pathlib
import random
import subprocess
import sys
import threading
import time

import pytest

from keras_vit.checkpoints import download
from keras_vit.checkpoints.download import resolve

CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Site(http.server.ThreadingHTTPServer):
    """Serves `content` at every path, honoring Range. Each request takes the next of `faults`; `requests` keeps (path, Range)."""

    daemon_threads = True

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.content, self.etag, self.extra = CONTENT, '"one"', {}
        self.faults, self.requests, self.lock = [], [], threading.Lock()
        self.released = threading.Event()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.released.set()
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        site = self.server
        with site.lock:
            site.requests.append((self.path, self.headers.get("Range")))
            fault = site.faults.pop(0) if site.faults else None
        if isinstance(fault, int):
            return self.send_error(fault)
        if isinstance(fault, str):
            self.send_response(302)
            self.send_header("Location", fault)
            return self.end_headers()
        body, start, asked = site.content, 0, self.headers.get("Range")
        if asked and self.headers.get("If-Range") == site.etag and fault is not ignore_range:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        if fault is not without_length:
            self.send_header("Content-Length", str(len(body) - start))
        if site.etag:
            self.send_header("ETag", site.etag)
        for name, value in site.extra.items():
            self.send_header(name, value)
        self.end_headers()
        (fault or whole)(self, body[start:])


def whole(request, body):
    request.wfile.write(body)


def ignore_range(request, body):
    whole(request, body)


def without_length(request, body):
    whole(request, body)


def cut(request, body):
    request.wfile.write(body[:100_000])


def stall(request, body):
    cut(request, body)
    request.wfile.flush()
    request.server.released.wait(20)


def corrupt(request, body):
    request.wfile.write(body[:500] + bytes([body[500] ^ 1]) + body[501:])


def slow(request, body):
    for i in range(0, len(body), 50_000):
        request.wfile.write(body[i : i + 50_000])
        time.sleep(0.1)


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(download, "TIMEOUT", 0.5)
    monkeypatch.setattr(download, "PAUSE", 0.01)
    with Site(Handler) as site:
        yield site


def leftovers(tmp_path):
    """What lies beside the downloaded files, their locks aside."""
    return sorted(p.suffix for p in (tmp_path / "home" / "keras_vit").iterdir() if p.suffix in (".part", ".etag"))


# --- URLs ---


def test_download_and_reuse(site, tmp_path, capsys):
    path = resolve(f"{site.url}/models/B_16%2Fx.npz?key=secret")
    assert path.read_bytes() == CONTENT and path.parent == tmp_path / "home" / "keras_vit" and path.name.endswith("-B_16_x.npz")
    captured = capsys.readouterr()
    assert "Downloading" in captured.err and "secret" not in captured.err and not captured.out
    site.faults = [500] * 9
    assert resolve(f"{site.url}/models/B_16%2Fx.npz?key=secret", sha256=SHA256.upper(), size=len(CONTENT)) == path
    assert len(site.requests) == 1 and not leftovers(tmp_path)


def test_other_urls_with_the_same_name_do_not_collide(site):
    first = resolve(f"{site.url}/a/model.npz")
    site.content = b"other"
    second = resolve(f"{site.url}/b/model.npz")
    assert first.read_bytes() == CONTENT and second.read_bytes() == b"other"


@pytest.mark.parametrize("fault", [cut, stall, 500, 503, 429])
def test_failures_are_survived(site, tmp_path, fault):
    site.faults = [fault, fault]
    assert resolve(f"{site.url}/x.npz").read_bytes() == CONTENT
    resumed = [None, "bytes=100000-", "bytes=200000-"] if callable(fault) else [None] * 3
    assert [r for _, r in site.requests] == resumed and not leftovers(tmp_path)


@pytest.mark.parametrize("fault", [cut, stall, 500])
def test_next_call_resumes_what_was_given_up(site, tmp_path, fault):
    site.etag, site.faults = None, [fault] * download.ATTEMPTS
    with pytest.raises(ConnectionError, match=rf"failed 4 times.*Received: {site.url}/x.npz"):
        resolve(f"{site.url}/x.npz")
    assert not list((tmp_path / "home" / "keras_vit").glob("*.npz"))
    assert resolve(f"{site.url}/x.npz").read_bytes() == CONTENT
    assert {r for _, r in site.requests} == {None}  # without an ETag nothing proves that the file is still the same
    site.etag, site.faults = '"one"', [cut] + [503] * (download.ATTEMPTS - 1)
    with pytest.raises(ConnectionError, match="503"):
        resolve(f"{site.url}/y.npz")
    assert leftovers(tmp_path) == [".etag", ".part"]
    assert resolve(f"{site.url}/y.npz").read_bytes() == CONTENT
    assert site.requests[-1][1] == "bytes=100000-" and not leftovers(tmp_path)


def test_file_that_changed_is_not_mixed(site):
    site.faults = [cut] + [503] * (download.ATTEMPTS - 1)
    with pytest.raises(ConnectionError):
        resolve(f"{site.url}/x.npz")
    site.content, site.etag = random.Random(1).randbytes(250_000), '"two"'
    assert resolve(f"{site.url}/x.npz").read_bytes() == site.content


def test_servers_that_ignore_or_weaken_ranges(site):
    site.faults = [cut, ignore_range]
    assert resolve(f"{site.url}/x.npz").read_bytes() == CONTENT
    site.etag, site.faults, site.requests = 'W/"one"', [cut], []
    assert resolve(f"{site.url}/y.npz").read_bytes() == CONTENT
    assert [r for _, r in site.requests] == [None, None]


def test_partial_file_longer_than_what_is_there_now(site):
    site.faults = [cut] + [503] * (download.ATTEMPTS - 1)
    with pytest.raises(ConnectionError):
        resolve(f"{site.url}/x.npz")
    site.content = CONTENT[:50_000]  # a server that keeps the ETag of another file: 416, then from the beginning
    assert resolve(f"{site.url}/x.npz").read_bytes() == site.content


def test_corruption_is_noticed(site, tmp_path):
    site.faults = [corrupt]
    assert resolve(f"{site.url}/x.npz", sha256=SHA256).read_bytes() == CONTENT
    site.faults = [corrupt] * download.ATTEMPTS
    with pytest.raises(ConnectionError, match=f"its sha256 is .*, not {SHA256}"):
        resolve(f"{site.url}/y.npz", sha256=SHA256)
    assert not leftovers(tmp_path)
    assert resolve(f"{site.url}/y.npz", sha256=SHA256).read_bytes() == CONTENT


def test_corruption_is_noticed_by_the_digest_that_the_server_states(site):
    md5 = base64.b64encode(hashlib.md5(CONTENT).digest()).decode()
    site.extra, site.faults = {"x-goog-hash": f"crc32c=n03x6A==,md5={md5}"}, [corrupt, cut]
    assert resolve(f"{site.url}/x.npz").read_bytes() == CONTENT
    assert [r for _, r in site.requests] == [None, None, "bytes=100000-"]


def test_damaged_file_in_the_cache_is_replaced(site):
    path = resolve(f"{site.url}/x.npz")
    path.write_bytes(CONTENT[:-1] + b"?")
    assert resolve(f"{site.url}/x.npz", sha256=SHA256).read_bytes() == CONTENT
    path.write_bytes(CONTENT[:-1])
    assert resolve(f"{site.url}/x.npz", size=len(CONTENT)).read_bytes() == CONTENT
    assert len(site.requests) == 3


def test_refused_before_the_disk_is_used(site, tmp_path):
    with pytest.raises(ValueError, match="expected size of 5 bytes; the server states 300000"):
        resolve(f"{site.url}/x.npz", size=5)
    site.faults = [without_length]
    with pytest.raises(ValueError, match="must state a file's size"):
        resolve(f"{site.url}/x.npz")
    site.faults = [404]
    with pytest.raises(ValueError, match="must lead to a file; the server answers 404"):
        resolve(f"{site.url}/x.npz")
    for extra in ({"Content-Type": "text/html; charset=utf-8"}, {"Content-Encoding": "gzip"}):
        site.extra = extra
        with pytest.raises(ValueError, match="web page or a compressed stream"):
            resolve(f"{site.url}/x.npz")
    assert not leftovers(tmp_path)


def test_full_disk(site, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: download.shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(OSError, match="needs 300000 bytes"):
        resolve(f"{site.url}/x.npz")


def test_size_from_the_caller_where_the_server_states_none(site):
    site.faults = [without_length]
    assert resolve(f"{site.url}/x.npz", size=len(CONTENT)).read_bytes() == CONTENT


def test_redirects(site):
    site.faults = [f"{site.url}/elsewhere.npz"]
    assert resolve(f"{site.url}/x.npz").read_bytes() == CONTENT
    for unsafe in ("http://192.0.2.1/x.npz", "ftp://127.0.0.1/x", "file:///etc/passwd"):
        site.faults = [unsafe]
        with pytest.raises(ValueError, match="must begin with `https://`|is not allowed"):
            resolve(f"{site.url}/y.npz")


def test_https_does_not_lead_to_http():
    request = download.urllib.request.Request("https://example.org/x")
    with pytest.raises(ValueError, match="must not lead to http"):
        download._SafeRedirects().redirect_request(request, None, 302, "", {}, "http://127.0.0.1/x")


@pytest.mark.parametrize(
    "url", ["http://192.0.2.1/x.npz", "http://localhost.example.org/x", "https:///x", "ftp://host/x", "gs://b/x", "file:///x"]
)
def test_other_schemes_are_refused(url):
    with pytest.raises(ValueError, match="Received: "):
        resolve(url)


def test_nobody_answers(site):
    site.__exit__()
    with pytest.raises(ConnectionError, match="failed 4 times, the last because .*refused"):
        resolve(f"{site.url}/x.npz")


# --- several processes ---

# The modules alone: what else the package imports would take seconds, and is not asked about here.
LIGHT = f"""
import sys, types
for name, folder in (("keras_vit", ".."), ("keras_vit.checkpoints", ".")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [{str(pathlib.Path(download.__file__).parent)!r} + "/" + folder]
from keras_vit.checkpoints import download
"""


def start(code, *arguments, **environment):
    environment = {**os.environ, "NO_PROXY": "*", **environment}
    return subprocess.Popen([sys.executable, "-c", LIGHT + code, *map(str, arguments)], stdout=-1, stderr=-1, text=True, env=environment)


def finish(process):
    out, err = process.communicate(timeout=50)
    assert process.returncode == 0, err
    return out.strip()


def test_processes_share_one_download(site):
    site.faults = [slow]
    code = "print(download.resolve(sys.argv[1]))"
    paths = {finish(process) for process in [start(code, f"{site.url}/x.npz") for _ in range(4)]}
    assert len(paths) == 1 and pathlib.Path(paths.pop()).read_bytes() == CONTENT
    assert len(site.requests) == 1


def test_killed_process_leaves_a_file_to_resume_and_no_lock(site, tmp_path):
    site.faults = [stall]
    process = start("download.TIMEOUT = 20; download.resolve(sys.argv[1])", f"{site.url}/x.npz")
    deadline = time.time() + 20

    def part():
        return [p for p in tmp_path.glob("home/keras_vit/*.part") if p.stat().st_size]

    while not part() and time.time() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert part()
    assert resolve(f"{site.url}/x.npz").read_bytes() == CONTENT
    assert site.requests[-1][1].startswith("bytes=") and not leftovers(tmp_path)


# --- local paths ---


def test_local_paths(tmp_path, monkeypatch):
    file = tmp_path / "model.safetensors"
    file.write_bytes(CONTENT)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for source in (file, str(file), "~/model.safetensors"):
        assert resolve(source, sha256=SHA256, size=len(CONTENT)) == file
    assert resolve(tmp_path, sha256=SHA256) == tmp_path
    (tmp_path / "empty").mkdir()
    assert resolve(tmp_path / "empty") == tmp_path / "empty"
    with pytest.raises(ValueError, match="the folder has none"):
        resolve(tmp_path / "empty", size=4)
    for source in (file, tmp_path):
        with pytest.raises(ValueError, match=r"it has 300000 bytes, not 4. Received: "):
            resolve(source, size=4)
        with pytest.raises(ValueError, match="its sha256 is"):
            resolve(source, sha256="0" * 64)


def test_missing_local_path_names_its_neighbors(tmp_path):
    (tmp_path / "vit_base.safetensors").touch()
    (tmp_path / "other.txt").touch()
    with pytest.raises(ValueError, match=r"has no 'vit_bse.safetensors'; the nearest are \['vit_base.safetensors'\]. Received: .*vit_bse"):
        resolve(tmp_path / "vit_bse.safetensors")
    with pytest.raises(ValueError, match=r"the nearest are \['other.txt', 'vit_base.safetensors'\]"):
        resolve(tmp_path / "q" / "deeper.npz")
