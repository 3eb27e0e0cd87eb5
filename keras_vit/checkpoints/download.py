"""Resolves a checkpoint from a local path, the Hugging Face Hub or an https URL. A download is complete or does not exist."""

import base64
import hashlib
import http.client
import ipaddress
import os
import pathlib
import re
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

from keras_vit.checkpoints.formats.files import find_checkpoint
from keras_vit.files import cache_folder
from keras_vit.names import nearest

TIMEOUT = 30  # seconds without a byte
ATTEMPTS = 4
PAUSE = 0.5  # seconds after the first failure, doubled after each further one

_HUB_SOURCE = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@(refs/(?:pr|convert)/[\w.-]+|[^/]+))?(?:/(.+))?")
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w.-]+)?")
_HUB_CONFIGS = ["config.json", "preprocessor_config.json", "processor_config.json"]
# In order of preference; a pickle only if there is nothing else.
_HUB_WEIGHTS = (
    ["model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"],
    ["*.safetensors"],
    ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"],
)


def resolve(source: str | os.PathLike[str], sha256: str | None = None, size: int | None = None) -> pathlib.Path:
    """Downloads a checkpoint if necessary, and returns its local path.

    A local copy is used without network access. A download gets a temporary name, is checked, and is renamed when complete. The
    next call resumes an interrupted download. Processes that need the same file wait until the first one has downloaded it.

    Args:
        source: str or path. A local file or folder (`~` is expanded); `hf://owner/repo[@revision][/file]`, where a revision is a
            branch, a tag, a commit or `refs/pr/N` (write another slash as `%2F`); or an `https://` URL (`http://` is accepted for
            this machine only). Files of URLs are kept in `$KERAS_HOME/keras_vit` (default `~/.keras/keras_vit`), files of the Hub in its
            cache.
        sha256: str or None. Expected hexadecimal digest of the weights file, checked in every call. Defaults to None.
        size: int or None. Expected number of bytes of the weights file. Defaults to None.

    Returns:
        `pathlib.Path` of the file, or of the folder for a local folder or a whole Hub repository (weights and configuration).

    Raises:
        ValueError: if the source is malformed, does not exist, may not be read, or is not the file that `sha256` and `size` describe.
        ConnectionError: if the network fails and there is no local copy.
        OSError: if the disk has no space for the file.

    Example:
    >>> keras_vit.checkpoints.download.resolve("hf://timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k")  # doctest: +SKIP
    """
    if not isinstance(source, (str, os.PathLike)):
        what = f"a {type(source).__name__}" + (f" of {len(source)} entries" if isinstance(source, dict) else "")
        raise ValueError(
            "A source must be a path, `hf://owner/repo` or an `https://` URL; tensors in memory must be written to a file first, such as "
            f"by `safetensors.numpy.save_file`. Received: {what}"
        )
    source = os.fspath(source)
    scheme = source.partition("://")[0].lower() if "://" in source else None
    if scheme == "hf":
        return _from_hub(source, sha256, size)
    if scheme in ("https", "http"):
        return _from_url(source, sha256, size)
    if scheme is not None:
        raise ValueError(f"A source must be a local path, `hf://owner/repo` or an `https://` URL. Received: {source}")
    path = pathlib.Path(source).expanduser()
    if not path.exists():
        hub = f" A repository on the Hub is written `hf://{source}`." if _HUB_NAME.fullmatch(source) and not path.parent.exists() else ""
        raise ValueError(f"There is no such file or folder.{_nearest(path)}{hub} Received: {source}")
    if sha256 is not None or size is not None:
        file = find_checkpoint(path) if path.is_dir() else path
        if problem := _mismatch(file, sha256, size) if file else "the folder has none":
            raise ValueError(f"The file must be the one that was asked for: {problem}. Received: {source}")
    return path


def _nearest(path):
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    wanted = path.absolute().relative_to(folder).parts[0]
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    there = f"; the nearest are {nearest(wanted, names)[:5]}" if names else ", and nothing else"
    return f" {folder} has no {wanted!r}{there}."


def _mismatch(path, sha256, size, md5=None):
    """Returns what is wrong with a file, or None."""
    if size is not None and path.stat().st_size != size:
        return f"it has {path.stat().st_size} bytes, not {size}"
    for name, wanted in (("sha256", sha256), ("md5", md5)):
        if wanted and (found := _digest(path, name)) != wanted.lower():
            return f"its {name} is {found}, not {wanted}"
    return None


def _digest(path, name):
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(name, usedforsecurity=name != "md5")).hexdigest()


# --- the Hub ---


def _from_hub(source, sha256, size):
    match = _HUB_SOURCE.fullmatch(source.rstrip("/"))
    if not match or ".." in (match[3] or "").split("/"):
        raise ValueError(f"A Hub source must read `hf://owner/repo[@revision][/file]`. Received: {source}")
    repo, revision, file = match[1], urllib.parse.unquote(match[2] or "") or None, match[3]
    for _ in range(2):
        since = time.time() - 1  # file times are less precise
        path = _ask_hub(source, repo, revision, file)
        if path is None:
            raise ValueError(f"A Hub repository must hold safetensors or pytorch_model.bin at its top. Received: {source}")
        weights = find_checkpoint(path) if path.is_dir() else path
        files = [p for p in path.iterdir() if p.is_file()] if path.is_dir() else [path]
        damaged = [p for p in files if _is_damaged(p, since)]
        if not damaged:
            if problem := _mismatch(weights, sha256, size):
                raise ValueError(f"The Hub's file must be the one that was asked for: {problem}. Received: {source}")
            return path
        for p in damaged:
            p.resolve().unlink(missing_ok=True)
    raise ConnectionError(f"The file was damaged on its way from the Hub, twice; it was not kept. Received: {source}")


def _is_damaged(path, since):
    """Returns whether a new file of the Hub differs from its sha256, which is its name.

    huggingface_hub checks the size of a download, but not its content.
    """
    blob = path.resolve()
    return bool(re.fullmatch("[0-9a-f]{64}", blob.name)) and blob.stat().st_mtime >= since and _digest(blob, "sha256") != blob.name


_REFUSED = "the Hub refuses your access token; run `hf auth login` with a token that may read gated repositories"


def _refuses(error):
    """Returns whether an answer of the Hub is 401 or 403 without a reason, as for a token that is wrong or may not read the repository."""
    return getattr(getattr(error, "response", None), "status_code", None) in (401, 403)


def _ask_hub(source, repo, revision, file):
    """Returns the path of the file, or of the repository's folder with weights in it; None if the repository has none."""
    import huggingface_hub
    from huggingface_hub import constants, errors

    try:
        if file:
            return pathlib.Path(huggingface_hub.hf_hub_download(repo, file, revision=revision))
        for weights in _HUB_WEIGHTS:
            patterns = _HUB_CONFIGS + weights
            folder = huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"])
            folder = pathlib.Path(folder)
            if folder.is_dir() and find_checkpoint(folder):
                return folder
            revision = folder.name  # the commit: the next request asks for the same one, without a lookup
        return None
    except errors.LocalEntryNotFoundError as error:
        if _refuses(error.__cause__):
            raise ValueError(f"A Hub repository must be open to you: {_REFUSED}. Received: {source}") from error
        why = "the Hub cannot be reached (or HF_HUB_OFFLINE is set) and the files are not in the local cache"
        raise ConnectionError(f"A Hub source must be reachable or cached: {why}. Received: {source}") from error
    except errors.GatedRepoError as error:
        why = f"it is gated: accept its terms on {constants.ENDPOINT}/{repo}, then `hf auth login`"
        raise ValueError(f"A Hub repository must be open to you: {why}. Received: {source}") from error
    except errors.RepositoryNotFoundError as error:
        why = "it does not exist, or it is private and you are not logged in (`hf auth login`)"
        raise ValueError(f"A Hub repository must exist: {why}. Received: {source}") from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"The revision must be a branch, tag or commit of the repository. Received: {source}") from error
    except errors.EntryNotFoundError as error:
        raise ValueError(f"The file must exist in the Hub repository. Received: {source}") from error
    except ValueError as error:
        raise ValueError(f"A Hub source must be valid: {' '.join(str(error).split())} Received: {source}") from error
    except Exception as error:  # the HTTP library beneath differs between versions of huggingface_hub, and so do its errors
        if _refuses(error):
            raise ValueError(f"A Hub repository must be open to you: {_REFUSED}. Received: {source}") from error
        raise ConnectionError(f"The download from the Hub failed: {' '.join(str(error).split())} Received: {source}") from error


# --- URLs ---


def _from_url(url, sha256, size):
    import filelock  # comes with huggingface_hub

    _check_url(url)
    home = cache_folder()
    home.mkdir(parents=True, exist_ok=True)
    name = urllib.parse.unquote(pathlib.PurePosixPath(urllib.parse.urlsplit(url).path).name)
    target = home / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{re.sub(r'[^A-Za-z0-9._+-]', '_', name)[-100:]}"

    def is_here():
        return target.exists() and not _mismatch(target, sha256, size)

    if not is_here():
        # A lock, not a name for each process: there is one partial file to resume, and the system frees the lock of a killed process.
        with filelock.FileLock(f"{target}.lock"):
            if not is_here():  # another process may have downloaded it meanwhile
                _download(url, target, sha256, size)
    return target


def _check_url(url):
    parts = urllib.parse.urlsplit(url)
    if not parts.hostname or (parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname))):
        raise ValueError(f"A URL must begin with `https://` (`http://` is for this machine only). Received: {url}")


def _is_loopback(host):
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        _check_url(newurl)
        if req.type == "https" and not urllib.parse.urlsplit(newurl).scheme == "https":
            raise ValueError(f"An https source must not lead to http. Received: {req.full_url}, redirected to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(url, target, sha256, size):
    part = target.with_name(target.name + ".part")
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            total, md5 = _fetch(url, part, size)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the partial file is not the beginning of the current file
                _forget(part)
            elif error.code < 500 and error.code not in (408, 429):
                raise ValueError(f"A URL must lead to a file; the server answers {error.code} {error.reason}. Received: {url}") from error
            problem = f"the server answers {error.code} {error.reason}"
            continue
        except (urllib.error.URLError, ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException) as error:
            problem = str(error) or type(error).__name__
            continue
        problem = _mismatch(part, sha256, total, md5)
        if not problem:
            os.replace(part, target)
            _forget(part)
            return
        _forget(part)
    raise ConnectionError(f"The download failed {ATTEMPTS} times, the last because {problem}. Received: {url}")


def _etag_of(part):
    return part.with_name(part.name + ".etag")


def _forget(part):
    for path in (part, _etag_of(part)):
        path.unlink(missing_ok=True)


def _fetch(url, part, size):
    """Sends one request, for the missing bytes of `part` if the server confirms that the file is unchanged.

    Returns:
        The total size, and the file's md5 where the server states it (else None).
    """
    etag = _etag_of(part).read_text() if part.exists() and _etag_of(part).exists() else ""
    have = part.stat().st_size if etag else 0
    headers = {"User-Agent": "keras-vit", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": etag}
    opener = urllib.request.build_opener(_SafeRedirects)
    with opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
        if response.status == 206:
            stated = re.fullmatch(rf"bytes {have}-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if not stated or response.headers.get("ETag", etag) != etag:
                _forget(part)
                raise ConnectionError("the server sent another range than it was asked for")
        else:
            have, stated = 0, re.fullmatch(r"(\d+)", response.headers.get("Content-Length", ""))
        total = int(stated[1]) if stated else size
        if total is None:
            raise ValueError(f"A server must state a file's size, or a cut could not be told from the end. Received: {url}")
        if size is not None and total != size:
            raise ValueError(f"The file must have the expected size of {size} bytes; the server states {total}. Received: {url}")
        if response.headers.get_content_type() == "text/html" or response.headers.get("Content-Encoding", "identity") != "identity":
            raise ValueError(f"A URL must lead to a file as it is; the server sent a web page or a compressed stream. Received: {url}")
        if total - have > (free := shutil.disk_usage(part.parent).free):
            raise OSError(f"The download needs {total - have} bytes in {part.parent}, which has {free} left. Received: {url}")
        with part.open("r+b" if have else "wb") as file:
            if not have:
                etag = response.headers.get("ETag", "")
                _etag_of(part).write_text(etag if etag.startswith('"') else "")  # a weak ETag (W/) does not guarantee equal bytes
            file.seek(have)
            _copy(url, response, file, have, total)
        return total, _stated_md5(response.headers)


def _copy(url, response, file, have, total):
    print(f"Downloading {url.partition('?')[0]} ({total / 1e6:.1f} MB{f', resumed at {have / 1e6:.1f}' if have else ''})", file=sys.stderr)
    bar = None
    if sys.stdout.isatty():
        import keras

        bar = keras.utils.Progbar(total, unit_name="byte")
    while have < total:
        chunk = response.read1(min(1 << 20, total - have))  # the bytes that have arrived, so that a stall loses nothing
        if not chunk:
            raise ConnectionError(f"the connection was cut after {have} of {total} bytes")
        file.write(chunk)
        have += len(chunk)
        if bar:
            bar.update(have)
    file.flush()
    os.fsync(file.fileno())


def _stated_md5(headers):
    """Returns the md5 that Google's storage states for the whole file, or None. It reveals damage without a known sha256."""
    stated = re.search(r"md5=([A-Za-z0-9+/]{22}==)", ",".join(headers.get_all("x-goog-hash", [])))
    return base64.b64decode(stated[1]).hex() if stated else None
