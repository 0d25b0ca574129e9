"""Learning: features and targets to a run directory."""
