"""Where data lies: a local path, or a URI such as s3://bucket/folder."""

import re
from dataclasses import dataclass
from pathlib import Path

from torchrec_priors.errors import UserError

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_COLLAPSED = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(?=[^/])")  # what a Path leaves of it
_PASSWORD = re.compile(r"[^/@]*:[^/@]*@")


@dataclass(frozen=True)
class Uri:
    """A folder or file outside the local file system; `uri / "part"` is within it."""

    text: str

    @property
    def protocol(self) -> str:
        return self.text.partition("://")[0]

    @property
    def name(self) -> str:
        """Its last part, for people."""
        return self.text.rpartition("/")[2]

    def absolute(self) -> "Uri":
        """As a Path has it; every URI is."""
        return self

    def __truediv__(self, path: str) -> "Uri":
        return Uri(f"{self.text}/{path}")

    def __str__(self) -> str:
        return self.text


Place = Path | Uri


def place_of(given: str | Place, option: str = "--data") -> Place:
    """What a person's text means; `file://` is a local path.

    Raises:
        UserError: a URI that cannot name a folder, or that holds a password.

    >>> place_of("s3://bucket/shop/") / "manifest.json"
    Uri(text='s3://bucket/shop/manifest.json')
    >>> place_of("file:///data/shop"), place_of("prepared/shop")
    (PosixPath('/data/shop'), PosixPath('prepared/shop'))
    """
    if isinstance(given, Path | Uri):
        return given
    found = _URI.fullmatch(given)
    if found is None:
        return Path(given)
    protocol = found[1].lower()
    rest = found[2].rstrip("/")
    if protocol == "file":
        if not found[2].startswith("/"):
            raise UserError(
                f"{option}: '{given}' names no local path: write file:///folder, or the path alone"
            )
        return Path(found[2])
    if _PASSWORD.match(rest):
        named = f"{protocol}://...@{rest.partition('@')[2]}"
        raise UserError(
            f"{option}: '{named}' holds a password, which would be kept with runs: give it in the environment"
        )
    if not rest:
        raise UserError(f"{option}: '{given}' names nothing: write {protocol}://bucket/folder")
    if protocol in ("http", "https") and ("?" in rest or "#" in rest):
        raise UserError(
            f"{option}: '{given}' has a query, after which no file can be named: give the folder's address"
        )
    return Uri(f"{protocol}://{rest}")


def refuse_uri(path: Path, option: str) -> None:
    """Raises UserError where a URI was given for what must be local, and became a path."""
    found = _COLLAPSED.match(str(path))
    if found is not None and not path.exists():
        uri = f"{found[1]}://{str(path)[found.end() :]}"
        raise UserError(f"{option}: '{uri}' is a URI, and {option} takes a local path; URIs go with --data, --raw and"
                        " prepare's --out")  # fmt: skip
