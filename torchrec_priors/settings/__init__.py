"""Settings of a run, one file a section of the configuration. Imports no torch."""
