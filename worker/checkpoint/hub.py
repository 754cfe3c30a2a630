"""A model by directory or hub id: which files to fetch, and from where; no MLX."""

import os
import re
from pathlib import Path

from worker.checkpoint.checkpoint import Checkpoint
from worker.checkpoint.quantization import Quantization
from worker.checkpoint.shards import INDEX
from worker.errors import CheckpointError

HUB_ID = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?", re.ASCII)
# everything but weights: config, tokenizer, chat template, index
DESCRIPTION = ("*.json", "*.jinja", "*.txt", "tokenizer.model")
WEIGHTS = "model*.safetensors"


def describe(model: str, quantize: Quantization | None = None) -> Checkpoint:
    """The checked checkpoint of `model`, a directory or a hub id (`owner/name` or `owner/name@revision`).

    Of a hub id everything but the weights is fetched if there is an index; then names are checked here, shapes and
    dtypes by each stage, before it loads. Raises CheckpointError or ConfigError.
    """
    if not (repository := hub_id(model)):
        checkpoint = Checkpoint(Path(os.path.expanduser(model)))
        checkpoint.check(quantize)
        return checkpoint
    directory = _fetch(model, *repository, patterns=DESCRIPTION)
    if (directory / INDEX).exists():
        checkpoint = Checkpoint(directory)
        checkpoint.check_names(quantize)
    else:
        checkpoint = Checkpoint(_fetch(model, *repository, patterns=(*DESCRIPTION, WEIGHTS)))
        checkpoint.check(quantize)
    return checkpoint


def pinned(model: str, checkpoint: Checkpoint) -> str:
    """What to tell the workers: the directory's absolute path, or the hub id with the commit that `describe` found, so
    that all stages load the same revision."""
    if repository := hub_id(model):
        return f"{repository[0]}@{checkpoint.directory.name}"
    return str(checkpoint.directory.resolve())


def fetch_stage(model: str, first: int, end: int) -> Checkpoint:
    """The checkpoint of `model` with the files that layers [first, end) need in place. Raises CheckpointError."""
    checkpoint = describe(model)
    if repository := hub_id(model):
        patterns = (*DESCRIPTION, *checkpoint.files_of(first, end))
        checkpoint = Checkpoint(_fetch(model, *repository, patterns=patterns))
    return checkpoint


def hub_id(model: str) -> tuple[str, str | None] | None:
    """Repository and revision if `model` is a hub id and not a path."""
    match = HUB_ID.fullmatch(model)
    if match is None or os.path.exists(model) or model.startswith((".", "/", "~")):
        return None
    return match["repository"], match["revision"]


def _fetch(model: str, repository: str, revision: str | None, *, patterns: tuple[str, ...]) -> Path:
    # here, because most starts of a stage load a directory, and importing this takes a tenth of a second
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]: the base of what its HTTP client raises
        RepositoryNotFoundError,
        RevisionNotFoundError,
        XetDownloadError,
    )

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))
    except GatedRepoError as error:
        problem, fix = error, f"accept its terms at https://huggingface.co/{repository}, then run `hf auth login`"
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        problem, fix = error, "there is no directory of that name either; if it is private, run `hf auth login`"
    except (HTTPError, OSError, XetDownloadError) as error:
        problem, fix = error, "check the network and HF_HUB_OFFLINE, or name the directory of a downloaded model"
    except Exception as error:  # its HTTP client has classes of its own for settings that are no addresses
        problem, fix = error, "check HTTPS_PROXY, ALL_PROXY and HF_ENDPOINT"
    said = str(problem).strip().split("\n", 1)[0].rstrip(".")
    raise CheckpointError(f"{model}: cannot be fetched from the Hugging Face hub: {said}; {fix}") from problem
