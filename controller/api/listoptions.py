"""What a list or a watch asks for besides what it selects: which revision, from where on, and how it begins.

Read as Kubernetes reads it, its mistakes included: what asks for two things at once, or for what a list or a
watch does not have, is refused with every cause (422), never passed over. Whoever asks for a revision is not
given another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from controller.api import errors
from controller.api.errors import Cause, Subject
from controller.api.requests import flag, positive

EXACT: Final = "Exact"
NOT_OLDER: Final = "NotOlderThan"
_SUBJECT: Final = Subject("ListOptions", "", "meta.k8s.io")
_MATCH: Final = "resourceVersionMatch"
_INITIAL: Final = "sendInitialEvents"


@dataclass(frozen=True, slots=True)
class ListOptions:
    """`limit` 0: none. `revision` 0: none is asked for, any will do. `exact`: that one, else that or a later
    one. `initial`: whether a watch begins with what is there, None where that is not said."""

    limit: int
    token: str
    revision: int
    exact: bool
    initial: bool | None
    bookmarks: bool


def of_list(query: Mapping[str, str]) -> ListOptions:
    """Raises ApiError (400, 422)."""
    found = _read(query, _of_list(query))
    if found.token and found.revision:
        raise errors.bad_request("specifying resource version is not allowed when using continue")
    return found


def of_watch(query: Mapping[str, str]) -> ListOptions:
    """Raises ApiError (400, 422)."""
    return _read(query, _of_watch(query))


def _read(query: Mapping[str, str], causes: Iterator[Cause]) -> ListOptions:
    if wrong := list(causes):
        raise errors.invalid(_SUBJECT, wrong)
    limit, revision = positive(query, "limit", 0), positive(query, "resourceVersion", 0)
    match = query.get(_MATCH, "")
    # A page of a revision, without a word on which, is one of just that revision, as it was before there
    # were words.
    exact = match == EXACT or bool(not match and limit and revision)
    return ListOptions(
        limit,
        query.get("continue", ""),
        revision,
        exact,
        flag(query, _INITIAL),
        flag(query, "allowWatchBookmarks") is True,
    )


def _of_list(query: Mapping[str, str]) -> Iterator[Cause]:
    match, revision = query.get(_MATCH, ""), query.get("resourceVersion", "")
    if match and not revision:
        yield _forbidden(_MATCH, f"{_MATCH} is forbidden unless resourceVersion is provided")
    if match and query.get("continue"):
        yield _forbidden(_MATCH, f"{_MATCH} is forbidden when continue is provided")
    if match not in {"", EXACT, NOT_OLDER}:
        yield _unsupported(match, EXACT, NOT_OLDER)
    if match == EXACT and revision == "0":
        yield _forbidden(_MATCH, f'{_MATCH} "exact" is forbidden for resourceVersion "0"')
    if _INITIAL in query:
        yield _forbidden(_INITIAL, f"{_INITIAL} is forbidden for list")


def _of_watch(query: Mapping[str, str]) -> Iterator[Cause]:
    match = query.get(_MATCH, "")
    if _INITIAL in query and match != NOT_OLDER:
        yield _forbidden(_MATCH, f"{_INITIAL} requires setting {_MATCH} to {NOT_OLDER}")
    if match and _INITIAL not in query:
        yield _forbidden(_MATCH, f"{_MATCH} is forbidden for watch unless {_INITIAL} is provided")
    if match not in {"", NOT_OLDER}:
        yield _unsupported(match, NOT_OLDER)
    if match and query.get("continue"):
        yield _forbidden(_MATCH, f"{_MATCH} is forbidden when continue is provided")


def _forbidden(field: str, message: str) -> Cause:
    return Cause(field, message, "FieldValueForbidden")


def _unsupported(match: str, *known: str) -> Cause:
    return Cause(_MATCH, f"must be {' or '.join(known)}, is {match[:40]!r}", "FieldValueNotSupported")
