"""Kubernetes quantities, exactly: `128Mi`, `2G`, `1.5Gi`, `1e3`, `500m`, `1024`.

Used wherever a spec names memory. A quantity is a rational number with a suffix: binary (Ki to Ei),
decimal (n u m k M G T P E) or an exponent (e3, E-2). Everything is computed with integers and Fractions,
so `0.1` is a tenth. Unlike Kubernetes nothing is rounded silently: bytes that are not whole are refused.
Text comes from users, so its length and its exponent are bounded before anything is multiplied.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Final

from specs.problems import shown

MAX_LENGTH: Final = 64
_MAX_EXPONENT: Final = 30  # beyond Q (10^30) nothing is measured
_BINARY: Final = {
    suffix: 1 << (10 * power) for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)
}
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_FORM = re.compile(
    r"(?P<sign>[+-]?)(?P<number>\d+(?:\.\d*)?|\.\d+)(?:(?P<suffix>[KMGTPE]i|[numkMGTPE])|[eE](?P<exponent>[+-]?\d+))?",
    re.ASCII,
)


def parse(value: str | int) -> Fraction:
    """The number that a quantity stands for. Raises ValueError, in words for the user."""
    return _split(value)[0]


def to_bytes(value: str | int) -> int:
    """A quantity as whole bytes. Raises ValueError; a fraction of a byte is not rounded."""
    number = parse(value)
    if number.denominator != 1:
        raise ValueError(f"{value!s} is not a whole number of bytes")
    return number.numerator


def canonical(value: str | int) -> str:
    """As Kubernetes writes it: no fraction, the largest suffix of the same family that allows that.

    1.5Gi is 1536Mi, 1024Mi is 1Gi, 0.5 is 500m, 2000 is 2k, 1e3 stays 1e3.
    """
    number, family = _split(value)
    if family == "binary":
        return _with_binary(number)
    thousands = [power for power in _DECIMAL.values() if _whole(number, power)]
    power = max(thousands, default=-9) if number else 0
    digits = number / Fraction(10) ** power
    if digits.denominator != 1:
        raise ValueError(f"{value!s} is finer than a billionth")
    if family == "exponent":
        return f"{digits.numerator}e{power}" if power else str(digits.numerator)
    suffix = next(name for name, known in _DECIMAL.items() if known == power)
    return f"{digits.numerator}{suffix}"


def format_bytes(count: int) -> str:
    """Bytes for people, exactly: the largest binary suffix that leaves a whole number."""
    return _with_binary(Fraction(count))


def _with_binary(number: Fraction) -> str:
    for suffix, factor in reversed(_BINARY.items()):
        if number and _whole_multiple(number, factor):
            return f"{number.numerator // factor}{suffix}"
    return str(number.numerator) if number.denominator == 1 else canonical(_as_decimal(number))


def _as_decimal(number: Fraction) -> str:
    """A binary quantity below one (0.5Ki is whole, 0.0005Ki is not) continues in decimal."""
    nano = number * 10**9
    if nano.denominator != 1:
        raise ValueError("finer than a billionth")
    return f"{nano.numerator}n"


def _whole_multiple(number: Fraction, factor: int) -> bool:
    return number.denominator == 1 and number.numerator % factor == 0


def _whole(number: Fraction, power: int) -> bool:
    return (number / Fraction(10) ** power).denominator == 1


def _split(value: str | int) -> tuple[Fraction, str]:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"must be a quantity such as 512Mi, is {shown(value)}")
    if isinstance(value, int):
        if abs(value) >= 10**MAX_LENGTH:
            raise ValueError("is too large for a quantity")
        return Fraction(value), "decimal"
    return _split_text(value)


@lru_cache(maxsize=1024)
def _split_text(value: str) -> tuple[Fraction, str]:
    """Specs are full of the same few sizes, and every plan asks for them."""
    if len(value) > MAX_LENGTH:
        raise ValueError(f"has {len(value)} characters, a quantity has at most {MAX_LENGTH}")
    found = _FORM.fullmatch(value)
    if found is None:
        raise ValueError(
            f"must be a quantity such as 512Mi, 2G, 1.5Gi or 1024, is {shown(value)}{_hint(value)}"
        )
    number = Fraction(found["number"]) * (-1 if found["sign"] == "-" else 1)
    suffix, exponent = found["suffix"], found["exponent"]
    if exponent is not None:
        if abs(int(exponent)) > _MAX_EXPONENT:
            raise ValueError(f"has the exponent {exponent}, at most {_MAX_EXPONENT} is allowed")
        return number * Fraction(10) ** int(exponent), "exponent"
    if suffix in _BINARY:
        return number * _BINARY[suffix], "binary"
    return number * Fraction(10) ** _DECIMAL[suffix or ""], "decimal"


def _hint(value: str) -> str:
    """What was probably meant: the spellings of other tools."""
    found = re.fullmatch(r"([0-9.]+)\s*([kKmMgGtTpPeE])?(i)?[bB]?", value.strip(), re.ASCII)
    if found is None or found[2] is None:
        return ""
    letter = found[2].upper()
    return f" (did you mean {found[1]}{letter}i for powers of 1024?)"
