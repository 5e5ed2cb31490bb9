"""Data sets by name, and the per-sample-seeded pipeline. `catalogue` imports no torch; the rest is imported where images are read."""
