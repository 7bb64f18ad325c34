"""What computes Ibis expressions over raw files and work tables: DuckDB out of core on one machine, or Spark."""
