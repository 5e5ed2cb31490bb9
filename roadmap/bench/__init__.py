"""`roadmap bench`: what the harness costs, as ratios of interleaved pairs, with the hardware named."""
