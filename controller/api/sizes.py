"""How much a document may be: bounds on what the loop works through in one go. Pure.

A body is looked at before it is decoded: each field and item of JSON has a mark of its own (a comma, or the
bracket that begins its container), so that too many marks are too many fields, and what may be refused costs
no more than a look at its bytes. What is decoded is walked until its bound and no further. So both steps cost
what a document of the largest size costs that is taken, whatever was sent.
"""

from __future__ import annotations

from typing import Any, Final

from controller.api import errors
from controller.api.errors import ApiError

MAX_FIELDS: Final = 1500  # of one object: what merging and owning them may cost the loop (50 ms)
MAX_FIELDS_IN_ALL: Final = 12_000
MAX_OWNED: Final = (
    8000  # of the managedFields that are written: each manager's parts are gone through each time
)
MAX_DEPTH: Final = 40  # of JSON; the deepest field of a kind is far below
_MARKS: Final = b",[{"
_MAX_MARKS: Final = 2 * MAX_FIELDS_IN_ALL + 1  # a comma and a bracket for each, and the outermost bracket
_MAX_QUOTES: Final = 4 * MAX_FIELDS_IN_ALL + 2  # around the name and the value of each


def refuse_large(body: bytes) -> None:
    """Raises ApiError (413) for JSON that has more fields than `sized` takes, as far as its marks tell: what
    passes has at most twice as many."""
    if _marks(body) <= _MAX_MARKS:
        return
    # Some may be within texts, where there may be as many as there is room for.
    pieces = body.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"', _MAX_QUOTES)
    if len(pieces) > _MAX_QUOTES or _marks(b"".join(pieces[::2])) > _MAX_MARKS:
        raise too_many(MAX_FIELDS)


def _marks(body: bytes) -> int:
    """By what is left without them: in time that does not depend on how many they are."""
    return len(body) - len(body.translate(None, _MARKS))


def sized(value: Any, most: int = MAX_FIELDS) -> Any:
    """The same, if it is no deeper and has no more fields than is worked on in one go: `most` of them, and
    more with status and managedFields. Raises ApiError (400, 413)."""
    if fields_in(value, MAX_FIELDS_IN_ALL) > MAX_FIELDS_IN_ALL or fields_of(value, most) > most:
        raise too_many(most)
    return value


def too_many(most: int) -> ApiError:
    return errors.too_large(
        f"the document has too many fields: at most {most} are accepted "
        f"({MAX_FIELDS_IN_ALL} with status and managedFields)"
    )


def fields_of(body: Any, most: int = MAX_FIELDS_IN_ALL) -> int:
    """How many fields and list items a document has, but for its status and what says whose they are; of
    more than `most`, some number above it. Raises ApiError (400) for one that is too deep."""
    if not isinstance(body, dict):
        return fields_in(body, most)
    rest = {k: v for k, v in body.items() if k != "status"}
    if isinstance(metadata := rest.get("metadata"), dict):
        rest["metadata"] = {k: v for k, v in metadata.items() if k != "managedFields"}
    return fields_in(rest, most)


def fields_in(value: Any, most: int) -> int:
    """All of them; looks at no more than `most`. Raises ApiError (400)."""
    count, layer = 0, [value]
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for one in layer:
            if isinstance(one, dict | list):
                count += len(one)
                if count > most:
                    return count
                below.extend(one.values() if isinstance(one, dict) else one)
        if not below:
            return count
        layer = below
    raise errors.bad_request(f"the body is nested deeper than {MAX_DEPTH} levels")
