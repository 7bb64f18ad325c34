"""Prints the recommendations of `recommend` for one user, or writes those for many to a file."""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from torchrec_priors.common.progress import with_progress
from torchrec_priors.data.histories import Histories
from torchrec_priors.retrieval.item_filter import ItemFilter
from torchrec_priors.serving.bulk import recommend_in_bulk
from torchrec_priors.serving.catalogue import Catalogue
from torchrec_priors.serving.levers import Levers
from torchrec_priors.serving.request import Answer, Recommendation, Request
from torchrec_priors.serving.run import LoadedRun

_RUNNERS_UP = 3  # how many other heads are listed after the best head of an item
_LAST_SHOWN = 5  # how many of the last items of the history are shown
# Control characters, line separators, and characters that change the direction of text.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def recommend_to_one(loaded: LoadedRun, request: Request, *, as_json: bool) -> None:
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

    if answer.source == "popularity":
        print(_why_popular(user, answer))
    _print_table(user, rows, answer, loaded.catalogue)
    if not answer:
        print(
            "no item is left to recommend: lists and levers exclude all, or the user has had all "
            "and evaluation.filter_seen leaves these out"
        )
    if answer.source == "model" and loaded.path.explainer.lacks_labels:
        print(
            "reasons cannot say what the items are, because the data set has no labels of items: "
            "prepare it with --label"
        )
    _print_unseen(loaded, loaded.unseen(rows))


def _why_popular(user: str | None, answer: Answer) -> str:
    """Says why popular items are recommended."""
    if user is not None and answer.skipped.users:
        return (
            f"user {_escaped(user)} is not in the data set, so these are popular items (--strict "
            "makes this an error)"
        )
    return (
        "nothing is known about this user (no history, or only items that the model has not "
        "seen), so these are popular items"
    )


def recommend_to_many(
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
    if last:
        print(f"last {len(last)} of {len(rows)} items of {who}:")
    for row in last:
        print(f"  {_escaped(catalogue.item_id(row))}  {_escaped(catalogue.title(row))}")

    print(f"score: {answer.score_name}")
    titles = [_escaped(item.title) for item in answer]
    width = max(map(len, titles), default=0)
    print(f"{'':>4} {'item':>8}  {'title':<{width}}  {'score':>8}  because of")
    for rank, (item, title) in enumerate(zip(answer, titles, strict=True), 1):
        item_id = _escaped(item.item_id)
        line = f"{rank:>4} {item_id:>8}  {title:<{width}}  {item.score:>8.3f}"
        # The heads have nothing to say about a user of whom nothing is known.
        if answer.source == "popularity":
            print(f"{line}  {_escaped(item.reason)}")
            continue
        print(f"{line}  {_escaped(_heads(item))}")
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
