"""New raw files -> a prepared data set that holds them as well."""
