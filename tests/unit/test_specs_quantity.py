"""Quantities: what Kubernetes writes is read exactly, and nothing else is read."""

from __future__ import annotations

from fractions import Fraction

import pytest

from specs import quantity

READ = [
    ("0", Fraction(0), "0"),
    ("1024", Fraction(1024), "1024"),
    (1024, Fraction(1024), "1024"),
    (2000, Fraction(2000), "2k"),
    ("128Mi", Fraction(128 << 20), "128Mi"),
    ("1024Mi", Fraction(1 << 30), "1Gi"),
    ("1.5Gi", Fraction(3 << 29), "1536Mi"),
    (".5Gi", Fraction(1 << 29), "512Mi"),
    ("5.", Fraction(5), "5"),
    ("1.5Ki", Fraction(1536), "1536"),
    ("64Ti", Fraction(64 << 40), "64Ti"),
    ("1Ei", Fraction(1 << 60), "1Ei"),
    ("2G", Fraction(2 * 10**9), "2G"),
    ("1000k", Fraction(10**6), "1M"),
    ("12E", Fraction(12 * 10**18), "12E"),
    ("1e3", Fraction(1000), "1e3"),
    ("1E3", Fraction(1000), "1e3"),
    ("1E", Fraction(10**18), "1E"),
    ("1e-2", Fraction(1, 100), "10e-3"),
    ("500m", Fraction(1, 2), "500m"),
    ("0.1", Fraction(1, 10), "100m"),
    ("0.5", Fraction(1, 2), "500m"),
    ("250u", Fraction(1, 4000), "250u"),
    ("-1Ki", Fraction(-1024), "-1Ki"),
    ("+1", Fraction(1), "1"),
    ("0.3Ki", Fraction(1536, 5), "307200m"),
]


@pytest.mark.parametrize(("text", "number", "written"), READ)
def test_a_quantity_is_read_exactly_and_written_as_kubernetes_writes_it(
    text: str | int, number: Fraction, written: str
) -> None:
    assert quantity.parse(text) == number
    assert quantity.canonical(text) == written
    assert quantity.parse(written) == number


REFUSED = [
    *("", " ", "x", "1 Gi", " 1", "1\n", "1K", "1ki", "1GB", "1KiB", "1.2.3", "1e", "1ee3", "1e3Mi", "1Mi3"),
    *("0x10", "1_0", "\u0661", "1,5Gi", "--1", "+-1", "NaN", "inf", "1" * 65, "1e31", "1e999999999"),
]


@pytest.mark.parametrize("text", REFUSED)
def test_what_kubernetes_does_not_write_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"quantity|exponent"):
        quantity.parse(text)


@pytest.mark.parametrize("value", [True, False, 10**64])
def test_what_is_no_quantity_at_all_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="quantity"):
        quantity.parse(value)


@pytest.mark.parametrize(
    ("text", "meant"), [("512MB", "512Mi"), ("1GiB", "1Gi"), ("1 Gi", "1Gi"), ("4k b", "")]
)
def test_other_tools_spellings_get_a_hint(text: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean {meant}" if meant else "quantity"):
        quantity.parse(text)


def test_bytes_are_whole_or_refused_never_rounded() -> None:
    assert quantity.to_bytes("0.5Ki") == 512
    with pytest.raises(ValueError, match="whole number of bytes"):
        quantity.to_bytes("500m")


def test_nothing_finer_than_a_billionth_is_written() -> None:
    with pytest.raises(ValueError, match="finer than a billionth"):
        quantity.canonical("0.0000000001")


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (1, "1"), (1024, "1Ki"), (1536, "1536"), (3 << 30, "3Gi")]
)
def test_bytes_are_shown_with_the_largest_suffix_that_is_exact(count: int, text: str) -> None:
    assert quantity.format_bytes(count) == text
