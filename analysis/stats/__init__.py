"""Comparisons of cells: intervals, verdicts, power."""
