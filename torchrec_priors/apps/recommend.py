"""Recommendations for one user, with titles, scores and the reason for each item."""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from typer import Option

from torchrec_priors.apps import command
from torchrec_priors.data.prepared import PreparedData
from torchrec_priors.errors import UserError
from torchrec_priors.serving.answer import Answer, answer
from torchrec_priors.training.build import build_model
from torchrec_priors.training.checkpoint import Checkpoints
from torchrec_priors.training.process import join
from torchrec_priors.training.run_folder import RunFolder

_WHY = 3  # runners-up named beside the head that won


def recommend(
    run: Annotated[Path, Option(help="Folder of a trained run.")],
    user: Annotated[str | None, Option(help="Original id of a user of the data set.")] = None,
    history: Annotated[
        str | None, Option(help="Original item ids, oldest first, separated by commas: instead of --user.")
    ] = None,
    k: Annotated[int, Option("-k", "--k", min=1, max=1000, help="How many items.")] = 10,
    as_json: Annotated[bool, Option("--json", help="Print JSON.")] = False,
    data: Annotated[Path | None, Option(help="Prepared data set, where it has moved since training.")] = None,
) -> None:
    """Recommends items from the whole history of a user, or from a history of your own."""
    folder = RunFolder(run)
    config, prepared = folder.open(data)
    if (user is None) == (history is None):
        raise UserError("give either --user ID or --history ID,ID,...")
    catalogue = prepared.catalogue()
    rows = prepared.find_user(user) if user is not None else _rows_of(history or "", catalogue, prepared)
    with join() as ranks:
        built = build_model(config, prepared, ranks)
        Checkpoints(folder.checkpoints, ranks).load_best(built)
        answers = answer(
            built.model,
            built.index,
            rows,
            filter_seen=config.evaluation.filter_seen,
            k=k,
            device=ranks.device,
        )
        if ranks.leads:
            names = [path.name for path in built.model.tree.paths]
            if as_json:
                print(json.dumps(_as_json(user, answers, names, catalogue), ensure_ascii=False, indent=1))
            else:
                _print_table(user, rows, answers, names, catalogue)


def _rows_of(history: str, catalogue: pa.Table, data: PreparedData) -> np.ndarray:
    wanted = [text.strip() for text in history.split(",") if text.strip()]
    if not wanted:
        raise UserError("--history is empty: give item ids separated by commas")
    places = pc.index_in(pa.array(wanted), catalogue["item_id"].cast(pa.string())).to_pylist()
    for text, place in zip(wanted, places, strict=True):
        if place is None:
            raise UserError(f"--history: data set '{data.manifest.name}' has no item '{text}'")
    return np.array(places, np.int64)


def _title(catalogue: pa.Table, row: int) -> str:
    return str(catalogue["title"][row].as_py())


def _reason(found: Answer, names: list[str]) -> str:
    others = sorted((path for path in found.scores if path != found.path), key=lambda path: -found.scores[path])
    beside = ", ".join(f"{names[path]} {found.scores[path]:.2f}" for path in others[:_WHY])
    return names[found.path] + (f"  (then {beside})" if beside else "")


def _print_table(user: str | None, rows: np.ndarray, answers: list[Answer], names: list[str], items: pa.Table) -> None:
    who = f"user {user}" if user is not None else "this history"
    print(f"last of {len(rows)} items of {who}:")
    for row in rows[-5:].tolist():
        print(f"  {items['item_id'][row].as_py()}  {_title(items, row)}")
    width = max((len(_title(items, found.row)) for found in answers), default=0)
    print(f"{'':>4} {'item':>8}  {'title':<{width}}  {'score':>8}  because of")
    for place, found in enumerate(answers, 1):
        item = items["item_id"][found.row].as_py()
        print(
            f"{place:>4} {item:>8}  {_title(items, found.row):<{width}}  {found.score:>8.3f}  {_reason(found, names)}"
        )


def _as_json(user: str | None, answers: list[Answer], names: list[str], items: pa.Table) -> dict[str, object]:
    return {
        "user_id": user,
        "items": [
            {
                "item_id": items["item_id"][found.row].as_py(),
                "title": _title(items, found.row),
                "score": found.score,
                "head": names[found.path],
                "head_scores": {names[path]: score for path, score in found.scores.items()},
            }
            for found in answers
        ],
    }


def main() -> None:
    command.run(recommend)


if __name__ == "__main__":
    main()
