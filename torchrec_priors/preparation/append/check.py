"""Checks that raw files can be appended to a data set."""

import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.append.state import State
from torchrec_priors.preparation.build.check import kind_of
from torchrec_priors.preparation.build.counts import users_left_out
from torchrec_priors.preparation.build.held import INTERACTIONS
from torchrec_priors.preparation.corpus import Corpus
from torchrec_priors.prepared.manifest import Manifest


def check_can_grow(manifest: Manifest) -> None:
    """Raises UserError if the interactions of users who were left out were not kept.

    With new interactions, the histories of these users could become long enough to be used. But
    their earlier interactions would be missing.
    """
    left_out = users_left_out(manifest.counts)
    if left_out and not any(info.path == INTERACTIONS for info in manifest.files):
        raise UserError(
            f"--append: data set '{manifest.name}' left out {left_out:,} users for short histories"
            " and did not keep them: prepare it again with --keep-short yes"
        )


def check_form(corpus: Corpus, state: State) -> None:
    """Raises UserError if events, priors, columns or types of ids are not those of the data set."""
    manifest = state.manifest
    # Priors that were added to the data set later do not come from its raw files.
    of_data_set = {(prior.name, prior.kind) for prior in manifest.priors if not prior.made_by}
    of_corpus = {(labels.name, "item") for labels in corpus.item_priors}
    of_corpus |= {(labels.name, "user") for labels in corpus.user_priors}
    if corpus.event_prior:
        of_corpus.add((corpus.event_prior, "event"))
    columns = [name for name in state.items.columns if name not in ("item", "frequency")]

    # Only the first difference is reported, because the later ones often follow from it.
    for subject, before, now in (
        ("name", manifest.name, corpus.name),
        ("events", list(manifest.events), list(corpus.events)),
        ("times", manifest.has_times, corpus.has_times),
        ("priors", sorted(of_data_set), sorted(of_corpus)),
        ("columns of items", sorted(columns), sorted(corpus.items.columns)),
        (
            "type of item_id",
            kind_of(_type(state.items, "item_id")),
            kind_of(_type(corpus.items, "item_id")),
        ),
        (
            "type of user_id",
            kind_of(_type(state.users, "user_id")),
            kind_of(_type(corpus.interactions, "user_id")),
        ),
    ):
        if before != now:
            raise UserError(
                f"--append: the raw files have another form: {subject} {_on_one_line(now)} here,"
                f" {_on_one_line(before)} in the data set: prepare a separate data set"
            )


def _type(table: ir.Table, column: str) -> dt.DataType:
    return table.schema()[column]


def _on_one_line(value: object) -> str:
    return str(value).replace("\n", " ")
