"""Run folders: what a run writes, and how anyone reads it back. No torch."""
