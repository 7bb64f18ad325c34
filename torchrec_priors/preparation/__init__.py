"""Raw files -> prepared data set. Imports no torch."""
