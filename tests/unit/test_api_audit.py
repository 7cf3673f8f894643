"""What the audit log tells of requests that were refused, and by which ids requests are found again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from controller.api import trail
from controller.api.rates import Buckets
from tests.apiserver import DOMAINS, MERGE, V1, Api, domain
from tests.unit.test_api_server import ask, client_context, issue, lines


async def test_who_is_nobody_leaves_a_line_whatever_he_asked_for(api: Api) -> None:
    nobody = client_context(api.pki.ca_cert)
    for method, path in (("GET", DOMAINS), ("DELETE", f"{DOMAINS}/web-1"), ("GET", "/nowhere")):
        assert (await ask(api, path, nobody, method))[0] == 401
    listed, deleted, nowhere = lines(api.audit_log)
    assert listed["user"]["username"] == "system:anonymous"
    assert (listed["verb"], listed["stage"]) == ("list", "ResponseComplete")
    assert deleted["objectRef"] == {
        "resource": "domains",
        "namespace": "default",
        "name": "web-1",
        "apiGroup": "domctl.io",
        "apiVersion": "v1",
    }
    assert [line["responseStatus"]["code"] for line in (listed, deleted, nowhere)] == [401, 401, 401]
    assert nowhere["requestURI"] == "/nowhere"


async def test_a_read_that_is_refused_leaves_a_line_and_one_that_is_allowed_none(
    api: Api, tmp_path: Path
) -> None:
    await api.call("GET", DOMAINS)
    assert lines(api.audit_log) == []
    assert (await ask(api, DOMAINS, issue(api, tmp_path, "eve", "dev")))[0] == 403
    (line,) = lines(api.audit_log)
    assert (line["user"]["username"], line["verb"], line["responseStatus"]["code"]) == ("eve", "list", 403)
    assert line["annotations"]["authorization.k8s.io/decision"] == "forbid"
    assert 'User "eve" cannot list' in line["annotations"]["authorization.k8s.io/reason"]


async def test_a_refused_impersonation_leaves_a_line_with_both_names(api: Api, tmp_path: Path) -> None:
    context = issue(api, tmp_path, "eve", "dev")
    headers = {"Impersonate-User": "root", "Impersonate-Group": "system:masters"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        for method in ("GET", "DELETE"):
            async with session.request(method, api.url + f"{DOMAINS}/web-1", headers=headers) as response:
                assert response.status == 403
    read, deleted = lines(api.audit_log)
    for line in (read, deleted):
        assert line["user"]["username"] == "eve"
        assert line["impersonatedUser"]["username"] == "root"
        assert "system:masters" in line["impersonatedUser"]["groups"]
        assert line["responseStatus"]["code"] == 403
    assert (read["verb"], deleted["verb"]) == ("get", "delete")


async def test_a_change_tells_by_which_right_it_was_allowed_and_when_it_came(api: Api) -> None:
    await api.call("POST", DOMAINS, domain())
    before, after = lines(api.audit_log)
    assert after["annotations"]["authorization.k8s.io/decision"] == "allow"
    assert "administrators" in after["annotations"]["authorization.k8s.io/reason"]
    for line in (before, after):
        assert line["requestReceivedTimestamp"].endswith(".000000Z")
        assert line["stageTimestamp"] >= line["requestReceivedTimestamp"]


async def test_refusals_are_rationed_and_what_was_left_out_is_counted(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail, "_BURST", 3)
    api.server._trail = trail.Trail(api.server._trail._log, api.objects.world)  # type: ignore[union-attr]
    nobody = client_context(api.pki.ca_cert)
    for _ in range(10):
        assert (await ask(api, DOMAINS, nobody))[0] == 401
    assert len(lines(api.audit_log)) in {3, 4}, "one more if a second passed"
    await asyncio.sleep(1.1)
    await ask(api, DOMAINS, nobody)
    counted = [
        line.get("annotations", {}).get("domctl.io/refusals-left-out", "0") for line in lines(api.audit_log)
    ]
    assert sum(map(int, counted)) + len(counted) == 11
    assert (await api.call("POST", DOMAINS, domain())).status == 201
    assert lines(api.audit_log)[-1]["responseStatus"]["code"] == 201, "changes are never left out"


async def test_dry_runs_are_rationed_too_and_leave_the_ration_of_refusals_alone(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail, "_BURST", 3)
    api.server._trail = trail.Trail(api.server._trail._log, api.objects.world)  # type: ignore[union-attr]
    path = f"{DOMAINS}/nope?dryRun=All&x={'y' * 3000}"
    assert [(await api.call("PATCH", path, {}, type=MERGE)).status for _ in range(10)] == [404] * 10
    told = lines(api.audit_log)
    assert len(told) in {3, 4}, "one more if a second passed"
    assert {(line["stage"], line["responseStatus"]["code"]) for line in told} == {("ResponseComplete", 404)}
    assert max(len(line["requestURI"]) for line in told) == 512
    assert (await api.call("DELETE", f"{DOMAINS}/nope")).status == 404
    assert [line["stage"] for line in lines(api.audit_log)[-2:]] == ["RequestReceived", "ResponseComplete"]
    await ask(api, DOMAINS, client_context(api.pki.ca_cert))
    assert lines(api.audit_log)[-1]["responseStatus"]["code"] == 401


@pytest.mark.parametrize(("query", "count"), [("?dryRun=All", 1), ("?dryRun=Some", 2), ("", 2)])
async def test_what_may_change_something_has_both_its_lines(api: Api, query: str, count: int) -> None:
    await api.call("POST", DOMAINS + query, domain())
    assert len(lines(api.audit_log)) == count


async def test_a_refusal_stands_when_the_log_cannot_be_written(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(log: object, event: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("controller.api.audit.AuditLog.write", full)
    assert (await ask(api, DOMAINS, client_context(api.pki.ca_cert)))[0] == 401


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("ci-run/7:3", True), ("x" * 128, True), ("x" * 129, False), ('a"b', False), ("-dash", False)],
)
async def test_an_answer_gives_back_the_clients_own_id_if_it_is_fit_for_a_log(
    api: Api, sent: str, kept: bool
) -> None:
    reply = await api.call("POST", DOMAINS, domain(), X_Request_Id=sent)
    assert reply.headers["X-Request-Id"] == (sent if kept else reply.headers["Audit-Id"])
    for line in lines(api.audit_log):
        assert line["auditID"] == reply.headers["Audit-Id"]
        assert line.get("annotations", {}).get("domctl.io/request-id") == (sent if kept else None)


async def test_no_answer_is_kept_by_who_passes_it_on(api: Api) -> None:
    for path in ("/livez", "/metrics", "/openapi/v3", f"{V1}/nothing", DOMAINS):
        reply = await api.call("GET", path)
        assert reply.headers["Cache-Control"] == "no-cache, private", path


async def test_a_watch_and_an_error_carry_their_ids_too(api: Api) -> None:
    async with api.session.get(api.url + f"{DOMAINS}?watch=true", headers={"X-Request-Id": "w1"}) as response:
        assert response.headers["X-Request-Id"] == "w1"
        assert response.headers["Audit-Id"]
        response.close()
    reply = await api.call("GET", f"{V1}/nothing")
    assert reply.status == 404
    assert reply.headers["Audit-Id"]
    assert json.loads(reply.text)["kind"] == "Status"


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    now = [100.0]
    buckets = Buckets(lambda: now[0], 2.0, 3)
    assert [buckets.wait_s("ann") for _ in range(3)] == [0, 0, 0]
    assert buckets.wait_s("ann") == pytest.approx(0.5)
    assert buckets.wait_s("bob") == 0, "each name has its own"
    now[0] += 0.5
    assert buckets.wait_s("ann") == 0
    assert buckets.wait_s("ann") > 0
    now[0] += 3600
    assert [buckets.wait_s("ann") == 0 for _ in range(4)] == [True, True, True, False]


def test_buckets_remember_a_bounded_number_of_names() -> None:
    buckets = Buckets(lambda: 0.0, 1.0, 1, kept=10)
    for n in range(1000):
        buckets.wait_s(f"user-{n}")
    assert len(buckets._full_at) == 10
    assert buckets.wait_s("user-999") > 0
