"""Step, loop, optimizers and schedules, checkpoints, logging."""
