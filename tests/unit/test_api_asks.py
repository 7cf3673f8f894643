"""What a request asks for, as rules see it: no path or query but an object's own gives a right to it."""

from __future__ import annotations

from typing import Any

import pytest

from controller import keys
from tests.apiserver import V1, Api, domain, node
from tests.unit.test_api_rights import as_bob, binding, give, known, made, rule

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
ONE = "?fieldSelector=metadata.name%3Dgitops"


def config_map(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}


@pytest.mark.parametrize("query", ["", ONE, f"{ONE}&dryRun=All"])
async def test_a_right_to_one_name_is_none_to_create_whatever_the_query_names(api: Api, query: str) -> None:
    """The body says what is created, and could name anything."""
    await give(api, rule("* dryrun", "configmaps", "", resourceNames=["gitops"]))
    for name in ("gitops", "other"):
        refused = await as_bob(api, "POST", CONFIG_MAPS + query, config_map(name))
        assert refused.status == 403 and "cannot create" in refused.text, refused.text


async def test_a_right_to_one_name_reads_lists_of_it_and_deletes_no_collection(api: Api) -> None:
    """As Kubernetes has it: only what GET asks of a collection is asked of the one name that is selected."""
    await made(api, CONFIG_MAPS, config_map("gitops"))
    await give(api, rule("*", "configmaps", "", resourceNames=["gitops"]))
    assert (await as_bob(api, "GET", CONFIG_MAPS + ONE)).status == 200
    async with api.watch(f"{CONFIG_MAPS}{ONE}&watch=true", **{"Impersonate-User": "bob"}) as events:
        assert (await anext(events))["object"]["metadata"]["name"] == "gitops"
    refused = await as_bob(api, "DELETE", CONFIG_MAPS + ONE)
    assert refused.status == 403 and "cannot deletecollection" in refused.text
    assert (await as_bob(api, "DELETE", f"{CONFIG_MAPS}/gitops")).status == 200


async def test_decisions_are_taken_at_their_own_paths_alone(api: Api) -> None:
    """By any other they would be judged in a group or a namespace in which somebody may do everything."""
    await made(api, f"{V1}/nodes", node("hv1"))
    await made(api, f"{V1}/namespaces/default/domains", domain("web"))
    group, core, rbac = "/apis/metrics.k8s.io/v1beta1", "/api/v1", "/apis/rbac.authorization.k8s.io/v1"
    for path in (
        *(f"{prefix}/nodes/hv1/confirmdead" for prefix in (core, group, rbac, f"{V1}/namespaces/default")),
        *(f"{prefix}/namespaces/default/domains/web/resolve" for prefix in (core, group, rbac)),
        *(f"{prefix}/storeacks" for prefix in (core, group, rbac, f"{V1}/namespaces/default")),
        f"{core}/assignments/0/resolve",
        f"{V1}/domains/web/resolve",
    ):
        for method in ("POST", "DELETE"):
            reply = await api.call(method, path, {})
            assert reply.status == 404, (method, path, reply.text)
    prefixes = (keys.confirmed_dead(""), keys.resolution(""), keys.STORE_ACK)
    assert [kv.key for p in prefixes for kv in (await api.store.list(p)).items] == []


async def test_who_may_see_namespaces_within_one_may_see_that_one(api: Api) -> None:
    """A namespace stands in itself, as on Kubernetes: `kubectl get namespace foo` is asked of foo."""
    for name in ("foo", "bar"):
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        await made(api, "/api/v1/namespaces", body)
    path = "/apis/rbac.authorization.k8s.io/v1/namespaces/foo/rolebindings"
    await made(api, path, binding("viewers", "view", kind="RoleBinding"))
    await known(api)
    assert (await as_bob(api, "GET", "/api/v1/namespaces/foo")).status == 200
    for method, where in (("GET", "bar"), ("DELETE", "foo")):
        refused = await as_bob(api, method, f"/api/v1/namespaces/{where}")
        assert refused.status == 403 and f'in the namespace "{where}"' in refused.body["message"], (
            refused.text
        )
    for query in ("", "?fieldSelector=metadata.name%3Dfoo"):
        refused = await as_bob(api, "GET", f"/api/v1/namespaces{query}")
        assert refused.status == 403 and "at the cluster scope" in refused.text, refused.text
