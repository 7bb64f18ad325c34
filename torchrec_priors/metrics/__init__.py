"""Recall, NDCG, entropy and other metrics, accumulated over batches and summed over ranks."""
