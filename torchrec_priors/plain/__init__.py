"""Plain baselines, such as popularity and EASE: computed from counts or in closed form."""
