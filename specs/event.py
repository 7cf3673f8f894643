"""The kind Event of Kubernetes' core group: what happened to an object, told by the controller or a client.

Events are notes for people: nothing decides by them, they end by themselves, and they have no spec. What the
controller tells is written by `controller.events`; what clients such as operators tell is checked here, and
taken by `controller.api.facade.notes`. Times are put into the two forms that Kubernetes' clients can read.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, Final, Literal

from msgspec import UNSET, UnsetType, inspect

from specs import metarules
from specs.meta import ObjectMeta, Struct
from specs.problems import Problem, shown
from specs.walker import Later, Report, Unknown, walk

COMPONENT: Final = "domctl"  # whose word the controller's own events are
REPORTER: Final = "domctl.io/controller"
_OURS: Final = "is domctl's own, and says who told of it"


class ObjectReference(Struct, frozen=True, kw_only=True):
    """Which object is meant.

    api_version: Its group and version.
    kind: Its kind.
    name: Its name.
    namespace: Its namespace, if it has one.
    uid: Its uid.
    resource_version: The revision that is meant.
    field_path: The part of it that is meant.
    """

    api_version: str | UnsetType = UNSET
    kind: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    namespace: str | UnsetType = UNSET
    uid: str | UnsetType = UNSET
    resource_version: str | UnsetType = UNSET
    field_path: str | UnsetType = UNSET


class EventSource(Struct, frozen=True, kw_only=True):
    """Who told of it, in the older form.

    component: The program.
    host: Where it runs.
    """

    component: str | UnsetType = UNSET
    host: str | UnsetType = UNSET


class EventSeries(Struct, frozen=True, kw_only=True):
    """That it happened again and again.

    count: How often.
    last_observed_time: When last.
    """

    count: int | UnsetType = UNSET
    last_observed_time: str | UnsetType = UNSET


class Event(Struct, frozen=True, kw_only=True):
    """What happened to an object, for people. It ends by itself, an hour or so after it was written last.

    api_version: v1, or domctl.io/v1.
    kind: Event.
    metadata: The envelope.
    involved_object: What it happened to.
    related: Another object that has a part in it.
    reason: Why, one word.
    message: A sentence.
    type: Normal or Warning.
    action: What was being done.
    count: How often it happened.
    first_timestamp: When it happened first.
    last_timestamp: When it happened last.
    event_time: When it happened, to the microsecond.
    series: That it happened again and again.
    source: Who told of it, in the older form.
    reporting_component: Who told of it.
    reporting_instance: Which of several of them.
    """

    api_version: Literal["v1", "domctl.io/v1"]
    kind: Literal["Event"]
    metadata: ObjectMeta
    involved_object: ObjectReference
    related: ObjectReference | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    message: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    action: str | UnsetType = UNSET
    count: int | UnsetType = UNSET
    first_timestamp: str | UnsetType = UNSET
    last_timestamp: str | UnsetType = UNSET
    event_time: str | UnsetType = UNSET
    series: EventSeries | UnsetType = UNSET
    source: EventSource | UnsetType = UNSET
    reporting_component: str | UnsetType = UNSET
    reporting_instance: str | UnsetType = UNSET


_TYPE: Final = inspect.type_info(Event)
_LATER: Final = Later({}, {})


def is_ours(body: Mapping[str, Any]) -> bool:
    """Whether the controller wrote it: `noted` lets nobody else say so."""
    return body.get("reportingComponent") == REPORTER


def noted(value: object, unknown: Unknown) -> tuple[dict[str, Any], list[Problem]]:
    """What a client tells, cleaned, and what is wrong with it."""
    report = Report(unknown)
    clean = walk(value, _TYPE, (), report, _LATER)
    if not isinstance(clean, dict):
        return {}, report.problems
    metarules.check_metadata(clean.get("metadata"), True, report, dotted=True)
    _check_place(clean, report)
    if str(clean.get("reportingComponent", "")).startswith("domctl.io/"):
        report.add(("reportingComponent",), _OURS, "FieldValueForbidden")
    source = clean.get("source")
    if isinstance(source, dict) and source.get("component") == COMPONENT:
        report.add(("source", "component"), _OURS, "FieldValueForbidden")
    for name in ("firstTimestamp", "lastTimestamp"):
        _set_time(clean, (name,), "seconds", report)
    _set_time(clean, ("eventTime",), "microseconds", report)
    if isinstance(clean.get("series"), dict):
        _set_time(clean, ("series", "lastObservedTime"), "microseconds", report)
    return clean, report.problems


def _check_place(clean: Mapping[str, Any], report: Report) -> None:
    """An event stands beside what it is about; of what has no namespace, in default."""
    metadata, involved = clean.get("metadata"), clean.get("involvedObject")
    if isinstance(metadata, dict) and isinstance(involved, dict):
        wanted = involved.get("namespace") or "default"
        if metadata.get("namespace", "default") != wanted:
            message = f"must be the namespace of the event, is {shown(wanted)}"
            report.add(("involvedObject", "namespace"), message)


def _set_time(clean: dict[str, Any], path: tuple[str, ...], precision: str, report: Report) -> None:
    """One that no client could read would keep it from all others of the list."""
    inner = clean
    for name in path[:-1]:
        inner = inner[name]
    text = inner.get(path[-1])
    if text is None:
        return
    try:
        given = datetime.datetime.fromisoformat(text)
        if given.tzinfo is None:
            raise ValueError("no zone")
        moment = given.astimezone(datetime.UTC)
    except (TypeError, ValueError, OverflowError):
        report.add(path, f"must be a time as in RFC 3339, is {shown(text)}")
        return
    inner[path[-1]] = moment.isoformat(timespec=precision).replace("+00:00", "Z")
