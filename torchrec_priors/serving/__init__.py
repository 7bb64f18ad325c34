"""Answers to people: recommendations from a trained run, in original ids, with reasons."""
