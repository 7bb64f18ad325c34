"""Recommendations from a trained run, in original ids, with reasons."""
