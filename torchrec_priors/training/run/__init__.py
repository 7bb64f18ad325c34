"""The folder of a run: its configuration, its data, its log and the origin of its weights."""
