"""Who trains a run: one process at a time, held by a lock that the system frees when the process ends."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from roadmap.runs.io import RunHeld


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold a run by its lease file for as long as the context lasts, or this process lives.

    Raises RunHeld naming the holder.
    """
    with open(path, "a+") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            raise RunHeld(
                f"{path.parent.name} is being trained by {_holder(f)}; legal: one process a run; wait for it, or stop it "
                "first"
            ) from e
        f.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        f.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
        f.flush()
        yield


def _holder(lease: IO[str]) -> str:
    lease.seek(0)
    try:
        owner = json.loads(lease.read())
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (ValueError, KeyError):
        return "another process"
