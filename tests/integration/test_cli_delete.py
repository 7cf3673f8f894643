"""domctl delete against the real API server: by name and by file, and nothing but what was meant."""

from __future__ import annotations

import asyncio

import pytest

from tests.clicase import Cli, Ran, applied, domain, eventually

RBAC = "/apis/rbac.authorization.k8s.io/v1"


async def test_delete_returns_when_the_object_is_gone(cli: Cli) -> None:
    await applied(cli, domain())
    deleting = asyncio.create_task(cli("delete domain web"))
    await eventually(lambda: cli.is_terminating("web"))
    await asyncio.sleep(0.3)
    assert not deleting.done()
    await cli.remove("web")
    assert await deleting == Ran(0, 'domain.domctl.io "web" deleted\n', "")


async def test_delete_that_is_held_up_says_why(cli: Cli) -> None:
    await applied(cli, domain())
    await cli.become("web", "False", "NodeUnreachable")
    ran = await cli("delete domain/web --timeout 500ms")
    assert ran.code == 1
    assert ran.err == "error: timed out waiting for domains/web to be gone: NodeUnreachable: words\n"


async def test_delete_does_not_wait_when_told_so(cli: Cli) -> None:
    file = cli.file(domain("a") + "---\n" + domain("b"))
    await cli("apply -f", file)
    ran = await cli("delete --wait=false -f", file)
    assert ran == Ran(0, 'domain.domctl.io "a" deleted\ndomain.domctl.io "b" deleted\n', "")


@pytest.mark.parametrize(
    ("head", "wrong"),
    [
        ("apiVersion: iam.example.org/v1\nkind: Role", "{}:5:1: apiVersion: must be domctl.io/v1"),
        ("apiVersion: v1\nkind: Domain", "{}:5:1: apiVersion: must be domctl.io/v1 for a Domain"),
        ("kind: Domain", "{}:5:1: apiVersion: is required"),
        ("apiVersion: domctl.io/v1\nkind: domains", "{}:6:1: kind: must be Domain"),
    ],
)
async def test_delete_by_file_takes_nothing_for_what_only_its_kind_says(
    cli: Cli, head: str, wrong: str
) -> None:
    """Another group's Role is none of ours, and neither is what stands in the same file deleted."""
    role = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: web}\nrules: []\n"
    await applied(cli, domain(), role)
    first = "apiVersion: domctl.io/v1\nkind: Domain\nmetadata: {name: web}\n"
    file = cli.file(f"{first}---\n{head}\nmetadata: {{name: web}}\n")
    ran = await cli("delete --wait=false -f", file)
    assert (ran.code, ran.out) == (1, "") and wrong.format(file) in ran.err, ran
    for path in ("/apis/domctl.io/v1/namespaces/default/domains/web", f"{RBAC}/namespaces/default/roles/web"):
        reply = await cli.api.call("GET", path)
        assert (reply.status, "deletionTimestamp" in reply.body["metadata"]) == (200, False), path


async def test_delete_by_file_says_where_a_name_is_missing(cli: Cli) -> None:
    listed = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Secret, metadata: {}}\n"
    file = cli.file(listed)
    ran = await cli("delete -f", file)
    assert (ran.code, ran.err) == (1, f"error: {file}:4:34: items[0].metadata.name: is required\n")


async def test_delete_of_what_is_not_there(cli: Cli) -> None:
    ran = await cli("delete domain nope")
    assert ran == Ran(1, "", 'Error from server (NotFound): domains.domctl.io "nope" not found\n')
    assert await cli("delete domain nope --ignore-not-found") == Ran(0, "", "")


async def test_delete_dry_run_deletes_nothing(cli: Cli) -> None:
    await applied(cli, domain())
    ran = await cli("delete domain web --dry-run=server")
    assert ran == Ran(0, 'domain.domctl.io "web" deleted (server dry run)\n', "")
    assert not await cli.is_terminating("web")
