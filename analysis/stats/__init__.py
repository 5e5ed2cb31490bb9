"""Statistics of cells and of their comparisons: intervals, verdicts, power."""
