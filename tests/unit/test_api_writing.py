"""How changes are written over HTTPS: with a revision or without."""

from __future__ import annotations

from typing import Any

import pytest

from controller.api.resources import BY_PATH
from controller.objects import StoredObject
from tests.apiserver import DOMAINS, MERGE, NODES, V1, Api, domain, node

CONFIG_MAPS = BY_PATH["", "configmaps"]
CORE = "/api/v1/namespaces/default"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
UNCONDITIONAL: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (f"{CORE}/configmaps", {"apiVersion": "v1", "kind": "ConfigMap"}, {"data": {"a": "1"}}),
    (f"{CORE}/secrets", {"apiVersion": "v1", "kind": "Secret"}, {"data": {"a": "MQ=="}}),
    ("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace"}, {}),
    (f"{RBAC}/clusterroles", {"apiVersion": RBAC[6:], "kind": "ClusterRole"}, {"rules": []}),
]


@pytest.mark.parametrize(("path", "head", "rest"), UNCONDITIONAL)
async def test_kinds_that_kubernetes_has_too_are_replaced_whatever_stands_there(
    api: Api, path: str, head: dict[str, Any], rest: dict[str, Any]
) -> None:
    """Clients of those kinds send what they want, without a revision; so does `kubectl replace`."""
    body = {**head, "metadata": {"name": "x"}, **rest}
    made = await api.call("POST", path, body)
    assert made.status == 201, made.text
    labelled = {**body, "metadata": {"name": "x", "labels": {"a": "b"}}}
    reply = await api.call("PUT", f"{path}/x", labelled)
    assert (reply.status, reply.body["metadata"]["labels"].get("a")) == (200, "b"), reply.text
    stale = {**body, "metadata": {"name": "x", "resourceVersion": made.rv}}
    assert (await api.call("PUT", f"{path}/x", stale)).status == 409
    other = {**labelled, "metadata": {"name": "x", "uid": "1"}}
    assert (await api.call("PUT", f"{path}/x", other)).status == 409


async def test_a_replacement_of_whatever_stands_there_overtakes_whoever_writes_meanwhile(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, body = f"{CORE}/configmaps/x", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}
    await api.call("POST", f"{CORE}/configmaps", body)
    replace, others = api.objects.replace, iter(range(2))

    async def overtaken(*args: Any, **more: Any) -> StoredObject:
        for number in others:
            current = await api.objects.get(CONFIG_MAPS, "default", "x")
            await replace(CONFIG_MAPS, current, {**current.body, "data": {"n": str(number)}})
            break
        return await replace(*args, **more)

    monkeypatch.setattr(api.objects, "replace", overtaken)
    reply = await api.call("PUT", path, {**body, "data": {"a": "1"}})
    assert (reply.status, reply.body["data"]) == (200, {"a": "1"}), reply.text
    assert next(others, None) is None


NAMED: dict[str, Any] = {"metadata": {"name": "x"}}
ROLE_REF = {"subjects": [], "roleRef": {"kind": "ClusterRole", "name": "view"}}
RIGHTS: list[tuple[str, dict[str, Any]]] = [
    (f"{RBAC}/clusterroles", {"kind": "ClusterRole", "rules": []}),
    (f"{RBAC}/clusterrolebindings", {"kind": "ClusterRoleBinding", **ROLE_REF}),
    (f"{RBAC}/namespaces/new/roles", {"kind": "Role", "rules": []}),
    (f"{RBAC}/namespaces/new/rolebindings", {"kind": "RoleBinding", **ROLE_REF}),
]


@pytest.mark.parametrize(("path", "body"), RIGHTS)
async def test_rights_that_are_replaced_and_are_not_there_are_created(
    api: Api, path: str, body: dict[str, Any]
) -> None:
    body = {"apiVersion": RBAC[6:], **NAMED, **body}
    tried = await api.call("PUT", f"{path}/x?dryRun=All", body)
    assert (tried.status, (await api.call("GET", f"{path}/x")).status) == (201, 404), tried.text
    for field in ("uid", "resourceVersion"):
        of_another_life = {**body, "metadata": {"name": "x", field: "7"}}
        assert (await api.call("PUT", f"{path}/x", of_another_life)).status == 409, field
    assert (await api.call("PUT", f"{path}/y", body)).status == 400, "which names another"
    made = await api.call("PUT", f"{path}/x?fieldManager=me", body)
    assert (made.status, made.body["kind"]) == (201, body["kind"]), made.text
    assert [m["manager"] for m in made.body["metadata"]["managedFields"]] == ["me"]
    again = await api.call("PUT", f"{path}/x?fieldManager=me", body)
    assert (again.status, again.rv) == (200, made.rv), again.text
    assert api.audit_log.read_text().count('"code":201') == 2, "tried, and made"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        *((path, {**head, **NAMED, **rest}) for path, head, rest in UNCONDITIONAL[:3]),
        (DOMAINS, domain("x")),
        (f"{V1}/tokens", {"apiVersion": V1[6:], "kind": "Token", **NAMED, "spec": {}}),
        (NODES, node("x")),
        (f"{RBAC}/clusterroles/x/status", {**UNCONDITIONAL[3][1], **NAMED, "rules": []}),
    ],
)
async def test_no_other_kind_is_created_by_its_replacement(api: Api, path: str, body: dict[str, Any]) -> None:
    where = path if path.endswith("status") else f"{path}/x"
    assert (await api.call("PUT", where, body)).status == 404
    assert (await api.call("PUT", f"{where}?dryRun=All", body)).status == 404
    assert (await api.call("GET", where)).status == 404


async def test_what_is_created_while_it_is_to_be_replaced_is_replaced(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, head, rest = UNCONDITIONAL[3]
    create = api.objects.create

    async def overtaken(kind: Any, body: Any, *, dry_run: bool = False) -> StoredObject:
        await create(kind, {**head, **NAMED, **rest})
        return await create(kind, body, dry_run=dry_run)

    monkeypatch.setattr(api.objects, "create", overtaken)
    rules = [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]
    reply = await api.call("PUT", f"{path}/x", {**head, **NAMED, "rules": rules})
    assert (reply.status, reply.body["rules"]) == (200, rules), reply.text


@pytest.mark.parametrize("path", [DOMAINS, f"{CORE}/configmaps"])
async def test_a_new_object_has_no_revision(api: Api, path: str) -> None:
    """Who sends one means to change what is there: `kubectl create` of what `kubectl get` has written."""
    body = domain() if path == DOMAINS else {**UNCONDITIONAL[0][1], "metadata": {"name": "web-1"}}
    for revision in ("1", "x", 1):
        sent = {**body, "metadata": {**body["metadata"], "resourceVersion": revision}}
        refused = await api.call("POST", path, sent)
        assert refused.status == 400 and "should not be set on objects to be created" in refused.text
    for revision in ("", "0", None):
        sent = {**body, "metadata": {**body["metadata"], "resourceVersion": revision}}
        assert (await api.call("POST", f"{path}?dryRun=All", sent)).status == 201, revision


async def test_how_long_a_migration_stays_can_be_changed_and_nothing_else_of_it(api: Api) -> None:
    path = f"{V1}/namespaces/default/migrations"
    body = {"apiVersion": V1[6:], "kind": "Migration", "metadata": {"name": "m"}, "spec": {"domain": "web"}}
    made = await api.call("POST", path, body)
    assert (made.status, made.body["spec"]) == (201, {"domain": "web"}), "nothing is put into a spec"
    for seconds in (60, 0, 2**31 - 1, None):
        change = {"spec": {"ttlSecondsAfterFinished": seconds}}
        reply = await api.call("PATCH", f"{path}/m", change, type=MERGE)
        assert (reply.status, reply.body["spec"].get("ttlSecondsAfterFinished")) == (200, seconds)
    for wrong in (-1, 1.5, "60", 2**31):
        reply = await api.call("PATCH", f"{path}/m", {"spec": {"ttlSecondsAfterFinished": wrong}}, type=MERGE)
        assert (reply.status, list(reply.causes)) == (422, ["spec.ttlSecondsAfterFinished"]), reply.text
    reply = await api.call("PATCH", f"{path}/m", {"spec": {"domain": "db"}}, type=MERGE)
    assert (reply.status, list(reply.causes)) == (422, ["spec.domain"])
