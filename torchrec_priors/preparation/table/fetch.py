"""Fetches tables that are in stores."""

from dataclasses import replace
from pathlib import Path

from torchrec_priors.preparation.table.description import Table
from torchrec_priors.remote.mirror import mirror, mirror_file
from torchrec_priors.remote.progress import Report
from torchrec_priors.remote.store import Store
from torchrec_priors.remote.uri import Place, Uri


def fetched(table: Table, report: Report) -> Table:
    """Returns the description with local places: folders of links to files in the cache.

    Raises:
        UserError: a file or folder does not exist, or cannot be read.
        OutsideError: a store does not answer.
    """
    return replace(
        table,
        log=_local(table.log, "--table", report),
        items=None if table.items is None else _local(table.items, "--items", report),
        user_labels={
            label: _local(place, "--user-label", report)
            for label, place in table.user_labels.items()
        },
    )


def _local(place: Place, option: str, report: Report) -> Path:
    if not isinstance(place, Uri):
        return place
    parent, _, name = place.text.rpartition("/")
    if not parent.endswith(":/") and Store(Uri(parent), option).is_file(name):
        return mirror_file(Uri(parent), name, option, report)
    return mirror(place, option, report)
