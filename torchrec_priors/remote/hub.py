"""Runs on the Hugging Face hub: `hf://org/name`, or `hf://org/name@revision`."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torchrec_priors.errors import OutsideError, UserError
from torchrec_priors.remote.uri import Place, Uri

_PROTOCOL = "hf"
_REPOSITORY = re.compile(r"hf://([^/@\s]+/[^/@\s]+)(?:@([^@\s]+))?")
# What a pushed run consists of. Other files in the repository are not fetched.
_FILES = ["*.json", "*.toml", "*.parquet", "*.safetensors", "README.md"]
# Libraries that raise errors of the connection.
_OF_CONNECTIONS = ("httpx", "httpx2", "httpcore", "requests", "urllib3")


@dataclass(frozen=True)
class Repository:
    """A repository of the hub.

    Attributes:
        name: the name, such as "org/name".
        revision: a branch, tag or commit; None for the main branch.
    """

    name: str
    revision: str | None = None


def repository_of(uri: str, option: str) -> Repository:
    """Reads the address of a repository.

    Raises:
        UserError: it is none.
    """
    match = _REPOSITORY.fullmatch(uri)
    if match is None:
        raise UserError(f"{option}: '{uri}' names no repository: write hf://org/name[@revision]")
    return Repository(match[1], match[2])


def is_on_hub(place: Place | str) -> bool:
    """Returns whether a place that a user named is on the hub."""
    return str(place).startswith(f"{_PROTOCOL}://")


def is_repository(place: Uri) -> bool:
    """Returns whether a URI names a whole repository of the hub, and not a folder in one."""
    return _REPOSITORY.fullmatch(place.text) is not None


@contextmanager
def explaining_hub(where: str) -> Iterator[None]:
    """Turns errors of the client in this block into one-line errors.

    Args:
        where: the option and the repository, for messages.
    """
    try:
        yield
    except Exception as error:
        told = _told(error, where)
        if told is error:
            raise
        raise told from error


def _told(error: Exception, where: str) -> Exception:
    """Returns an error of the client as one of ours, in one line; other errors as they are.

    Args:
        error: the error.
        where: the option and the repository, for messages.
    """
    from huggingface_hub import errors

    told = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"{where} has no such revision: check its name")
    if isinstance(error, errors.LocalTokenNotFoundError) or status in (401, 403):
        return UserError(
            f"{where}: it does not exist, or you may not use it: log in (hf auth login, or "
            f"HF_TOKEN) as somebody who may ({told})"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(f"{where} does not exist: check its name")
    if isinstance(error, errors.HFValidationError | ValueError):
        return UserError(f"{where}: {told}")
    if isinstance(error, errors.LocalEntryNotFoundError) or _is_of_connection(error):
        return OutsideError(
            f"{where}: the hub does not answer ({told}): check the connection and run this again"
        )
    if isinstance(error, errors.HfHubHTTPError):
        return OutsideError(f"{where}: the hub refuses ({told})")
    return error


def check_client(option: str) -> None:
    """Raises UserError if the hub's client is not installed."""
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{option} needs the client of the Hugging Face hub: pip install 'torchrec-priors[hf]'"
        ) from error


def fetch_run(place: Uri, option: str = "--run") -> Path:
    """Fetches a repository into the client's cache, unless it is there; returns its folder.

    Args:
        place: the address, `hf://org/name[@revision]`.
        option: the option with which it was given, for messages.

    Raises:
        UserError: the repository does not exist or may not be read, or the client is not installed.
        OutsideError: the hub does not answer.
    """
    repository = repository_of(place.text, option)
    check_client(option)
    from huggingface_hub import snapshot_download

    with explaining_hub(f"{option}: 'hf://{repository.name}'"):
        folder = snapshot_download(
            repository.name,
            revision=repository.revision,
            allow_patterns=_FILES,
            library_name="torchrec-priors",
        )
    return Path(folder)


def _is_of_connection(error: Exception) -> bool:
    """Returns whether an error comes from the connection to the hub."""
    return type(error).__module__.partition(".")[0] in _OF_CONNECTIONS
