"""The place of a data set: a local path, or a URI such as s3://bucket/folder."""

import re
from dataclasses import dataclass
from pathlib import Path

from torchrec_priors.errors import UserError

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
# A URI that was converted to a Path, which replaces several slashes by one.
_COLLAPSED = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(?=[^/])")
_PASSWORD = re.compile(r"[^/@]*:[^/@]*@")


@dataclass(frozen=True)
class Uri:
    """A folder or file in a store; `uri / "part"` is a path within the folder."""

    text: str

    @property
    def protocol(self) -> str:
        """The part before "://"."""
        return self.text.partition("://")[0]

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.text.rpartition("/")[2]

    def absolute(self) -> "Uri":
        """Returns the URI itself, as every URI is absolute. A `Path` also has this method."""
        return self

    def __truediv__(self, path: str) -> "Uri":
        return Uri(f"{self.text}/{path}")

    def __str__(self) -> str:
        return self.text


Place = Path | Uri


def place_of(given: str | Place, option: str = "--data") -> Place:
    """Converts a text that a user has given to a place; `file://` means a local path.

    Args:
        given: the text. A path or URI is returned as it is.
        option: the option with which it was given, for messages.

    Raises:
        UserError: the URI cannot name a folder, or contains a password.

    >>> place_of("s3://bucket/shop/") / "manifest.json"
    Uri(text='s3://bucket/shop/manifest.json')
    >>> place_of("file:///data/shop"), place_of("prepared/shop")
    (PosixPath('/data/shop'), PosixPath('prepared/shop'))
    """
    if isinstance(given, Path | Uri):
        return given
    match = _URI.fullmatch(given)
    if match is None:
        return Path(given)

    protocol = match[1].lower()
    rest = match[2].rstrip("/")
    if protocol == "file":
        if not match[2].startswith("/"):
            raise UserError(
                f"{option}: '{given}' is not a local path: "
                "write file:///folder, or the path without file://"
            )
        return Path(match[2])

    # The password is left out of the message, which may be logged.
    if _PASSWORD.match(rest):
        named = f"{protocol}://...@{rest.partition('@')[2]}"
        raise UserError(
            f"{option}: '{named}' has a password, which would be stored with runs: "
            "give it in the environment"
        )
    if not rest:
        raise UserError(f"{option}: '{given}' names nothing: write {protocol}://bucket/folder")
    if protocol in ("http", "https") and ("?" in rest or "#" in rest):
        raise UserError(
            f"{option}: '{given}' has a query, so no file name can follow it: "
            "give the folder's address"
        )
    return Uri(f"{protocol}://{rest}")


def refuse_uri(path: Path, option: str) -> None:
    """Raises UserError if a user has given a URI where a local path is needed.

    Args:
        path: the path that was made from the user's text.
        option: the option with which it was given, for messages.
    """
    match = _COLLAPSED.match(str(path))
    if match is not None and not path.exists():
        uri = f"{match[1]}://{str(path)[match.end() :]}"
        raise UserError(
            f"{option}: '{uri}' is a URI, and {option} takes a local path; "
            "only --data, --raw, prepare's --out, and --run where a trained run is read take URIs"
        )
