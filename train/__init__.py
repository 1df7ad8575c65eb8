"""State, step, loop, optimisers, data, checkpoints and reports: everything between a loss and a run."""
