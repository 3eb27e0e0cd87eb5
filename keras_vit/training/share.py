"""Sharing a model on the Hugging Face Hub: writing its files and model card, and uploading them."""

import contextlib
import os
import pathlib
import re
import tempfile
from collections.abc import Callable
from typing import Any

from keras_vit.checkpoints import model_card, save
from keras_vit.checkpoints.card import CARDS, README
from keras_vit.layers import checks
from keras_vit.training.folder import MODEL
from keras_vit.training.weights import open_model
from keras_vit.version import __version__
from keras_vit.vision_transformer import VisionTransformer

REPOSITORY = re.compile(r"hf://([\w-][\w.-]*/[\w-][\w.-]*)")
SHARED = (*CARDS, "keras")  # formats whose files a repository of the Hub holds


def push(
    source: str | os.PathLike[str] | VisionTransformer,
    repository: str,
    format: str = "huggingface",
    private: bool = True,
    license: str | None = None,
    overwrite: bool | Callable[[list[str]], bool] = False,
) -> str:
    """Uploads a model and its card to the Hugging Face Hub, in one commit.

    This needs a token with write access: run `hf auth login`, or set the environment variable `HF_TOKEN`.

    Args:
        source: str, path-like or `VisionTransformer`. The folder of a run, whose data, recipe and results go into the card; or anything
            else that `keras-vit predict --model` accepts.
        repository: str, `hf://owner/name`. It is created if it does not exist.
        format: str. "huggingface" (transformers), "timm" or "keras", which can hold every model. Defaults to "huggingface".
        private: bool. Whether a new repository is private. An existing repository stays as it is. Defaults to True.
        license: str or None. Identifier of the license, such as "apache-2.0". None means that of the published weights that training
            started from. Defaults to None.
        overwrite: bool, or function that takes the list of files to be replaced and returns a bool. Whether existing files of the
            repository are replaced. Defaults to False.

    Returns:
        The repository's URL.

    Raises:
        ValueError: if the repository already has files of these names, its name or the format is wrong, the format cannot hold the
            model, or the Hub refuses the token.
        ConnectionError: if the Hub cannot be reached.

    Example:
    >>> keras_vit.training.push("runs/pets", "hf://me/vit-pets")  # doctest: +SKIP
    """
    import huggingface_hub

    if not (match := REPOSITORY.fullmatch(str(repository))):
        raise ValueError(f"`repository` must read `hf://owner/name`. Received: {repository}")
    checks.one_of("format", format, SHARED)
    model = source if isinstance(source, VisionTransformer) else open_model(os.fspath(source))
    api = huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="keras_vit", library_version=__version__)
    with tempfile.TemporaryDirectory() as folder:
        write_repository(model, folder, repository, source if model is not source else None, format, license)
        files = {path.name for path in pathlib.Path(folder).iterdir()}
        with _hub_errors(repository):
            exists = api.repo_exists(match[1])
            there = sorted(files & set(api.list_repo_files(match[1]))) if exists else []
        if there and not (overwrite(there) if callable(overwrite) else overwrite):
            raise ValueError(
                f"The repository has files that would be replaced: {', '.join(there)}. `overwrite=True` replaces them. "
                f"Received: {repository}"
            )
        with _hub_errors(repository):
            url = f"{api.endpoint}/{match[1]}" if exists else api.create_repo(match[1], private=private).url
            api.upload_folder(repo_id=match[1], folder_path=folder, commit_message=f"Upload a model of keras_vit {__version__}")
    return str(url)


def write_repository(model: VisionTransformer, folder: Any, repository: str, source: Any, format: str, license: str | None) -> None:
    """Writes the files of a repository: the model in `format`, and its card, README.md. Arguments as in `push`."""
    folder = pathlib.Path(folder)
    if format == "keras":
        model.save(folder / MODEL)
    else:
        save(model, folder, format)
    (folder / README).write_text(model_card(model, repository, source, format, license), encoding="utf-8")


@contextlib.contextmanager
def _hub_errors(repository):
    """Turns the Hub's errors into a ValueError or ConnectionError that says what to do."""
    from huggingface_hub import errors

    try:
        yield
    except Exception as error:  # versions of huggingface_hub use different HTTP libraries, with different errors
        if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
            why = "The Hub refused the upload: log in with a token that has write access (`hf auth login`)"
            raise ValueError(f"{why}. Received: {repository}") from error
        raise ConnectionError(f"The upload to the Hub failed: {' '.join(str(error).split())} Received: {repository}") from error
