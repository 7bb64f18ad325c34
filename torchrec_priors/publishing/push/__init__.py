"""Writes a run as a folder that other people can load, and uploads it to the Hugging Face hub."""
