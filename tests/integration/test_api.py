"""The API on a real etcd, used by real kubectl: every version found on this machine, loudly none if none.

One server over HTTPS for each test, with its own PKI and kubeconfig; kubectl runs as users run it, with an
empty home so that no cache of another server is read.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from controller import keys
from controller.api.resources import DOMAINS as DOMAIN_KIND
from drivers.store import Compare
from tests.apiserver import DOMAINS, MERGE, V1, Api, domain, scaled_kind
from tests.etcdserver import EtcdServer
from tests.kubectl import Kubectl, kubectls, real_api, versions

pytestmark = pytest.mark.etcd

DOMAIN = """
apiVersion: domctl.io/v1
kind: Domain
metadata:
  name: web-1
  labels: {app: web}
spec:
  vcpus: 2
  memory: 512Mi
  interfaces:
  - {name: net0, network: default, mac: "52:54:00:12:34:56"}
"""
NODE = """
apiVersion: domctl.io/v1
kind: Node
metadata: {name: hv1}
spec: {uri: "qemu+tcp://10.0.0.1/system", insecure: true}
"""


FOUND = kubectls()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await holds():  # noqa: ASYNC110 - what is waited for happens in another process
            await asyncio.sleep(0.05)


def runs(process: asyncio.subprocess.Process) -> bool:
    return process.returncode is None


async def is_terminating(api: Api) -> bool:
    return (await api.objects.get(DOMAIN_KIND, "default", "web-1")).terminating


async def answers(api: Api) -> bool:
    return (await api.call("GET", DOMAINS)).status == 200


@pytest.fixture(params=versions(FOUND, (*FOUND[:1], *FOUND[-1:])))
def kubectl(request: pytest.FixtureRequest, api: Api, tmp_path: Path) -> Kubectl:
    home = tmp_path / "home"
    home.mkdir()
    return Kubectl(request.param, api.pki.kubeconfig, home)


# --- kubectl


async def test_applying_is_idempotent_and_diff_tells_what_would_change(kubectl: Kubectl) -> None:
    both = f"{DOMAIN}---{NODE}"
    first = await kubectl.good("apply", "-f", "-", stdin=both)
    assert first == "domain.domctl.io/web-1 created\nnode.domctl.io/hv1 created\n"
    again = await kubectl.good("apply", "-f", "-", stdin=both)
    assert again == "domain.domctl.io/web-1 unchanged\nnode.domctl.io/hv1 unchanged\n"
    assert await kubectl.run("diff", "-f", "-", stdin=both) == (0, "", "")
    more = DOMAIN.replace("512Mi", "1Gi")
    code, out, _ = await kubectl.run("diff", "-f", "-", stdin=more)
    changed = [line for line in out.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert code == 1
    assert changed == ["-  generation: 1", "+  generation: 2", "-  memory: 512Mi", "+  memory: 1Gi"]
    assert "512Mi" in await kubectl.good("get", "domain", "web-1", "-o", "jsonpath={.spec.memory}")
    out = await kubectl.good("apply", "-f", "-", "--dry-run=server", stdin=more)
    assert out == "domain.domctl.io/web-1 configured (server dry run)\n"
    assert await kubectl.good("apply", "-f", "-", stdin=more) == "domain.domctl.io/web-1 configured\n"
    assert "1Gi" in await kubectl.good("get", "domain", "web-1", "-o", "jsonpath={.spec.memory}")


async def test_objects_are_shown_in_every_form(kubectl: Kubectl) -> None:
    await kubectl.good("apply", "-f", "-", stdin=f"{DOMAIN}---{NODE}")
    head, row = (await kubectl.good("get", "domains")).splitlines()
    assert head.split() == ["NAME", "STATE", "NODE", "READY", "REASON", "AGE"]
    assert row.split()[:5] == ["web-1", "Unknown", "<none>", "Unknown", "Pending"]
    head, row = (await kubectl.good("get", "dom", "web-1", "-o", "wide")).splitlines()
    assert head.split()[-3:] == ["VCPUS", "MEMORY", "UUID"]
    assert row.split()[-3:-1] == ["2", "512Mi"]
    assert (await kubectl.good("get", "domains", "-A")).split()[:2] == ["NAMESPACE", "NAME"]
    assert await kubectl.good("get", "domain", "-o", "name") == "domain.domctl.io/web-1\n"
    listed = json.loads(await kubectl.good("get", "domains", "-o", "json"))
    assert (listed["kind"], listed["items"][0]["spec"]["vcpus"]) == ("List", 2)
    assert "  memory: 512Mi\n" in await kubectl.good("get", "domain", "web-1", "-o", "yaml")
    assert (await kubectl.good("get", "nodes.domctl.io")).split()[:6] == [
        "NAME", "READY", "REASON", "URI", "DOMAINS", "AGE",
    ]  # fmt: skip
    assert await kubectl.good("get", "domains", "-l", "app=web", "-o", "name") != ""
    assert await kubectl.good("get", "domains", "-l", "app!=web", "-o", "name") == ""
    by_name = "--field-selector=metadata.name=web-1"
    assert await kubectl.good("get", "domains", by_name, "-o", "name") == "domain.domctl.io/web-1\n"
    assert (await kubectl.good("get", "domctl")).count("web-1") == 1, "the category"
    assert "web-1" not in (await kubectl.run("get", "all"))[1]
    assert 'domains.domctl.io "none" not found' in await kubectl.bad("get", "domain", "none")
    described = await kubectl.good("describe", "domain", "web-1")
    assert "Pending" in described
    assert described.splitlines()[-1].split() == ["Events:", "<none>"]


async def test_pages_make_one_list(kubectl: Kubectl, api: Api) -> None:
    for n in range(25):
        await api.call("POST", DOMAINS, domain(f"d{n:02}"))
    out = await kubectl.good("get", "domains", "--chunk-size=7", "-o", "name")
    assert out.split() == [f"domain.domctl.io/d{n:02}" for n in range(25)]
    assert len((await kubectl.good("get", "domains", "--chunk-size=7")).splitlines()) == 26
    ordered = await kubectl.good("get", "domains", "--sort-by={.metadata.name}", "--no-headers")
    assert [line.split()[0] for line in ordered.splitlines()] == [f"d{n:02}" for n in range(25)]


async def test_changes_by_label_annotate_patch_edit_and_replace(kubectl: Kubectl, api: Api) -> None:
    await kubectl.good("apply", "-f", "-", stdin=DOMAIN)
    await kubectl.good("label", "domain", "web-1", "tier=front", "app-")
    await kubectl.good("annotate", "domain", "web-1", "note=x")
    await kubectl.good("patch", "domain", "web-1", "--type=merge", "-p", '{"spec":{"vcpus":3}}')
    operation = '[{"op":"replace","path":"/spec/vcpus","value":4}]'
    await kubectl.good("patch", "domain", "web-1", "--type=json", "-p", operation)
    refused = await kubectl.bad("patch", "domain", "web-1", "-p", '{"spec":{"vcpus":9}}')
    assert "application/strategic-merge-patch+json is not supported" in refused
    await kubectl.good("edit", "domain", "web-1", EDITOR="sed -i s/512Mi/256Mi/")
    body = (await api.call("GET", f"{DOMAINS}/web-1")).body
    assert body["metadata"]["labels"] == {"tier": "front"}
    assert body["metadata"]["annotations"]["note"] == "x"
    assert (body["spec"]["vcpus"], body["spec"]["memory"]) == (4, "256Mi")
    await kubectl.good("replace", "-f", "-", stdin=DOMAIN)
    body = (await api.call("GET", f"{DOMAINS}/web-1")).body
    assert (body["spec"]["memory"], body["metadata"]["finalizers"]) == ("512Mi", ["domctl.io/undefine"])
    generated = DOMAIN.replace("name: web-1", "generateName: web-").replace("12:34:56", "12:34:57")
    assert (await kubectl.good("create", "-f", "-", stdin=generated)).startswith("domain.domctl.io/web-")


async def test_a_kind_with_replicas_is_scaled(
    kubectl: Kubectl, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaled_kind(monkeypatch)
    await kubectl.good("apply", "-f", "-", stdin=DOMAIN)
    assert await kubectl.good("scale", "domain", "web-1", "--replicas=3") == "domain.domctl.io/web-1 scaled\n"
    assert (await api.call("GET", f"{DOMAINS}/web-1")).body["spec"]["vcpus"] == 3
    err = await kubectl.bad("scale", "domain", "web-1", "--replicas=5", "--current-replicas=2")
    assert "Expected replicas to be 2, was 3" in err
    assert "spec.vcpus: must be between" in await kubectl.bad("scale", "domain", "web-1", "--replicas=0")


async def test_a_cluster_role_is_made_of_others(kubectl: Kubectl) -> None:
    await kubectl.good("create", "clusterrole", "sum", "--aggregation-rule=example.org/to-sum=true")
    await kubectl.good("create", "clusterrole", "part", "--verb=get", "--resource=nodes.domctl.io")
    await kubectl.good("label", "clusterrole", "part", "example.org/to-sum=true")
    async with asyncio.timeout(20):
        found = ""
        while found != '["nodes"]':
            found = await kubectl.good("get", "clusterrole", "sum", "-o", "jsonpath={.rules[*].resources}")


async def test_refusals_reach_the_user_with_all_causes(kubectl: Kubectl) -> None:
    wrong = DOMAIN.replace("vcpus: 2", "vcpus: 0").replace("512Mi", "1").replace("mac:", "mak:")
    for verb in ("apply", "create"):
        err = await kubectl.bad(verb, "-f", "-", stdin=wrong)
        assert err.startswith('The Domain "web-1" is invalid')
        for cause in ("spec.vcpus: must be between", "spec.memory:", "spec.interfaces[0].mak: unknown field"):
            assert cause in err
    await kubectl.good("apply", "-f", "-", stdin=DOMAIN)
    clash = DOMAIN.replace("web-1", "web-2")
    assert "belongs to Domain default/web-1" in await kubectl.bad("apply", "-f", "-", stdin=clash)
    assert "already exists" in await kubectl.bad("create", "-f", "-", stdin=DOMAIN)
    code, _, err = await kubectl.run(
        "apply", "--validate=warn", "-f", "-", stdin=DOMAIN.replace("vcpus", "cpus")
    )
    assert code == 0
    assert 'Warning: unknown field "spec.cpus" (did you mean vcpus?)' in err
    stale = await kubectl.good("get", "domain", "web-1", "-o", "json")
    await kubectl.good("label", "domain", "web-1", "a=b")
    err = await kubectl.bad("replace", "-f", "-", stdin=stale)
    assert "the object has been modified; please apply your changes to the latest version" in err


async def test_server_side_apply_creates_conflicts_forces_and_takes_away(kubectl: Kubectl, api: Api) -> None:
    ssa = ("apply", "--server-side", "-f", "-")
    assert await kubectl.good(*ssa, stdin=DOMAIN) == "domain.domctl.io/web-1 serverside-applied\n"
    first = (await api.call("GET", f"{DOMAINS}/web-1")).body
    await kubectl.good(*ssa, stdin=DOMAIN)
    assert (await api.call("GET", f"{DOMAINS}/web-1")).body == first, "nothing new is not written"
    (entry,) = first["metadata"]["managedFields"]
    assert (entry["manager"], entry["operation"]) == ("kubectl", "Apply")
    assert 'k:{"name":"net0"}' in entry["fieldsV1"]["f:spec"]["f:interfaces"]
    less = DOMAIN.replace("  vcpus: 2\n", "").replace("512Mi", "1Gi")
    err = await kubectl.bad(*ssa, "--field-manager=ci", stdin=less)
    assert 'Apply failed with 1 conflict: conflict with "kubectl": .spec.memory' in err
    assert "--force-conflicts" in err
    await kubectl.good(*ssa, "--field-manager=ci", "--force-conflicts", stdin=less)
    assert await kubectl.good("get", "dom", "web-1", "-o", "jsonpath={.spec.memory} {.spec.vcpus}") == "1Gi 2"
    head = DOMAIN.partition("spec:")[0]
    await kubectl.good(*ssa, stdin=head + "spec: {vcpus: 4}\n")
    await kubectl.good(*ssa, stdin=head)
    shown = json.loads(await kubectl.good("get", "dom", "web-1", "-o", "json"))
    assert shown["spec"].keys() == {"memory", "interfaces"}, "vcpus nobody applies any more"
    assert "managedFields" not in shown["metadata"], "kubectl hides them by itself"
    code, out, _ = await kubectl.run("diff", "--server-side", "--field-manager=ci", "-f", "-", stdin=DOMAIN)
    assert (code, "+  memory: 512Mi" in out) == (1, True)
    err = await kubectl.bad(*ssa, "--force-conflicts", stdin=DOMAIN.replace("vcpus", "cpus"))
    assert "unknown field" in err
    out = await kubectl.good(*ssa, "--dry-run=server", "--force-conflicts", stdin=DOMAIN)
    assert out == "domain.domctl.io/web-1 serverside-applied (server dry run)\n"
    node = await kubectl.good(*ssa, stdin=NODE)
    assert node == "node.domctl.io/hv1 serverside-applied\n"


async def test_kubectl_goes_over_from_client_side_to_server_side_apply(kubectl: Kubectl, api: Api) -> None:
    """And back: what a file no longer says is taken away on either path."""
    await kubectl.good("apply", "-f", "-", stdin=DOMAIN)
    changed = DOMAIN.replace("512Mi", "1Gi").replace("  vcpus: 2\n", "")
    await kubectl.good("apply", "--server-side", "-f", "-", stdin=changed)
    after = (await api.call("GET", f"{DOMAINS}/web-1")).body
    assert after["spec"]["memory"] == "1Gi"
    appliers = {(e["manager"], e["operation"]) for e in after["metadata"]["managedFields"]}
    assert ("kubectl", "Apply") in appliers
    if kubectl.minor >= 26:
        assert ("kubectl-client-side-apply", "Update") not in appliers
        assert "vcpus" not in after["spec"]
    await kubectl.good("apply", "-f", "-", stdin=changed.replace("1Gi", "2Gi"))
    assert await kubectl.good("get", "dom", "web-1", "-o", "jsonpath={.spec.memory}") == "2Gi"
    assert "conflict with" in await kubectl.bad(
        "apply", "--server-side", "--field-manager=x", "-f", "-", stdin=DOMAIN
    )


async def test_a_watch_prints_changes_as_they_come(kubectl: Kubectl, api: Api) -> None:
    await kubectl.good("apply", "-f", "-", stdin=DOMAIN)
    process = await kubectl.start("get", "domains", "-w", "--output-watch-events")
    assert process.stdout is not None
    async with asyncio.timeout(20):
        head = (await process.stdout.readline()).decode().split()
        first = (await process.stdout.readline()).decode().split()
        assert (head[:2], first[:2]) == (["EVENT", "NAME"], ["ADDED", "web-1"])
        status = {"status": {"state": "running", "node": "hv1"}}
        await api.call("PATCH", f"{DOMAINS}/web-1/status", status, type=MERGE)
        line = (await process.stdout.readline()).decode().split()
        assert line[:4] == ["MODIFIED", "web-1", "running", "hv1"]
        stored = await api.objects.get(DOMAIN_KIND, "default", "web-1")
        await api.store.txn(*await api.objects.removal_writes(DOMAIN_KIND, stored))
        assert (await process.stdout.readline()).decode().split()[:2] == ["DELETED", "web-1"]
    process.kill()
    await process.communicate()


async def test_waiting_ends_when_the_condition_comes(kubectl: Kubectl, api: Api) -> None:
    await kubectl.good("apply", "-f", "-", stdin=DOMAIN)
    assert "timed out" in await kubectl.bad("wait", "--for=condition=Ready", "domain/web-1", "--timeout=1s")
    process = await kubectl.start("wait", "--for=condition=Ready", "domain/web-1", "--timeout=20s")
    await asyncio.sleep(0.5)
    ready = {"type": "Ready", "status": "True", "reason": "Converged", "message": ""}
    status = {"observedGeneration": 0, "conditions": [ready]}
    await api.call("PATCH", f"{DOMAINS}/web-1/status", {"status": status}, type=MERGE)
    await asyncio.sleep(0.3)
    assert runs(process), "what was observed is older than the spec"
    status["observedGeneration"] = 1
    await api.call("PATCH", f"{DOMAINS}/web-1/status", {"status": status}, type=MERGE)
    async with asyncio.timeout(20):
        out, err = await process.communicate()
    assert (process.returncode, out) == (0, b"domain.domctl.io/web-1 condition met\n"), err


async def test_deleting_waits_for_the_controller(kubectl: Kubectl, api: Api) -> None:
    await kubectl.good("apply", "-f", "-", stdin=DOMAIN)
    forced = '{"metadata":{"finalizers":null}}'
    err = await kubectl.bad("patch", "domain", "web-1", "--type=merge", "-p", forced)
    assert "domctl node confirm-dead" in err
    process = await kubectl.start("delete", "domain", "web-1", "--timeout=20s")
    async with asyncio.timeout(20):
        await until(lambda: is_terminating(api))
        await asyncio.sleep(0.3)
        assert runs(process)
        stored = await api.objects.get(DOMAIN_KIND, "default", "web-1")
        await api.store.txn(*await api.objects.removal_writes(DOMAIN_KIND, stored))
        out, err_bytes = await process.communicate()
    assert (process.returncode, out.startswith(b'domain.domctl.io "web-1" deleted')) == (0, True), err_bytes


async def test_what_there_is_can_be_asked_for(kubectl: Kubectl, api: Api) -> None:
    out = await kubectl.good("api-resources", "--api-group=domctl.io")
    served = {"domains", "nodes", "migrations", "events", "assignments", "tokens", "storeacks"}
    assert {line.split()[0] for line in out.splitlines()[1:]} == served
    assert "domctl.io/v1" in (await kubectl.good("api-versions")).split()
    explained = await kubectl.good("explain", "domain.spec.disks.source")
    assert "block" in explained
    assert "shared" in explained
    assert "v1.33.0+domctl" in await kubectl.good("version", "-o", "yaml")
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "web-1.1", "namespace": "default"},
        "involvedObject": {
            "apiVersion": "domctl.io/v1",
            "kind": "Domain",
            "name": "web-1",
            "namespace": "default",
        },
        "reason": "Started",
        "message": "started on hv1",
        "type": "Normal",
        "count": 1,
        "firstTimestamp": "2026-01-01T00:00:00Z",
        "lastTimestamp": "2026-01-01T00:00:00Z",
    }
    await kubectl.good("apply", "-f", "-", stdin=DOMAIN)
    uid = (await api.call("GET", f"{DOMAINS}/web-1")).body["metadata"]["uid"]
    event["involvedObject"]["uid"] = uid  # type: ignore[index]
    await api.put_raw(keys.object_key("events", "default", "web-1.1"), msgspec.json.encode(event))
    assert "started on hv1" in await kubectl.good("get", "events")
    assert "started on hv1" in await kubectl.good("describe", "domain", "web-1")
    assert "started on hv1" in await kubectl.good("events", "--for=domain/web-1")


# --- etcd


async def _same(seen: dict[str, str], truth: dict[str, str]) -> bool:
    return seen == truth


async def _mirror(api: Api, seen: dict[str, str], done: asyncio.Event) -> None:
    """A client as client-go is one: list, watch from there, list again when told to."""
    while not done.is_set():
        body = (await api.call("GET", DOMAINS)).body
        seen.clear()
        seen.update({i["metadata"]["name"]: i["metadata"]["resourceVersion"] for i in body["items"]})
        rv = body["metadata"]["resourceVersion"]
        async with api.watch(f"{DOMAINS}?watch=1&resourceVersion={rv}&timeoutSeconds=60") as events:
            async for event in events:
                if event["type"] == "ERROR":
                    break
                metadata = event["object"]["metadata"]
                if event["type"] == "DELETED":
                    seen.pop(metadata["name"], None)
                else:
                    seen[metadata["name"]] = metadata["resourceVersion"]


async def test_a_mirror_stays_true_over_compactions_and_a_restart_of_etcd(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    async with real_api(etcd, tmp_path) as api:
        seen: dict[str, str] = {}
        done = asyncio.Event()
        mirror = asyncio.create_task(_mirror(api, seen, done))
        for n in range(60):
            name = f"d{n % 7}"
            reply = await api.call("POST", DOMAINS, domain(name))
            if reply.status == 409:
                patch = {"metadata": {"labels": {"n": str(n)}}}
                reply = await api.call("PATCH", f"{DOMAINS}/{name}", patch, type=MERGE)
            assert reply.status in (200, 201), reply.text
            if n % 5 == 4:
                stored = await api.objects.get(DOMAIN_KIND, "default", name)
                await api.store.txn(*await api.objects.removal_writes(DOMAIN_KIND, stored))
            if n % 20 == 10:
                etcd.api("kv/compaction", {"revision": (await api.store.status()).revision})
            if n == 35:
                etcd.kill()
                etcd.start()
        want = (await api.call("GET", DOMAINS)).body["items"]
        truth = {i["metadata"]["name"]: i["metadata"]["resourceVersion"] for i in want}
        await until(lambda: _same(seen, truth))
        done.set()
        mirror.cancel()
        await asyncio.gather(mirror, return_exceptions=True)


async def _follow(api: Api, after: str, told: list[str]) -> None:
    """Every revision that a watch tells of. One that ends is resumed; nothing is ever listed."""
    while True:
        query = f"watch=1&resourceVersion={told[-1] if told else after}"
        async with api.watch(f"{DOMAINS}?{query}") as events:
            async for event in events:
                assert event["type"] == "MODIFIED", event
                told.append(event["object"]["metadata"]["resourceVersion"])


async def test_a_watch_loses_no_event_and_repeats_none_over_compactions_and_restarts_of_etcd(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    async with real_api(etcd, tmp_path) as api:
        for n in range(7):
            after = (await api.call("POST", DOMAINS, domain(f"d{n}"))).rv
        written: list[str] = []
        told: list[list[str]] = [[], []]  # the second begins late, from what its hub still has or the store

        async def all_told() -> bool:
            return all(one == written for one in told)

        followers = [asyncio.create_task(_follow(api, after, told[0]))]
        for turn in range(4):
            for n in range(25):
                patch = {"metadata": {"labels": {"n": f"{turn}-{n}"}}}
                written.append((await api.call("PATCH", f"{DOMAINS}/d{n % 7}", patch, type=MERGE)).rv)
            if turn == 0:
                followers.append(asyncio.create_task(_follow(api, after, told[1])))
            if turn % 2:  # the last of them may not have been told yet
                etcd.kill()
                etcd.start()
            else:
                await until(all_told)
                etcd.api("kv/compaction", {"revision": int(written[-1])})
        await until(lambda: _ended(followers, all_told))
        for follower in followers:
            follower.cancel()
        await asyncio.gather(*followers, return_exceptions=True)


async def _ended(followers: list[asyncio.Task[None]], all_told: Callable[[], Awaitable[bool]]) -> bool:
    for follower in followers:
        if follower.done():
            follower.result()  # an assertion of its own says more than that they differ
    return await all_told()


async def test_a_stale_writer_loses_at_etcd_itself(api: Api) -> None:
    """Two servers on one store: whoever was second is refused by the store's own compare."""
    await api.call("POST", DOMAINS, domain())
    stored = await api.objects.get(DOMAIN_KIND, "default", "web-1")
    await api.call("PATCH", f"{DOMAINS}/web-1", {"spec": {"vcpus": 2}}, type=MERGE)
    result = await api.store.txn([Compare(stored.key, stored.revision)], [])
    assert not result.ok
    with pytest.raises(Exception, match="web-1"):
        await api.objects.replace(DOMAIN_KIND, stored, stored.body)


async def test_without_etcd_the_api_says_so_and_recovers(etcd: EtcdServer, tmp_path: Path) -> None:
    async with real_api(etcd, tmp_path) as api:
        await api.call("POST", DOMAINS, domain())
        etcd.kill()
        try:
            reply = await api.call("GET", DOMAINS)
            assert (reply.status, reply.body["reason"]) == (503, "ServiceUnavailable")
            assert (await api.call("GET", "/livez")).status == 200
            reply = await api.call("POST", DOMAINS, domain("web-2"))
            assert reply.status in (503, 504)
        finally:
            etcd.start()
        await until(lambda: answers(api))
        names = [i["metadata"]["name"] for i in (await api.call("GET", f"{V1}/domains")).body["items"]]
        assert "web-1" in names
