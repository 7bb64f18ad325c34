"""A marketplace of users with mixed interests, in which every signal can be set and switched off.

Each interaction is drawn by one of six sources, whose shares are the settings (`mix.py`). The log
therefore has a known distribution, and `oracle.py` computes the best possible scores from it.
"""
