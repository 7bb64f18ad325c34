"""The item table: one sharded EmbeddingCollection."""
