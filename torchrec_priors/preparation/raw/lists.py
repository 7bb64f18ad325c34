"""Reads raw files in which every line is a list of integers, such as the history of a user."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.errors import UserError, shown
from torchrec_priors.preparation.raw.bad_rows import BadRows
from torchrec_priors.preparation.raw.lines import lines_of
from torchrec_priors.preparation.raw.typed import LINE, in_range, without_zeros

_INTEGERS = r"^-?[0-9]+(\s+-?[0-9]+)+$"


def read_lists(file: Path, bad_rows: BadRows) -> pa.Array:
    """Reads a file with two or more integers per line as lists of int64.

    The integers are separated by white space. Blank lines are skipped.

    Raises:
        UserError: the file is empty, or a line contains something else and `bad_rows` rejects it.
    """
    lists, _ = _numbered_lists(file, bad_rows)
    return lists


def read_histories(file: Path, bad_rows: BadRows) -> pa.Table:
    """Reads a file in which every line is a user's id and then item ids in order of time.

    Returns:
        A table with one row for each interaction, in the order of the file: `user_id`, `item_id`,
        `timestamp` (the position in the user's history, from 0), `order` (the position in the
        file, from 0), `line`. All columns are int64.

    Raises:
        UserError: as for `read_lists`, or a user has two lines.
    """
    lists, lines = _numbered_lists(file, bad_rows)
    user = pc.list_element(lists, 0).to_numpy()
    values, counts = np.unique(user, return_counts=True)
    if len(values) != len(user):
        raise UserError(
            f"{file}: user {values[counts > 1][0]} has two lines, so their order in time is unknown"
        )

    # The first number of a line is the user, and the others are items.
    length = pc.list_value_length(lists).to_numpy() - 1
    first = np.cumsum(length) - length
    position = np.arange(length.sum()) - np.repeat(first, length)
    items = np.delete(pc.list_flatten(lists).to_numpy(), first + np.arange(len(first)))

    return pa.table(
        {
            "user_id": np.repeat(user, length),
            "item_id": items,
            "timestamp": position,
            "order": np.arange(len(items)),
            LINE: np.repeat(lines.to_numpy(), length),
        }
    )


def _numbered_lists(file: Path, bad_rows: BadRows) -> tuple[pa.Array, pa.Array]:
    """Returns the integers (lists of int64) and the number of every line that is not blank."""
    text, numbers = lines_of(file, "utf8", bad_rows)
    text = pc.utf8_trim_whitespace(text)
    filled = pc.not_equal(text, "")
    text = text.filter(filled)
    numbers = numbers.filter(filled)

    right = pc.match_substring_regex(text, _INTEGERS)
    wrong = pc.invert(right)
    if pc.any(wrong).as_py():
        example = f"not two or more integers: {shown(text.filter(wrong)[0].as_py())}"
        bad_rows.handle(file, numbers.filter(wrong), "not two or more integers", example)
        text = text.filter(right)
        numbers = numbers.filter(right)

    lists = pc.split_pattern_regex(text, r"\s+")
    fits = in_range(lists.flatten(), pa.int64())
    if not pc.all(fits, min_count=0).as_py():
        beyond = pc.invert(fits)
        example = (
            f"beyond the integers of 64 bits: {shown(lists.flatten().filter(beyond)[0].as_py())}"
        )
        # A row may contain several integers that are too large, but it counts once.
        rows = pc.list_parent_indices(lists).filter(beyond).unique()
        bad_rows.handle(file, numbers.take(rows), "integers beyond 64 bits", example)
        kept = pc.invert(pc.is_in(pa.array(np.arange(len(lists))), rows.cast(pa.int64())))
        lists = lists.filter(kept)
        numbers = numbers.filter(kept)

    values = without_zeros(lists.flatten()).cast(pa.int64())
    offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(lists).to_numpy())])
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values), numbers
