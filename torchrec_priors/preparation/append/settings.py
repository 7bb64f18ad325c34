"""Takes the settings of an append from the manifest. It is an error to give different ones."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from torchrec_priors.common.checksums import sha256
from torchrec_priors.errors import UserError
from torchrec_priors.parquet import read_schema
from torchrec_priors.preparation.build.split import TIMES, AtTimes, LastOfUser, SplitBy
from torchrec_priors.preparation.corpus import corpus_path, find_corpus
from torchrec_priors.preparation.inputs import CorpusInput, Input, TableInput
from torchrec_priors.preparation.options import read_options, recorded_options
from torchrec_priors.preparation.table.description import TABLE, Kind, Known
from torchrec_priors.preparation.table.options import TableOptions
from torchrec_priors.prepared.manifest import Manifest


@dataclass(frozen=True)
class Given:
    """The settings that a user gave with `--append`. A setting that was not given is None or empty.

    Attributes:
        dataset: the name or file of the corpus. A custom corpus needs the file.
        horizon: the horizon of the data set.
        seed: the seed of the data set.
        options: the options of the corpus, each as `key=value`.
        split: how the data set is split.
        table: the options of a table.
    """

    dataset: str | None = None
    horizon: int | None = None
    seed: int | None = None
    options: tuple[str, ...] = ()
    split: SplitBy | None = None
    table: TableOptions = field(default_factory=TableOptions)


def input_of(manifest: Manifest, raw: Path | None, out: Path, given: Given) -> Input:
    """Returns what is appended: raw files of the data set's corpus, or tables in its form.

    Args:
        raw: the folder of the raw files; not given for tables.
        out: the folder of the data set.

    Raises:
        UserError: settings are given that differ from those of the data set, or files are missing.
    """
    if manifest.settings["dataset"] == TABLE:
        if given.dataset is not None or given.options or not given.table.is_given():
            raise UserError(
                "--append: this data set was made from tables: give the new ones with --table"
                " (and --items and --user-label, if it was made with them)"
            )
        _check_numbers(manifest, given)
        table = given.table.appended_to(manifest.settings["options"])
        return TableInput(table, _known(manifest, out))

    if given.table.is_given():
        raise UserError(
            f"--table: this data set was made from corpus '{manifest.settings['dataset']}':"
            " give new raw files of this corpus with --raw"
        )
    if raw is None:
        raise UserError("--raw is missing: give the folder of the new raw files")
    dataset = corpus_of(manifest, given)
    return CorpusInput(dataset, raw, options_of(manifest, dataset, given))


def _known(manifest: Manifest, out: Path) -> Known:
    """Returns what the data set has decided about types of events and ids."""
    sequences = next(info.path for info in manifest.files if info.path.startswith("sequences/"))
    return Known(
        tuple(manifest.events),
        _kind(read_schema(out / "items.parquet").field("item_id").type),
        _kind(read_schema(out / sequences).field("user_id").type),
    )


def _kind(column_type: pa.DataType) -> Kind:
    return "integer" if pa.types.is_integer(column_type) else "text"


def corpus_of(manifest: Manifest, given: Given) -> str:
    """Returns the name or file of the corpus from which the data set was prepared.

    Raises:
        UserError: a different corpus, horizon or seed is given, or the file of the corpus is not
            given or has changed.
    """
    recorded = manifest.settings["dataset"]
    if given.dataset is None and recorded.endswith(".py"):
        raise UserError(
            "--append: this data set was made with a custom corpus:"
            f" give its file with --dataset {recorded}"
        )

    # The manifest has the name of the corpus file without its folder, because files may be moved.
    dataset = given.dataset or recorded
    if Path(dataset).name != recorded:
        raise UserError(f"--dataset: the data set is of corpus '{recorded}', not of '{dataset}'")
    find_corpus(dataset)
    if sha256(corpus_path(dataset)) != manifest.settings["corpus_sha256"]:
        raise UserError(
            f"--dataset: '{corpus_path(dataset)}' has changed since the data set was made:"
            " put it back, or prepare again"
        )

    _check_numbers(manifest, given)
    return str(dataset)


def _check_numbers(manifest: Manifest, given: Given) -> None:
    """Raises UserError if another horizon or seed is given."""
    for option, value in (("horizon", given.horizon), ("seed", given.seed)):
        recorded_value = manifest.settings[option]
        if value is not None and value != recorded_value:
            raise UserError(
                f"--{option}: the data set was made with {recorded_value}, not with {value}:"
                " leave it out"
            )


def options_of(manifest: Manifest, dataset: str, given: Given) -> tuple[str, ...]:
    """Returns the options of the corpus with which the data set was prepared, as `key=value`.

    Raises:
        UserError: other options are given, or an option is a file that is not given again.
    """
    recorded: dict[str, Any] = manifest.settings.get("options", {})
    corpus_file = find_corpus(dataset)
    # An option need not be given again if the data set was prepared with its default, even if the
    # default is a file.
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
            # The manifest has only the name and the checksum of a file, not the content.
            if isinstance(value, dict):
                raise UserError(
                    "--append: give the file again that the data set was made with:"
                    f" {key}={value['file']}"
                )
            options.append(f"{key}={value}")
    return tuple(options)


def split_of(manifest: Manifest, given: Given) -> LastOfUser | AtTimes:
    """Returns the rule that splits the data set. If it splits by time, it has the original times.

    The rule does not yet contain the `min_history` of the corpus.

    Raises:
        UserError: another rule is given, or the manifest has no times.
    """
    recorded = manifest.settings.get("split", {})
    if given.split is not None and given.split.recorded().get("split", {}) != recorded:
        raise UserError(
            f"--split: the data set is split differently ({manifest.split}): leave it out"
        )

    if not recorded:
        return LastOfUser(manifest.horizon)
    # The times are not chosen again from the longer log, because old interactions would then move
    # between the parts.
    if TIMES not in manifest.settings:
        raise UserError(
            "--append: the data set does not say at which times it is split: prepare it again"
        )
    return AtTimes(manifest.horizon, *manifest.settings[TIMES])


def _readable(value: Any) -> Any:
    """Returns the value of a recorded option for a message. For a file, this is the name."""
    return value["file"] if isinstance(value, dict) else value
