"""Logs and terminals need rights of their own: neither follows from the right to the object, nor one from the
other, and who has none never has a console opened for him."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from controller.api import consoles
from controller.consoles.desk import Desk
from drivers.hypervisor import ConsoleOutput
from tests.apiserver import DOMAINS, Api
from tests.consolecase import created, desk, with_consoles
from tests.unit.test_api_rights import CLUSTER_BINDINGS, as_bob, binding, give, known, rule
from tests.unit.test_api_rights import made as posted
from tests.unit.test_api_server import lines

__all__ = ["desk"]  # a fixture
PODS = "/api/v1/namespaces/default/pods"
CORE, OURS = "", "domctl.io"
STREAMS = [
    # plural, subresource, group, the verb that it takes
    ("domains", "log", OURS, "get"),
    ("domains", "console", OURS, "create"),
    ("pods", "log", CORE, "get"),
    ("pods", "attach", CORE, "create"),
]
ALL_BUT = ("list", "watch", "update", "patch", "delete", "deletecollection", "use", "dryrun")


@pytest.fixture
async def api(desk: Desk, tmp_path: Path) -> AsyncIterator[Api]:
    async with with_consoles(desk, tmp_path) as served:
        yield served


async def placed(api: Api, desk: Desk) -> dict[str, str]:
    """A domain whose console is read, and where its streams are."""
    tape = await created(api, desk, serials=[{"name": "main", "record": True}])
    tape.heard(ConsoleOutput(b"login: root\n"))
    (pod,) = (await api.call("GET", PODS)).body["items"] or [{"metadata": {"name": "web-1-none"}}]
    return {"domains": f"{DOMAINS}/web-1", "pods": f"{PODS}/{pod['metadata']['name']}"}


@pytest.mark.parametrize(("plural", "stream", "group", "verb"), STREAMS)
async def test_who_has_every_other_right_is_refused(  # noqa: PLR0917 - the table
    api: Api,
    desk: Desk,
    plural: str,
    stream: str,
    group: str,
    verb: str,
) -> None:
    opened: list[str] = []
    desk.on_change = opened.append
    path = f"{(await placed(api, desk))[plural]}/{stream}"
    others = {(p, s) for p, s, _, _ in STREAMS} - {(plural, stream)}
    wrong_verb = "create" if verb == "get" else "get"
    await give(
        api,
        *(rule("*", f"{p} {p}/status secrets nodes", g) for p, _, g, _ in STREAMS),
        *(rule("*", " ".join(f"{p}/{s}" for p, s in others), g) for g in (CORE, OURS)),
        rule(" ".join((*ALL_BUT, wrong_verb)), f"{plural}/{stream}", group),
        rule(verb, f"{plural}/{stream}", group, resourceNames=["another"]),
    )
    reply = await as_bob(api, "GET", path)
    assert (reply.status, reply.body["reason"]) == (403, "Forbidden"), reply.text
    assert reply.body["message"].endswith(
        f'User "bob" cannot {verb} resource "{plural}/{stream}" in API group "{group}" '
        'in the namespace "default"'
    )
    assert "login" not in reply.text
    assert opened == [], "nothing was opened at the host"
    rows = [json.loads(line) for line in api.audit_log.read_text().splitlines()]
    (row,) = [r for r in rows if r["objectRef"].get("subresource") == stream and "responseStatus" in r]
    assert (row["verb"], row["responseStatus"]["code"]) == (verb, 403)
    assert row["annotations"]["authorization.k8s.io/decision"] == "forbid"


async def test_a_websocket_of_who_may_not_attach_is_refused_before_it_is_one(api: Api, desk: Desk) -> None:
    await placed(api, desk)
    await give(api, rule("get list watch", "*"), rule("get", "domains/log domains/console"))
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await _attached(api)
    assert refused.value.status == 403
    assert (await as_bob(api, "GET", f"{DOMAINS}/web-1/log")).status == 200


@pytest.mark.parametrize(("role", "log", "terminal"), [("view", True, False), ("edit", True, True)])
async def test_of_the_first_roles_view_reads_logs_and_only_edit_types(
    api: Api,
    desk: Desk,
    role: str,
    log: bool,
    terminal: bool,
) -> None:
    await placed(api, desk)
    await posted(api, CLUSTER_BINDINGS, binding("bobs", role))
    await known(api)
    assert ((await as_bob(api, "GET", f"{DOMAINS}/web-1/log")).status == 200) is log
    if terminal:
        socket = await _attached(api)
        await socket.send_bytes(b"\0typed")
        assert await socket.receive_bytes(timeout=5) == b"\1typed"
        await socket.close()
    else:
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await _attached(api)


async def test_a_role_of_another_namespace_gives_nothing_here(api: Api, desk: Desk) -> None:
    await placed(api, desk)
    bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/other/rolebindings"
    head: dict[str, Any] = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}}
    await api.call("POST", "/api/v1/namespaces", head)
    await posted(api, bindings, binding("bobs", "edit", kind="RoleBinding"))
    await known(api)
    for stream in ("log", "console"):
        assert (await as_bob(api, "GET", f"{DOMAINS}/web-1/{stream}")).status == 403, stream


@pytest.mark.parametrize("method", ["HEAD", "PUT", "PATCH", "DELETE"])
async def test_no_other_method_opens_a_console_by_another_right(api: Api, desk: Desk, method: str) -> None:
    """`get` of everything is what a reader of everything has; HEAD is `get` too, and must not attach."""
    opened: list[str] = []
    await placed(api, desk)
    desk.on_change = opened.append
    await give(api, rule("get list watch update patch delete", "*"))
    reply = await as_bob(api, method, f"{DOMAINS}/web-1/console", None if method == "HEAD" else {})
    assert opened == [], "nothing was opened at the host"
    assert reply.status == 405


async def test_a_terminal_that_says_it_is_a_dry_run_is_audited_as_what_it_is(api: Api, desk: Desk) -> None:
    await placed(api, desk)
    await posted(api, CLUSTER_BINDINGS, binding("bobs", "edit"))
    await known(api)
    socket = await _attached(api, "&dryRun=All")
    stages = [line["stage"] for line in lines(api.audit_log) if line.get("impersonatedUser")]
    assert stages == ["RequestReceived"], "before anything is typed"
    await socket.close()


async def _attached(api: Api, more: str = "") -> aiohttp.ClientWebSocketResponse:
    return await api.session.ws_connect(
        f"{api.url}{DOMAINS}/web-1/console?stdin=true{more}",
        protocols=(consoles.PROTOCOL,),
        headers={"Impersonate-User": "bob"},
    )
