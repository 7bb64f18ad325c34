"""Adds priors to a prepared data set: from a file, from attributes, or from communities."""
