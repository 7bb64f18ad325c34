"""Publishes versions of a trained model into a folder that services follow."""

KEEP = 3  # published versions that a folder holds, unless a user says otherwise
