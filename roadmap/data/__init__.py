"""Data sets by name, and the per-sample-seeded pipeline.

`registry` and `file_index` import no torch; the rest is imported where images are read.
"""
