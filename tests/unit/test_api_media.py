"""In which form documents come and go: YAML as well as JSON, and a plain no to what is neither."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from controller.api import accepting, lists
from specs import yamldoc
from tests.apiserver import APPLY, DOMAINS, MERGE, NODES, TABLE, V1, Api, domain, node

YAML = "application/yaml"
PROTOBUF = "application/vnd.kubernetes.protobuf"
MAPS = "/api/v1/namespaces/default/configmaps"
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
ODD = "a\x7fb\x85c\u2028d\ufeffe\U0001f600f"


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def read(text: str) -> Any:
    """As any reader of YAML has it."""
    return yaml.safe_load(text)


async def test_an_object_is_created_and_updated_with_yaml(api: Api) -> None:
    text = b"apiVersion: domctl.io/v1\nkind: Domain\nmetadata:\n  name: web-1\nspec:\n  memory: 64Mi\n"
    made = await api.call("POST", DOMAINS, text, type=YAML)
    assert (made.status, made.body["spec"]) == (201, {"memory": "64Mi"})
    changed = text.replace(b"name: web-1", f"name: web-1\n  resourceVersion: '{made.rv}'".encode())
    reply = await api.call("PUT", f"{DOMAINS}/web-1", changed.replace(b"64Mi", b"128Mi"), type=YAML)
    assert (reply.status, reply.body["spec"]) == (200, {"memory": "128Mi"})
    assert (await api.call("DELETE", f"{DOMAINS}/web-1", b"dryRun: [All]", type=YAML)).status == 200
    review = b"spec: {resourceAttributes: {verb: get, resource: pods}}"
    assert (await api.call("POST", REVIEWS, review, type=YAML)).body["status"]["allowed"]
    for bad, said in ((b"a: 1\na: 2", "is there twice"), (b"a: [", "not YAML"), (b"a: 1\n---\nb: 2", "one")):
        reply = await api.call("POST", DOMAINS, bad, type=YAML)
        assert (reply.status, said in reply.body["message"]) == (400, True), reply.text


async def test_a_body_that_is_neither_json_nor_yaml_hears_what_is_taken(api: Api) -> None:
    reply = await api.call("POST", DOMAINS, b"<domain/>", type="application/xml")
    assert reply.status == 415
    assert reply.body["message"].endswith("accepted media types include: application/json, application/yaml")


ANSWERS = {
    "one": ("GET", f"{MAPS}/odd", None),
    "list": ("GET", MAPS, None),
    "Table": ("GET", MAPS, None),
    "discovery": ("GET", V1, None),
    "a refusal": ("GET", f"{MAPS}/nope", None),
    "what was made": ("POST", f"{MAPS}?dryRun=All", config_map("new", a="b")),
}


async def test_whoever_takes_yaml_alone_is_answered_so(api: Api) -> None:
    await api.call("POST", MAPS, config_map("odd", text=ODD, number="0x1F", yes="y"))
    for about, (method, path, body) in ANSWERS.items():
        suffix = ";as=Table;v=v1;g=meta.k8s.io" if about == "Table" else ""
        plain = await api.call(method, path, body, Accept="application/json" + suffix)
        reply = await api.call(method, path, body, Accept=YAML + suffix)
        assert (reply.status, reply.headers["Content-Type"]) == (plain.status, YAML), about
        found, wanted = read(reply.text), plain.body
        for one in (found, wanted) if about == "what was made" else ():
            for field in ("uid", "creationTimestamp", "managedFields"):
                del one["metadata"][field]
        assert found == wanted, about
        assert not reply.text.startswith("{"), "laid out for people"


async def test_what_is_large_is_yaml_too(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        await api.call("POST", MAPS, config_map(f"m{number}", text=ODD * 20, more="x" * 2000))
    wanted = (await api.call("GET", MAPS)).body
    monkeypatch.setattr(accepting, "_BLOCK_BYTES", 1000)
    for whole_bytes in (1 << 20, 1000):  # in one piece, and in parts
        monkeypatch.setattr(lists, "WHOLE_BYTES", whole_bytes)
        reply = await api.call("GET", MAPS, Accept=YAML)
        assert (reply.status, reply.headers["Content-Type"]) == (200, YAML)
        assert read(reply.text) == wanted
        assert yamldoc.load(reply.text).documents[0].value == wanted
        assert json.loads(reply.text) == wanted, "flow style"


TAKEN = {
    "": "json",
    "*/*": "json",
    "application/*": "json",
    "application/json;charset=utf-8": "json",
    "application/json; q=0.3, application/yaml; q=0.7": "yaml",
    "application/yaml, */*": "yaml",
    "*/*, application/yaml": "yaml",  # it is said more exactly
    f"{PROTOBUF}, application/json": "json",
    f"{PROTOBUF};q=1, application/yaml;q=0.2": "yaml",
    f"{PROTOBUF}, */*": "json",
    "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": "json",
    "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2": "json",  # Java's
    "application/json;stream=watch": "json",
    "application/json;as=Table;v=v9;g=meta.k8s.io,application/json": "json",
    "application/json;as=Other;v=v1;g=other.example,application/yaml": "yaml",
    ",".join([PROTOBUF] * 12) + ",application/json": "json",
}


async def test_the_best_of_what_a_client_takes_is_sent(api: Api) -> None:
    for accept, wanted in TAKEN.items():
        reply = await api.call("GET", NODES, Accept=accept)
        assert (reply.status, reply.headers["Content-Type"]) == (200, f"application/{wanted}"), accept


NOT_TAKEN = (
    "text/html",
    PROTOBUF,
    "application/xml, text/*",
    "application/json;as=Table;v=v9;g=meta.k8s.io",
    "application/yaml;stream=watch",
    "application/json;g=other.example;v=v1;as=Table",
)


async def test_who_takes_nothing_of_what_there_is_hears_so_before_anything_is_done(api: Api) -> None:
    said = "only the following media types are accepted: application/json, application/yaml"
    for accept in NOT_TAKEN:
        for method, path, body in (("GET", NODES, None), ("GET", V1, None), ("POST", NODES, node())):
            reply = await api.call(method, path, body, Accept=accept)
            found = (reply.status, reply.body["reason"], reply.body["message"])
            assert found == (406, "NotAcceptable", said), accept
        for path in ("/livez", "/version", "/metrics"):
            assert (await api.call("GET", path, Accept=accept)).status == 200
    assert (await api.call("GET", NODES)).body["items"] == []


async def test_a_watch_is_there_as_json_alone(api: Api) -> None:
    for accept in (YAML, "text/html", "application/yaml, application/json"):
        reply = await api.call("GET", f"{NODES}?watch=true", Accept=accept)
        assert (reply.status, read(reply.text)["reason"]) == (406, "NotAcceptable")
        assert "application/json;stream=watch" in read(reply.text)["message"]
    async with api.watch(f"{NODES}?watch=true&timeoutSeconds=1", Accept="application/json;stream=watch"):
        pass


async def test_other_patches_than_what_is_applied_are_no_yaml(api: Api) -> None:
    await api.call("POST", DOMAINS, domain())
    path = f"{DOMAINS}/web-1"
    text = b"apiVersion: domctl.io/v1\nkind: Domain\nspec: {memory: 96Mi}\nmetadata: {name: web-1}"
    assert (await api.call("PATCH", path, text, type=MERGE)).status == 400
    assert (await api.call("PATCH", path, text, type=YAML)).status == 415
    reply = await api.call("PATCH", f"{path}?fieldManager=me&force=true", text, type=APPLY, Accept=YAML)
    assert (reply.status, read(reply.text)["spec"]["memory"]) == (200, "96Mi")


async def test_a_table_is_still_what_kubectl_is_shown(api: Api) -> None:
    reply = await api.call("GET", NODES, Accept=TABLE)
    assert (reply.body["kind"], reply.headers["Content-Type"]) == ("Table", "application/json")


PARTIAL = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
MAPS = "/api/v1/namespaces/default/configmaps"
EVENTS = "/api/v1/namespaces/default/events"


def kept(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "finalizers": ["a.io/x"]}, "data": {"a": "1"}}


CHANGES: list[tuple[str, str, dict[str, Any] | None, str]] = [
    ("POST", MAPS, kept("new"), "application/json"),
    ("PUT", f"{MAPS}/c", kept("c"), "application/json"),
    ("PATCH", f"{MAPS}/c", {"data": {"b": "2"}}, MERGE),
    ("PATCH", f"{MAPS}/c?fieldManager=m", {"apiVersion": "v1", "kind": "ConfigMap", **kept("c")}, APPLY),
    ("DELETE", f"{MAPS}/c", None, "application/json"),
]


@pytest.mark.parametrize(("method", "path", "body", "kind"), CHANGES)
async def test_what_was_written_is_told_in_the_form_that_is_asked_for(
    api: Api, method: str, path: str, body: dict[str, Any] | None, kind: str
) -> None:
    await api.call("POST", MAPS, kept("c"))
    dry = f"{path}{'&' if '?' in path else '?'}dryRun=All"
    partial = (await api.call(method, dry, body, type=kind, Accept=PARTIAL)).body
    assert (partial["kind"], sorted(partial)) == (
        "PartialObjectMetadata",
        ["apiVersion", "kind", "metadata"],
    )
    table = (await api.call(method, path, body, type=kind, Accept=TABLE)).body
    assert (table["kind"], table["apiVersion"]) == ("Table", "meta.k8s.io/v1")
    assert [row["cells"][0] for row in table["rows"]] == [partial["metadata"]["name"]]
    assert table["metadata"]["resourceVersion"] == table["rows"][0]["object"]["metadata"]["resourceVersion"]


async def test_an_object_that_is_gone_is_told_as_a_status_in_every_form(api: Api) -> None:
    for name, form in (("a", PARTIAL), ("b", TABLE)):
        await api.call("POST", MAPS, {"metadata": {"name": name}})
        reply = await api.call("DELETE", f"{MAPS}/{name}", Accept=form)
        assert (reply.body["kind"], reply.body["status"]) == ("Status", "Success")


async def test_a_form_that_cannot_be_is_refused_before_anything_is_written(api: Api) -> None:
    reply = await api.call("POST", f"{MAPS}?includeObject=Odd", kept("c"), Accept=TABLE)
    assert (reply.status, "includeObject" in reply.body["message"]) == (400, True)
    assert (await api.call("GET", f"{MAPS}/c")).status == 404


async def test_an_event_that_was_written_is_told_in_the_form_that_is_asked_for(api: Api) -> None:
    event = {
        "metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"kind": "Domain", "name": "web-1", "namespace": "default"},
        "reason": "Told",
        "message": "of it",
        "type": "Normal",
        "source": {"component": "me"},
    }
    assert (await api.call("POST", EVENTS, event, Accept=PARTIAL)).body["kind"] == "PartialObjectMetadata"
