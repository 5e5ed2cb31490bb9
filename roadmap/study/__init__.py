"""A question and its trials: study file, designs, expansion. No torch."""
