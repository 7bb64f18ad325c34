"""Writes a commented corpus file for users to start from."""

from pathlib import Path

from torchrec_priors.common.files import write_whole
from torchrec_priors.errors import UserError, no_such_folder

# The file that is copied. It is tested like a corpus.
_TEMPLATE = Path(__file__).with_name("corpus_template.py")
HOW_TO_USE = (
    "edit it, then torchrec-priors prepare --dataset {file} --raw FOLDER --out DATA, where FOLDER "
    "has log.csv and items.csv"
)


def write_new_corpus(file: Path) -> None:
    """Writes the file.

    Raises:
        UserError: the file exists, or its name does not end with `.py`.
    """
    if file.suffix != ".py":
        raise UserError(f"--new: '{file}' must end with .py: write {file}.py")
    if file.exists():
        raise UserError(f"--new: '{file}' exists: give another name, or move it away")
    if not file.absolute().parent.is_dir():
        raise UserError(f"--new: {no_such_folder(file.parent)}")
    write_whole(file, _TEMPLATE.read_text(encoding="utf8"))
