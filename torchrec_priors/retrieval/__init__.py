"""Top-k of the full catalogue, group by group on a sharded table, fused over heads."""
