"""Whether raw files that are to be appended are of the form of those that the data set was made of."""

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
    """Raises UserError where the data set lacks what an append needs of users who were left out."""
    left_out = users_left_out(manifest.counts)
    if left_out and not any(info.path == INTERACTIONS for info in manifest.files):
        raise UserError(
            f"--append: data set '{manifest.name}' left out {left_out:,} users for short histories and did not keep"
            " them: prepare it anew with --keep-short yes"
        )


def check_form(corpus: Corpus, state: State) -> None:
    """Raises UserError where events, priors, columns or types of ids are others."""
    manifest = state.manifest
    came = [prior for prior in manifest.priors if not prior.made_by]
    labels = {"item": corpus.item_priors, "user": corpus.user_priors}
    now = {(one.name, kind) for kind, several in labels.items() for one in several}
    now |= {(corpus.event_prior, "event")} if corpus.event_prior else set()
    has_titles = [name for name in state.items.columns if name not in ("item", "frequency")]
    for what, there, here in (
        ("name", manifest.name, corpus.name),
        ("events", list(manifest.events), list(corpus.events)),
        ("times", manifest.has_times, corpus.has_times),
        ("priors", sorted((prior.name, prior.kind) for prior in came), sorted(now)),
        ("columns of items", sorted(has_titles), sorted(corpus.items.columns)),
        (
            "type of item_id",
            kind_of(state.items.schema()["item_id"]),
            kind_of(corpus.items.schema()["item_id"]),
        ),
        (
            "type of user_id",
            kind_of(state.users.schema()["user_id"]),
            kind_of(_type(corpus.interactions, "user_id")),
        ),
    ):
        if there != here:
            raise UserError(
                f"--append: the raw files are of another form: {what} {_shown(here)} here, {_shown(there)} in the data"
                " set: prepare them by themselves"
            )


def _type(table: ir.Table, column: str) -> dt.DataType:
    return table.schema()[column]


def _shown(value: object) -> str:
    return str(value).replace("\n", " ")
