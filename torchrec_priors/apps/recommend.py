"""Recommendations with titles, scores and reasons: for one user, or for many into a file."""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm
from typer import Option

from torchrec_priors.apps import command
from torchrec_priors.apps.command import TRUST
from torchrec_priors.common.files import check_replaceable
from torchrec_priors.data.histories import Histories
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.data_set import History
from torchrec_priors.prepared.id_files import read_ids
from torchrec_priors.serving.bulk import lines_of_users, recommend_in_bulk
from torchrec_priors.serving.catalogue import Catalogue, listed
from torchrec_priors.serving.levers import MOST_SHARES, Levers
from torchrec_priors.serving.run import LoadedRun, Recommendation, check_k
from torchrec_priors.training.open_run import open_run

_WHY = 3  # runners-up named beside the head that won
_EVERYONE = "all"
# control characters, and those that turn the writing round
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def recommend(
    run: Annotated[Path, Option(help="Folder of a trained run.")],
    user: Annotated[str | None, Option(help="Original id of a user of the data set.")] = None,
    history: Annotated[
        str | None,
        Option(
            help="Original item ids, oldest first, separated by commas, an id that holds one in quotes: instead of "
            "--user."
        ),
    ] = None,
    users: Annotated[
        str | None,
        Option(
            metavar="FILE|all",
            help="Many users at once, into --out: a file with an original user id a line, or Parquet with a column "
            "user_id; `all` for every user of the data set.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        Option(metavar="PARQUET", help="With --users: the file to write, in the order of --users."),
    ] = None,
    k: Annotated[int, Option("-k", "--k", min=1, max=1000, help="How many items.")] = 10,
    allow: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="Recommend only these: a file with an original item id a line, or Parquet with a column item_id.",
        ),
    ] = None,
    deny: Annotated[
        Path | None, Option(metavar="FILE", help="Never recommend these: a file as for --allow.")
    ] = None,
    only: Annotated[
        list[str] | None,
        Option(
            metavar="HEAD",
            help="Let these heads alone answer: a path ('long-term / Comedy'), a beginning of one, a group of any "
            "level ('Comedy'), or a prior and its group ('genre: Comedy'). Given again, the heads of all the names.",
        ),
    ] = None,
    mute: Annotated[
        list[str] | None,
        Option(metavar="HEAD", help="Let these heads not answer. May be given again."),
    ] = None,
    boost: Annotated[
        list[str] | None,
        Option(
            metavar="HEAD=X",
            help="Multiply the probability that these heads give by X, above 0: add log(X) to their scores, which is "
            "exactly that where scores are calibrated (evaluation.calibrated). May be given again; factors multiply.",
        ),
    ] = None,
    at_least: Annotated[
        list[str] | None,
        Option(
            metavar="GROUP=SHARE",
            help="Let at least this share of the -k items be of a group of items, the best ones: 'Documentary=0.3'. "
            f"May be given for up to {MOST_SHARES} groups.",
        ),
    ] = None,
    as_json: Annotated[bool, Option("--json", help="Print JSON.")] = False,
    data: Annotated[
        str | None,
        Option(metavar="PATH|URI", help="Prepared data set, where it has moved since training."),
    ] = None,
    trust: Annotated[bool, Option("--trust", help=TRUST)] = False,
) -> None:
    """Recommends items from the whole history of a user, of many users, or from a history of your own."""
    _check_options(user, history, users, out, as_json)
    for name, file in (("--users", users), ("--allow", allow), ("--deny", deny)):
        if out is not None and file is not None and out.absolute() == Path(file).absolute():
            raise UserError(f"--out: '{out}' is the file of {name}: name another")
    levers = Levers.of(only, mute, _numbers(boost, "--boost"), _numbers(at_least, "--at-least"))
    opened = open_run(run, data, trust=trust)
    prepared = opened.data
    check_k(k, prepared)
    catalogue = Catalogue.of(prepared)
    allowed = catalogue.allowed(_listed(allow, "--allow"), _listed(deny, "--deny"))
    if users is not None and out is not None:
        lines = np.arange(prepared.users)
        if users != _EVERYONE:
            lines = lines_of_users(prepared, read_ids(Path(users), "user_id", option="--users"))
        with LoadedRun(opened, catalogue) as loaded:
            _bulk(loaded, lines, out, k, allowed, levers)
        return
    rows = (
        prepared.find_user(user).items
        if user is not None
        else catalogue.history(listed(history or ""))
    )
    with LoadedRun(opened, catalogue) as loaded:
        known = History(rows) if user is None else loaded.find_user(user)
        (best,) = loaded.answer([known], k, allowed, levers)
        if loaded.ranks.leads and as_json:
            found: dict[str, Any] = {"user_id": user, "items": [asdict(item) for item in best]}
            if loaded.never_found:
                found["unseen"] = {
                    "history": loaded.unseen(rows),
                    "never_recommended": loaded.never_found,
                }
            print(json.dumps(found, ensure_ascii=False, indent=1))
        elif loaded.ranks.leads:
            _print_table(user, rows, best, catalogue)
            _say_unseen(loaded, loaded.unseen(rows))


def _listed(file: Path | None, option: str) -> pa.Array | None:
    return None if file is None else read_ids(file, "item_id", option=option)


def _numbers(given: list[str] | None, option: str) -> dict[str, float]:
    """Names and numbers of `NAME=X`."""
    found: dict[str, float] = {}
    for text in given or []:
        name, equals, number = (part.strip() for part in text.rpartition("="))
        if not name or not equals:
            raise UserError(f"{option}: '{text}' has no number: write 'NAME=0.5'")
        if name in found:
            raise UserError(f"{option}: '{name}' is given twice: give it once")
        try:
            found[name] = float(number)
        except ValueError as error:
            raise UserError(
                f"{option}: '{number}' of '{text}' is no number: write '{name}=0.5'"
            ) from error
    return found


def _check_options(
    user: str | None, history: str | None, users: str | None, out: Path | None, as_json: bool
) -> None:
    if sum(option is not None for option in (user, history, users)) != 1:
        raise UserError("give one of --user ID, --history ID,ID,... and --users FILE")
    if users is None:
        if out is not None:
            raise UserError("--out goes with --users: one user's recommendations are printed")
        return
    if out is None:
        raise UserError("--users needs --out: the Parquet file to write")
    if as_json:
        raise UserError("--json goes with one user: --users writes Parquet")
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out: there is no folder '{out.parent}'")
    if out.is_dir():
        raise UserError(f"--out: '{out}' is a folder: name a file in it")
    check_replaceable(out)


def _bulk(
    loaded: LoadedRun,
    lines: np.ndarray,
    out: Path,
    k: int,
    allowed: np.ndarray | None,
    levers: Levers,
) -> None:
    leads = loaded.ranks.leads

    def shown(batches: Iterable[Histories], rounds: int) -> Iterable[Histories]:
        return tqdm(batches, total=rounds, unit="batch", disable=None if leads else True)

    found = recommend_in_bulk(
        loaded, lines, out, k=k, allowed=allowed, levers=levers, progress=shown
    )
    short, *short_J = loaded.ranks.total(found).tolist()
    if leads:
        fewer = f", {short:,} of them with fewer, as no more may be recommended" if short else ""
        print(f"{k} items for {int((lines >= 0).sum()):,} users{fewer}: written to {out}")
        _say_unseen(loaded)
        for name, users in zip(levers.at_least, short_J, strict=True):
            if users:
                print(
                    f"{users:,} users have fewer of '{name}' than asked for, as no more may be recommended"
                )


def _print_table(
    user: str | None, rows: np.ndarray, best: list[Recommendation], catalogue: Catalogue
) -> None:
    who = f"user {_on_a_line(user)}" if user is not None else "this history"
    print(f"last of {len(rows)} items of {who}:")
    for row in rows[-5:].tolist():
        print(f"  {_on_a_line(catalogue.item_id(row))}  {_on_a_line(catalogue.title(row))}")
    titles = [_on_a_line(item.title) for item in best]
    width = max(map(len, titles), default=0)
    print(f"{'':>4} {'item':>8}  {'title':<{width}}  {'score':>8}  because of")
    for place, (item, title) in enumerate(zip(best, titles, strict=True), 1):
        item_id = _on_a_line(item.item_id)
        reason = _on_a_line(_reason(item))
        print(f"{place:>4} {item_id:>8}  {title:<{width}}  {item.score:>8.3f}  {reason}")


def _on_a_line(value: object) -> str:
    """A value of the data in a table, where line breaks and other control characters would change it."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(value))


def _say_unseen(loaded: LoadedRun, of_history: int | None = None) -> None:
    if loaded.never_found:
        here = "" if of_history is None else f" {of_history:,} of this history,"
        print(
            f"items unseen by the run:{here} {loaded.never_found:,} of the catalogue, which are never recommended"
        )


def _reason(item: Recommendation) -> str:
    others = sorted(
        (head for head in item.head_scores if head != item.head),
        key=lambda head: -item.head_scores[head],
    )
    beside = ", ".join(f"{head} {item.head_scores[head]:.2f}" for head in others[:_WHY])
    return item.head + (f"  (then {beside})" if beside else "")


def main() -> None:
    command.run(recommend)


if __name__ == "__main__":
    main()
