"""The settings that an append takes from the manifest; giving others is an error."""

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
    """The settings that the user gave again; None or empty if not given.

    Attributes:
        dataset: name or file of the corpus; the file is needed if the corpus is a custom one.
        options: options of the corpus, each as `key=value`.
    """

    dataset: str | None = None
    horizon: int | None = None
    seed: int | None = None
    options: tuple[str, ...] = ()
    split: SplitBy | None = None


def corpus_of(manifest: Manifest, given: Given) -> str:
    """Name or file of the corpus that the data set was made by.

    Raises:
        UserError: another corpus, horizon or seed is given; the corpus's file is needed, or has
            changed.
    """
    recorded = manifest.settings["dataset"]
    if given.dataset is None and recorded.endswith(".py"):
        raise UserError(
            f"--append: this data set is of a custom corpus: give its file, --dataset {recorded}"
        )

    # The manifest has the name of a file, not its folder, which may be another one by now.
    dataset = given.dataset or recorded
    if Path(dataset).name != recorded:
        raise UserError(f"--dataset: the data set is of corpus '{recorded}', not of '{dataset}'")
    find_corpus(dataset)
    if sha256(corpus_path(dataset)) != manifest.settings["corpus_sha256"]:
        raise UserError(
            f"--dataset: '{corpus_path(dataset)}' has changed since the data set was made:"
            " put it back, or prepare again"
        )

    for option, value in (("horizon", given.horizon), ("seed", given.seed)):
        recorded_value = manifest.settings[option]
        if value is not None and value != recorded_value:
            raise UserError(
                f"--{option}: the data set was made with {recorded_value}, not with {value}:"
                " leave it out"
            )
    return str(dataset)


def options_of(manifest: Manifest, dataset: str, given: Given) -> tuple[str, ...]:
    """The corpus's options of the data set, in the form of `--option`.

    Raises:
        UserError: other options are given, or a file that is one of them is needed.
    """
    recorded: dict[str, Any] = manifest.settings.get("options", {})
    corpus_file = find_corpus(dataset)
    # An option that the data set has by default need not be given, even if it is a file.
    default = recorded_options(read_options(corpus_file, ()))
    given_values = recorded_options(read_options(corpus_file, given.options))
    given_keys = {option.partition("=")[0] for option in given.options}

    options = list(given.options)
    for key, value in recorded.items():
        if key in given_keys:
            if given_values[key] != value:
                raise UserError(
                    f"--option: the data set was made with {key} = {_readable(value)},"
                    f" not {_readable(given_values[key])}"
                )
        elif default[key] != value:
            # The manifest has the name and the checksum of a file, not its content.
            if isinstance(value, dict):
                raise UserError(
                    "--append: give the file again that the data set was made with:"
                    f" {key}={value['file']}"
                )
            options.append(f"{key}={value}")
    return tuple(options)


def split_of(manifest: Manifest, given: Given) -> LastOfUser | AtTimes:
    """The rule that splits the data set, with its original times, without the corpus's minimum.

    Raises:
        UserError: another rule is given, or the times are unknown.
    """
    recorded = manifest.settings.get("split", {})
    if given.split is not None and given.split.recorded().get("split", {}) != recorded:
        raise UserError(
            f"--split: the data set is split differently ({manifest.split}): leave it out"
        )

    if not recorded:
        return LastOfUser(manifest.horizon)
    # Not chosen again from the longer log: interactions would move between the parts.
    if TIMES not in manifest.settings:
        raise UserError(
            "--append: the data set does not say at which times it is split: prepare it again"
        )
    return AtTimes(manifest.horizon, *manifest.settings[TIMES])


def _readable(value: Any) -> Any:
    """A recorded option in a message; a file by its name."""
    return value["file"] if isinstance(value, dict) else value
