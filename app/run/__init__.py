"""A run's life: its folder, clock and plan, progress, signals, and pictures while it grows."""
