"""A bad row is an error that names it and the option to drop it; with the option it is dropped and counted."""

import re

import pytest

from torchrec_priors.errors import UserError


def assert_named_or_dropped(prepare, file, place, says):
    """Prepares raw files with one bad row twice: once with each treatment of bad rows.

    Args:
        prepare: `prepare(**settings)` prepares them and returns the manifest.
        file: the name of the file with the bad row.
        place: the place of the row, such as "row 7".
        says: what is wrong with it: the broken rule, and after a colon perhaps the value.
    """
    named = re.escape(f"{file}, {place}: {says}")
    with pytest.raises(UserError, match=rf"{named}.*--on-bad-row drop"):
        prepare()
    made = prepare(on_bad_row="drop")
    rule = says.partition(":")[0]
    assert made.counts["dropped"][f"{file}: {rule}"] == 1
