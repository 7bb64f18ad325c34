"""Finds the configurations and experiments that come with the project, by their names.

They are TOML files: in the repository in `torchx_configs/`, in an installed wheel in
`torchrec_priors/configurations/`.
"""

from pathlib import Path

from torchrec_priors.errors import UserError, nearest

_PACKAGE = Path(__file__).resolve().parent.parent
_FOLDERS = (_PACKAGE / "configurations", _PACKAGE.parent / "torchx_configs")


def config_names() -> list[str]:
    """Returns the names of the configurations that come with the project, such as "small"."""
    return sorted(_files(""))


def find_config(name: Path | str, option: str) -> Path:
    """Returns the file of a configuration.

    Args:
        name: the path of a TOML file, or the name of a configuration that comes with the project. A
            file of this name in the working folder comes first.
        option: the option that named it, for messages.

    Raises:
        UserError: a name is unknown.
    """
    return _find(name, option, "", "configuration")


def find_experiment(name: Path | str, option: str) -> Path:
    """Returns the file of an experiment; the arguments are those of `find_config`."""
    return _find(name, option, "experiments", "experiment")


def _find(name: Path | str, option: str, folder: str, kind: str) -> Path:
    path = Path(name)
    # What has a folder or an ending is a path, and is checked by whoever reads it.
    if path.name != str(name) or path.suffix == ".toml" or path.exists():
        return path

    files = _files(folder)
    if str(name) not in files:
        raise UserError(
            f"{option}: '{name}' is neither a file nor a {kind} that comes with the project: "
            f"{nearest(str(name), files)}"
        )
    return files[str(name)]


def _files(folder: str) -> dict[str, Path]:
    """Returns the TOML files in a folder of the shipped files, by their names without `.toml`."""
    for shipped in _FOLDERS:
        found = {file.stem: file for file in (shipped / folder).glob("*.toml")}
        if found:
            return found
    return {}
