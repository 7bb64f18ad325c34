"""A corpus -> the files of a prepared data set, stage by stage."""
