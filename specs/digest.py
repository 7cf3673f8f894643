"""The digest of a rendered definition: what says, in the mark, from which definition a domain was made.

Sixteen bytes of SHA-256: no two definitions share one by accident, and nobody gains by making two that do,
for whoever may write a definition may write any. Rendering is deterministic, so the text itself is hashed.
"""

from __future__ import annotations

import hashlib
from typing import Final

DIGEST_LENGTH: Final = 32


def digest(text: str) -> str:
    """32 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]
