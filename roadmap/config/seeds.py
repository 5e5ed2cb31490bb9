"""Where every random draw comes from: a seed derived from what the draw is for, never from the
state left by earlier draws.

So a run needs no random state to resume, and its stream depends on neither workers nor ranks: a
sample's augmentation is drawn from (seed, epoch, index), a group's mixup and stochastic depth from
(seed, iteration, group).
"""

from __future__ import annotations

INIT, ORDER, SAMPLE, GROUP = 1, 2, 3, 4
_MASK = (1 << 64) - 1


def derive(*words: int) -> int:
    """64 well-mixed bits of the words and their order (SplitMix64's finalizer, chained)."""
    state = 0
    for word in words:
        state = (state ^ (word & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state
