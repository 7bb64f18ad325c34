"""Recommendations of a trained run, with original ids and the heads that explain each item."""
