"""Warning headers: what a client should hear of a request that went through (RFC 7234). Pure.

No more of them and no longer than clients take: some give up the whole answer over too many headers, and
the change is made by then. Bounds are Kubernetes' own, but for their number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

_MOST: Final = 16
_CHARS: Final = 4096  # of all of them; where they are more, each is cut to its part


def headers(warnings: Sequence[str]) -> Iterable[str]:
    if len(warnings) > _MOST:
        left = len(warnings) - _MOST + 1
        warnings = [*warnings[: _MOST - 1], f"and {left} more warnings"]
    longest = _CHARS // _MOST if sum(map(len, warnings)) > _CHARS else _CHARS
    return [f'299 - "{_quoted(warning[:longest])}"' for warning in warnings]


def _quoted(text: str) -> str:
    """As the warn-text of a header: printable ASCII, quotes and backslashes escaped."""
    plain = "".join(c if " " <= c <= "~" else "?" for c in text)
    return plain.replace("\\", "\\\\").replace('"', '\\"')
