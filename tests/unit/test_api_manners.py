"""Small things by which clients and users of Kubernetes know that this is its API."""

from __future__ import annotations

from typing import Any

from controller.api.requests import JSON
from tests.apiserver import DOMAINS, MERGE, NODES, TABLE, Api, domain

RBAC = "/apis/rbac.authorization.k8s.io/v1"
SPACES = "/api/v1/namespaces"


async def test_a_watch_of_one_name_is_a_get(api: Api) -> None:
    await api.call("POST", DOMAINS, domain())
    reply = await api.call("GET", f"{DOMAINS}/web-1?watch=true&timeoutSeconds=1")
    assert (reply.status, reply.body["kind"]) == (200, "Domain")


async def test_of_what_is_no_object_rules_name_the_methods(api: Api) -> None:
    rules = [{"verbs": ["get", "post"], "nonResourceURLs": ["/metrics", "/other"]}]
    head: dict[str, Any] = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "paths"}}
    await api.call("POST", f"{RBAC}/clusterroles", {**head, "kind": "ClusterRole", "rules": rules})
    bound = {
        **head,
        "kind": "ClusterRoleBinding",
        "roleRef": {"kind": "ClusterRole", "name": "paths"},
        "subjects": [{"kind": "User", "name": "bob"}],
    }
    await api.call("POST", f"{RBAC}/clusterrolebindings", bound)
    bob = {"Impersonate_User": "bob"}
    for _ in range(1000):
        if (await api.call("GET", "/metrics", **bob)).status == 200:
            break
    assert (await api.call("POST", "/other", {}, **bob)).status == 404, "allowed, and not there"
    assert (await api.call("HEAD", "/metrics", **bob)).status == 403
    refused = await api.call("PUT", "/other", {}, **bob)
    assert (refused.status, 'cannot put path "/other"' in refused.body["message"]) == (403, True)


async def test_a_namespace_is_found_by_its_name_as_a_label(api: Api) -> None:
    for name in ("a", "b"):
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"x": "y"}}}
        made = await api.call("POST", SPACES, body)
        assert made.body["metadata"]["labels"] == {"x": "y", "kubernetes.io/metadata.name": name}
    chosen = await api.call("GET", f"{SPACES}?labelSelector=kubernetes.io%2Fmetadata.name%3Db")
    assert [one["metadata"]["name"] for one in chosen.body["items"]] == ["b"]
    change = {"metadata": {"labels": None}}
    kept = await api.call("PATCH", f"{SPACES}/b", change, type=MERGE)
    assert kept.body["metadata"]["labels"] == {"kubernetes.io/metadata.name": "b"}
    again = await api.call("PUT", f"{SPACES}/b", kept.body)
    assert (again.status, again.body["metadata"]["labels"]) == (200, kept.body["metadata"]["labels"])


async def test_namespaces_are_deleted_one_by_one(api: Api) -> None:
    assert (await api.call("DELETE", SPACES)).status == 405
    listed = (await api.call("GET", "/api/v1")).body["resources"]
    (verbs,) = (one["verbs"] for one in listed if one["name"] == "namespaces")
    assert sorted(verbs) == ["create", "delete", "get", "list", "patch", "update", "watch"]


async def test_a_table_has_of_objects_what_there_is_a_word_for(api: Api) -> None:
    for path in (NODES, f"{NODES}?watch=true", f"{DOMAINS}/web-1"):
        if path.endswith("web-1"):
            await api.call("POST", DOMAINS, domain())
        query = f"{path}{'&' if '?' in path else '?'}includeObject=Foo"
        reply = await api.call("GET", query, Accept=TABLE)
        assert (reply.status, reply.body["message"]) == (
            400,
            'Unable to convert to Table as requested: includeObject: Invalid value: "Foo": '
            "must be 'Metadata', 'Object', 'None', or empty",
        )
    assert (await api.call("GET", f"{NODES}?includeObject=Foo")).status == 200, "no Table"
    assert (await api.call("GET", f"{NODES}?includeObject=", Accept=TABLE)).status == 200


async def test_who_is_taken_for_nobody_is_not_everybody_who_is_somebody(api: Api) -> None:
    path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    reply = await api.call("POST", path, {}, Impersonate_User="system:anonymous")
    assert "system:authenticated" not in reply.text
    known = await api.call("POST", path, {}, Impersonate_User="bob")
    assert known.body["status"]["userInfo"]["groups"] == ["system:authenticated"]


async def test_a_dry_run_that_is_not_understood_is_named_by_what_asks_for_it(api: Api) -> None:
    for method, path, kind in (
        ("POST", DOMAINS, "CreateOptions"),
        ("PUT", f"{DOMAINS}/web-1", "UpdateOptions"),
        ("PATCH", f"{DOMAINS}/web-1", "PatchOptions"),
        ("DELETE", f"{DOMAINS}/web-1", "DeleteOptions"),
    ):
        reply = await api.call(
            method, f"{path}?dryRun=Maybe", domain(), type=MERGE if method == "PATCH" else JSON
        )
        assert (reply.status, reply.body["details"]["kind"]) == (422, kind), reply.text


async def test_answers_are_laid_out_for_people_who_ask_for_it(api: Api) -> None:
    plain = await api.call("GET", "/api/v1")
    pretty = await api.call("GET", "/api/v1?pretty=true")
    assert pretty.text.startswith('{\n  "kind": "APIResourceList",\n') and "\n" not in plain.text
    assert pretty.body == plain.body
    assert (await api.call("GET", "/api/v1?pretty=false")).text == plain.text
    refused = await api.call("GET", f"{DOMAINS}/nope?pretty=1")
    assert (refused.status, refused.text.startswith('{\n  "kind": "Status"')) == (404, True)


async def test_secrets_in_a_query_stay_out_of_the_audit_log(api: Api) -> None:
    for query in (
        "token=abc123xyz",
        "x=1&bootstrap_token=abc123xyz",
        "secret=abc123xyz",
        "a=b&Token=abc123xyz",
    ):
        await api.call("POST", f"{DOMAINS}?{query}", domain())
    lines = api.audit_log.read_text()
    assert "abc123xyz" not in lines
    assert "?token=***" in lines
