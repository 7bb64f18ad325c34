"""Recall, NDCG and entropy from predictions and raw ML-100K files: plain Python, no code of the product."""

import csv
import math
from collections import defaultdict

import pyarrow.parquet as pq


def histories(raw):
    """User -> items in order of time, ties in file order."""
    rows = defaultdict(list)
    with open(raw / "u.data") as file:
        for line, (user, item, _, seconds) in enumerate(csv.reader(file, delimiter="\t")):
            rows[int(user)].append((int(seconds), line, int(item)))
    return {user: [item for _, _, item in sorted(events)] for user, events in rows.items()}


def genres(raw):
    """Item -> numbers of its genres."""
    with open(raw / "u.item", encoding="latin-1") as file:
        rows = [line.rstrip("\n").split("|") for line in file]
    return {int(row[0]): [number for number, flag in enumerate(row[5:24]) if flag == "1"] for row in rows}


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
            sums[f"entropy@{cutoff}"] -= sum(n / cutoff * math.log2(n / cutoff) for n in counts.values())
    return {name: total / users for name, total in sums.items()}, users, past
