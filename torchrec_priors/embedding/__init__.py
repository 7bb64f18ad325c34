"""The item table, as one sharded `EmbeddingCollection`, and the tables of side features."""
