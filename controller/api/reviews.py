"""`kubectl auth can-i` and `whoami`: questions about rights, answered by what requests are judged by.

Posted like objects and never kept: SelfSubjectAccessReview and SelfSubjectRulesReview, SubjectAccessReview
and LocalSubjectAccessReview (for those who may ask about others), SelfSubjectReview, and TokenReview. The
answers are those of `Rights` and `Bearers`, so that they cannot differ from what is enforced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

from controller.api import errors
from controller.api.bearers import Bearers
from controller.api.errors import Cause, Subject
from controller.api.rbac import Ask, User
from controller.api.requests import Call, as_object, json_response, read_json
from controller.api.resources import AUTHENTICATION, AUTHORIZATION, QUESTIONS, Question
from controller.api.rights import Rights

AUDIENCE: Final = "domctl.io"
_LIMIT: Final = 64 << 10
_REVIEWS: Final = {(q.group, q.plural): q for q in QUESTIONS if q.group in {AUTHORIZATION, AUTHENTICATION}}
Body = dict[str, Any]


def review_of(call: Call) -> Question | None:
    return _REVIEWS.get((call.target.group, call.target.plural))


class Reviews:
    def __init__(self, rights: Rights, bearers: Bearers) -> None:
        self._rights = rights
        self._bearers = bearers

    async def handle(self, call: Call, question: Question) -> web.Response:
        """Raises ApiError."""
        target = call.target
        if question.namespaced != bool(target.namespace):
            raise errors.by_code(404)
        if call.verb != "create" or target.name:
            raise errors.method_not_allowed()
        value = await read_json(call, limit=_LIMIT)
        body = {} if value is None else as_object(value)
        api_version = f"{question.group}/{target.version}"
        for field, wanted in (("apiVersion", api_version), ("kind", question.kind)):
            if body.get(field) not in (wanted, None, ""):
                raise errors.bad_request(f"the {field} in the data does not match the expected {wanted}")
        spec = body.get("spec") or {}
        if not isinstance(spec, dict):
            raise errors.bad_request("spec must be an object")
        if question.kind == "TokenReview":
            answer = await self._token(call, spec)
        else:
            answer = _ANSWERS[question.kind](self, call, spec)
        metadata = {
            "creationTimestamp": None,
            **({"namespace": target.namespace} if target.namespace else {}),
        }
        whole = {"kind": question.kind, "apiVersion": api_version, "metadata": metadata}
        if question.kind != "SelfSubjectReview":
            whole["spec"] = spec
        return json_response({**whole, "status": answer}, status=201)

    def _self(self, call: Call, spec: Body) -> Body:
        return self._access(call.user, _asked(call, spec))

    def _other(self, call: Call, spec: Body) -> Body:
        groups = spec.get("groups") or []
        if not isinstance(groups, list) or not all(isinstance(group, str) for group in groups):
            raise _invalid(call, "spec.groups", "must be a list of text")
        user = _text(call, spec, "spec", "user")
        if not user and not groups:
            raise _invalid(call, "spec.user", "at least one of user or groups must be specified")
        ask = _asked(call, spec)
        if call.target.namespace and ask.namespace != call.target.namespace:
            raise _invalid(call, "spec.resourceAttributes.namespace", "must match metadata.namespace")
        return self._access(User(user, tuple(groups)), ask)

    def _access(self, user: User, ask: Ask) -> Body:
        verdict = self._rights.decide(user, ask)
        return {"allowed": verdict.allowed, **({"reason": verdict.reason} if verdict.reason else {})}

    def _rules(self, call: Call, spec: Body) -> Body:
        namespace = _text(call, spec, "spec", "namespace")
        if not namespace:
            raise errors.bad_request("no namespace on request")
        rules = self._rights.rules_of(call.user, namespace)
        resources = [
            {
                "verbs": list(rule.verbs),
                "apiGroups": list(rule.groups),
                "resources": list(rule.resources),
                **({"resourceNames": list(rule.names)} if rule.names else {}),
            }
            for rule in rules
            if not rule.paths
        ]
        paths = [
            {"verbs": list(rule.verbs), "nonResourceURLs": list(rule.paths)} for rule in rules if rule.paths
        ]
        return {"resourceRules": resources, "nonResourceRules": paths, "incomplete": False}

    async def _token(self, call: Call, spec: Body) -> Body:
        """Tokens are for this server: its audience is the only one that they have."""
        token = _text(call, spec, "spec", "token")
        wanted = spec.get("audiences") or []
        if not token:
            raise _invalid(call, "spec.token", "must not be empty")
        if not isinstance(wanted, list) or not all(isinstance(one, str) for one in wanted):
            raise _invalid(call, "spec.audiences", "must be a list of text")
        if wanted and AUDIENCE not in wanted:
            return {"authenticated": False, "error": f"tokens here are for the audience {AUDIENCE} alone"}
        user = await self._bearers.user(token)
        if user is None:
            return {"authenticated": False, "error": "the token is nobody's, or no longer"}
        return {
            "authenticated": True,
            "user": {"username": user.name, "groups": list(user.groups)},
            **({"audiences": [AUDIENCE]} if wanted else {}),
        }

    def _whoami(self, call: Call, spec: Body) -> Body:
        return {"userInfo": {"username": call.user.name, "groups": list(call.user.groups)}}


_ANSWERS: Final[dict[str, Callable[[Reviews, Call, Body], Body]]] = {
    "SelfSubjectAccessReview": Reviews._self,
    "SubjectAccessReview": Reviews._other,
    "LocalSubjectAccessReview": Reviews._other,
    "SelfSubjectRulesReview": Reviews._rules,
    "SelfSubjectReview": Reviews._whoami,
}


def _asked(call: Call, spec: Body) -> Ask:
    on, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if (on is None) == (path is None):
        raise _invalid(
            call,
            "spec.resourceAttributes",
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )
    if path is not None:
        where = "spec.nonResourceAttributes"
        found = _text(call, path, where, "path")
        return Ask(_text(call, path, where, "verb"), path=found or "/")
    fields = ("verb", "group", "resource", "subresource", "namespace", "name")
    return Ask(**{field: _text(call, on, "spec.resourceAttributes", field) for field in fields})


def _text(call: Call, value: object, where: str, field: str) -> str:
    if not isinstance(value, dict):
        raise _invalid(call, where, "must be an object")
    found = value.get(field)
    if found is not None and not isinstance(found, str):
        raise _invalid(call, f"{where}.{field}", "must be text")
    return found or ""


def _invalid(call: Call, field: str, message: str) -> errors.ApiError:
    question = _REVIEWS[call.target.group, call.target.plural]
    return errors.invalid(Subject(question.kind, "", question.group), [Cause(field, message)])
