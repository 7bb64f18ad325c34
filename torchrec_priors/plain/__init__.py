"""Plain baselines (popularity, item-kNN, transitions, EASE): from counts or in closed form."""
