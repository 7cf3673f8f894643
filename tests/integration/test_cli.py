"""The domctl command against the real API server, over HTTPS, with kubectl beside it where there is one.

No controller runs here: what its leader would do to an object is done through the store.
"""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from controller import keys
from controller.doctor.examine import Request
from controller.doctor.facts import Round
from controller.doctor.report import report
from controller.model import Decision
from tests.apiserver import serving
from tests.clicase import Cli, Ran, applied, domain, node

EXAMPLES = Path(__file__).parents[2] / "specs" / "examples"


# get, describe


FORMATS = (
    "", "-o wide", "-o yaml", "-o json", "-o name", "--no-headers", "--show-labels", "-L app", "-A",
    "-l app=web",
    "-l app!=web -o name", "--field-selector metadata.name=db", "--sort-by=.metadata.uid -o name",
    "-o jsonpath={.items[*].metadata.name}",
    "-o custom-columns=N:.metadata.name,M:.spec.memory,X:.spec.vcpus",
    "--show-kind", "-o jsonpath-as-json={.items[*].spec}", "web", "web -o yaml", "web -o json",
    "web db -o name",
    "-n elsewhere", "nope", "web nope", "web -n elsewhere", "nope --ignore-not-found", "-o foo", "--nope",
)  # fmt: skip


OTHER_WORDS = {"-o foo", "web -n elsewhere"}  # kubectl looks for the namespace, which nobody serves


async def test_get_prints_what_kubectl_prints(cli: Cli) -> None:
    await applied(cli, domain("web"), domain("db", vcpus=2, state="shutoff"), node())
    differing = []
    for option in FORMATS:
        ours, theirs = await cli(f"get domains {option}"), await cli.kubectl(f"get domains {option}")
        same = [ours.code == theirs.code, without_ages(ours.out) == without_ages(theirs.out)]
        if option not in OTHER_WORDS:
            same.append(ours.err.replace("'domctl ", "'kubectl ") == theirs.err)
        if not all(same):
            differing.append((option, ours, theirs))
    assert not differing, "\n".join(map(repr, differing))


def without_ages(text: str) -> list[str]:
    return [" ".join("AGE" if w[:-1].isdigit() and w.endswith("s") else w for w in line.split())
            for line in text.splitlines()]  # fmt: skip


async def test_get_of_several_types_prints_a_table_of_each(cli: Cli) -> None:
    await applied(cli, domain(), node())
    ours, theirs = (
        await cli("get domain/web node.domctl.io/hv1"),
        await cli.kubectl("get domain/web node.domctl.io/hv1"),
    )
    assert without_ages(ours.out) == without_ages(theirs.out)
    assert without_ages((await cli("get domains,nodes")).out) == without_ages(ours.out)


async def test_get_shows_reason_by_default(cli: Cli) -> None:
    await applied(cli, domain())
    await cli.become("web", "False", "NodeUnreachable")
    ran = await cli("get dom")
    assert "REASON" in ran.out and "NodeUnreachable" in ran.out


@pytest.mark.parametrize(
    "kind", ["domain", "domains", "dom", "Domain", "domains.domctl.io", "domain.v1.domctl.io"]
)
async def test_kinds_are_named_as_for_kubectl(cli: Cli, kind: str) -> None:
    await applied(cli, domain())
    assert (await cli(f"get {kind} web -o name")).out == "domain.domctl.io/web\n"


async def test_unknown_kind_is_named(cli: Cli) -> None:
    ran = await cli("get widgets")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith('error: the server doesn\'t have a resource type "widgets"\nhint: ')


async def test_watch_prints_rows_as_they_change_until_it_is_interrupted(cli: Cli) -> None:
    await applied(cli, domain())
    process = await cli.start("get domains -w")
    assert process.stdout is not None and process.stderr is not None
    lines = [await line(process), await line(process)]
    await cli.become("web", "True", "Running")
    lines.append(await line(process))
    await applied(cli, domain("later"))
    lines.append(await line(process))
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 130
    assert await process.stderr.read() == b""
    assert [text.split()[0] for text in lines] == ["NAME", "web", "web", "later"]
    assert "Running" in lines[2]


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), 20)).decode()


async def test_a_closed_pipe_ends_the_command_quietly(cli: Cli) -> None:
    await applied(cli, *(domain(f"d{i}") for i in range(50)))
    process = await cli.start("get domains -o json")
    assert process.stdout is not None and process.stderr is not None
    await process.stdout.read(10)
    process.stdout._transport.close()  # type: ignore[attr-defined]
    await asyncio.wait_for(process.wait(), 20)
    assert await process.stderr.read() == b""


async def test_describe_shows_conditions_and_events(cli: Cli) -> None:
    await applied(cli, domain())
    uid = (await cli.body("web"))["metadata"]["uid"]
    event = {
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"kind": "Domain", "name": "web", "namespace": "default", "uid": uid},
        "type": "Warning", "reason": "Held", "message": "hv3 does not answer",
        "lastTimestamp": "2026-01-01T00:00:00Z", "count": 1,
    }  # fmt: skip
    other = {**event, "metadata": {"name": "o", "namespace": "default"}, "reason": "Elsewhere",
             "involvedObject": {**event["involvedObject"], "name": "db"}}  # type: ignore[dict-item]  # fmt: skip
    for one in (event, other):
        key = keys.object_key("events", "default", one["metadata"]["name"])  # type: ignore[index]
        await cli.api.put_raw(key, json.dumps(one).encode())
    ran = await cli("describe domain web")
    assert ran.code == 0, ran.err
    assert "Ready         Unknown" in ran.out
    assert "Held" in ran.out and "hv3 does not answer" in ran.out and "Elsewhere" not in ran.out
    assert (await cli("describe domain nope")).code == 1


# start, shutdown, wait


async def test_start_and_shutdown_say_what_they_changed(cli: Cli) -> None:
    await applied(cli, domain())
    assert await cli("shutdown web") == Ran(0, "domain.domctl.io/web spec.state: running -> shutoff\n", "")
    assert (await cli.body("web"))["spec"]["state"] == "shutoff"
    assert await cli("shutdown web") == Ran(0, "domain.domctl.io/web unchanged (spec.state is shutoff)\n", "")
    ran = await cli("start web nope")
    assert (ran.code, ran.out) == (1, "domain.domctl.io/web spec.state: shutoff -> running\n")
    assert "not found" in ran.err


async def test_start_warns_when_a_file_says_otherwise(cli: Cli) -> None:
    await applied(cli, domain(state="shutoff"))
    ran = await cli("start web")
    assert ran.code == 0
    assert "next apply is a conflict, or with force sets it back to shutoff" in ran.err


@pytest.mark.parametrize(
    ("verb", "state"),
    [("pause", "paused"), ("save", "saved"), ("shutdown", "shutoff"), ("restore", "running")],
)
async def test_each_verb_of_a_state_sets_that_state(cli: Cli, verb: str, state: str) -> None:
    await applied(cli, domain(state="paused" if verb == "save" else "saved"))
    ran = await cli(f"{verb} web")
    assert ran.code == 0 and f"-> {state}\n" in ran.out
    assert (await cli.body("web"))["spec"]["state"] == state


@pytest.mark.parametrize("verb", ["reboot", "reset", "drop-saved", "restore"])
async def test_what_is_asked_for_once_is_an_annotation_with_the_time(cli: Cli, verb: str) -> None:
    await applied(cli, domain())
    seen = set()
    for _ in range(2):
        ran = await cli(f"{verb} web")
        assert ran == Ran(0, f"domain.domctl.io/web asked for: {verb}\n", "")
        body = await cli.body("web")
        seen.add(body["metadata"]["annotations"][f"domctl.io/{verb}-at"])
        assert "state" not in body["spec"]
    assert len(seen) == 2, "each time is a request of its own"
    ran = await cli(f"{verb} web --dry-run=client")
    assert (await cli.body("web"))["metadata"]["annotations"][f"domctl.io/{verb}-at"] in seen


async def test_waiting_for_a_request_tells_what_came_of_it(cli: Cli) -> None:
    await applied(cli, domain())
    waiting = asyncio.create_task(cli("reset web --wait --timeout=30s"))

    def answers(outcome: str) -> Callable[[dict[str, Any]], None]:
        def change(body: dict[str, Any]) -> None:
            value = body["metadata"]["annotations"]["domctl.io/reset-at"]
            told = {"name": "reset", "value": value, "outcome": outcome, "at": "then"}
            body["status"] = {"requests": [told]}

        return change

    for _ in range(100):
        await asyncio.sleep(0.05)
        if "annotations" in (await cli.body("web"))["metadata"]:
            break
    await cli.change("web", answers("begun"))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    await cli.change("web", answers("not done, it does not run"))
    ran = await waiting
    assert ran.code == 0 and ran.out.endswith("reset: not done, it does not run\n")


async def test_resume_asks_for_the_end_of_a_pause_by_hand_only(cli: Cli) -> None:
    await applied(cli, domain())
    assert await cli("resume web") == Ran(0, "domain.domctl.io/web unchanged (spec.state is running)\n", "")

    def by_hand(body: dict[str, Any]) -> None:
        body["status"] = {"reason": "PausedByHand"}

    await cli.change("web", by_hand)
    assert await cli("resume web") == Ran(0, "domain.domctl.io/web asked for: resume\n", "")


async def test_wait_for_condition_value_and_deletion(cli: Cli) -> None:
    await applied(cli, domain())
    waiting = asyncio.create_task(cli("wait domain/web --for=condition=Ready --timeout=30s"))
    await asyncio.sleep(0.3)
    await cli.become("web", "True")
    assert await waiting == Ran(0, "domain.domctl.io/web condition met\n", "")
    ran = await cli("wait domains --all --for=jsonpath={.spec.memory}=64Mi")
    assert ran == Ran(0, "domain.domctl.io/web condition met\n", "")
    gone = asyncio.create_task(cli("wait domain web --for=delete --timeout=30s"))
    await asyncio.sleep(0.3)
    await cli.remove("web")
    assert await gone == Ran(0, "domain.domctl.io/web condition met\n", "")


async def test_wait_does_not_take_a_condition_of_an_earlier_spec(cli: Cli) -> None:
    await applied(cli, domain())
    await cli.become("web", "True")
    await applied(cli, domain(vcpus=2))
    ran = await cli("wait domain/web --for=condition=Ready --timeout=0")
    assert ran.code == 1
    assert ran.err.startswith("error: timed out waiting for the condition on domains/web")


async def test_wait_for_a_condition_that_no_domain_has_names_those_it_has(cli: Cli) -> None:
    await applied(cli, domain())
    await cli.become("web", "False")
    ran = await cli("wait domain/web --for=condition=Raedy --timeout=0")
    assert ran.code == 1
    assert "it has no condition Raedy (there are: Ready" in ran.err


async def test_waiting_for_deletion_ends_when_another_object_took_the_name(cli: Cli) -> None:
    await applied(cli, domain())
    waiting = asyncio.create_task(cli("wait domain/web --for=delete --timeout=30s"))
    await asyncio.sleep(0.3)

    def reborn(body: dict[str, Any]) -> None:
        body["metadata"]["uid"] = "00000000-0000-4000-8000-000000000000"

    await cli.change("web", reborn)
    assert (await waiting).code == 0


# the ways out of a hold


async def decision(cli: Cli, key: str) -> Decision:
    kv = await cli.api.store.get(key)
    assert kv is not None
    return msgspec.json.decode(kv.value, type=Decision)


async def test_confirm_dead_without_a_terminal_needs_yes(cli: Cli) -> None:
    await applied(cli, node())
    ran = await cli("node confirm-dead hv1")
    assert ran.code == 1 and "--yes" in ran.err
    assert await cli.api.store.get(keys.confirmed_dead("hv1")) is None
    ran = await cli("node confirm-dead hv1 --yes --reason", "PSU burnt")
    assert ran == Ran(0, "node.domctl.io/hv1 confirmed dead\n", "")
    said = await decision(cli, keys.confirmed_dead("hv1"))
    assert (said.node, said.reason, said.by) == ("hv1", "PSU burnt", "admin")
    assert (await cli("node confirm-dead hv1 --withdraw")).code == 0
    assert await cli.api.store.get(keys.confirmed_dead("hv1")) is None


async def test_replacing_a_node_vouches_for_its_disks_too(cli: Cli) -> None:
    await applied(cli, node())
    ran = await cli("node replace hv1 --yes --reason", "burnt out")
    assert ran == Ran(0, "node.domctl.io/hv1 confirmed dead and wiped\n", "")
    assert (await decision(cli, keys.confirmed_dead("hv1"))).wiped
    assert (await cli("node replace hv1")).code == 1, "stdin is no terminal"


@pytest.mark.parametrize(("typed", "code"), [("hv1", 0), ("hv2", 1), ("y", 1), ("", 1)])
async def test_confirm_dead_asks_for_the_name_on_a_terminal(cli: Cli, typed: str, code: int) -> None:
    await applied(cli, node(), domain())
    held = {"cluster": "c", "uuid": "u", "namespace": "default", "name": "web", "libvirt_name": "web",
            "node": "hv1", "epoch": 1, "candidates": ["hv1"]}  # fmt: skip
    await cli.api.put_raw(keys.assignment("u"), json.dumps(held).encode())
    terminal, end = pty.openpty()
    try:
        process = await cli.start("node confirm-dead hv1", stdin=end)
        os.write(terminal, typed.encode() + b"\n")
        _, err = await asyncio.wait_for(process.communicate(), 20)
    finally:
        os.close(terminal)
        os.close(end)
    assert process.returncode == code
    assert b"Domains on it: default/web" in err
    assert (await cli.api.store.get(keys.confirmed_dead("hv1")) is not None) == (code == 0)


async def test_confirm_dead_of_an_unknown_node_is_refused(cli: Cli) -> None:
    ran = await cli("node confirm-dead nope --yes")
    assert ran == Ran(1, "", 'Error from server (NotFound): nodes.domctl.io "nope" not found\n')


async def test_resolve_names_where_a_domain_is_not(cli: Cli) -> None:
    await applied(cli, domain(), node("hv1"), node("hv2"))
    ran = await cli("resolve web --not-on hv1 hv2 --reason", "looked at both")
    assert ran == Ran(0, "domain.domctl.io/web resolved: not on hv1, hv2\n", "")
    said = await decision(cli, keys.resolution((await cli.body("web"))["metadata"]["uid"]))
    assert (said.not_on, said.reason) == (("hv1", "hv2"), "looked at both")


async def test_resolve_names_the_copy_to_keep(cli: Cli) -> None:
    await applied(cli, domain(), node("hv1"))
    assert await cli("resolve web --keep hv1") == Ran(0, "domain.domctl.io/web resolved: keep hv1\n", "")
    assert (await decision(cli, keys.resolution((await cli.body("web"))["metadata"]["uid"]))).keep == "hv1"


async def test_resolve_with_an_unknown_node_or_domain_is_refused(cli: Cli) -> None:
    await applied(cli, domain())
    ran = await cli("resolve web --keep nope")
    assert ran.code == 1 and "no node is registered under the name 'nope'" in ran.err
    await applied(cli, node())
    ran = await cli("resolve nope --keep hv1")
    assert ran.code == 1 and "hint: a domain that was deleted is named assignment/UUID" in ran.err


async def test_resolve_of_a_deleted_domain_goes_by_its_assignment(cli: Cli) -> None:
    await applied(cli, node())
    uuid = "11111111-1111-4111-8111-111111111111"
    await cli.api.put_raw(keys.assignment(uuid), b"{}")
    ran = await cli(f"resolve assignment/{uuid} --not-on hv1")
    assert ran == Ran(0, f"assignment.domctl.io/{uuid} resolved: not on hv1\n", "")
    assert (await decision(cli, keys.resolution(uuid))).not_on == ("hv1",)


async def test_store_ack_names_nodes_that_need_not_be_read(cli: Cli) -> None:
    await applied(cli, node())
    assert await cli("store ack --not-read hv1") == Ran(0, "store acknowledged, not read: hv1\n", "")
    assert (await decision(cli, keys.STORE_ACK)).nodes == ("hv1",)
    assert await cli("store ack") == Ran(0, "store acknowledged\n", "")


# the rest


async def test_version_tells_both_and_fails_without_a_server(cli: Cli) -> None:
    ran = await cli("version")
    assert ran.code == 0
    assert [text.split(":")[0] for text in ran.out.splitlines()] == ["Client Version", "Server Version"]
    assert set(json.loads((await cli("version -o json")).out)) == {"clientVersion", "serverVersion"}
    ran = await cli("version --server https://127.0.0.1:1")
    assert ran.code == 1
    assert ran.out.startswith("Client Version") and "was refused" in ran.err


async def test_api_resources_lists_what_is_served(cli: Cli) -> None:
    ran = await cli("api-resources")
    assert ran.code == 0
    rows = [" ".join(line.split()) for line in ran.out.splitlines()]
    assert "domains dom domctl.io/v1 true Domain" in rows
    assert "nodes.domctl.io\n" in (await cli("api-resources -o name")).out


async def test_a_server_that_is_not_the_kubeconfigs_is_not_trusted(cli: Cli, tmp_path: Path) -> None:
    async with serving(cli.api.store, tmp_path / "other") as other:
        config = json.loads(cli.api.pki.kubeconfig.read_text())
        config["clusters"][0]["cluster"]["server"] = other.url
        ran = await cli("get domains --kubeconfig", cli.file(json.dumps(config)))
    assert ran.code == 1
    assert ran.err.startswith("Unable to connect to the server: its certificate is not trusted: ")


async def test_without_a_certificate_nothing_is_shown(cli: Cli) -> None:
    config = json.loads(cli.api.pki.kubeconfig.read_text())
    config["users"][0]["user"] = {}
    ran = await cli("get domains --kubeconfig", cli.file(json.dumps(config)))
    assert ran == Ran(1, "", "error: You must be logged in to the server (Unauthorized)\n")


async def test_a_wrong_server_name_is_refused_and_can_be_given(cli: Cli) -> None:
    assert (await cli("get domains --tls-server-name example.com")).code == 1
    assert (await cli("get domains --tls-server-name localhost")).code == 0


async def test_verbosity_shows_requests_on_stderr(cli: Cli) -> None:
    ran = await cli("get domains -v 6")
    assert "GET https://127.0.0.1:" in ran.err and "/domains?limit=500 200 in " in ran.err


async def test_doctor_takes_nodes_by_name_and_compares_with_those_that_are_registered(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Request] = []

    def examine(request: Request, _say: object) -> dict[str, Any]:
        asked.append(request)
        return report(Round(()))

    monkeypatch.setattr("controller.doctor.app.examine", examine)
    more = {"migrationURI": "qemu+tls://hv1/system", "connection": {"authFile": "/etc/auth.yaml"}}
    value = yaml.safe_load(node("hv1"))
    value["spec"] |= more
    await cli("apply -f -", stdin=yaml.safe_dump(value))
    await cli("apply -f -", stdin=node("hv2"))
    await cli("apply -f -", stdin=domain("web"))

    def seen(body: dict[str, Any]) -> None:
        body["status"] = {"hostUuid": "u2", "driver": "qemu", "mode": "system", "hypervisorVersion": "8.2.0"}

    await cli.change("hv2", seen, "nodes")
    names = (await cli("get nodes -o name")).out.split()
    ran = await cli("doctor", *names, "--ssh", "root@", "--files-under", "/etc")
    assert ran.code == 0, ran.err
    one, other = asked[0].subjects
    assert (one.name, one.node, one.uri, one.insecure) == ("hv1", "hv1", "qemu+tcp://hv1/system", True)
    assert one.migration_uri == "qemu+tls://hv1/system" and one.credentials.auth_file == "/etc/auth.yaml"
    assert (one.ssh_text, other.ssh_text) == ("root@hv1", "root@hv2")
    cluster = asked[0].cluster
    assert cluster is not None and asked[0].files_under == ("/etc",)
    assert [(n.node, n.host_uuid, n.hypervisor_version) for n in cluster.nodes] == [
        ("hv1", "", ""),
        ("hv2", "u2", "8.2.0"),
    ]
    assert list(cluster.domains.values()) == [False]


async def test_doctor_of_a_node_that_is_not_there_says_so_and_ends_with_2(cli: Cli) -> None:
    ran = await cli("doctor hv9")
    assert (ran.code, ran.out) == (2, "")
    assert 'there is no node "hv9"' in ran.err
