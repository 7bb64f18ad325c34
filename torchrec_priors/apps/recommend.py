"""The app `recommend`: prints recommendations for one user, or writes those for many to a file."""

from pathlib import Path
from typing import Annotated

from typer import Option

from torchrec_priors.apps import command
from torchrec_priors.apps.command import RUN, TRUST
from torchrec_priors.apps.threads import THREADS, check_threads, use_threads
from torchrec_priors.common.files import check_file, check_replaceable
from torchrec_priors.common.limits import MOST_SHARES
from torchrec_priors.errors import UserError, no_such_folder

_EVERYONE = "all"


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
    boosts = _numbers(boost, "--boost")
    shares = _numbers(at_least, "--at-least")
    groups = _groups(group)
    for name, file in (("--users", users), ("--allow", allow), ("--deny", deny)):
        if file is not None and file != _EVERYONE:
            check_file(Path(file), name)

    with command.starting():
        import numpy as np

        from torchrec_priors.apps.recommended import recommend_to_many, recommend_to_one
        from torchrec_priors.prepared.id_files import read_ids
        from torchrec_priors.serving.bulk import lines_of_users
        from torchrec_priors.serving.catalogue import Catalogue, listed
        from torchrec_priors.serving.levers import Levers
        from torchrec_priors.serving.request import Request
        from torchrec_priors.serving.request_path import check_k
        from torchrec_priors.serving.run import LoadedRun
        from torchrec_priors.serving.user_context import UserContext
        from torchrec_priors.training.open_run import open_run

    # Mistakes in levers (options that control the heads) can be found without the run.
    levers = Levers.of(only, mute, boosts, shares)

    opened = open_run(run, data, trust=trust)
    prepared = opened.data
    check_k(k, prepared)
    catalogue = Catalogue.of(prepared)
    lists = {
        name: catalogue.item_list(read_ids(file, "item_id", option=f"--{name}"))
        for name, file in (("allow", allow), ("deny", deny))
        if file is not None
    }
    allowed = catalogue.allowed(lists.get("allow"), lists.get("deny"))

    use_threads(threads)
    if users is not None and out is not None:
        prepared.manifest.require_users("--users", prepared.folder)
        lines = np.arange(prepared.users)
        if users != _EVERYONE:
            lines = lines_of_users(prepared, read_ids(Path(users), "user_id", option="--users"))
        with LoadedRun(opened, catalogue) as loaded:
            recommend_to_many(loaded, lines, out, k, allowed, levers)
        return

    context = UserContext(
        user,
        None if history is None else listed(history),
        listed(session or ""),
        groups,
    )
    # With --strict, an unknown user or item is rejected here, before the model is loaded.
    if strict and user is not None:
        prepared.find_user(user)
    if strict and history is not None:
        catalogue.history(listed(history))
    with LoadedRun(opened, catalogue) as loaded:
        recommend_to_one(
            loaded,
            Request(context, k, levers, lists.get("allow"), lists.get("deny"), strict),
            as_json=as_json,
        )


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
        raise UserError(f"--out: {no_such_folder(out.parent)}")
    if out.is_dir():
        raise UserError(f"--out: '{out}' is a folder: name a file in it")
    check_replaceable(out)


def main() -> None:
    command.run(recommend)


if __name__ == "__main__":
    main()
