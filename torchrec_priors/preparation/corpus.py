"""Defines `Corpus`, which a corpus file returns, and finds corpus files by name or path.

A corpus file is one Python file. It defines `load(raw, bad_rows)`, which reads the raw files and
returns a `Corpus`. Alternatively it defines `load(raw, bad_rows, engine)`, which lets an `Engine`
read the files. These may then be larger than memory. The corpus files that ship with the project
are in `datasets/` (in an installed wheel in `torchrec_priors/corpora/`) and are found by name. Any
other corpus file is found by its path.
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
from torchrec_priors.preparation.options import declares_options, read_generation, read_options
from torchrec_priors.preparation.priors.communities.settings import GraphPrior, UserPrior
from torchrec_priors.preparation.raw.delimited import BadRows

_PACKAGE = Path(__file__).resolve().parent.parent
# The folders that may contain the corpus files of the project: in a wheel, and in the repository.
_FOLDERS = (_PACKAGE / "corpora", _PACKAGE.parent / "datasets")


@dataclass(frozen=True)
class Labels:
    """A prior of items or users that the raw files contain: a taxonomy, tags or user attributes.

    Attributes:
        name: the name of the prior, as used in `priors/<name>.parquet`.
        table: a table with the columns `item_id` or `user_id`, and `label` (string). An item or
            user may have several rows.
        remainder: the name of the group for items or users without a label. Every prior has this
            group, even if it is empty, so that at least one head can retrieve every item. An empty
            remainder group has the last group number.
        words: what a group is called in reasons for people, with `{}` in the place of its name
            (see `PriorInfo`).
    """

    name: str
    table: ir.Table
    remainder: str
    words: str = ""


@dataclass(frozen=True)
class Corpus:
    """The content of the raw files, in the same form for all corpora.

    Attributes:
        name: the name of the corpus, which is written to the manifest.
        interactions: a table of `user_id`, `item_id`, `timestamp` (int64, ms since 1970), `order`
            (int64, the position in the raw file, which orders interactions with equal times) and,
            if the corpus has event types, `event` (int8 index into `events`).
        items: the catalogue, a table of `item_id`, `title` (string) and any other attributes.
        category_prior: the name of the item prior whose groups are used to measure entropy and new
            interest.
        default_horizon: the horizon if `prepare --horizon` is not given.
        has_times: whether `timestamp` is a time. If the raw files contain only the order,
            `timestamp` numbers the interactions of each user.
        events: the names of event types, by code; empty if the corpus has none.
        event_prior: the name of the prior over event types; needed if `events` is not empty.
        item_priors: the priors of items. One of them is `category_prior`.
        user_priors: the priors of users.
        user_group: the name of the user prior that fills `user_group` in the sequences.
        computed_priors: the communities that `prepare` finds in the training log. The command
            `torchrec-priors prior` can add more.
        min_history: users with fewer interactions are left out. Repeated interactions are counted
            once.
        items_met: whether the catalogue of the data set is limited to items that occur in the
            histories of users in the data set.
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
        """Raises UserError if a prior has the wrong type, or the names are inconsistent."""
        self._check_types()

        # Names must be unique, because every prior is stored in a file with its name, and
        # `priors.tree` refers to it by its name.
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
        """Raises UserError if a list of priors contains something else.

        Corpus files may be written by users, so no type checker has seen them.
        """
        for attribute in ("item_priors", "user_priors"):
            if not _is_sequence_of(getattr(self, attribute), Labels):
                raise UserError(f"corpus '{self.name}': {attribute} must be a list of Labels")
        if not _is_sequence_of(self.computed_priors, GraphPrior | UserPrior):
            raise UserError(
                f"corpus '{self.name}': computed_priors must be a list of GraphPrior or UserPrior"
            )


class CorpusFile(Protocol):
    """The functions that a corpus file defines.

    A corpus file that can generate raw files also defines `generate`; see `Generate`.
    """

    def load(self, raw: Path, bad_rows: BadRows) -> Corpus:
        """Reads the raw files.

        `load` may take a third argument, the `Engine`. If the file declares a class `Options`,
        `load` takes an instance of it as the fourth argument. `load_corpus` passes the arguments
        that the function takes.
        """


class Generate(Protocol):
    """The function `generate` of a corpus file.

    It fills the folder `raw` with a log of `rows` interactions. If the corpus file declares a class
    `Generation`, the function takes an instance of it as the fifth argument.
    """

    def __call__(
        self, raw: Path, rows: int, seed: int, report: Callable[[str], None] = ..., /
    ) -> None: ...


def known_corpora() -> dict[str, Path]:
    """Returns the files of the corpora that ship with the project, by name."""
    for folder in _FOLDERS:
        if folder.is_dir():
            return {file.stem: file for file in sorted(folder.glob("*.py"))}
    return {}


def find_corpus(name_or_file: str) -> CorpusFile:
    """Loads a corpus file.

    Args:
        name_or_file: the name of a corpus that ships with the project, or the path of a file.

    Raises:
        UserError: there is no such corpus or file, or the file defines neither
            `load(raw, bad_rows)` nor `load(raw, bad_rows, engine)`.
    """
    file = corpus_path(name_or_file)
    corpus_file: CorpusFile = load_file(file, option="--dataset", function="load")

    # The file is loaded again only to check the signature of `load`. If the signature is wrong, the
    # error names the arguments that it must take.
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
    """Calls `load` of a corpus file with the arguments that it takes, and returns its result.

    The result is not checked. It may be something other than a `Corpus`.

    Args:
        options: the options of the corpus, each as `key=value`.
    """
    # If the file declares `Options`, an instance is passed even if no option is given.
    chosen = read_options(corpus_file, options)
    arguments: list[Any] = [raw, bad_rows]
    if chosen is not None:
        arguments += [engine, chosen]
    elif _takes_engine(corpus_file):
        arguments.append(engine)
    return corpus_file.load(*arguments)


def generate_log(
    name_or_file: str,
    raw: Path,
    rows: int,
    seed: int,
    report: Callable[[str], None],
    options: Sequence[str] = (),
) -> None:
    """Fills the folder `raw` with a generated log of this corpus.

    Args:
        name_or_file: the name of a corpus that ships with the project, or the path of a file.
        raw: the folder.
        rows: the number of interactions.
        seed: the seed of all draws.
        report: called with messages about the progress.
        options: the options of the generated log, each as `key=value`.

    Raises:
        UserError: there is no such corpus, it defines no `generate(raw, rows, seed, report)`, or an
            option is wrong.
    """
    corpus_file = find_corpus(name_or_file)
    generate: Callable[..., None] | None = getattr(corpus_file, "generate", None)
    if generate is None:
        # Only the message needs these names, because finding them loads every corpus.
        able = [name for name in known_corpora() if hasattr(find_corpus(name), "generate")]
        raise UserError(
            f"--generate: corpus '{name_or_file}' cannot generate raw files;"
            f" these can: {', '.join(able)}"
        )

    chosen = read_generation(corpus_file, options)
    if chosen is None:
        generate(raw, rows, seed, report)
    else:
        generate(raw, rows, seed, report, chosen)


def corpus_path(name_or_file: str) -> Path:
    """Returns the path of a corpus file.

    Args:
        name_or_file: the name of a corpus that ships with the project, or a path that ends with
            `.py`. A path is returned unchanged, even if there is no file.

    Raises:
        UserError: the name is unknown.
    """
    known = known_corpora()
    if name_or_file.endswith(".py"):
        return Path(name_or_file)

    # The user may have left out the ending of the name of a custom file.
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
