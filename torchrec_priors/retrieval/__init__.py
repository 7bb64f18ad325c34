"""Full-catalogue top-k per group on a sharded table, fused over heads."""
