"""Models by name, `internlm/POLAR-7B` or `internlm/POLAR-7B@REVISION`: from a hub to a directory.

The cache, the server, the token and whether the network may be used are huggingface_hub's own
affair, in the environment of the machine that fetches: HF_HOME, HF_ENDPOINT, HF_TOKEN and
HF_HUB_OFFLINE. Only weights in safetensors and what describes them come here: no code, no pickles.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from polar_ray.errors import ConfigError
from polar_ray.extras import require

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

logger = logging.getLogger(__name__)

TOKENIZER_FILES = [
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
]

FILES = ["*.safetensors", "model.safetensors.index.json", "config.json", *TOKENIZER_FILES]
"""All that is fetched of a repository, and of its first level only."""

PIN_TIMEOUT_S = 10.0
"""For the question which commit a name means. A hub that is silent for so long cannot be asked."""

_NAME = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\w[\w./-]*))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_name(model: str) -> bool:
    """Whether this could be a model's name on a hub; a directory of the same name comes first."""
    return _NAME.fullmatch(model) is not None and not Path(model).is_dir()


def fetch(model: str) -> Path:
    """The directory with a model's files, in the cache; what is not there yet is downloaded.
    Processes that fetch the same at the same time take turns.

    Raises `ConfigError` where that cannot be done, and says what can.
    """
    repo, revision = _parts(model)
    with _explained(model):
        require("engine", "a model by name")
        from huggingface_hub import errors, snapshot_download

        silence = _announce(repo, revision)
        try:
            found = snapshot_download(
                repo,
                revision=revision,
                allow_patterns=FILES,
                ignore_patterns=["*/*"],
                local_files_only=silence is not None,
            )
        except errors.LocalEntryNotFoundError as error:
            raise error from silence or error.__cause__
    folder = Path(found)
    if not any(folder.glob("*.safetensors")):
        raise ConfigError(
            f"model={model!r} has no weights in safetensors, and pickles (.bin, .pt) are never "
            "fetched: they can run code. Convert it, and give the directory or the new name"
        )
    return folder


def fetch_tokenizer(model: str) -> Path:
    """The directory with a model's tokenizer, in the cache; its weights stay where they are."""
    repo, revision = _parts(model)
    with _explained(model):
        from huggingface_hub import snapshot_download

        return Path(
            snapshot_download(
                repo, revision=revision, allow_patterns=TOKENIZER_FILES, ignore_patterns=["*/*"]
            )
        )


def _announce(repo: str, revision: str | None) -> Exception | None:
    """Logs which weights will be fetched. The error if the hub does not answer in time: a download
    would wait for it without end. Other errors come again from the download, which knows more."""
    from huggingface_hub import constants, try_to_load_from_cache

    try:
        found = _info(repo, revision)
    except Exception as error:
        return error if "Timeout" in type(error).__name__ else None  # requests' or httpx's
    files = [file.rfilename for file in found.siblings or []]
    weights = [name for name in files if name.endswith(".safetensors") and "/" not in name]
    missing = [n for n in weights if not try_to_load_from_cache(repo, n, revision=found.sha)]
    if missing:
        logger.warning(
            "fetching %s@%s from %s to %s: %d of %d file(s) of weights",
            repo, found.sha, constants.ENDPOINT, constants.HF_HUB_CACHE,
            len(missing), len(weights),
        )  # fmt: skip
    return None


def pinned(model: str | None) -> str | None:
    """The name with the commit that it means at present, for whoever starts several replicas: they
    load the same though the branch may move. Unchanged if it is a directory or has a commit, and
    where the hub cannot be asked from here: each machine then takes what it finds."""
    if model is None or not is_name(model):
        return model
    repo, revision = _parts(model)
    if revision is not None and _COMMIT.fullmatch(revision):
        return model
    try:
        commit = _info(repo, revision).sha
    except Exception as error:  # whatever it is, the machines that fetch will say
        logger.info("model=%r is not pinned to a commit: %s", model, error)
        return model
    return f"{repo}@{commit}"


def _info(repo: str, revision: str | None) -> ModelInfo:
    """What the hub says of a model: its commit, its files."""
    from huggingface_hub import HfApi

    return HfApi().model_info(repo, revision=revision, timeout=PIN_TIMEOUT_S)


def model_name(folder: Path) -> str:
    """What a checkpoint directory is called in results: OWNER/NAME@COMMIT in a hub's cache."""
    repo = folder.parent.parent.name
    if folder.parent.name != "snapshots" or not repo.startswith("models--"):
        return folder.name
    return f"{repo.removeprefix('models--').replace('--', '/', 1)}@{folder.name}"


def _parts(model: str) -> tuple[str, str | None]:
    found = _NAME.fullmatch(model)
    assert found is not None, f"{model!r} is no name"
    return found["repo"], found["revision"]


@contextmanager
def _explained(model: str) -> Iterator[None]:
    """huggingface_hub's errors as `ConfigError`s with the way out."""
    try:
        yield
    except ImportError:  # says itself what to install
        raise
    except Exception as error:
        why = _reason(model, error)
        raise ConfigError(
            f"model={model!r} is not a directory, and as a hub's model it {why}"
        ) from error


def _reason(model: str, error: Exception) -> str:
    from huggingface_hub import constants, errors

    where, (repo, revision) = constants.ENDPOINT, _parts(model)
    if isinstance(error, errors.GatedRepoError):
        return (
            f"is gated; accept its terms on {where} and set HF_TOKEN, of an account that has, on "
            "every machine that scores"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"is not to be seen on {where}; it is misspelled, or private, and needs HF_TOKEN on "
            "every machine that scores"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"has no branch, tag or commit {revision!r} on {where}"
    if isinstance(error, errors.LocalEntryNotFoundError):
        cache = f"is not whole in this machine's cache, {constants.HF_HUB_CACHE}"
        if constants.HF_HUB_OFFLINE:
            return (
                f"{cache}, and HF_HUB_OFFLINE forbids to fetch it; unset that, or run `hf download "
                f"{repo}` where there is a network"
            )
        return (
            f"{cache}, and {where} cannot be asked; see to the network or HF_ENDPOINT "
            f"({_gist(error.__cause__ or error)})"
        )
    if isinstance(error, errors.HFValidationError):
        return f"has no valid name: {_gist(error)}"
    return (
        f"could not be fetched from {where}; what has arrived is kept, and the next start goes on "
        f"from there ({_gist(error)})"
    )


def _gist(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error!s:.200}".split())
