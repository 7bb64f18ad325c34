"""Recognises a release of MovieLens by its files, and reads it."""

from pathlib import Path

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.raw import BadRows, folder_with, found_in
from torchrec_priors.preparation.raw.movielens import csv_files, dat, flags, sequences
from torchrec_priors.preparation.raw.movielens.release import Release

_RATINGS = (flags.FILES, dat.FILES, csv_files.FILES, csv_files.KAGGLE)
_FORMS = (*_RATINGS, (sequences.SEQUENCES, sequences.LABELS))


def read_release(raw: Path, bad_rows: BadRows) -> Release:
    """Reads the release in the folder `raw`, or in the only suitable folder inside it.

    Raises:
        UserError: the folder holds no release or two, files are missing, or `bad_rows` rejects a
            row.
    """
    raw = folder_with(raw, *_FORMS)
    has_sequences = (raw / sequences.SEQUENCES).is_file()
    ratings = [names[0] for names in _RATINGS if (raw / names[0]).is_file()]
    if has_sequences and ratings:
        # The forms differ in films and in the default horizon, so the choice is the user's.
        raise UserError(
            f"--raw: '{raw}' holds MovieLens in two forms, {sequences.SEQUENCES} and"
            f" {ratings[0]}: keep them in two folders"
        )

    for names in (csv_files.FILES, csv_files.KAGGLE):
        if (raw / names[0]).is_file():
            return csv_files.read(raw, names, bad_rows)
    if (raw / dat.FILES[0]).is_file():
        return dat.read(raw, bad_rows)
    if has_sequences:
        return sequences.read(raw, bad_rows)

    if raw.is_dir() and not any((raw / name).is_file() for name in flags.FILES):
        forms = " or ".join(" and ".join(names) for names in _FORMS)
        raise UserError(
            f"--raw: '{raw}' holds no release of MovieLens, which is {forms} ({found_in(raw)})"
        )
    return flags.read(raw, bad_rows)
