"""A manifest that a test has changed, with the right checksum: what a person's program could have written."""

from pathlib import Path

from torchrec_priors.common.files import read_json, write_json
from torchrec_priors.prepared.manifest import FILE, describe_file


def edit(folder: Path, **changes) -> None:
    """`...` takes a field out."""
    values = read_json(folder / FILE, remedy="prepare again") | changes
    write_json(folder / FILE, {name: value for name, value in values.items() if value is not ...})


def describe_again(folder: Path, path: str) -> None:
    """After the file at `path` was changed or added."""
    files = read_json(folder / FILE, remedy="prepare again")["files"]
    others = [info for info in files if info["path"] != path]
    edit(folder, files=[*others, vars(describe_file(folder / path, path))])
