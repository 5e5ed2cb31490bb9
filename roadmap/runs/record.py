"""How a run ended."""

from __future__ import annotations

LOST_PEER = "lost-peer"  # an `error_kind`: another rank is gone, which is no fault of this one

FINISHED, FAILED, DIVERGED, INTERRUPTED = "finished", "failed", "diverged", "interrupted"
