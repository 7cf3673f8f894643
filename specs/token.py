"""The kind Token: by which a program says who it is, without a certificate.

Only the SHA-256 of a token is kept, so that whoever reads the store, a backup or this API cannot use it. A
token is 256 random bits, made where it is used (`domctl token create`): there is nothing to guess and no word
list to try, so a slow or salted hash would cost each request its time and protect nothing more.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, UnsetType

from specs.meta import API_VERSION, ObjectMeta, Struct
from specs.walker import Report

TOKEN_FORM: Final = r"domctl-[A-Za-z0-9_-]{43}"  # noqa: S105 - a pattern: 32 bytes in base64url

_TIME: Final = r"^[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]Z$"
_FORM: Final = re.compile(_TIME.removesuffix("$") + r"\Z", re.ASCII)


class TokenSpec(Struct, frozen=True, kw_only=True):
    """Whose token it is, and until when. It cannot be changed: delete it and create another.

    user: Who its bearer is.
    groups: The groups that its bearer is in.
    expires: From when on it is refused: a time in UTC, such as 2030-01-31T12:00:00Z.
    sha256: The SHA-256 of the token, in hexadecimal digits.
    """

    user: Annotated[str, Meta(min_length=1, max_length=253)]
    groups: (
        Annotated[list[Annotated[str, Meta(min_length=1, max_length=253)]], Meta(max_length=64)] | UnsetType
    ) = UNSET
    expires: Annotated[
        str,
        Meta(
            pattern=_TIME,
            extra={"words": "a time in UTC such as 2030-01-31T12:00:00Z"},
        ),
    ]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$", extra={"words": "64 hexadecimal digits"})]


class Token(Struct, frozen=True, kw_only=True):
    """A bearer token, of which only the hash is kept.

    api_version: domctl.io/v1.
    kind: Token.
    metadata: The envelope.
    spec: Whose it is, and until when.
    """

    api_version: Literal["domctl.io/v1"] = API_VERSION
    kind: Literal["Token"] = "Token"
    metadata: ObjectMeta
    spec: TokenSpec


def check_token(value: Mapping[str, Any], report: Report) -> None:
    """A date that no calendar has would compare with others as if it were one."""
    spec = value.get("spec")
    expires = spec.get("expires") if isinstance(spec, Mapping) else None
    if isinstance(expires, str) and _FORM.fullmatch(expires):
        try:
            datetime.datetime.fromisoformat(expires)
        except ValueError:
            report.add(("spec", "expires"), f"is no time of any calendar: {expires}")
