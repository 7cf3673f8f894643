"""`domctl top` against a server whose figures are ours."""

from __future__ import annotations

from controller.figures import Reading, Use
from tests.apiserver import DOMAINS, MERGE, NODES
from tests.clicase import Cli, applied, domain, node

GIB = 1 << 30
HOST = {"cpus": 8, "memoryBytes": 16 * GIB, "allocatable": {"vcpus": 8, "memoryBytes": 16 * GIB}}


async def furnished(cli: Cli) -> None:
    await applied(cli, node("hv1"), node("hv2"), domain("web"), domain("db"))
    used = {}
    for path, status in (
        (f"{NODES}/hv1", HOST),
        (f"{DOMAINS}/web", {"state": "running", "node": "hv1"}),
        (f"{DOMAINS}/db", {"state": "running", "node": "hv1"}),
    ):
        reply = await cli.api.call("PATCH", f"{path}/status", {"status": status}, type=MERGE)
        used[reply.body["metadata"]["uid"]] = Use(
            0.25 if "web" in path else 1.5, GIB if "web" in path else 5 << 20
        )
    until = cli.api.objects.world.now() + 600
    cli.api.figures.put("hv1", Reading("2026-01-01T00:00:00Z", 30.0, until, Use(2.4, 4 * GIB), used))


def cells(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


async def test_nodes_are_shown_with_their_shares_and_what_is_unknown(cli: Cli) -> None:
    await furnished(cli)
    ran = await cli("top nodes")
    assert cells(ran.out) == [
        ["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"],
        ["hv1", "2400m", "30%", "4096Mi", "25%"],
        ["hv2", *["<unknown>"] * 4],
    ]
    assert cells((await cli("top node hv1 --no-headers")).out) == [["hv1", "2400m", "30%", "4096Mi", "25%"]]
    for command in ("top node hv2", "top nodes none"):
        assert (await cli(command)).code == 1, command


async def test_domains_are_shown_by_their_own_names(cli: Cli) -> None:
    await furnished(cli)
    db, web = ["db", "1500m", "5Mi"], ["web", "250m", "1024Mi"]
    assert cells((await cli("top domains")).out) == [["NAME", "CPU(cores)", "MEMORY(bytes)"], db, web]
    for command, expected in (
        ("top domains --sort-by=memory", [web, db]),
        ("top dom --sort-by=cpu", [db, web]),
        ("top domain web", [web]),
        ("top domains -l app=db", [db]),
        ("top domains -A", [["default", *db], ["default", *web]]),
    ):
        assert cells((await cli(f"{command} --no-headers")).out) == expected, command
    ran = await cli("top domains -n empty")
    assert (ran.code, ran.out) == (0, "")
    assert "No figures of domains in empty namespace yet" in ran.err


async def test_what_cannot_be_shown_is_refused(cli: Cli) -> None:
    for command in ("top", "top events", "top nodes --sort-by=disk", "top domain web -l a=b"):
        assert (await cli(command)).code == 1, command
    assert "metrics not available yet" in (await cli("top nodes")).err
