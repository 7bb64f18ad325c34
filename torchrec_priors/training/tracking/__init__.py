"""Trackers: programs outside a run's folder that show its curves, such as MLflow."""
