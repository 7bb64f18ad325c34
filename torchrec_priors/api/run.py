"""A run in Python: `tp.train` returns one, and `tp.Run` opens one."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from torchrec_priors.api.choices import check_choice
from torchrec_priors.api.config_source import Changes, overrides_of
from torchrec_priors.api.evaluate import Leaked
from torchrec_priors.api.evaluate import evaluate as evaluate_run
from torchrec_priors.api.metrics import Metrics
from torchrec_priors.common.library_warnings import silence_library_warnings
from torchrec_priors.common.progress import with_progress
from torchrec_priors.data.histories import Histories
from torchrec_priors.data.histories import Split as HeldOut
from torchrec_priors.errors import UserError
from torchrec_priors.parquet import read_table
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.publishing import KEEP
from torchrec_priors.publishing.publish import Published
from torchrec_priors.publishing.publish import publish as publish_run
from torchrec_priors.publishing.push.push import PushedRun
from torchrec_priors.publishing.push.push import push as push_run
from torchrec_priors.remote.uri import Place
from torchrec_priors.serving.bulk import lines_of_users, recommend_in_bulk
from torchrec_priors.serving.catalogue import ItemId, ItemList
from torchrec_priors.serving.export import check_out
from torchrec_priors.serving.export import export as write_export
from torchrec_priors.serving.graph import Format as GraphFormat
from torchrec_priors.serving.graph import add_graph, check_format
from torchrec_priors.serving.levers import Levers
from torchrec_priors.serving.request import Answer
from torchrec_priors.serving.run import LoadedRun, load_run
from torchrec_priors.serving.user_context import Event
from torchrec_priors.settings.run_config import RunConfig
from torchrec_priors.training.open_run import open_run
from torchrec_priors.training.run.log_lines import read_lines


class Run:
    """A run that was trained: it can be evaluated, and recommends items.

    The model is loaded when recommendations are first asked for, and stays in memory until `close`.
    `load` returns it, for batches of requests and for programs with threads.

    Attributes:
        path: the folder of the run; for a run in a store, its local copy.
        config: the configuration of the run.
        data: the prepared data set.
    """

    def __init__(
        self,
        path: Place | str,
        data: PreparedData | Path | str | None = None,
        *,
        trust: bool = False,
        summary: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            path: the folder or URI of the run.
            data: the prepared data set, or its folder or URI, if it has moved since training.
            trust: whether to execute the custom code that the run was trained with.
            summary: the summary of the training that has just ended; None to read it when needed.

        Raises:
            UserError: the folder has no run, or it was trained on other data.
        """
        silence_library_warnings()
        self._trust = trust
        self._place = data.folder if isinstance(data, PreparedData) else data
        opened = open_run(path, self._given(), trust=trust, plain=True)
        self.path: Path = opened.folder.path
        self.config: RunConfig = opened.config
        self.data: PreparedData = opened.data
        self._folder = opened.folder
        self._summary = None if summary is None else dict(summary)
        self._loaded: LoadedRun | None = None

    # What happened

    @property
    def summary(self) -> dict[str, Any]:
        """How the training ended, its best evaluation, its size and its time.

        Raises:
            UserError: the training has not ended.
        """
        if self._summary is None:
            if not self._folder.summary.is_file():
                raise UserError(f"'{self.path}' is not trained to its end: train it first")
            self._summary = json.loads(self._folder.summary.read_text(encoding="utf8"))
        return dict(self._summary)

    def curves(self) -> pa.Table:
        """Returns what was logged: a row for each logged step and each evaluation.

        Columns that a row does not have are null. `.to_pandas()` gives a data frame.
        """
        rows = [
            {name: value for name, value in values.items() if name != "crc32"}
            for _, values in read_lines(self._folder.metrics)
        ]
        names = dict.fromkeys(name for row in rows for name in row)
        return pa.table({name: [row.get(name) for row in rows] for name in names})

    def evaluate(
        self,
        split: HeldOut = "validation",
        *,
        name: str | None = None,
        changes: Changes = None,
        leaked: Leaked = "refuse",
        progress: bool = True,
    ) -> Metrics:
        """Evaluates the best checkpoint against the whole catalogue, for every user.

        Args:
            split: "validation" or "test".
            name: a name for the folder of the evaluation, so that no other one is overwritten.
            changes: changes to the run's settings `evaluation.*`.
            leaked: for a run that started from another one that was trained on targets of some
                users: "refuse", "leave-out" (these users) or "keep".
            progress: whether the progress is printed to standard error.

        Raises:
            UserError: nothing is held out, or a setting is wrong.
        """
        check_choice("split", split, ("validation", "test"))
        check_choice("leaked", leaked, ("refuse", "leave-out", "keep"))
        metrics, _ = evaluate_run(
            self.path,
            split,
            self._given(),
            name=name,
            changes=overrides_of(changes),
            leaked=leaked,
            trust=self._trust,
            progress=progress,
        )
        return metrics

    # Recommendations

    def load(self) -> LoadedRun:
        """Returns the model in memory, which it loads when it is first called."""
        if self._loaded is None:
            self._loaded = load_run(self.path, self._given(), trust=self._trust)
        return self._loaded

    def recommend(
        self,
        history: Sequence[ItemId | Event] | None = None,
        *,
        user: ItemId | None = None,
        session: Sequence[ItemId | Event] = (),
        groups: Mapping[str, str | Sequence[str]] | None = None,
        k: int = 10,
        allow: Iterable[ItemId] | ItemList | None = None,
        deny: Iterable[ItemId] | ItemList | None = None,
        levers: Levers | None = None,
        strict: bool = False,
        only: Iterable[str] | None = None,
        mute: Iterable[str] | None = None,
        boost: Mapping[str, float] | None = None,
        at_least: Mapping[str, float] | None = None,
    ) -> Answer:
        """Recommends items to a user, with reasons; see `LoadedRun.recommend`."""
        return self.load().recommend(
            history,
            user=user,
            session=session,
            groups=groups,
            k=k,
            allow=allow,
            deny=deny,
            levers=levers,
            strict=strict,
            only=only,
            mute=mute,
            boost=boost,
            at_least=at_least,
        )

    def recommend_to_users(
        self,
        users: Iterable[ItemId] | None = None,
        *,
        out: Path | str | None = None,
        k: int = 10,
        allow: Iterable[ItemId] | ItemList | None = None,
        deny: Iterable[ItemId] | ItemList | None = None,
        levers: Levers | None = None,
        progress: bool = True,
    ) -> pa.Table:
        """Recommends items to many users of the data set.

        Args:
            users: the original ids of the users; None for all users.
            out: a Parquet file to write, too.
            k: the number of items for each user.
            allow: the only items that may be recommended.
            deny: items that must not be recommended.
            levers: how heads are used.
            progress: whether the progress is printed to standard error.

        Returns:
            A table with the columns `user_id`, `items`, `scores` and `heads`, best items first.

        Raises:
            UserError: the data set has no such user, or a user is given twice.
        """
        self.data.manifest.require_users("recommend_to_users", self.data.folder)
        loaded = self.load()
        lines = np.arange(self.data.users)
        if users is not None:
            lines = lines_of_users(self.data, pa.array([str(user) for user in users], pa.string()))
        lists = [None if ids is None else loaded.item_list(ids) for ids in (allow, deny)]

        def show(batches: Iterable[Histories], rounds: int) -> Iterable[Histories]:
            leads = loaded.ranks.leads and progress
            return with_progress(batches, rounds, "batch", leads=leads, doing="recommendations")

        with TemporaryDirectory() as folder:
            file = Path(folder) / "recommendations.parquet" if out is None else Path(out)
            recommend_in_bulk(
                loaded,
                lines,
                file,
                k=k,
                allowed=loaded.catalogue.allowed(*lists),
                levers=levers or Levers(),
                progress=show,
            )
            return read_table(file)

    # Where it goes

    def export(self, out: Path | str, *, format: GraphFormat | None = None) -> dict[str, Any]:
        """Writes the best checkpoint as plain files; returns the content of `export.json`.

        Args:
            out: the folder to write. It must be empty, or not exist yet.
            format: "onnx" or "aoti" to write the encoder and the heads as a graph, too.
        """
        check_out(Path(out))
        if format is None:
            return write_export(self.load(), Path(out))
        check_choice("format", format, ("onnx", "aoti"))
        check_format(format)
        finish = partial(add_graph, format=format, trust=self._trust)
        return write_export(self.load(), Path(out), finish=finish)

    def publish(self, to: Path | str, version: str | None = None, *, keep: int = KEEP) -> Published:
        """Copies the best checkpoint into a folder of versions that services follow.

        Args:
            to: the folder of published models.
            version: the name of the version; None for the present time.
            keep: the number of versions to keep.
        """
        return publish_run(
            self.path, Path(to), version, keep=keep, data=self._given(), trust=self._trust
        )

    def push(
        self, to: Path | str, *, license: str | None = None, private: bool = False
    ) -> PushedRun:
        """Writes the best checkpoint as a folder that other people can load.

        Args:
            to: a folder, which must be empty or not exist yet, or `hf://org/name[@branch]` on the
                Hugging Face hub.
            license: the license of the model, as the hub names it; None to leave it out.
            private: whether a new repository on the hub is private.
        """
        return push_run(self.path, to, license=license, private=private, data=self._given())

    def close(self) -> None:
        """Frees the memory of the model; it is loaded again when it is needed."""
        if self._loaded is not None:
            self._loaded.close()
            self._loaded = None

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Run('{self.path}')"

    def _given(self) -> Any:
        """Returns the place of the data set, in the form that `open_run` takes."""
        return str(self._place) if isinstance(self._place, Path) else self._place
