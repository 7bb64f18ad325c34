"""Priors that are added to a prepared data set: from a file, from attributes, from communities."""
