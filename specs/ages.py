"""How long, and how long ago, in kubectl's words: 45s, 3m12s, 26h, 4d2h.

apimachinery's HumanDuration, for tables of the server and of the client alike, which must not differ.
"""

from __future__ import annotations

TYPE_CHECKING = False  # the client starts without typing
if TYPE_CHECKING:
    from datetime import datetime as Datetime

UNKNOWN = "<unknown>"


def age(timestamp: object, now: Datetime | None = None) -> str:
    """Since an RFC 3339 instant, until `now` or the present; "<unknown>" if it is none."""
    from datetime import UTC, datetime  # noqa: PLC0415 - the client starts without it

    try:
        then = datetime.fromisoformat(timestamp) if isinstance(timestamp, str) else None
    except ValueError:
        then = None
    if then is None or then.tzinfo is None:
        return UNKNOWN
    return span(((now or datetime.now(UTC)) - then).total_seconds())


def span(seconds: float) -> str:
    """Two units while the number is small. Clocks differ by a moment; further ahead is no duration."""
    total = int(seconds)
    if total < -1:
        return "<invalid>"
    if total < 120:
        return f"{max(total, 0)}s"
    minutes, hours, days = total // 60, total // 3600, total // 86400
    if minutes < 10:
        return _two(minutes, "m", total % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return _two(days, "d", hours % 24, "h")
    if days < 730:
        return f"{days}d"
    years = days // 365
    return _two(years, "y", days % 365, "d") if years < 8 else f"{years}y"


def _two(first: int, unit: str, second: int, small: str) -> str:
    return f"{first}{unit}{second}{small}" if second else f"{first}{unit}"
