"""What is trained, as values: model, recipe, data, trial. No torch."""
