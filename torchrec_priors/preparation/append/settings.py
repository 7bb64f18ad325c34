"""What an append takes from the manifest, and what is said where something else is given."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchrec_priors.common.checksums import sha256
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.build.split import TIMES, AtTimes, LastOfUser, SplitBy
from torchrec_priors.preparation.corpus import corpus_path, find_corpus
from torchrec_priors.preparation.options import read_options, recorded_options
from torchrec_priors.prepared.manifest import Manifest


@dataclass(frozen=True)
class Given:
    """What a person may say again; None or empty for what was not said.

    Attributes:
        dataset: name or file of the corpus; the file is needed where the corpus is the user's own.
        options: of the corpus, each as `key=value`.
    """

    dataset: str | None = None
    horizon: int | None = None
    seed: int | None = None
    options: tuple[str, ...] = ()
    split: SplitBy | None = None


def corpus_of(manifest: Manifest, given: Given) -> str:
    """Name or file of the corpus that the data set was made by.

    Raises:
        UserError: another one is given, its file is needed, or is no longer what it was.
    """
    recorded = manifest.settings["dataset"]
    if given.dataset is None and recorded.endswith(".py"):
        raise UserError(
            f"--append: this data set is of a corpus of your own: give its file, --dataset {recorded}"
        )
    dataset = given.dataset or recorded
    if Path(dataset).name != recorded:
        raise UserError(f"--dataset: the data set is of corpus '{recorded}', not of '{dataset}'")
    find_corpus(dataset)
    if sha256(corpus_path(dataset)) != manifest.settings["corpus_sha256"]:
        raise UserError(
            f"--dataset: '{corpus_path(dataset)}' has changed since the data set was made: put it back, or prepare anew"
        )
    for option, here in (("horizon", given.horizon), ("seed", given.seed)):
        there = manifest.settings[option]
        if here is not None and here != there:
            raise UserError(
                f"--{option}: the data set was made with {there}, not with {here}: leave it out"
            )
    return str(dataset)


def options_of(manifest: Manifest, dataset: str, given: Given) -> tuple[str, ...]:
    """Options of the corpus as `--option` has them, which are those of the data set.

    Raises:
        UserError: others are given, or a file that is one of them is needed.
    """
    recorded: dict[str, Any] = manifest.settings.get("options", {})
    corpus_file = find_corpus(dataset)
    default = recorded_options(read_options(corpus_file, ()))
    said = recorded_options(read_options(corpus_file, given.options))
    keys = {option.partition("=")[0] for option in given.options}
    found = list(given.options)
    for key, value in recorded.items():
        if key in keys:
            if said[key] != value:
                raise UserError(
                    f"--option: the data set was made with {key} = {_shown(value)}, not {_shown(said[key])}"
                )
        elif default[key] != value:
            if isinstance(value, dict):
                raise UserError(
                    f"--append: give the file again that the data set was made with: {key}={value['file']}"
                )
            found.append(f"{key}={value}")
    return tuple(found)


def split_of(manifest: Manifest, given: Given) -> LastOfUser | AtTimes:
    """The rule by which the data set is split, with the times it had at first; what the corpus asks for is left open.

    Raises:
        UserError: another one is given, or the times are not known.
    """
    recorded = manifest.settings.get("split", {})
    if given.split is not None and given.split.recorded().get("split", {}) != recorded:
        raise UserError(
            f"--split: the data set is split otherwise ({manifest.split}): leave it out"
        )
    if not recorded:
        return LastOfUser(manifest.horizon)
    if TIMES not in manifest.settings:
        raise UserError(
            "--append: the data set does not say at which times it is split: prepare it anew"
        )
    return AtTimes(manifest.horizon, *manifest.settings[TIMES])


def _shown(value: Any) -> Any:
    return value["file"] if isinstance(value, dict) else value
