"""Room on a device that several runs share: how much a run needs, and waiting until it is there.

The parent of the slots adds up what its own runs are known to take; a slot looks at the device
itself, which other programs may use too. torch is imported by the functions of a slot.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Sequence

MARGIN = 1.25  # of a peak of allocated memory: allocators hold more than is in use, libraries have buffers of their own
UNSEEN = 1.5  # times the largest known peak is what a network that was never trained here is taken to need
MOST_OF_FREE = 0.8  # of what was free at first is asked for at most: contexts of idle slots grow with what they ran
POLL_SECONDS = 2.0
PATIENCE_SECONDS = 3600.0  # that a run waits for other programs, before it is tried as it is


def with_margin(peak: int) -> int:
    """Bytes to keep free for a run whose tensors take `peak` at most."""
    return int(peak * MARGIN)


def fits(need: int | None, beside: Sequence[int | None], free: int | None, *, trusting: bool) -> bool:
    """Whether a run may start beside others that are at it on its device.

    need, beside: bytes with margin, None where nothing is known. free: bytes of the device without
    any run; None: no device with memory of its own. trusting: runs of unknown need may share, as
    someone has said how many fit.
    """
    if free is None or not beside:
        return True
    known = [bytes_ for bytes_ in (need, *beside) if bytes_ is not None]
    if len(known) <= len(beside) and not trusting:
        return False
    return sum(known) <= free


def free_memory(device: str) -> int | None:
    """Bytes that are free on this process's GPU, its own cache not counted; None where it trains on a CPU."""
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        return None
    gc.collect()
    torch.cuda.empty_cache()
    return int(torch.cuda.mem_get_info()[0])


def wait_for_room(need: int, device: str) -> bool:
    """Wait until so many bytes are free on the device, and say so; returns whether they are."""
    began, told = time.monotonic(), False
    while (free := free_memory(device)) is not None and free < need:
        if time.monotonic() - began > PATIENCE_SECONDS:
            text = f"the device has {_gib(free)} free after {PATIENCE_SECONDS / 60:.0f} minutes; starting all the same"
            print(text, file=sys.stderr)
            return False
        if not told:
            told = True
            print(f"waiting for memory: the run needs {_gib(need)}, the device has {_gib(free)} free", file=sys.stderr)
        time.sleep(POLL_SECONDS)
    return True


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
