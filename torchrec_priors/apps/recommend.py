"""The app `recommend`: prints recommendations for one user, or writes those for many to a file."""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from typer import Option

from torchrec_priors.apps import command
from torchrec_priors.apps.command import RUN, TRUST
from torchrec_priors.apps.threads import THREADS, check_threads, use_threads
from torchrec_priors.common.files import check_replaceable
from torchrec_priors.common.progress import with_progress
from torchrec_priors.data.histories import Histories
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.id_files import read_ids
from torchrec_priors.retrieval.item_filter import ItemFilter
from torchrec_priors.serving.bulk import lines_of_users, recommend_in_bulk
from torchrec_priors.serving.catalogue import Catalogue, listed
from torchrec_priors.serving.levers import MOST_SHARES, Levers
from torchrec_priors.serving.request import Answer, Recommendation, Request
from torchrec_priors.serving.request_path import check_k
from torchrec_priors.serving.run import LoadedRun
from torchrec_priors.serving.user_context import UserContext
from torchrec_priors.training.open_run import open_run

_RUNNERS_UP = 3  # how many other heads are listed after the best head of an item
_LAST_SHOWN = 5  # how many of the last items of the history are shown
_EVERYONE = "all"
# Control characters, line separators, and characters that change the direction of text.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def recommend(
    run: Annotated[str, Option(metavar="PATH|URI", help=RUN)],
    user: Annotated[str | None, Option(help="Original id of a user in the data set.")] = None,
    history: Annotated[
        str | None,
        Option(
            help="Original item ids, oldest first, separated by commas. Put an id that contains a "
            "comma in quotes. With --user, it replaces the history of the user, whose groups are "
            "kept."
        ),
    ] = None,
    session: Annotated[
        str | None,
        Option(help="Items that came after the history, written like --history."),
    ] = None,
    group: Annotated[
        list[str] | None,
        Option(
            metavar="PRIOR=GROUP",
            help="A group that the user is in, such as 'gender=F'. It replaces the user's groups "
            "for this prior in the data set. Can be repeated.",
        ),
    ] = None,
    strict: Annotated[
        bool,
        Option(
            "--strict",
            help="Reject users, items and groups that the data set or the run lacks. By default "
            "they are skipped and counted, and a user without a history gets what is popular.",
        ),
    ] = False,
    users: Annotated[
        str | None,
        Option(
            metavar="FILE|all",
            help="Users to recommend to: a text file with an original user id on each line, a "
            "Parquet file with a column user_id, or `all` for every user in the data set. The "
            "recommendations are written to --out.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        Option(
            metavar="PARQUET",
            help="With --users: the file to write. It has one row for each user, in the order of "
            "--users.",
        ),
    ] = None,
    k: Annotated[
        int, Option("-k", "--k", min=1, max=1000, help="Number of items for each user.")
    ] = 10,
    allow: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="Recommend only these items: a text file with an original item id on each line, "
            "or a Parquet file with a column item_id.",
        ),
    ] = None,
    deny: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="Never recommend these items: a file in the same form as for --allow.",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        Option(
            metavar="HEAD",
            help="Use only the heads with this name: a path ('long-term / Comedy'), the first "
            "groups of a path, a group of any level ('Comedy'), or a prior and its group "
            "('genre: Comedy'). Can be repeated.",
        ),
    ] = None,
    mute: Annotated[
        list[str] | None,
        Option(
            metavar="HEAD",
            help="Do not use the heads with this name (see --only). Can be repeated.",
        ),
    ] = None,
    boost: Annotated[
        list[str] | None,
        Option(
            metavar="HEAD=X",
            help="Multiply the probabilities of the heads with this name (see --only) by X, which "
            "must be above 0. This adds log(X) to their scores; it is an exact multiplication only "
            "if scores are calibrated (evaluation.calibrated). If a head is boosted several times, "
            "the factors are multiplied. Can be repeated.",
        ),
    ] = None,
    at_least: Annotated[
        list[str] | None,
        Option(
            metavar="GROUP=SHARE",
            help="Take at least this share of the k items (see -k) from a group, for example "
            "'Documentary=0.3'. The best items of the group are taken. Up to "
            f"{MOST_SHARES} groups can have a share. Can be repeated.",
        ),
    ] = None,
    as_json: Annotated[bool, Option("--json", help="Print JSON.")] = False,
    data: Annotated[
        str | None,
        Option(metavar="PATH|URI", help="Prepared data set, if it has moved since training."),
    ] = None,
    trust: Annotated[bool, Option("--trust", help=TRUST)] = False,
    threads: Annotated[int | None, Option(help=THREADS)] = None,
) -> None:
    """Recommends items for one user, for many users, or for a given history."""
    check_threads(threads)
    _check_options(user, history or session, users, out, as_json)
    for name, file in (("--users", users), ("--allow", allow), ("--deny", deny)):
        if out is not None and file is not None and out.absolute() == Path(file).absolute():
            raise UserError(f"--out: '{out}' is also the file given to {name}: choose another file")
    # Levers (options that control the heads) are parsed first, because mistakes in them can be
    # found without the run.
    levers = Levers.of(only, mute, _numbers(boost, "--boost"), _numbers(at_least, "--at-least"))

    opened = open_run(run, data, trust=trust)
    prepared = opened.data
    check_k(k, prepared)
    catalogue = Catalogue.of(prepared)
    lists = {
        name: catalogue.item_list(ids)
        for name, ids in (
            ("allow", _item_ids(allow, "--allow")),
            ("deny", _item_ids(deny, "--deny")),
        )
        if ids is not None
    }
    allowed = catalogue.allowed(lists.get("allow"), lists.get("deny"))

    use_threads(threads)
    if users is not None and out is not None:
        prepared.manifest.require_users("--users", prepared.folder)
        lines = np.arange(prepared.users)
        if users != _EVERYONE:
            lines = lines_of_users(prepared, read_ids(Path(users), "user_id", option="--users"))
        with LoadedRun(opened, catalogue) as loaded:
            _recommend_to_many(loaded, lines, out, k, allowed, levers)
        return

    context = UserContext(
        user,
        None if history is None else listed(history),
        listed(session or ""),
        _groups(group),
    )
    # With --strict, an unknown user or item is rejected here, before the model is loaded.
    if strict and user is not None:
        prepared.find_user(user)
    if strict and history is not None:
        catalogue.history(listed(history))
    with LoadedRun(opened, catalogue) as loaded:
        _recommend_to_one(
            loaded,
            Request(context, k, levers, lists.get("allow"), lists.get("deny"), strict),
            as_json=as_json,
        )


def _recommend_to_one(loaded: LoadedRun, request: Request, *, as_json: bool) -> None:
    """Prints the recommendations for one user."""
    answer = loaded.recommended(request)
    rows = loaded.path.known_user(request.context, strict=request.strict).history.items
    if not loaded.ranks.leads:
        return

    user = None if request.context.user is None else str(request.context.user)
    if as_json:
        content: dict[str, Any] = {"user_id": user, "items": [asdict(item) for item in answer]}
        content["source"] = answer.source
        content["score_name"] = answer.score_name
        if answer.skipped:
            content["skipped"] = answer.skipped.counts()
        if loaded.never_found:
            content["unseen"] = {
                "history": loaded.unseen(rows),
                "never_recommended": loaded.never_found,
            }
        print(json.dumps(content, ensure_ascii=False, indent=1))
        return

    _print_table(user, rows, answer, loaded.catalogue)
    if answer.source == "popularity":
        print(
            "nothing is known about this user (no history, or only items that the model has not "
            "seen): these are popular items"
        )
    _print_unseen(loaded, loaded.unseen(rows))


def _item_ids(file: Path | None, option: str) -> pa.Array | None:
    if file is None:
        return None
    return read_ids(file, "item_id", option=option)


def _numbers(arguments: list[str] | None, option: str) -> dict[str, float]:
    """Parses arguments of the form `NAME=X`. Returns the number of each name."""
    numbers: dict[str, float] = {}
    for text in arguments or []:
        # The text is divided at the last `=`, because names may contain `=`.
        name, equals, number = (part.strip() for part in text.rpartition("="))
        if not name or not equals:
            raise UserError(f"{option}: '{text}' has no number: write 'NAME=0.5'")
        if name in numbers:
            raise UserError(f"{option}: '{name}' is given twice: give it once")

        try:
            numbers[name] = float(number)
        except ValueError as error:
            raise UserError(
                f"{option}: '{number}' in '{text}' is not a number: write '{name}=0.5'"
            ) from error
    return numbers


def _groups(arguments: list[str] | None) -> dict[str, list[str]]:
    """Reads arguments of the form `PRIOR=GROUP`; returns the groups of each prior."""
    groups: dict[str, list[str]] = {}
    for text in arguments or []:
        prior, equals, name = (part.strip() for part in text.partition("="))
        if not equals or not prior or not name:
            raise UserError(f"--group: '{text}' names no group: write 'PRIOR=GROUP'")
        groups.setdefault(prior, []).append(name)
    return groups


def _check_options(
    user: str | None, history: str | None, users: str | None, out: Path | None, as_json: bool
) -> None:
    if (user is None and history is None) == (users is None):
        raise UserError("give either --users FILE, or --user ID and/or --history ID,ID,...")
    if users is None:
        if out is not None:
            raise UserError("--out needs --users: without it, recommendations are printed")
        return

    if out is None:
        raise UserError("--users needs --out: the Parquet file to write")
    if as_json:
        raise UserError(
            "--json cannot be combined with --users, which writes Parquet: use --json with --user "
            "or --history"
        )
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out: there is no folder '{out.parent}'")
    if out.is_dir():
        raise UserError(f"--out: '{out}' is a folder: name a file in it")
    check_replaceable(out)


def _recommend_to_many(
    loaded: LoadedRun,
    lines: np.ndarray,
    out: Path,
    k: int,
    allowed: ItemFilter | None,
    levers: Levers,
) -> None:
    """Writes recommendations for many users, and prints how many users got too few items."""
    leads = loaded.ranks.leads

    def progress(batches: Iterable[Histories], rounds: int) -> Iterable[Histories]:
        return with_progress(batches, rounds, "batch", leads=leads)

    counts = recommend_in_bulk(
        loaded, lines, out, k=k, allowed=allowed, levers=levers, progress=progress
    )
    short, *short_J = loaded.ranks.total(counts).tolist()
    if not leads:
        return

    fewer = ""
    if short:
        fewer = f" ({short:,} users got fewer, because too few items may be recommended to them)"
    print(f"{k} items for {int((lines >= 0).sum()):,} users{fewer}: written to {out}")
    _print_unseen(loaded)
    for name, users in zip(levers.at_least, short_J, strict=True):
        if users:
            print(
                f"{users:,} users got fewer items of '{name}' than requested, because too few of "
                "these items may be recommended to them"
            )


def _print_table(user: str | None, rows: np.ndarray, answer: Answer, catalogue: Catalogue) -> None:
    who = "this history"
    if user is not None:
        who = f"user {_escaped(user)}"
    last = rows[-_LAST_SHOWN:].tolist()
    print(f"last {len(last)} of {len(rows)} items of {who}:")
    for row in last:
        print(f"  {_escaped(catalogue.item_id(row))}  {_escaped(catalogue.title(row))}")

    print(f"score: {answer.score_name}")
    titles = [_escaped(item.title) for item in answer]
    width = max(map(len, titles), default=0)
    print(f"{'':>4} {'item':>8}  {'title':<{width}}  {'score':>8}  because of")
    for rank, (item, title) in enumerate(zip(answer, titles, strict=True), 1):
        item_id = _escaped(item.item_id)
        heads = _escaped(_heads(item))
        print(f"{rank:>4} {item_id:>8}  {title:<{width}}  {item.score:>8.3f}  {heads}")
        print(f"{'':>15}{_escaped(item.reason)}")


def _escaped(value: object) -> str:
    """Returns a value as text, with escapes for characters that would break the printed table."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), str(value))


def _print_unseen(loaded: LoadedRun, of_history: int | None = None) -> None:
    """Prints the number of items not seen in training, which are never recommended.

    Args:
        loaded: the loaded run.
        of_history: the number of these items in the history; None to leave it out.
    """
    if loaded.never_found:
        in_history = ""
        if of_history is not None:
            in_history = f" {of_history:,} of this history,"
        print(
            f"items not seen in training, which are never recommended:{in_history} "
            f"{loaded.never_found:,} of the catalogue"
        )


def _heads(item: Recommendation) -> str:
    """Returns the name of an item's best head, and the next-best heads with their scores.

    The best head's own score follows its name if it is not the score of the item.
    """
    # Sorting is stable, so heads with equal scores keep their order.
    others = sorted(
        (head for head in item.head_scores if head != item.head),
        key=lambda head: -item.head_scores[head],
    )
    runners_up = [f"{head} {item.head_scores[head]:.2f}" for head in others[:_RUNNERS_UP]]
    best = item.head
    if item.head_score != item.score:
        best += f" {item.head_score:.2f}"
    if not runners_up:
        return best
    return f"{best}  (then {', '.join(runners_up)})"


def main() -> None:
    command.run(recommend)


if __name__ == "__main__":
    main()
