"""Plain baselines: popularity, item-kNN, transitions, EASE. They count or solve, without a GPU."""
