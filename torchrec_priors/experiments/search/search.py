"""`experiment --search`: runs the trials, and writes their table and the best experiment."""

import logging
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torchrec_priors.common.files import write_whole
from torchrec_priors.errors import UserError, nearest
from torchrec_priors.experiments.file import ExperimentFile
from torchrec_priors.experiments.matrix import flat
from torchrec_priors.experiments.plan import plan
from torchrec_priors.experiments.runner import Runner
from torchrec_priors.experiments.search.best import best_cells, best_toml, final_folder, hand_over
from torchrec_priors.experiments.search.trials import Search
from torchrec_priors.experiments.search.trials_table import markdown, write_parquet

log = logging.getLogger(__name__)


def search(
    file: ExperimentFile,
    base: Mapping[str, Any],
    runner: Runner,
    *,
    only: Collection[str] = (),
    at_once: int = 1,
    keep_weights: bool = True,
    data: str,
    command: str,
) -> tuple[str, list[str]]:
    """Runs the missing trials of a search, and writes `search/` in the runner's folder.

    Args:
        base: the values of the base configuration, as read from TOML.
        runner: runs the trials, on the validation split.
        only: the cells that are searched; all cells if it is empty.
        at_once: the number of runs at a time.
        keep_weights: False keeps only the checkpoints of the best trials.
        data: the prepared data set, as the user named it.
        command: the command that the files name.

    Returns:
        the table of the trials with the next command, and the cells of which no trial has a score.

    Raises:
        UserError: the space is invalid (see `space.spaces_of`), or a folder contains another run.
    """
    trials = Search(file, base, only)
    names = [cell.name for cell in trials.cells]
    for name in only:
        if name not in names:
            raise UserError(f"--only: there is no cell '{name}': {nearest(name, names)}")
    trials.run(runner, at_once, keep_weights=keep_weights)

    folder = runner.out / "search"
    folder.mkdir(exist_ok=True)
    write_parquet(trials, folder / "results.parquet")
    manifest = runner.data.manifest
    text = markdown(trials, file.name, command, (manifest.name, manifest.content_sha256))
    write_whole(folder / "results.md", text)

    chosen = {}
    for name in names:
        best = trials.best(name)
        if best is not None:
            chosen[name] = best.trial.values
    cells = best_cells(trials.cells, chosen)
    write_whole(folder / "best.toml", best_toml(file, cells, folder, data, command))

    # If the search has trained a final configuration, that run is linked and not trained again.
    final = plan(cells, file.seeds, base, flat(file.budget))
    trained = hand_over(runner.out, trials.runs(), final)
    words = ["torchrec-priors", "experiment", str(folder / "best.toml"), "--split", "test"]
    # The next command names its folder only if that is not the default one.
    if runner.out != Path("experiments") / file.name:
        words += ["--out", str(final_folder(runner.out))]

    # Cells that `only` left out may have no score yet.
    lacking = [name for name in names if name not in chosen and (not only or name in only)]
    if lacking:
        log.error(
            "no trial of these cells has a score, so best.toml has them unchanged: %s",
            ", ".join(lacking),
        )
    then = (
        f"written to {folder}; {trained} of {len(final)} runs of the best cells are trained; "
        "then:\n"
        f"  {shlex.join(words)}"
    )
    return f"{text}\n{then}", lacking
