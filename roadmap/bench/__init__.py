"""`roadmap bench`: the harness's cost, as ratios of interleaved pairs, with the hardware named."""
