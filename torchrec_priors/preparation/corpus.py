"""What a corpus file returns to preparation, and how a corpus is found by name or path.

A corpus is one Python file. It defines `load(raw, bad_rows)`, which reads the raw files and
returns a `Corpus`; or `load(raw, bad_rows, engine)`, which leaves reading to an `Engine` and so
can read files of any size. The files that ship with the project are in `datasets/` (in an
installed wheel: `torchrec_priors/corpora/`). Any other file of the same form works by its path.
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

# The folder of the corpora that ship with the project, in a wheel and in the repository.
_PACKAGE = Path(__file__).resolve().parent.parent
_FOLDERS = (_PACKAGE / "corpora", _PACKAGE.parent / "datasets")


@dataclass(frozen=True)
class Labels:
    """Groups of items or users that are known in advance: a taxonomy, tags, user attributes.

    Attributes:
        name: the prior's name, as used in `priors/<name>.parquet`.
        table: columns `item_id` or `user_id`, and `label` (string). An item or user may have
            several rows.
        remainder: name of the group for items or users without a label. Every prior has it, so
            every item can be retrieved by some head. If it is empty, it has the last group
            number.
    """

    name: str
    table: ir.Table
    remainder: str


@dataclass(frozen=True)
class Corpus:
    """Raw data in one form.

    Attributes:
        name: written to the manifest.
        interactions: `user_id`, `item_id`, `timestamp` (int64, ms since 1970), `order` (int64,
            position in the raw file, breaks ties of time) and, if the corpus has event types,
            `event` (int8 index into `events`).
        items: the catalogue: `item_id`, `title` (string), any other attributes.
        category_prior: name of the item prior that entropy and new interest are measured on.
        default_horizon: `E` if `prepare --horizon` is not given.
        has_times: whether `timestamp` is a time. If the corpus knows only the order, `timestamp`
            is an interaction's index among those of its user.
        events: event names by code; empty if the corpus has none.
        event_prior: name of the prior over event types; needed if `events` is not empty.
        item_priors: labels of items; one of them is `category_prior`.
        user_priors: labels of users.
        user_group: name of the user prior that fills `user_group` in the sequences.
        computed_priors: communities that `prepare` finds in the training log; `torchrec-priors
            prior` adds others.
        min_history: users with fewer interactions are left out, each event counted once.
        items_met: whether the catalogue of the data set is limited to items that kept users have
            seen.
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
        """Raises UserError if a prior has a wrong type, or names contradict each other."""
        self._check_types()

        # Every prior is a file of the same folder and a level of the same trees, so names are
        # unique.
        items = [labels.name for labels in self.item_priors]
        users = [labels.name for labels in self.user_priors]
        names = [*items, *users, *(prior.name for prior in self.computed_priors)]
        if self.event_prior:
            names.append(self.event_prior)

        if len(set(names)) != len(names):
            raise UserError(
                f"corpus '{self.name}' defines a prior twice: {', '.join(sorted(names))}"
            )
        if self.category_prior not in items:
            hint = nearest(self.category_prior, items)
            raise UserError(
                f"corpus '{self.name}': category_prior '{self.category_prior}'"
                f" is not an item prior: {hint}"
            )
        if bool(self.events) != bool(self.event_prior):
            raise UserError(f"corpus '{self.name}': give both events and event_prior, or neither")
        if self.user_group and self.user_group not in users:
            hint = nearest(self.user_group, users)
            raise UserError(
                f"corpus '{self.name}': user_group '{self.user_group}' is not a user prior: {hint}"
            )

    def _check_types(self) -> None:
        """Corpus files are not type-checked, so wrong types are reported here by name."""
        for attribute in ("item_priors", "user_priors"):
            if not _is_sequence_of(getattr(self, attribute), Labels):
                raise UserError(f"corpus '{self.name}': {attribute} must be a list of Labels")
        if not _is_sequence_of(self.computed_priors, GraphPrior | UserPrior):
            raise UserError(
                f"corpus '{self.name}': computed_priors must be a list of GraphPrior or UserPrior"
            )


class CorpusFile(Protocol):
    """The form of a corpus file.

    A file that can generate raw files in its own schema also defines a `Generate`.
    """

    def load(self, raw: Path, bad_rows: BadRows) -> Corpus:
        """Reads the raw files.

        It may take a third argument, the `Engine`; and a fourth, an `Options`, if the file
        declares that class. `load_corpus` passes what the file takes.
        """


class Generate(Protocol):
    """`generate` of a corpus file: fills the folder `raw` with a log of `rows` interactions."""

    def __call__(
        self, raw: Path, rows: int, seed: int, report: Callable[[str], None] = ..., /
    ) -> None: ...


def known_corpora() -> dict[str, Path]:
    """Name -> file of every corpus that ships with the project."""
    for folder in _FOLDERS:
        if folder.is_dir():
            return {file.stem: file for file in sorted(folder.glob("*.py"))}
    return {}


def find_corpus(name_or_file: str) -> CorpusFile:
    """The corpus of this name, or the user's own file.

    Raises:
        UserError: no such corpus or file, or a file without a `load(raw, bad_rows)` or
            `load(raw, bad_rows, engine)`.
    """
    file = corpus_path(name_or_file)
    corpus_file: CorpusFile = load_file(file, option="--dataset", function="load")

    # Loaded again only to check the signature: the error then names the arguments that `load`
    # must take.
    if declares_options(corpus_file):
        load_file(
            file,
            option="--dataset",
            function="load",
            arguments=("raw", "bad_rows", "engine", "options"),
        )
    elif not _takes_engine(corpus_file):
        load_file(file, option="--dataset", function="load", arguments=("raw", "bad_rows"))
    return corpus_file


def load_corpus(
    corpus_file: CorpusFile,
    raw: Path,
    bad_rows: BadRows,
    engine: Engine,
    options: Sequence[str] = (),
) -> object:
    """Returns what `load` of a corpus file returns, with the arguments that this `load` takes.

    Args:
        options: options of the corpus, as `--option` gives them.
    """
    # `Options` is passed even if no option is given.
    chosen = read_options(corpus_file, options)
    arguments: list[Any] = [raw, bad_rows]
    if chosen is not None:
        arguments += [engine, chosen]
    elif _takes_engine(corpus_file):
        arguments.append(engine)
    return corpus_file.load(*arguments)


def find_generator(name_or_file: str) -> Generate:
    """The function that generates raw files of this corpus.

    Raises:
        UserError: no such corpus, or one that defines no `generate(raw, rows, seed, report)`.
    """
    generate: Generate | None = getattr(find_corpus(name_or_file), "generate", None)
    if generate is None:
        # Every corpus is loaded to see what it defines, so only for the message.
        able = [name for name in known_corpora() if hasattr(find_corpus(name), "generate")]
        raise UserError(
            f"--generate: corpus '{name_or_file}' cannot generate raw files;"
            f" these can: {', '.join(able)}"
        )
    return generate


def corpus_path(name_or_file: str) -> Path:
    """The path of a corpus's file. A path that is given is returned whether or not the file exists.

    Raises:
        UserError: an unknown name.
    """
    known = known_corpora()
    if name_or_file.endswith(".py"):
        return Path(name_or_file)

    # The user may have left out the ending of a file of their own.
    if name_or_file not in known:
        file = f"{name_or_file}.py"
        if Path(file).is_file():
            raise UserError(
                f"unknown data set '{name_or_file}': to use the file '{file}',"
                f" give --dataset {file}"
            )
        raise UserError(f"unknown data set '{name_or_file}': {nearest(name_or_file, known)}")
    return known[name_or_file]


def _is_sequence_of(values: object, kind: Any) -> bool:
    return isinstance(values, Sequence) and all(isinstance(value, kind) for value in values)


def _takes_engine(corpus_file: CorpusFile) -> bool:
    try:
        inspect.signature(corpus_file.load).bind("raw", "bad_rows", "engine")
    except TypeError:
        return False
    return True
