"""Publishes versions of a trained model into a folder that services follow."""
