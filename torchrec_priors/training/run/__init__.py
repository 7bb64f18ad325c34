"""The folder of a run: its configuration, its data, its log and what its weights were trained on."""
