"""ClusterRoles that are made of others, over HTTPS and by themselves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from controller.api.aggregation import gathered, selects
from tests.apiserver import APPLY, MERGE, Api, Reply

RBAC = "/apis/rbac.authorization.k8s.io/v1"
ROLES, BINDINGS = f"{RBAC}/clusterroles", f"{RBAC}/clusterrolebindings"
LABELLED = {"clusterRoleSelectors": [{"matchLabels": {"to-all": "true"}}]}


def rule(resource: str, verb: str = "get") -> dict[str, Any]:
    return {"verbs": [verb], "apiGroups": ["example.org"], "resources": [resource]}


def role(name: str, *rules: dict[str, Any], to: str = "", **more: Any) -> dict[str, Any]:
    metadata = {"name": name, "labels": {f"to-{to}": "true"} if to else {}}
    head = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata}
    return {**head, "rules": list(rules), **more}


async def becomes(api: Api, name: str, *resources: str) -> None:
    async with asyncio.timeout(20):
        while True:
            found = (await api.call("GET", f"{ROLES}/{name}")).body
            if [one["resources"] for one in found.get("rules") or ()] == [[word] for word in resources]:
                return
            await asyncio.sleep(0.01)


async def as_bob(api: Api, method: str, path: str, body: Any, **more: str) -> Reply:
    return await api.call(method, path, body, Impersonate_User="bob", **more)


async def answered(api: Api, status: int, method: str, path: str, body: Any) -> None:
    """Bob is, when the server has heard of his rights."""
    async with asyncio.timeout(20):
        while True:
            if (await as_bob(api, method, path, body)).status == status:
                return
            await asyncio.sleep(0.01)


async def test_a_role_has_the_rules_of_all_that_it_chooses_as_they_come_and_go(api: Api) -> None:
    made = await api.call("POST", ROLES, role("all", rule("own"), aggregationRule=LABELLED))
    assert made.status == 201, made.text
    await becomes(api, "all")
    await api.call("POST", ROLES, role("b", rule("bees"), to="all"))
    await api.call("POST", ROLES, role("a", rule("ants"), rule("bees"), to="all"))
    await api.call("POST", ROLES, role("c", rule("cats"), to="other"))
    await becomes(api, "all", "ants", "bees")
    await api.call("PATCH", f"{ROLES}/all", {"rules": [rule("own")]}, type=MERGE)
    await becomes(api, "all", "ants", "bees")
    over = {**role("over"), "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to-over": "1"}}]}}
    await api.call("POST", ROLES, over)
    await api.call("PATCH", f"{ROLES}/all", {"metadata": {"labels": {"to-over": "1"}}}, type=MERGE)
    await becomes(api, "over", "ants", "bees")
    await api.call("PATCH", f"{ROLES}/b", {"rules": [rule("birds")]}, type=MERGE)
    await api.call("DELETE", f"{ROLES}/a")
    await becomes(api, "all", "birds")
    await becomes(api, "over", "birds")
    await api.call("PATCH", f"{ROLES}/all", {"aggregationRule": None, "rules": []}, type=MERGE)
    await becomes(api, "all")


async def test_bindings_grant_what_a_role_is_made_of(api: Api) -> None:
    await api.call("POST", ROLES, role("all", aggregationRule=LABELLED))
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "all"}
    subject = {"kind": "User", "name": "bob", "apiGroup": "rbac.authorization.k8s.io"}
    head = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding"}
    bound = {**head, "metadata": {"name": "b"}, "roleRef": reference, "subjects": [subject]}
    await api.call("POST", BINDINGS, bound)
    reads = {"verbs": ["list"], "apiGroups": ["domctl.io"], "resources": ["nodes"]}
    await api.call("POST", ROLES, role("reads", reads, to="all"))
    await answered(api, 200, "GET", "/apis/domctl.io/v1/nodes", None)
    await api.call("DELETE", f"{ROLES}/reads")
    await answered(api, 403, "GET", "/apis/domctl.io/v1/nodes", None)


async def test_it_takes_every_right_to_say_of_what_a_role_is_made(api: Api) -> None:
    writes = {"verbs": ["*"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"]}
    reads = {"verbs": ["get"], "apiGroups": ["example.org"], "resources": ["ants"]}
    await api.call("POST", ROLES, role("all", aggregationRule=LABELLED))
    await api.call("POST", ROLES, role("bobs", {**writes, "verbs": ["create", "update", "patch"]}, reads))
    reference = {"kind": "ClusterRole", "name": "bobs"}
    head = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding"}
    bound = {"roleRef": reference, "subjects": [{"kind": "User", "name": "bob"}]}
    await api.call("POST", BINDINGS, {**head, "metadata": {"name": "b"}, **bound})
    await answered(api, 201, "POST", f"{ROLES}?dryRun=All", role("x", reads))
    mine = role("mine", aggregationRule=LABELLED)
    for method, path, body, kind in (
        ("POST", ROLES, mine, "application/json"),
        ("PATCH", f"{ROLES}/mine?fieldManager=bob", mine, APPLY),
        ("PATCH", f"{ROLES}/all", {"aggregationRule": {"clusterRoleSelectors": [{}]}}, MERGE),
        ("PATCH", f"{ROLES}/all", {"aggregationRule": None}, MERGE),
        ("PATCH", f"{ROLES}/all", {"metadata": {"labels": {"a": "b"}}}, MERGE),
    ):
        refused = await as_bob(api, method, path, body, type=kind)
        assert (refused.status, refused.body["reason"]) == (403, "Forbidden"), body
        if method == "POST":
            assert '{APIGroups:["*"], Resources:["*"], Verbs:["*"]}' in refused.body["message"]
            assert '{NonResourceURLs:["*"], Verbs:["*"]}' in refused.body["message"]
    assert (await as_bob(api, "POST", ROLES, role("given", reads, to="all"))).status == 201, "what he has"
    await becomes(api, "all", "ants")
    await api.call("PATCH", f"{ROLES}/bobs", {"rules": [writes, reads]}, type=MERGE)  # escalate, too
    await answered(api, 201, "POST", ROLES, mine)


LABELS = {"a": "1", "b": ""}
SELECTORS = [
    ({}, True),
    ({"matchLabels": {"a": "1"}}, True),
    ({"matchLabels": {"a": "1", "c": "1"}}, False),
    ({"matchLabels": {"a": "2"}}, False),
    ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["0", "1"]}]}, True),
    ({"matchExpressions": [{"key": "c", "operator": "In", "values": ["0", "1"]}]}, False),
    ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, False),
    ({"matchExpressions": [{"key": "c", "operator": "NotIn", "values": ["1"]}]}, True),
    ({"matchExpressions": [{"key": "b", "operator": "Exists"}]}, True),
    ({"matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]}, False),
    ({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "c", "operator": "Exists"}]}, False),
]


@pytest.mark.parametrize(("selector", "chosen"), SELECTORS)
def test_a_selector_chooses_by_all_that_it_says(selector: dict[str, Any], chosen: bool) -> None:
    assert selects(selector, LABELS) is chosen


def test_nobody_is_made_of_himself_nor_of_more_than_one_object_can_hold() -> None:
    everything = {"clusterRoleSelectors": [{}]}
    alone = role("all", rule("own"), aggregationRule=everything)
    assert list(gathered([alone])) == [("all", [])]
    many = [role(f"r{n}", *(rule(f"x{n}-{m}") for m in range(100))) for n in range(6)]
    assert list(gathered([alone, *many])) == []
    assert [name for name, _ in gathered([alone, many[0]])] == ["all"]


def test_two_that_are_made_of_each_other_come_to_rest() -> None:
    roles = {
        name: role(
            name, to=name, aggregationRule={"clusterRoleSelectors": [{"matchLabels": {f"to-{of}": "true"}}]}
        )
        for name, of in (("x", "y"), ("y", "x"), ("z", "x"))
    }
    roles["w"] = role("w", rule("wolves"), to="x")
    for _ in range(10):
        changed = list(gathered(roles.values()))
        for name, rules in changed:
            roles[name] = {**roles[name], "rules": rules}
    assert changed == []
    assert [roles[name]["rules"] for name in "xyz"] == [[rule("wolves")]] * 3
