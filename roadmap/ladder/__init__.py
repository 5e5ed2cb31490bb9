"""Ladders as data: the ConvNeXt roadmap, and the published networks."""
