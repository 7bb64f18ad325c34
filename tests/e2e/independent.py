"""Recall, NDCG and entropy from predictions and raw ML-100K files: plain Python, no code of the product."""

import csv
import math
from collections import defaultdict

import pyarrow.parquet as pq


def ratings(raw):
    """User -> (item, stars) in order of time, ties in file order."""
    rows = defaultdict(list)
    with open(raw / "u.data") as file:
        for line, (user, item, stars, seconds) in enumerate(csv.reader(file, delimiter="\t")):
            rows[int(user)].append((int(seconds), line, int(item), int(stars)))
    return {
        user: [(item, stars) for _, _, item, stars in sorted(events)]
        for user, events in rows.items()
    }


def histories(raw):
    """User -> items in order of time, ties in file order."""
    return {user: [item for item, _ in pairs] for user, pairs in ratings(raw).items()}


def genders(raw):
    """User -> gender."""
    with open(raw / "u.user") as file:
        return {int(row[0]): row[2] for row in csv.reader(file, delimiter="|")}


def genres(raw):
    """Item -> numbers of its genres; those without are a genre of their own."""
    none = [19]
    with open(raw / "u.item", encoding="latin-1") as file:
        rows = [line.rstrip("\n").split("|") for line in file]
    return {
        int(row[0]): [number for number, flag in enumerate(row[5:24]) if flag == "1"] or none
        for row in rows
    }


def recompute(raw, predictions, split, horizon, cutoffs=(5, 10, 50, 200)):
    """(metrics, number of users); asserts that targets are right and seen items absent."""
    label_of, sums, users = genres(raw), defaultdict(float), 0
    past = histories(raw)
    for row in pq.read_table(predictions).to_pylist():
        history = past.pop(row["user_id"])
        end = len(history) - (horizon if split == "validation" else 0)
        targets, seen = history[end - horizon : end], set(history[: end - horizon])
        assert row["targets"] == targets
        assert not seen & set(row["items"])
        assert len(set(row["items"])) == len(row["items"])
        assert row["scores"] == sorted(row["scores"], reverse=True)
        wanted, users = set(targets), users + 1
        for cutoff in cutoffs:
            top = row["items"][:cutoff]
            gains = [1 / math.log2(rank + 2) for rank, item in enumerate(top) if item in wanted]
            ideal = sum(1 / math.log2(rank + 2) for rank in range(min(cutoff, len(wanted))))
            sums[f"recall@{cutoff}"] += len(gains) / len(wanted)
            sums[f"ndcg@{cutoff}"] += sum(gains) / ideal
            counts = defaultdict(int)
            for item in top:
                for label in label_of[item]:
                    counts[label] += 1
            sums[f"entropy@{cutoff}"] -= sum(
                n / cutoff * math.log2(n / cutoff) for n in counts.values()
            )
    return {name: total / users for name, total in sums.items()}, users, past


def recompute_groups(raw, predictions, split, horizon, cutoffs=(5, 10, 50, 200)):
    """Metrics by gender of the user and by the stars of each target: `group/...` -> value."""
    past, gender_of, sums, counts = ratings(raw), genders(raw), defaultdict(float), defaultdict(int)
    for row in pq.read_table(predictions).to_pylist():
        wanted = defaultdict(set)
        for item, stars in _ahead(past[row["user_id"]], split, horizon):
            wanted[f"gender/{gender_of[row['user_id']]}"].add(item)
            wanted[f"rating/{_name(stars)}"].add(item)
        for group, items in wanted.items():
            counts[f"group/{group}/users"] += 1
            counts[f"group/{group}/targets"] += len(items)
            for cutoff in cutoffs:
                places = [rank for rank, item in enumerate(row["items"][:cutoff]) if item in items]
                ideal = sum(1 / math.log2(rank + 2) for rank in range(min(cutoff, len(items))))
                sums[f"group/{group}/recall@{cutoff}"] += len(places) / len(items)
                sums[f"group/{group}/ndcg@{cutoff}"] += (
                    sum(1 / math.log2(rank + 2) for rank in places) / ideal
                )
    means = {
        name: total / counts[f"{name.rpartition('/')[0]}/users"] for name, total in sums.items()
    }
    return means | counts


def assert_by_heads_of_true_stars(raw, predictions, split, horizon):
    """Asserts that all are served by heads of ratings that they give next, with items that got these in training."""
    past, stars_of, some_closed = ratings(raw), defaultdict(set), False
    for pairs in past.values():
        if len(pairs) > 2 * horizon:
            for item, stars in pairs[: -2 * horizon]:
                stars_of[_name(stars)].add(item)
    for row in pq.read_table(predictions).to_pylist():
        ahead = {stars for _, stars in _ahead(past[row["user_id"]], split, horizon)}
        open_heads = {_name(stars) for stars in ahead}
        assert set(row["heads"]) <= open_heads
        assert all(
            item in stars_of[head] for item, head in zip(row["items"], row["heads"], strict=True)
        )
        some_closed |= len(ahead) < 5
    assert some_closed, "nothing was closed to anybody"


def _name(stars):
    return f"{stars} star{'s' if stars > 1 else ''}"


def _ahead(pairs, split, horizon):
    end = len(pairs) - (horizon if split == "validation" else 0)
    return pairs[end - horizon : end]
