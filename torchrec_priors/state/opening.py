"""Opens the store of users' events that a URI names."""

from pathlib import Path

from torchrec_priors.errors import UserError, nearest, shown
from torchrec_priors.state.store import MOST, UserStore

_REDIS = ("redis", "rediss", "unix")
_SCHEMES = ("sqlite", *_REDIS, "none")


def open_store(uri: str | None, run: Path, *, most: int = MOST) -> UserStore | None:
    """Opens a store of users' events. The first opening of a SQLite file creates it.

    A Redis server that does not answer is no error here: a warning is logged, and the store
    recovers when the server does.

    Args:
        uri: `sqlite:PATH`; `redis://HOST:PORT/NUMBER`, `rediss://...` (with TLS) or
            `unix:///SOCKET`; `none:` for no store. None for the file `state/users.sqlite` in the
            folder of the run.
        run: the folder of the run.
        most: the number of events that a user keeps.

    Returns:
        The store; None for `none:`.

    Raises:
        UserError: the URI is wrong, or its library is missing, or the file cannot be used.
        StoreGoneError: the file cannot be read or written now.
    """
    if uri is None:
        return _sqlite(run / "state" / "users.sqlite", most)

    scheme, colon, rest = uri.partition(":")
    if not colon or scheme not in _SCHEMES:
        raise UserError(
            f"{shown(scheme + colon)} is not a kind of store: {nearest(scheme, _SCHEMES)}; "
            "write for example sqlite:users.sqlite, redis://localhost:6379/0 or none:"
        )
    if scheme == "none":
        return None
    if scheme == "sqlite":
        return _sqlite(_path(rest), most)

    from torchrec_priors.state.redis import RedisStore

    return RedisStore(uri, most=most)


def _sqlite(file: Path, most: int) -> UserStore:
    from torchrec_priors.state.sqlite import SqliteStore

    return SqliteStore(file, most=most)


def _path(rest: str) -> Path:
    """Returns the path of a URI `sqlite:PATH`. `sqlite:///PATH` is an absolute path, too."""
    if not rest or rest == ":memory:" or (rest.startswith("//") and not rest.startswith("///")):
        raise UserError(f"store 'sqlite:{rest}' has no path: write sqlite:PATH")
    return Path(rest).expanduser()
