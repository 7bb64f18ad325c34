"""Prepares a data set, or appends to one, as the command `prepare` was asked to."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.append.append import append
from torchrec_priors.preparation.append.settings import Given
from torchrec_priors.preparation.build.into_a_store import prepare_there
from torchrec_priors.preparation.build.split import SplitBy
from torchrec_priors.preparation.build.summary import summary, understood
from torchrec_priors.preparation.corpus import find_corpus, generate_log
from torchrec_priors.preparation.engine.choice import EngineChoice
from torchrec_priors.preparation.options import divide_options, read_options
from torchrec_priors.preparation.prepare import Settings, prepare
from torchrec_priors.preparation.table.fetch import fetched
from torchrec_priors.preparation.table.options import TableOptions
from torchrec_priors.remote.mirror import mirror
from torchrec_priors.remote.uri import Place, Uri

Report = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What a user asked for. A setting that was not given is None or empty.

    Attributes:
        source: the folder of the raw files of a corpus.
        target: the folder of the data set.
        dataset: the name or file of the corpus.
        columns: the options of a table.
        horizon, seed, on_bad_row, options, split, keep_short: as in `Settings`.
        overwrite: whether a data set of other settings is replaced.
        engine: the engine that computes.
    """

    source: Place | None
    target: Place
    dataset: str | None = None
    columns: TableOptions = field(default_factory=TableOptions)
    horizon: int | None = None
    seed: int | None = None
    on_bad_row: Literal["refuse", "drop"] = "refuse"
    options: tuple[str, ...] = ()
    split: SplitBy | None = None
    keep_short: bool | None = None
    overwrite: bool = False
    engine: EngineChoice = field(default_factory=EngineChoice)

    def append(self, report: Report) -> tuple[list[str], bool]:
        """Adds raw files or tables to the data set.

        Returns:
            Lines for users, and whether anything was written.
        """
        if isinstance(self.target, Uri):
            raise UserError(
                f"--append needs a local folder, not '{self.target}': append to a copy of it"
            )
        given = Given(self.dataset, self.horizon, self.seed, self.options, self.split, self.columns)
        source = self.source
        if isinstance(source, Uri):
            source = mirror(source, "--raw", report)
        grown = append(
            source,
            self.target,
            given,
            on_bad_row=self.on_bad_row,
            report=report,
            on=self.engine,
        )
        lines = [*grown.understood, summary(grown.manifest, self.target), *grown.messages]
        return lines, not grown.already

    def prepare(self, generate: int | None, report: Report) -> tuple[list[str], bool]:
        """Prepares the data set.

        Args:
            generate: the number of rows of a log to generate first.

        Returns:
            Lines for users, and whether anything was written, which is always so.
        """
        settings = self._settings(generate, report)
        if isinstance(self.target, Uri):
            text = prepare_there(
                settings, self.target, overwrite=self.overwrite, report=report, on=self.engine
            )
            return [text], True
        manifest = prepare(
            settings, self.target, overwrite=self.overwrite, report=report, on=self.engine
        )
        return [*understood(manifest), summary(manifest, self.target)], True

    def _settings(self, generate: int | None, report: Report) -> Settings:
        """Returns the settings. Raw files are generated or fetched for this."""
        settings = Settings(
            horizon=self.horizon,
            seed=self.seed or 0,
            on_bad_row=self.on_bad_row,
            split=self.split or SplitBy(),
            keep_short=self.keep_short,
        )
        if self.columns.is_given():
            if self.options:
                raise UserError("--option is for corpora, and a table has none: leave it out")
            return replace(settings, table=fetched(self.columns.described(), report))

        if self.dataset is None:
            raise UserError(
                "--dataset: name a corpus, or the file of your own; --table is for a log of your"
                " own without a file"
            )
        if self.source is None:
            raise UserError("--raw is missing: give the folder of the raw files")
        if generate is not None and isinstance(self.source, Uri):
            raise UserError(
                f"--generate writes into a local folder, not to '{self.source}': give another --raw"
            )

        # Options are read first, so that a mistake in them is found before anything is generated or
        # downloaded.
        options = self.options
        of_log: tuple[str, ...] = ()
        if generate is not None:
            options, of_log = divide_options(find_corpus(self.dataset), options)
        read_options(find_corpus(self.dataset), options)
        source = self.source
        if isinstance(source, Uri):
            source = mirror(source, "--raw", report)
        if generate is not None:
            generate_log(self.dataset, source, generate, settings.seed, report, of_log)
        return replace(settings, dataset=self.dataset, raw=source, options=options)
