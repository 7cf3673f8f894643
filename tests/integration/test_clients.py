"""Clients of Kubernetes in Python, unchanged, against `domctl serve`: each does what its users do with it.

The official client (`kubernetes`: its dynamic part and its custom objects), lightkube, kr8s, and an operator
written with Kopf. Each creates, reads, lists, watches, patches, applies if it can (kr8s cannot) and deletes
Domains, which meanwhile really start and end. The versions are those of requirements.lock.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.client import DOMAINS
from tests.e2e.serve import Controller, until
from tests.smallserver import cleared, small_domain, small_server

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.filterwarnings("default"),  # what clients warn of themselves is not ours to mend
]
READY_S = 30.0


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    with small_server(tmp_path_factory.mktemp("clients")) as found:
        yield found
    gc.collect()  # what a client left open warns here, and not in another test


@pytest.fixture
def server(controller: Controller) -> Controller:
    return cleared(controller)


def names(server: Controller) -> list[str]:
    return [item["metadata"]["name"] for item in server.api().get(DOMAINS)["items"]]


def is_ready(body: Any) -> bool:
    conditions = (body.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def test_the_official_client_does_all_with_custom_objects(server: Controller) -> None:
    from kubernetes import client, config, watch

    config.load_kube_config(str(server.kubeconfig))
    with client.ApiClient() as connection:
        api = client.CustomObjectsApi(connection)
        place = ("domctl.io", "v1", "default", "domains")
        made = api.create_namespaced_custom_object(*place, small_domain("web-1", app="web"))
        stream = watch.Watch().stream(
            api.list_namespaced_custom_object,
            *place,
            resource_version=made["metadata"]["resourceVersion"],
            timeout_seconds=int(READY_S),
        )
        with closing(stream):  # else its connection ends with the garbage, in another test
            seen = next(e for e in stream if e["type"] == "MODIFIED" and is_ready(e["object"]))
        assert seen["object"]["status"]["state"] == "running"
        assert api.get_namespaced_custom_object(*place, "web-1")["spec"]["memory"] == "32Mi"
        listed = api.list_namespaced_custom_object(*place, label_selector="app=web", limit=1)
        assert [i["metadata"]["name"] for i in listed["items"]] == ["web-1"]
        patched = api.patch_namespaced_custom_object(*place, "web-1", {"spec": {"vcpus": 2}})
        assert (patched["spec"]["vcpus"], patched["metadata"]["generation"]) == (2, 2)

        def replaced() -> bool:
            """A status may come between what is read and what is written: then it is read again."""
            now = api.get_namespaced_custom_object(*place, "web-1")
            now["spec"]["vcpus"] = 3
            try:
                return bool(api.replace_namespaced_custom_object(*place, "web-1", now)["spec"]["vcpus"] == 3)
            except client.ApiException as conflict:
                assert conflict.status == 409
                return False

        until(replaced, READY_S, "it is changed all the time")
        with pytest.raises(client.ApiException) as refused:
            api.patch_namespaced_custom_object(*place, "web-1", {"spec": {"vcpus": 0}})
        assert refused.value.status == 422
        api.delete_collection_namespaced_custom_object(*place, label_selector="app=none")
        assert names(server) == ["web-1"]
        api.delete_namespaced_custom_object(*place, "web-1")
        until(lambda: not names(server), READY_S, "it does not go")


def test_the_official_dynamic_client_discovers_applies_and_watches(server: Controller) -> None:
    from kubernetes import client, config, dynamic

    config.load_kube_config(str(server.kubeconfig))
    with client.ApiClient() as connection:
        api = dynamic.DynamicClient(connection)
        domains = api.resources.get(api_version="domctl.io/v1", kind="Domain")
        assert (domains.name, domains.namespaced) == ("domains", True)
        body = small_domain("web-1", app="web")
        for n in range(2):
            applied = domains.server_side_apply(
                body=body, name="web-1", namespace="default", field_manager="ci"
            )
            assert applied.metadata.generation == 1, n
        changed = {**body, "spec": {**body["spec"], "memory": "48Mi"}}
        with pytest.raises(dynamic.exceptions.ConflictError, match="conflict with"):
            domains.server_side_apply(body=changed, name="web-1", namespace="default", field_manager="other")
        taken = domains.server_side_apply(
            body=changed, name="web-1", namespace="default", field_manager="other", force_conflicts=True
        )
        assert taken.spec.memory == "48Mi"
        with closing(domains.watch(namespace="default", timeout=int(READY_S))) as events:
            assert next(e for e in events if is_ready(e["raw_object"]))["object"].status.node == "hv1"
        domains.delete(name="web-1", namespace="default")
        until(lambda: not names(server), READY_S, "it does not go")


def test_lightkube_does_all_with_a_generic_resource(server: Controller) -> None:
    from lightkube import ApiError, Client, KubeConfig
    from lightkube.generic_resource import create_namespaced_resource
    from lightkube.types import PatchType

    Domain = create_namespaced_resource("domctl.io", "v1", "Domain", "domains")
    client = Client(config=KubeConfig.from_file(str(server.kubeconfig)), field_manager="lightkube")
    made = client.create(Domain.from_dict(small_domain("web-1", app="web")))
    assert made.metadata.name == "web-1"
    client.wait(Domain, "web-1", for_conditions=["Ready"])
    assert client.get(Domain, "web-1").status["state"] == "running"
    assert [one.metadata.name for one in client.list(Domain, labels={"app": "web"})] == ["web-1"]
    patched = client.patch(Domain, "web-1", {"spec": {"vcpus": 2}}, patch_type=PatchType.MERGE)
    assert patched.spec["vcpus"] == 2
    other = Domain.from_dict(small_domain("web-2"))
    assert client.apply(other).metadata.generation == 1
    assert client.apply(other).metadata.generation == 1
    with pytest.raises(ApiError, match="conflict with"):
        client.apply(
            Domain.from_dict({**small_domain("web-2"), "spec": {"type": "test", "memory": "48Mi"}}),
            field_manager="other",
        )
    version = client.get(Domain, "web-2").metadata.resourceVersion
    client.delete(Domain, "web-1")
    for kind, one in client.watch(Domain, resource_version=version, server_timeout=int(READY_S)):
        if kind == "DELETED" and one.metadata.name == "web-1":
            break
    client.delete(Domain, "web-2")
    until(lambda: not names(server), READY_S, "it does not go")
    with pytest.raises(ApiError) as refused:
        client.get(Domain, "web-1")
    assert refused.value.status.code == 404


def test_kr8s_does_what_it_can(server: Controller) -> None:
    import kr8s
    from kr8s.objects import new_class

    api = kr8s.api(kubeconfig=str(server.kubeconfig))
    Domain = new_class("Domain", version="domctl.io/v1", namespaced=True, asyncio=False)
    domain = Domain(small_domain("web-1", app="web"), api=api)
    domain.create()
    domain.wait("condition=Ready", timeout=int(READY_S))
    assert domain.status.state == "running"
    assert [one.name for one in Domain.list(api=api, label_selector={"app": "web"})] == ["web-1"]
    domain.patch({"spec": {"vcpus": 2}})
    domain.label({"seen": "yes"})
    domain.annotate({"note": "x"})
    found = server.api().get(f"{DOMAINS}/web-1")
    assert (found["spec"]["vcpus"], found["metadata"]["labels"]["seen"]) == (2, "yes")
    assert found["metadata"]["annotations"]["note"] == "x"
    kind, seen = next(iter(api.watch("domains.domctl.io", namespace="default")))
    assert (kind, seen.name) == ("ADDED", "web-1")
    assert {one.name for one in api.get("nodes.domctl.io")} == {"hv1"}
    domain.delete()
    domain.wait("delete", timeout=int(READY_S))
    assert not domain.exists()


OPERATOR = """
import pathlib
import kopf

SEEN = pathlib.Path({seen!r})

def note(word, name):
    with SEEN.open("a") as file:
        print(word, name, file=file)

@kopf.on.create("domctl.io", "v1", "domains")
def created(name, body, patch, spec, **_):
    note("created", name)
    kopf.info(body, reason="Noted", message="it was seen")
    patch.metadata.labels["memory"] = spec["memory"]

@kopf.on.update("domctl.io", "v1", "domains", field="spec.vcpus")
def updated(name, old, new, **_):
    note(f"updated {{old}} {{new}}", name)

@kopf.on.event("domctl.io", "v1", "domains", field="status.state", value="running")
def running(name, **_):
    note("running", name)

@kopf.on.delete("domctl.io", "v1", "domains")
def deleted(name, **_):
    note("deleted", name)
"""


def test_an_operator_written_with_kopf_reacts_to_domains(server: Controller, tmp_path: Path) -> None:
    seen, code = tmp_path / "seen", tmp_path / "operator.py"
    code.write_text(OPERATOR.format(seen=str(seen)))
    log = tmp_path / "log"
    with log.open("wb") as out:
        kopf = subprocess.Popen(
            [sys.executable, "-m", "kopf", "run", "--standalone", "--namespace=default", str(code)],
            env={**os.environ, "KUBECONFIG": str(server.kubeconfig)}, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        server.api().create(DOMAINS, small_domain("web-1"))

        def heard(word: str) -> None:
            until(
                lambda: seen.exists() and word in seen.read_text().splitlines(),
                60,
                lambda: f"no {word!r}:\n{log.read_text()[-4000:]}",
            )

        heard("created web-1")
        heard("running web-1")
        body = until(lambda: _labelled(server), READY_S, "the label does not come")
        assert len(body["metadata"]["finalizers"]) == 2, "Kopf's is beside domctl's"
        server.api().merge(f"{DOMAINS}/web-1", {"spec": {"vcpus": 2}})
        heard("updated None 2 web-1")
        told = until(lambda: _told_by_kopf(server), 30, lambda: f"no event:\n{log.read_text()[-4000:]}")
        assert told == ["Normal Noted it was seen"]
        server.api().delete(f"{DOMAINS}/web-1")
        heard("deleted web-1")
        until(lambda: not names(server), READY_S, lambda: f"it does not go:\n{log.read_text()[-4000:]}")
    finally:
        kopf.terminate()
        kopf.wait(30)


def _labelled(server: Controller) -> Any:
    body = server.api().get(f"{DOMAINS}/web-1")
    return body if body["metadata"].get("labels", {}).get("memory") == "32Mi" else None


def _told_by_kopf(server: Controller) -> Any:
    """What its handler tells for people becomes an Event."""
    listed = server.api().get("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dweb-1")
    return [
        f"{one['type']} {one['reason']} {one['message']}"
        for one in listed["items"]
        if one["source"].get("component") == "kopf"
    ]
