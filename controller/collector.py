"""Python's collector of cycles, fitted to a server: it looks at what is new, and seldom at everything.

A full collection stops the loop for as long as there are objects to look at: 130 ms with a thousand watches
open. What is loaded when a replica begins to serve is frozen, for it stays; after that a full one comes once
in a million containers that were made and not freed, where Python's own bounds have one in seventy thousand.
"""

from __future__ import annotations

import gc
from typing import Final

THRESHOLDS: Final = (10_000, 20, 5)


def settle() -> None:
    """Call once, when all is loaded."""
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
