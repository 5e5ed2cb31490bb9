"""How a run ended."""

from __future__ import annotations

FINISHED, FAILED, DIVERGED, INTERRUPTED = "finished", "failed", "diverged", "interrupted"
