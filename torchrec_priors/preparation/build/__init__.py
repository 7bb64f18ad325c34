"""Builds the files of a prepared data set from a corpus, stage by stage."""
