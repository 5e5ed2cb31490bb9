"""Training: ranks, criterion, optimizer and schedule, the loop, checkpoints, evaluation.

`execute` runs one trial in its folder.
"""
