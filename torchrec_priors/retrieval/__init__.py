"""Search: finds the best items of the whole catalogue, group by group, in a sharded table."""
