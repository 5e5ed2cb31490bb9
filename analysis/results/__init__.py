"""Records to results: rows, comparisons, proof, costs."""
