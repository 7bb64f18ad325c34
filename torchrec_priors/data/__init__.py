"""From a prepared data set to jagged batches."""
