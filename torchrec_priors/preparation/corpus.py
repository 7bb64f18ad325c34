"""What a corpus file hands to preparation, and how a corpus is found by name or path.

A corpus is one Python file. It defines `load(raw, bad_rows)`, which reads the raw files and returns a `Corpus`; or
`load(raw, bad_rows, engine)`, which leaves reading to an `Engine`, so that files of any size will do. The files that
ship with the project lie in `datasets/` (in an installed wheel: `torchrec_priors/corpora/`); any other file of the same
form works by its path.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import ibis.expr.types as ir

from torchrec_priors.common.plugin import load_file
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.preparation.engine.engine import Engine
from torchrec_priors.preparation.options import declares_options, read_options
from torchrec_priors.preparation.priors.communities.settings import GraphPrior, UserPrior
from torchrec_priors.preparation.raw.delimited import BadRows

_PACKAGE = Path(__file__).resolve().parent.parent
_FOLDERS = (_PACKAGE / "corpora", _PACKAGE.parent / "datasets")


@dataclass(frozen=True)
class Labels:
    """Groups of entities known before any interaction is seen: a taxonomy, tags, user attributes.

    Attributes:
        name: the prior's name, as used in `priors/<name>.parquet`.
        table: columns `item_id` or `user_id`, and `label` (string). Several rows an entity are allowed.
        remainder: name of the group for entities without a label; every prior has it, so that nothing is beyond
            every head's reach. It is group-numbered last where it is empty.
    """

    name: str
    table: ir.Table
    remainder: str


@dataclass(frozen=True)
class Corpus:
    """Raw data in one form.

    Attributes:
        name: written to the manifest.
        interactions: `user_id`, `item_id`, `timestamp` (int64, ms since 1970), `order` (int64, position in the raw
            file, breaks ties of time) and, where the corpus has event types, `event` (int8 index into `events`).
        items: the catalogue: `item_id`, `title` (string), any other attributes.
        category_prior: name of the item prior that entropy and new interest are measured on.
        default_horizon: `E` where `prepare --horizon` is not given.
        has_times: whether `timestamp` is a time; where the corpus knows the order alone, it is an interaction's place
            among its user's.
        events: event names by code; empty where the corpus has none.
        event_prior: name of the prior over event types; needed where `events` is not empty.
        item_priors: labels on items; one of them is `category_prior`.
        user_priors: labels on users.
        user_group: name of the user prior that fills `user_group` in the sequences.
        computed_priors: communities that `prepare` finds in the training log; `torchrec-priors prior` adds others.
        min_history: users of fewer interactions are left out, each event counted once.
        items_met: whether the catalogue of the data set is only what users who are kept have met.
    """

    name: str
    interactions: ir.Table
    items: ir.Table
    category_prior: str
    default_horizon: int
    has_times: bool = True
    events: Sequence[str] = ()
    event_prior: str | None = None
    item_priors: Sequence[Labels] = ()
    user_priors: Sequence[Labels] = field(default_factory=tuple)
    user_group: str | None = None
    computed_priors: Sequence[GraphPrior | UserPrior] = ()
    min_history: int = 1
    items_met: bool = False

    def __post_init__(self) -> None:
        """Raises UserError where the priors are none, or their names contradict each other."""
        for attribute in ("item_priors", "user_priors"):
            priors = getattr(self, attribute)
            if not isinstance(priors, Sequence) or not all(
                isinstance(labels, Labels) for labels in priors
            ):
                raise UserError(f"corpus '{self.name}': {attribute} must be a list of Labels")
        computed = self.computed_priors
        if not isinstance(computed, Sequence) or not all(
            isinstance(one, GraphPrior | UserPrior) for one in computed
        ):
            raise UserError(
                f"corpus '{self.name}': computed_priors must be a list of GraphPrior or UserPrior"
            )
        items = [labels.name for labels in self.item_priors]
        users = [labels.name for labels in self.user_priors]
        names = [
            *items,
            *users,
            *(prior.name for prior in computed),
            *([self.event_prior] if self.event_prior else []),
        ]
        if len(set(names)) != len(names):
            raise UserError(
                f"corpus '{self.name}' defines a prior twice: {', '.join(sorted(names))}"
            )
        if self.category_prior not in items:
            hint = nearest(self.category_prior, items)
            raise UserError(
                f"corpus '{self.name}': category_prior '{self.category_prior}' is no item prior: {hint}"
            )
        if bool(self.events) != bool(self.event_prior):
            raise UserError(f"corpus '{self.name}': events and event_prior come together")
        if self.user_group and self.user_group not in users:
            hint = nearest(self.user_group, users)
            raise UserError(
                f"corpus '{self.name}': user_group '{self.user_group}' is no user prior: {hint}"
            )


class CorpusFile(Protocol):
    """The form of a corpus file. One that can make up raw files in its own schema also defines a `Generate`."""

    def load(self, raw: Path, bad_rows: BadRows) -> Corpus:
        """Or with a third argument, the `Engine`, and where the file declares `Options`, a fourth, one of these;
        `load_corpus` knows."""


class Generate(Protocol):
    """`generate` of a corpus file: fills the folder `raw` with a log of `rows` interactions."""

    def __call__(
        self, raw: Path, rows: int, seed: int, report: Callable[[str], None] = ..., /
    ) -> None: ...


def known_corpora() -> dict[str, Path]:
    """Name -> file of every corpus that ships with the project."""
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), None)
    return {} if folder is None else {file.stem: file for file in sorted(folder.glob("*.py"))}


def find_corpus(name_or_file: str) -> CorpusFile:
    """The corpus of this name, or the user's own file.

    Raises:
        UserError: no such corpus or file, or a file without a `load(raw, bad_rows)` or `load(raw, bad_rows, engine)`.
    """
    file = corpus_path(name_or_file)
    found: CorpusFile = load_file(file, option="--dataset", function="load")
    if declares_options(found):
        load_file(
            file,
            option="--dataset",
            function="load",
            arguments=("raw", "bad_rows", "engine", "options"),
        )
    elif not _takes_engine(found):
        load_file(file, option="--dataset", function="load", arguments=("raw", "bad_rows"))
    return found


def load_corpus(
    corpus_file: CorpusFile,
    raw: Path,
    bad_rows: BadRows,
    engine: Engine,
    options: Sequence[str] = (),
) -> object:
    """What `load` of a corpus file returns, whichever of its forms the file has.

    Args:
        options: of the corpus, as `--option` gives them.
    """
    chosen = read_options(corpus_file, options)
    arguments: list[Any] = [raw, bad_rows]
    if chosen is not None:
        arguments += [engine, chosen]
    elif _takes_engine(corpus_file):
        arguments.append(engine)
    return corpus_file.load(*arguments)


def _takes_engine(corpus_file: CorpusFile) -> bool:
    try:
        inspect.signature(corpus_file.load).bind("raw", "bad_rows", "engine")
    except TypeError:
        return False
    return True


def find_generator(name_or_file: str) -> Generate:
    """What makes up raw files of this corpus.

    Raises:
        UserError: no such corpus, or one that defines no `generate(raw, rows, seed, report)`.
    """
    generate: Generate | None = getattr(find_corpus(name_or_file), "generate", None)
    if generate is None:
        able = [name for name in known_corpora() if hasattr(find_corpus(name), "generate")]
        raise UserError(
            f"--generate: corpus '{name_or_file}' cannot make up raw files; these can: {', '.join(able)}"
        )
    return generate


def corpus_path(name_or_file: str) -> Path:
    """Where a corpus's file lies, or should."""
    known = known_corpora()
    if name_or_file.endswith(".py"):
        return Path(name_or_file)
    if name_or_file not in known:
        own = f"{name_or_file}.py"
        if Path(own).is_file():
            raise UserError(
                f"unknown data set '{name_or_file}': for the file '{own}' here, --dataset {own}"
            )
        raise UserError(f"unknown data set '{name_or_file}': {nearest(name_or_file, known)}")
    return known[name_or_file]
