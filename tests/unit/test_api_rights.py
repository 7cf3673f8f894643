"""Rights on the server: every request is judged, in Kubernetes' words, by what stands in the store now."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from controller import keys
from controller.api.resources import TOKENS as TOKEN_KIND
from drivers.memory import MemoryStore
from tests.apiserver import (
    DOMAINS,
    JSON_PATCH,
    MERGE,
    NODES,
    V1,
    Api,
    Options,
    Reply,
    client_context,
    domain,
    node,
    serving,
)

RBAC = "/apis/rbac.authorization.k8s.io/v1"
CLUSTER_ROLES, CLUSTER_BINDINGS = f"{RBAC}/clusterroles", f"{RBAC}/clusterrolebindings"
ROLES, BINDINGS = f"{RBAC}/namespaces/default/roles", f"{RBAC}/namespaces/default/rolebindings"
TOKENS = f"{V1}/tokens"
STRATEGIC = "application/strategic-merge-patch+json"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncGenerator[Api, None]:
    store = MemoryStore(asyncio.get_running_loop().time)
    async with serving(store, tmp_path, Options(allow_xml=True)) as found:
        yield found
    await store.close()


async def as_bob(api: Api, method: str, path: str, body: Any = None, **more: str) -> Reply:
    return await api.call(method, path, body, Impersonate_User="bob", **more)


def rule(verbs: str, resources: str, group: str = "domctl.io", **more: Any) -> dict[str, Any]:
    return {"verbs": verbs.split(), "resources": resources.split(), "apiGroups": [group], **more}


def role(name: str, *rules: dict[str, Any], kind: str = "ClusterRole") -> dict[str, Any]:
    head = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}}
    return {**head, "rules": list(rules)}


def binding(
    name: str, to: str, *, kind: str = "ClusterRoleBinding", of: str = "ClusterRole", user: str = "bob"
) -> dict[str, Any]:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": name},
        "subjects": [{"kind": "User", "name": user}],
        "roleRef": {"kind": of, "name": to},
    }


async def made(api: Api, path: str, body: dict[str, Any]) -> None:
    reply = await api.call("POST", path, body)
    assert reply.status == 201, reply.text


async def give(api: Api, *rules: dict[str, Any]) -> None:
    """Bob gets these rights, everywhere, and the server knows."""
    await made(api, CLUSTER_ROLES, role("bobs", *rules))
    await made(api, CLUSTER_BINDINGS, binding("bobs", "bobs"))
    await known(api)


async def known(api: Api) -> None:
    """What was written before is what requests are judged by."""
    async with asyncio.timeout(5):
        while True:
            held = {key for kept in api.server._rights._bodies.values() for key in kept}
            stored = {kv.key for kv in (await api.store.list(keys.OBJECTS)).items}
            if held == {k for k in stored if k.split("/")[3] in api.server._rights._bodies}:
                return
            await asyncio.sleep(0.01)


HERE, EVERYWHERE = 'in the namespace "default"', "at the cluster scope"
REFUSALS = [
    # request, what, verb, resource, where
    ("GET", f"{DOMAINS}/web", 'domains.domctl.io "web"', "get", "domains", HERE),
    ("GET", DOMAINS, "domains.domctl.io", "list", "domains", HERE),
    ("GET", f"{V1}/domains", "domains.domctl.io", "list", "domains", EVERYWHERE),
    ("GET", f"{DOMAINS}?watch=true", "domains.domctl.io", "watch", "domains", HERE),
    ("GET", f"{DOMAINS}/web/status", 'domains.domctl.io "web"', "get", "domains/status", HERE),
    ("POST", DOMAINS, "domains.domctl.io", "create", "domains", HERE),
    ("DELETE", f"{NODES}/hv1", 'nodes.domctl.io "hv1"', "delete", "nodes", EVERYWHERE),
    ("POST", f"{NODES}/hv1/confirmdead", 'nodes.domctl.io "hv1"', "create", "nodes/confirmdead", EVERYWHERE),
    ("POST", f"{DOMAINS}/web/resolve", 'domains.domctl.io "web"', "create", "domains/resolve", HERE),
    ("POST", f"{V1}/storeacks", "storeacks.domctl.io", "create", "storeacks", EVERYWHERE),
]


@pytest.mark.parametrize("row", REFUSALS)
async def test_who_has_no_rights_is_refused_in_kubernetes_words(api: Api, row: tuple[str, ...]) -> None:
    method, path, what, verb, resource, where = row
    reply = await as_bob(api, method, path, {} if method == "POST" else None)
    assert (reply.status, reply.body["reason"]) == (403, "Forbidden")
    assert reply.body["message"] == (
        f'{what} is forbidden: User "bob" cannot {verb} resource "{resource}" '
        f'in API group "domctl.io" {where}'
    )


async def test_the_core_group_and_paths_are_refused_in_their_own_words(api: Api) -> None:
    events = await as_bob(api, "GET", "/api/v1/namespaces/default/events")
    assert events.body["message"] == (
        f'events is forbidden: User "bob" cannot list resource "events" in API group "" {HERE}'
    )
    metrics = await as_bob(api, "GET", "/metrics")
    assert metrics.body["message"] == 'forbidden: User "bob" cannot get path "/metrics"'


async def test_everybody_who_is_somebody_may_see_what_the_server_serves(api: Api) -> None:
    for path in ("/api", "/apis", V1, RBAC, "/openapi/v3", "/version"):
        assert (await as_bob(api, "GET", path)).status == 200, path


async def test_a_role_grants_what_it_names_until_its_binding_goes(api: Api) -> None:
    await made(api, DOMAINS, domain("web"))
    await give(api, rule("get", "domains"))
    assert (await as_bob(api, "GET", f"{DOMAINS}/web")).status == 200
    assert (await as_bob(api, "DELETE", f"{DOMAINS}/web")).status == 403
    assert (await api.call("DELETE", f"{CLUSTER_BINDINGS}/bobs")).status == 200
    await known(api)
    assert (await as_bob(api, "GET", f"{DOMAINS}/web")).status == 403


async def test_names_limit_a_role_to_objects_and_to_lists_of_one(api: Api) -> None:
    for name in ("web", "db"):
        await made(api, DOMAINS, domain(name))
    await give(api, rule("get list", "domains", resourceNames=["web"]))
    assert (await as_bob(api, "GET", f"{DOMAINS}/web")).status == 200
    assert (await as_bob(api, "GET", f"{DOMAINS}/db")).status == 403
    assert (await as_bob(api, "GET", DOMAINS)).status == 403
    one = await as_bob(api, "GET", f"{DOMAINS}?fieldSelector=metadata.name%3Dweb")
    assert [item["metadata"]["name"] for item in one.body["items"]] == ["web"]
    both = "metadata.name%3Dweb,metadata.name%3Ddb"
    assert (await as_bob(api, "GET", f"{DOMAINS}?fieldSelector={both}")).status == 403
    assert (await as_bob(api, "GET", f"{DOMAINS}?fieldSelector=metadata.name!%3Dweb")).status == 403
    for more, code in ((",status.node%3Dhv1", 200), (",metadata.namespace!%3Dx", 200), ("%5C,x", 403)):
        asked = await as_bob(api, "GET", f"{DOMAINS}?fieldSelector=metadata.name%3Dweb{more}")
        assert asked.status == code, more
    hidden = "status.node%3Da%5C,metadata.name%3Dweb"  # the value of another field, as it is read
    assert (await as_bob(api, "GET", f"{DOMAINS}?fieldSelector={hidden}")).status == 403


async def test_a_role_binding_holds_in_its_namespace(api: Api) -> None:
    await made(api, BINDINGS, binding("editors", "edit", kind="RoleBinding"))
    await known(api)
    assert (await as_bob(api, "POST", DOMAINS, domain("web"))).status == 201
    assert (await as_bob(api, "GET", DOMAINS.replace("default", "prod"))).status == 403
    assert (await as_bob(api, "GET", f"{V1}/domains")).status == 403
    status = {"status": {"phase": "Running"}}
    assert (await as_bob(api, "PATCH", f"{DOMAINS}/web/status", status, type=MERGE)).status == 403
    assert (await as_bob(api, "POST", f"{DOMAINS}/web/resolve", {})).status == 403


# --- what is root on a host


def lacks(reply: Reply, right: str, why: str) -> bool:
    verb, resource = right.split()
    message = reply.body["message"]
    return reply.status == 403 and f'cannot {verb} resource "{resource}"' in message and why in message


async def test_raw_xml_needs_a_right_of_its_own(api: Api) -> None:
    await made(api, BINDINGS, binding("editors", "edit", kind="RoleBinding"))
    await known(api)
    xml = "<domain><memtune><hard_limit unit='KiB'>65536</hard_limit></memtune></domain>"
    assert lacks(
        await as_bob(api, "POST", DOMAINS, domain("web", xml=xml)), "use domains/xml", "root on the host"
    )
    assert lacks(
        await as_bob(api, "POST", f"{DOMAINS}?dryRun=All", domain("web", xml=xml)), "use domains/xml", ""
    )
    await made(api, DOMAINS, domain("web", xml=xml))
    change: dict[str, Any] = {"spec": {"vcpus": 2}}
    assert (await as_bob(api, "PATCH", f"{DOMAINS}/web", change, type=MERGE)).status == 200
    other = [{"op": "replace", "path": "/spec/xml", "value": xml.replace("65536", "131072")}]
    assert lacks(
        await as_bob(api, "PATCH", f"{DOMAINS}/web", other, type=JSON_PATCH), "use domains/xml", "spec.xml"
    )
    assert (await as_bob(api, "PATCH", f"{DOMAINS}/web", {"spec": {"xml": None}}, type=MERGE)).status == 200
    await give(api, rule("use", "domains/xml"))
    assert (await as_bob(api, "PATCH", f"{DOMAINS}/web", {"spec": {"xml": xml}}, type=MERGE)).status == 200


async def test_a_container_needs_a_right_of_its_own(api: Api) -> None:
    await made(api, BINDINGS, binding("editors", "edit", kind="RoleBinding"))
    await known(api)
    root = {"type": "mount", "source": {"dir": "/srv/box"}, "target": "/"}
    box = domain("box", type="lxc", filesystems=[root])
    lacking = ("use domains/container", "root of the host")
    assert lacks(await as_bob(api, "POST", DOMAINS, box), *lacking)
    assert lacks(await as_bob(api, "POST", f"{DOMAINS}?dryRun=All", box), *lacking)
    await made(api, DOMAINS, box)
    changes: list[dict[str, Any]] = [
        {"os": {"init": "/bin/evil"}},
        {"filesystems": [{**root, "source": {"dir": "/srv"}}]},
    ]
    for change in changes:
        assert lacks(await as_bob(api, "PATCH", f"{DOMAINS}/box", {"spec": change}, type=MERGE), *lacking)
    off = {"spec": {"state": "shutoff", "vcpus": 2}}
    assert (await as_bob(api, "PATCH", f"{DOMAINS}/box", off, type=MERGE)).status == 200
    await give(api, rule("use", "domains/container"))
    assert (await as_bob(api, "PATCH", f"{DOMAINS}/box", {"spec": changes[0]}, type=MERGE)).status == 200


NODE_CHANGES = [
    ({"uri": "qemu+tcp://elsewhere/system"}, "use nodes/uri", "spec.uri"),
    ({"migrationURI": "qemu+tcp://elsewhere/system"}, "use nodes/uri", "spec.migrationURI"),
    ({"connection": {"authFile": "/etc/domctl/hosts/a"}}, "use nodes/uri", "spec.connection"),
    (
        {"insecure": None, "connection": {"authFile": "/a"}},
        "use nodes/uri",
        "spec.connection and spec.insecure",
    ),
    ({"allowedPaths": ["/srv", "/home"]}, "use nodes/allowedpaths", "spec.allowedPaths"),
    ({"allowedPaths": ["/srv", "/etc"]}, "use nodes/allowedpaths", "spec.allowedPaths"),
]


@pytest.mark.parametrize(("change", "right", "why"), NODE_CHANGES)
async def test_what_leads_to_a_host_needs_a_right_of_its_own(
    api: Api, change: dict[str, Any], right: str, why: str
) -> None:
    body = node("hv1")
    body["spec"]["allowedPaths"] = ["/srv"]
    await made(api, NODES, body)
    await give(api, rule("create update patch", "nodes"))
    assert lacks(await as_bob(api, "POST", NODES, node("hv2")), "use nodes/uri", "spec.uri")
    refused = await as_bob(api, "PATCH", f"{NODES}/hv1", {"spec": change}, type=MERGE)
    assert lacks(refused, right, why), refused.text
    harmless = {"spec": {"unschedulable": True, "allowedPaths": []}}
    assert (await as_bob(api, "PATCH", f"{NODES}/hv1", harmless, type=MERGE)).status == 200


# --- nobody gives what he has not


async def test_who_writes_roles_cannot_give_more_than_he_has(api: Api) -> None:
    await made(api, BINDINGS, binding("admins", "admin", kind="RoleBinding"))
    await known(api)
    within = role("readers", rule("get list", "domains"), kind="Role")
    assert (await as_bob(api, "POST", ROLES, within)).status == 201
    beyond = role("hosts", rule("get use", "domains/xml domains"), kind="Role")
    refused = await as_bob(api, "POST", ROLES, beyond)
    assert refused.status == 403
    assert refused.body["message"] == (
        'roles.rbac.authorization.k8s.io "hosts" is forbidden: user "bob" '
        '(groups=["system:authenticated"]) is '
        "attempting to grant RBAC permissions not currently held:\n"
        '{APIGroups:["domctl.io"], Resources:["domains/xml"], Verbs:["get"]}\n'
        '{APIGroups:["domctl.io"], Resources:["domains/xml"], Verbs:["use"]}\n'
        '{APIGroups:["domctl.io"], Resources:["domains"], Verbs:["use"]}'
    )
    more = {"rules": beyond["rules"]}
    assert (await as_bob(api, "PATCH", f"{ROLES}/readers", more, type=MERGE)).status == 403
    assert (await as_bob(api, "PATCH", f"{ROLES}/readers", more, type=STRATEGIC)).status == 403
    await give(api, rule("escalate", "roles", "rbac.authorization.k8s.io"))
    assert (await as_bob(api, "POST", ROLES, beyond)).status == 201


async def test_a_role_that_multiplies_is_refused_to_who_has_not_all_of_it(api: Api) -> None:
    await made(api, BINDINGS, binding("admins", "admin", kind="RoleBinding"))
    await known(api)
    many = " ".join(f"w{n}" for n in range(300))
    wide = role("wide", {**rule(many, many, many), "apiGroups": many.split()}, kind="Role")
    for query in ("", "?dryRun=All"):
        refused = await as_bob(api, "POST", ROLES + query, wide)
        assert (refused.status, "too many combinations" in refused.body["message"]) == (403, True)
    assert (await api.call("POST", ROLES, wide)).status == 201, "by whom may escalate"
    refused = await as_bob(api, "POST", BINDINGS, binding("mine", "wide", kind="RoleBinding", of="Role"))
    assert (refused.status, "too many combinations" in refused.body["message"]) == (403, True)


async def test_who_binds_roles_cannot_give_more_than_he_has(api: Api) -> None:
    await made(api, BINDINGS, binding("admins", "admin", kind="RoleBinding"))
    await known(api)
    mine = binding("mine", "view", kind="RoleBinding", user="eve")
    assert (await as_bob(api, "POST", BINDINGS, mine)).status == 201
    theirs = binding("theirs", "cluster-admin", kind="RoleBinding", user="eve")
    refused = await as_bob(api, "POST", BINDINGS, theirs)
    assert (refused.status, "attempting to grant" in refused.body["message"]) == (403, True)
    gone = await as_bob(api, "POST", BINDINGS, binding("x", "nowhere", kind="RoleBinding"))
    assert (gone.status, gone.body["message"]) == (
        404,
        'clusterroles.rbac.authorization.k8s.io "nowhere" not found',
    )
    await give(
        api, rule("bind", "clusterroles", "rbac.authorization.k8s.io", resourceNames=["cluster-admin"])
    )
    assert (await as_bob(api, "POST", BINDINGS, theirs)).status == 201
    other = binding("other", "domctl:operator", kind="RoleBinding", user="eve")
    assert (await as_bob(api, "POST", BINDINGS, other)).status == 403


async def test_a_binding_keeps_its_role(api: Api) -> None:
    await made(api, BINDINGS, binding("b", "view", kind="RoleBinding"))
    change = {"roleRef": {"kind": "ClusterRole", "name": "edit"}}
    refused = await api.call("PATCH", f"{BINDINGS}/b", change, type=MERGE)
    assert refused.causes == {"roleRef": "cannot be changed: write another binding"}
    assert (await api.call("PATCH", f"{BINDINGS}/b", {"subjects": []}, type=STRATEGIC)).status == 200


WRONG = [
    (CLUSTER_ROLES, role("r", {"verbs": ["get"], "resources": ["a"]}), "rules[0].apiGroups"),
    (CLUSTER_ROLES, role("r", {"verbs": ["get"], "apiGroups": ["a"]}), "rules[0].resources"),
    (CLUSTER_ROLES, role("r", {"verbs": [], "nonResourceURLs": ["/x"]}), "rules[0].verbs"),
    (
        ROLES,
        role("r", {"verbs": ["get"], "nonResourceURLs": ["/x"]}, kind="Role"),
        "rules[0].nonResourceURLs",
    ),
    (CLUSTER_ROLES, role("r", rule("get", "a", nonResourceURLs=["/x"])), "rules[0].nonResourceURLs"),
    (CLUSTER_ROLES, role("a/b"), "metadata.name"),
    (
        CLUSTER_ROLES,
        {**role("r"), "aggregationRule": {"clusterRoleSelectors": []}},
        "aggregationRule.clusterRoleSelectors",
    ),
    (
        CLUSTER_ROLES,
        {
            **role("r"),
            "aggregationRule": {
                "clusterRoleSelectors": [{"matchExpressions": [{"key": "a", "operator": "In"}]}]
            },
        },
        "aggregationRule.clusterRoleSelectors[0].matchExpressions[0].values",
    ),
    (CLUSTER_BINDINGS, binding("b", "r", of="Role"), "roleRef.kind"),
    (
        CLUSTER_BINDINGS,
        {**binding("b", "r"), "subjects": [{"kind": "Robot", "name": "x"}]},
        "subjects[0].kind",
    ),
    (
        CLUSTER_BINDINGS,
        {**binding("b", "r"), "subjects": [{"kind": "ServiceAccount", "name": "x"}]},
        "subjects[0].namespace",
    ),
    (
        CLUSTER_BINDINGS,
        {**binding("b", "r"), "subjects": [{"kind": "User", "name": "x", "apiGroup": "v1"}]},
        "subjects[0].apiGroup",
    ),
]


@pytest.mark.parametrize(("path", "body", "field"), WRONG)
async def test_what_kubernetes_would_not_take_is_refused(
    api: Api, path: str, body: dict[str, Any], field: str
) -> None:
    reply = await api.call("POST", path, body)
    assert (reply.status, list(reply.causes)) == (422, [field]), reply.text


# --- what is not there, or cannot be read


async def test_what_cannot_be_read_grants_nothing_and_locks_no_administrator_out(api: Api) -> None:
    await give(api, rule("list", "domains"))
    assert (await as_bob(api, "GET", DOMAINS)).status == 200
    for broken in (b"{", b"", json.dumps(role("bobs", {"verbs": "get"})).encode()):
        await api.put_raw(keys.object_key("clusterroles", "", "bobs"), broken)
        async with asyncio.timeout(5):
            while (await as_bob(api, "GET", DOMAINS)).status != 403:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.01)
        assert (await api.call("GET", DOMAINS)).status == 200


async def test_the_first_roles_come_back_and_keep_what_was_added(tmp_path: Path) -> None:
    store = MemoryStore(asyncio.get_running_loop().time)
    extra = rule("get", "domains/console")
    async with serving(store, tmp_path) as api:
        assert (await api.call("DELETE", f"{CLUSTER_ROLES}/view")).status == 200
        assert (
            await api.call("PATCH", f"{CLUSTER_ROLES}/edit", {"rules": [extra]}, type=MERGE)
        ).status == 200
        kept = {
            "rules": [],
            "metadata": {"annotations": {"rbac.authorization.kubernetes.io/autoupdate": "false"}},
        }
        assert (await api.call("PATCH", f"{CLUSTER_ROLES}/admin", kept, type=MERGE)).status == 200
    async with serving(store, tmp_path) as api:
        assert (await api.call("GET", f"{CLUSTER_ROLES}/view")).status == 200
        rules = (await api.call("GET", f"{CLUSTER_ROLES}/edit")).body["rules"]
        assert rules[0] == extra
        assert any("create" in one["verbs"] for one in rules)
        assert (await api.call("GET", f"{CLUSTER_ROLES}/admin")).body["rules"] == []
    await store.close()


# --- acting as somebody else


async def test_acting_as_others_needs_the_right_and_is_written_down(api: Api) -> None:
    await give(api, rule("impersonate", "users", "", resourceNames=["eve"]))
    assert (await as_bob(api, "GET", "/apis")).status == 200
    context = await bearer(api, "bob")
    assert (await context("GET", "/apis", Impersonate_User="eve"))[0] == 200
    status, body = await context("GET", "/apis", Impersonate_User="mallory")
    assert (status, body["message"]) == (
        403,
        'users "mallory" is forbidden: User "bob" cannot impersonate resource "users" in API group "" '
        "at the cluster scope",
    )
    assert (await context("GET", "/apis", Impersonate_User="eve", Impersonate_Group="domctl:admins"))[
        0
    ] == 403
    assert (await context("GET", "/apis", Impersonate_Group="domctl:admins"))[0] == 400
    assert (await context("GET", "/apis", Impersonate_User="eve", Impersonate_Uid="1"))[0] == 400
    assert (await as_bob(api, "DELETE", f"{DOMAINS}/web")).status == 403
    last = json.loads(api.audit_log.read_text().splitlines()[-1])
    assert (last["user"]["username"], last["impersonatedUser"]["username"]) == ("admin", "bob")


# --- tokens


def token_of(user: str, secret: str, expires: str = "2099-01-01T00:00:00Z", **spec: Any) -> dict[str, Any]:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    spec = {"user": user, "expires": expires, "sha256": digest, **spec}
    return {"apiVersion": "domctl.io/v1", "kind": "Token", "metadata": {"name": "t"}, "spec": spec}


SECRET = "domctl-" + "a" * 43


async def bearer(api: Api, user: str, secret: str = SECRET, **spec: Any) -> Any:
    """A function that asks with a token, which is registered first."""
    await made(api, TOKENS, token_of(user, secret, **spec))
    await known(api)
    return with_token(api, secret)


async def test_a_secret_has_one_bearer(api: Api) -> None:
    asked = await bearer(api, "ann")
    second = {**token_of("thief", SECRET), "metadata": {"name": "u"}}
    refused = await api.call("POST", TOKENS, second)
    assert (refused.status, list(refused.causes)) == (422, ["spec.sha256"])
    assert (await asked("GET", "/apis"))[0] == 200
    stored = await api.objects.get(TOKEN_KIND, "", "t")
    await api.objects.create(TOKEN_KIND, {**stored.body, **second, "metadata": {"name": "u", "uid": "u"}})
    await known(api)
    assert (await asked("GET", "/apis"))[0] == 401, "two of them, by whatever way: nobody's"


def with_token(api: Api, secret: str) -> Any:
    async def call(method: str, path: str, **headers: str) -> tuple[int, Any]:
        sent = {"Authorization": f"Bearer {secret}", **{k.replace("_", "-"): v for k, v in headers.items()}}
        connector = aiohttp.TCPConnector(ssl=client_context(api.pki.ca_cert))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, api.url + path, headers=sent) as response,
        ):
            return response.status, await response.json()

    return call


async def test_a_token_is_its_user_with_his_groups(api: Api) -> None:
    call = await bearer(api, "ci", groups=["domctl:admins"])
    assert (await call("GET", DOMAINS))[0] == 200
    assert (await with_token(api, "domctl-" + "b" * 43)("GET", DOMAINS))[0] == 401
    assert (await with_token(api, SECRET[:-1])("GET", DOMAINS))[0] == 401
    digest = hashlib.sha256(SECRET.encode()).hexdigest()
    assert (await with_token(api, digest)("GET", DOMAINS))[0] == 401  # what is kept is of no use
    assert (await api.call("DELETE", f"{TOKENS}/t")).status == 200
    await known(api)
    assert (await call("GET", DOMAINS))[0] == 401


async def test_a_token_ends_when_it_says(api: Api) -> None:
    call = await bearer(api, "ci", expires="2020-01-01T00:00:00Z", groups=["domctl:admins"])
    assert (await call("GET", DOMAINS))[0] == 401


async def test_a_token_ends_at_a_time_that_there_is_and_its_groups_have_names(api: Api) -> None:
    for field, wrong in (
        ("spec.expires", {"expires": "2030-13-01T00:00:00Z"}),
        ("spec.expires", {"expires": "2030-02-30T00:00:00Z"}),
        ("spec.expires", {"expires": "2030-02-01T24:59:00Z"}),
        ("spec.groups[0]", {"groups": [""]}),
    ):
        refused = await api.call("POST", TOKENS, token_of("ci", SECRET, **wrong))
        assert (refused.status, list(refused.causes)) == (422, [field])


async def test_a_token_is_made_only_by_those_who_may_act_as_its_user(api: Api) -> None:
    await give(api, rule("create", "tokens"), rule("impersonate", "users", "", resourceNames=["ci"]))
    assert (await as_bob(api, "POST", TOKENS, token_of("ci", SECRET))).status == 201
    root = token_of("ci", SECRET[:-1] + "b", groups=["domctl:admins"])
    assert lacks(await as_bob(api, "POST", TOKENS, root), "impersonate groups", "can be its bearer")
    assert lacks(
        await as_bob(api, "POST", TOKENS, token_of("eve", SECRET[:-1] + "c")), "impersonate users", ""
    )
    change = {"spec": {"user": "eve"}}
    assert (await api.call("PATCH", f"{TOKENS}/t", change, type=MERGE)).causes == {
        "spec": "cannot be changed: delete it and create another"
    }


async def test_a_server_side_apply_is_judged_as_what_it_does(api: Api) -> None:
    await give(api, rule("patch", "domains"))
    path, apply = f"{DOMAINS}/web?fieldManager=me", "application/apply-patch+yaml"
    assert "cannot create resource" in (await as_bob(api, "PATCH", path, domain("web"), type=apply)).text
    await made(api, DOMAINS, domain("web"))
    assert (await as_bob(api, "PATCH", path, domain("web"), type=apply)).status == 200
    raw = domain("web", xml="<domain><memtune><hard_limit>65536</hard_limit></memtune></domain>")
    assert lacks(await as_bob(api, "PATCH", path, raw, type=apply), "use domains/xml", "root on the host")


async def test_a_replacement_that_creates_is_judged_as_what_it_does(api: Api) -> None:
    """Who may change roles may not make them, and nobody makes one that can do more than he."""
    rights = ("roles rolebindings", "rbac.authorization.k8s.io")
    await give(api, rule("update", *rights), rule("get", "domains"))
    within = role("readers", rule("get", "domains"), kind="Role")
    refused = await as_bob(api, "PUT", f"{ROLES}/readers", within)
    assert refused.status == 403 and 'cannot create resource "roles"' in refused.body["message"]
    await made(api, CLUSTER_ROLES, role("makers", rule("create", *rights)))
    await made(api, CLUSTER_BINDINGS, binding("makers", "makers"))
    await known(api)
    beyond = role("writers", rule("get update", "domains"), kind="Role")
    for query in ("", "?dryRun=All"):
        refused = await as_bob(api, "PUT", f"{ROLES}/writers{query}", beyond)
        assert (refused.status, "attempting to grant" in refused.text) == (403, True), refused.text
    bound = binding("mine", "admin", kind="RoleBinding")
    assert "attempting to grant" in (await as_bob(api, "PUT", f"{BINDINGS}/mine", bound)).text
    gone = await as_bob(api, "PUT", f"{BINDINGS}/mine", binding("mine", "nowhere", kind="RoleBinding"))
    assert (gone.status, gone.body["details"]["name"]) == (404, "nowhere")
    assert (await as_bob(api, "PUT", f"{ROLES}/readers", within)).status == 201
    assert [kv.key for kv in (await api.store.list(keys.object_prefix("rolebindings"))).items] == []
    assert len((await api.store.list(keys.object_prefix("roles"))).items) == 1


async def test_who_may_try_everything_may_review_nobodys_tokens(api: Api) -> None:
    """A review has nothing to try: dry or not, it answers."""
    await give(api, {"apiGroups": ["*"], "resources": ["*"], "verbs": ["dryrun"]})
    path = "/apis/authentication.k8s.io/v1/tokenreviews"
    assert (await as_bob(api, "POST", f"{path}?dryRun=All", {"spec": {"token": "x"}})).status == 403


async def test_who_may_only_try_learns_what_a_change_would_do_and_changes_nothing(api: Api) -> None:
    """So that what nobody has reviewed yet can be compared with what is there."""
    await give(api, rule("get dryrun", "domains"))
    await made(api, DOMAINS, domain("web-1"))
    before = (await api.store.get(keys.object_key("domains", "default", "web-1"))).value  # type: ignore[union-attr]
    apply = "application/apply-patch+yaml"
    more = {"spec": {"memory": "128Mi"}}
    ways: list[tuple[str, str, Any, str]] = [
        ("POST", DOMAINS, domain("new"), "application/json"),
        ("PATCH", f"{DOMAINS}/web-1", more, MERGE),
        ("PATCH", f"{DOMAINS}/new?fieldManager=ci", domain("new"), apply),
    ]
    for method, path, body, kind in ways:
        asked = f"{path}{'&' if '?' in path else '?'}dryRun=All"
        tried = await as_bob(api, method, asked, body, type=kind)
        assert tried.status in {200, 201}, tried.text
        for real in (path, asked.replace("All", "")):
            refused = await as_bob(api, method, real, body, type=kind)
            assert refused.status == 403 and "dryrun" not in refused.text, refused.text
        assert (await as_bob(api, method, asked.replace("All", "Some"), body, type=kind)).status in {403, 422}
    for path in (f"{DOMAINS}/web-1", DOMAINS):
        assert (await as_bob(api, "DELETE", f"{path}?dryRun=All")).status == 403
    for path in ("status", "resolve"):
        reply = await as_bob(api, "PATCH", f"{DOMAINS}/web-1/{path}?dryRun=All", more, type=MERGE)
        assert reply.status in {403, 405}, reply.text
    xml = await as_bob(api, "POST", f"{DOMAINS}?dryRun=All", domain("raw", xml="<domain/>"))
    assert xml.status == 403 and "domains/xml" in xml.text
    after = await api.store.get(keys.object_key("domains", "default", "web-1"))
    assert after is not None and after.value == before
    assert (await api.call("GET", f"{DOMAINS}/new")).status == 404
