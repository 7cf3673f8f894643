"""Questions about rights, in JSON and in protobuf, and what is not one."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api import protobuf
from controller.api.errors import ApiError
from tests.apiserver import Api

AUTHORIZATION = "/apis/authorization.k8s.io/v1"
SELF = f"{AUTHORIZATION}/selfsubjectaccessreviews"
OTHER = f"{AUTHORIZATION}/subjectaccessreviews"
LOCAL = f"{AUTHORIZATION}/namespaces/default/localsubjectaccessreviews"
RULES = f"{AUTHORIZATION}/selfsubjectrulesreviews"
WHOAMI = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
GET_DOMAINS = {"verb": "get", "group": "domctl.io", "resource": "domains", "namespace": "default"}


def field(number: int, value: bytes | int) -> bytes:
    """One field of a message; lengths are below 128."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    return bytes([number << 3 | 2, len(value)]) + value


def enveloped(kind: str, raw: bytes, api_version: str = "authorization.k8s.io/v1") -> bytes:
    head = field(1, api_version.encode()) + field(2, kind.encode())
    return protobuf.MAGIC + field(1, head) + field(2, raw)


async def test_answers_are_those_that_requests_get(api: Api) -> None:
    spec = {"resourceAttributes": GET_DOMAINS}
    mine = await api.call("POST", SELF, {"spec": spec})
    assert (mine.status, mine.body["status"]["allowed"], mine.body["spec"]) == (201, True, spec)
    theirs = await api.call("POST", OTHER, {"spec": {**spec, "user": "bob", "groups": ["dev"]}})
    assert theirs.body["status"] == {"allowed": False}
    local = await api.call("POST", LOCAL, {"spec": {**spec, "user": "x", "groups": ["system:masters"]}})
    assert local.body["status"]["allowed"] is True
    path = {"nonResourceAttributes": {"verb": "get", "path": "/version"}}
    bob = await api.call("POST", SELF, {"spec": path}, Impersonate_User="bob")
    assert bob.body["status"]["reason"] == (
        'RBAC: allowed by ClusterRoleBinding "system:discovery" of ClusterRole "system:discovery" '
        'to Group "system:authenticated"'
    )


async def test_only_who_may_asks_about_others(api: Api) -> None:
    spec = {"spec": {"resourceAttributes": GET_DOMAINS, "user": "eve"}}
    for path in (OTHER, LOCAL):
        assert (await api.call("POST", path, spec, Impersonate_User="bob")).status == 403
    assert (await api.call("POST", WHOAMI, {}, Impersonate_User="bob")).body["status"]["userInfo"] == {
        "username": "bob",
        "groups": ["system:authenticated"],
    }
    rules = await api.call("POST", RULES, {"spec": {"namespace": "default"}}, Impersonate_User="bob")
    granted = {r for rule in rules.body["status"]["resourceRules"] for r in rule["resources"]}
    assert granted == {"selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"}


async def test_kubectl_1_27_asks_who_it_is_in_a_beta_version_and_nothing_else_has_one(api: Api) -> None:
    older = WHOAMI.replace("/v1/", "/v1beta1/")
    asked = {"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1beta1"}
    reply = await api.call("POST", older, asked)
    assert (reply.status, reply.body["apiVersion"]) == (201, asked["apiVersion"])
    assert reply.body["status"]["userInfo"]["username"] == "admin"
    assert (await api.call("POST", WHOAMI, asked)).status == 400, "what is posted is of its path's version"
    for path in (older.replace("selfsubjectreviews", "tokenreviews"), SELF.replace("/v1/", "/v1beta1/")):
        assert (await api.call("POST", path, asked)).status == 404


async def test_protobuf_asks_the_same(api: Api) -> None:
    attributes = b"".join(
        field(number, text.encode())
        for number, text in ((1, "default"), (2, "get"), (3, "domctl.io"), (5, "domains"), (7, "web"))
    )
    body = enveloped("SelfSubjectAccessReview", field(1, b"") + field(2, field(1, attributes)))
    reply = await api.call("POST", SELF, body, type=protobuf.CONTENT_TYPE)
    assert (reply.status, reply.body["status"]["allowed"]) == (201, True)
    assert reply.body["spec"]["resourceAttributes"] == {**GET_DOMAINS, "name": "web"}


WRONG: list[tuple[str, dict[str, Any], int]] = [
    (SELF, {}, 422),
    (SELF, {"spec": {"resourceAttributes": {"verb": 1}}}, 422),
    (SELF, {"spec": {"resourceAttributes": [], "nonResourceAttributes": {}}}, 422),
    (SELF, {"kind": "Pod", "spec": {}}, 400),
    (OTHER, {"spec": {"resourceAttributes": {}}}, 422),
    (OTHER, {"spec": {"resourceAttributes": {}, "user": "x", "groups": "y"}}, 422),
    (LOCAL, {"spec": {"resourceAttributes": {**GET_DOMAINS, "namespace": "prod"}, "user": "x"}}, 422),
    (f"{AUTHORIZATION}/localsubjectaccessreviews", {}, 404),
    (f"{SELF}/name", {}, 405),
    (RULES, {"spec": {}}, 400),
]


@pytest.mark.parametrize(("path", "body", "code"), WRONG)
async def test_what_is_no_question_is_refused(api: Api, path: str, body: dict[str, Any], code: int) -> None:
    assert (await api.call("POST", path, body)).status == code


async def test_questions_cannot_be_read(api: Api) -> None:
    assert (await api.call("GET", SELF)).status == 405


BAD = [
    b"",
    b"k8s\x00",
    b"k8s\x00\x0a\xff",
    b"k8s\x01" + enveloped("Role", b"")[4:],
    enveloped("Pod", b""),
    enveloped("ClusterRole", field(9, b"x")),
    enveloped("ClusterRole", field(1, 5)),
    enveloped("ClusterRole", field(1, field(1, b"\xff"))),
    enveloped("ClusterRole", b"\x0d\x01\x02\x03\x04"),
    enveloped("ClusterRole", b"\x0a" + b"\xff" * 11),
]


@pytest.mark.parametrize("body", BAD)
def test_bad_protobuf_is_the_clients_fault(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        protobuf.decode(body)
    assert caught.value.code == 400


def test_a_role_in_protobuf_is_what_json_would_have_said() -> None:
    labels = field(11, field(1, b"a") + field(2, b"b"))
    rule = field(1, b"get") + field(1, b"list") + field(2, b"") + field(3, b"events")
    raw = field(1, field(1, b"r") + labels) + field(2, rule)
    assert protobuf.decode(enveloped("ClusterRole", raw, "rbac.authorization.k8s.io/v1")) == {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "r", "labels": {"a": "b"}},
        "rules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["events"]}],
    }


@given(st.one_of(st.binary(max_size=64), st.binary(max_size=40).map(lambda raw: enveloped("Role", raw))))
def test_no_bytes_are_more_than_a_refusal(body: bytes) -> None:
    for form in (body, protobuf.MAGIC + body):
        with contextlib.suppress(ApiError):
            assert isinstance(protobuf.decode(form), dict)
