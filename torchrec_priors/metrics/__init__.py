"""Recall, NDCG, entropy and the rest (design: "Metrics"), streaming and summed over ranks."""
