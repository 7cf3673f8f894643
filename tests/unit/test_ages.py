"""How long ago, in kubectl's words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from specs.ages import age, span

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"), (-1, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (125, "2m5s"), (599, "9m59s"),
        (600, "10m"), (10_799, "179m"), (10_800, "3h"), (11_100, "3h5m"), (28_800, "8h"), (172_799, "47h"),
        (172_800, "2d"), (176_400, "2d1h"), (691_200, "8d"), (63_072_000, "2y"), (63_158_400, "2y1d"),
        (315_360_000, "10y"),
    ],
)  # fmt: skip
def test_durations_are_abbreviated_as_kubectl_does(seconds: float, text: str) -> None:
    assert span(seconds) == text
    assert age((NOW - timedelta(seconds=seconds)).isoformat(), NOW) == text


@pytest.mark.parametrize("odd", [None, 7, "", "yesterday", "2026-01-01", {}])
def test_an_odd_timestamp_has_an_unknown_age(odd: object) -> None:
    assert age(odd) == age(odd, NOW) == "<unknown>"


def test_an_age_is_until_the_present() -> None:
    assert age((datetime.now(UTC) - timedelta(hours=26)).isoformat()) == "26h"
