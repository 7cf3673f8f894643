"""What a JSON text says twice: fields that an object has again. Pure.

Of such a field only what is said last counts, here as on Kubernetes; which it was is rarely what its author
knew. `controller.api.requests` tells it, or refuses it where a request asks for that (fieldValidation).
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Final

_SHOWN: Final = 253  # characters of a name
_Way = tuple[Any, ...]  # (the way to what it is in, its name or number there), () to the whole


class _Doubled(dict[str, Any]):
    """An object of which some fields were given twice."""

    __slots__ = ("names",)
    names: list[str]


def _told_apart(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    doubled = _Doubled(found)
    doubled.names = [name for name, times in Counter(name for name, _ in pairs).items() if times > 1]
    return doubled


def doubles(body: bytes, most: int) -> list[str]:
    """The paths of fields that an object of this JSON text, which was decoded before, has twice; of more than
    `most`, some. Paths are written of those alone: with each field's, long names would be written often."""
    text = body.decode(errors="replace")
    value = json.loads(text, object_pairs_hook=_told_apart, parse_int=str, parse_float=str)
    found: list[str] = []
    open_now: list[tuple[_Way, Any]] = [((), value)]
    while open_now and len(found) < most:
        way, one = open_now.pop()
        if isinstance(one, _Doubled):
            found += [_path((way, name)) for name in one.names[: most - len(found)]]
        if isinstance(one, dict):
            open_now += [((way, name), inner) for name, inner in one.items()]
        elif isinstance(one, list):
            open_now += [((way, number), inner) for number, inner in enumerate(one)]
    return sorted(found)


def _path(way: _Way) -> str:
    steps: list[str] = []
    while way:
        way, step = way
        steps.append(f"[{step}]" if isinstance(step, int) else f".{step[:_SHOWN]}")
    return "".join(reversed(steps)).lstrip(".")
