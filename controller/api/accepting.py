"""In which form an answer is wanted: the Accept header, as Kubernetes reads it, and YAML for who asks for it.

Everything is made as JSON. What is wanted as YAML is made into it at the end, in a thread and one answer at a
time, laid out as kubectl does it; what is large is left in YAML's flow style, which is JSON without the few
characters that YAML does not take as they are. Who takes nothing of what there is hears so (406) before
anything is done. Streams of consoles, health and metrics have forms of their own, and are not looked at here.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import msgspec
from aiohttp import web

from controller.api import errors
from controller.api.requests import JSON, YAML, Call, is_terminal
from specs import yamlout
from specs.meta import VERSION
from specs.problems import shown

Form = Literal["whole", "table", "partial"]
META_GROUP: Final = "meta.k8s.io"
_FORMS: Final[Mapping[str, Form]] = {
    "Table": "table",
    "PartialObjectMetadata": "partial",
    "PartialObjectMetadataList": "partial",
}
_INCLUDES: Final = frozenset({"Metadata", "Object", "None"})
_SERVED: Final = (JSON, YAML)
_WATCHED: Final = ("application/json;stream=watch",)
_YES: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})  # Go's
_CLAUSES: Final = 32  # of a header that are looked at
_BLOCK_BYTES: Final = 256 << 10  # of JSON, at most, that is laid out anew: 0.1 s of a thread
_NOT_YAML: Final = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Accepted:
    """How the client wants its answer. `form`: of objects; "whole" is all of them."""

    form: Form = "whole"
    yaml: bool = False


_WHOLE: Final = Accepted()


def accepted(request: web.Request) -> Accepted | None:
    """What the client likes best of what is served, None if it takes nothing of that. kubectl asks for
    Tables, clients that only look at metadata for PartialObjectMetadata."""
    header = request.headers.get("Accept", "")
    if header in {"", "*/*", JSON}:
        return _WHOLE
    clauses = [_Clause.parse(part) for part in header.split(",")[:_CLAUSES]]
    for clause in sorted(clauses, key=lambda clause: clause.rank):
        for media in _SERVED:
            if clause.names(media) and (form := clause.form(media)) is not None:
                return Accepted(form, media == YAML)
    return None


def form_of(request: web.Request) -> Form:
    return (accepted(request) or _WHOLE).form


def include_of(call: Call, form: Form) -> str:
    """How much of each object the rows of a Table are to have, "" where none is wanted. Raises ApiError."""
    include = call.query.get("includeObject") or "Metadata"
    if form != "table":
        return ""
    if include not in _INCLUDES:
        raise errors.bad_request(
            f"Unable to convert to Table as requested: includeObject: Invalid value: {shown(include)}: "
            "must be 'Metadata', 'Object', 'None', or empty"
        )
    return include


def wants_yaml(request: web.Request) -> bool:
    return (accepted(request) or _WHOLE).yaml


def check_accepted(call: Call) -> None:
    """Raises ApiError (400, 406), before anything is done. A watch is there as JSON alone, as on
    Kubernetes."""
    if is_terminal(call.target) or call.target.subresource == "log":
        return
    found, watches = accepted(call.request), call.verb == "watch"
    if found is None or (watches and found.yaml):
        raise errors.not_acceptable(_WATCHED if watches else _SERVED)
    include_of(call, found.form)


@dataclass(frozen=True, slots=True)
class _Clause:
    """One part of the header: a media type, and what is asked of it."""

    media: str
    parameters: Mapping[str, str]

    @classmethod
    def parse(cls, text: str) -> _Clause:
        media, *parameters = (word.strip() for word in text.split(";"))
        pairs = (word.split("=", 1) for word in parameters if "=" in word)
        return cls(media.lower(), {name.strip().lower(): value.strip() for name, value in pairs})

    @property
    def rank(self) -> tuple[float, bool, bool]:
        """The order in which they are tried: what is liked best, then what is said most exactly."""
        try:
            quality = float(self.parameters.get("q", "1"))
        except ValueError:
            quality = 0.0
        kind, _, subtype = self.media.partition("/")
        return -quality, kind == "*", subtype == "*"

    def names(self, media: str) -> bool:
        return self.media in {media, "application/*", "*/*", "*"}

    def form(self, media: str) -> Form | None:
        """The form of objects that is asked for, None if it is not served."""
        asked = self.parameters
        if asked.get("g", META_GROUP) != META_GROUP:
            return None
        if (stream := asked.get("stream")) and (stream != "watch" or media == YAML):
            return None
        if (name := asked.get("as")) is None:
            return "whole"
        return _FORMS.get(name) if asked.get("v", VERSION) == VERSION else None


class Former:
    """Lays answers out: as YAML, one at a time, or as JSON for people, where that is asked for (`pretty`)."""

    def __init__(self) -> None:
        self._one = asyncio.Semaphore(1)

    async def form(self, request: web.Request, answer: web.StreamResponse) -> None:
        """Put the answer into the form that is wanted, in place, if it is JSON and whole."""
        if not isinstance(answer, web.Response) or answer.headers["Content-Type"] != JSON:
            return
        body = answer.body
        if not isinstance(body, bytes):
            return
        if not wants_yaml(request):
            if request.query.get("pretty") in _YES and len(body) <= _BLOCK_BYTES:
                answer.body = msgspec.json.format(body, indent=2) + b"\n"
        else:
            async with self._one:
                answer.body = await asyncio.to_thread(_laid_out, body)
            answer.content_type = YAML


def _laid_out(body: bytes) -> bytes:
    if len(body) > _BLOCK_BYTES:
        return flow(body)
    return yamlout.dump(msgspec.json.decode(body)).encode()


def flow(body: bytes) -> bytes:
    """JSON as YAML in flow style."""
    return _NOT_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", body.decode()).encode()
