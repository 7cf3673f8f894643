"""The server around the verbs: who may speak, what is open, what is limited, logged, counted and shown."""

from __future__ import annotations

import asyncio
import datetime
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from controller import pki
from controller.api import audit
from drivers.errors import StoreUnavailable
from drivers.memory import MemoryStore
from drivers.store import TxnResult
from tests.apiserver import DOMAINS, MERGE, NODES, V1, Api, Options, client_context, domain, node, serving

A_DAY = datetime.timedelta(days=1)


async def ask(api: Api, path: str, context: ssl.SSLContext, method: str = "GET") -> tuple[int, str]:
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
        session.request(method, api.url + path) as response,
    ):
        return response.status, await response.text()


def issue(
    api: Api, directory: Path, common_name: str, group: str, ends_in: datetime.timedelta = A_DAY
) -> ssl.SSLContext:
    """A client certificate of the server's own CA for somebody else."""
    ca_key = serialization.load_pem_private_key(api.pki.ca_cert.with_name("ca.key").read_bytes(), None)
    ca = x509.load_pem_x509_certificate(api.pki.ca_cert.read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    now = datetime.datetime.now(datetime.UTC)
    names = [(NameOID.COMMON_NAME, common_name), (NameOID.ORGANIZATION_NAME, group)]
    cert = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(oid, text) for oid, text in names]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 2 * A_DAY)
        .not_valid_after(now + ends_in)
        .sign(ca_key, hashes.SHA256())
    )
    cert_path, key_path = directory / "other.crt", directory / "other.key"
    cert_path.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return client_context(api.pki.ca_cert, cert_path, key_path)


# --- who


async def test_without_a_certificate_only_health_and_version_answer(api: Api) -> None:
    nobody = client_context(api.pki.ca_cert)
    for path in ("/livez", "/readyz", "/healthz", "/version", "/version/"):
        assert (await ask(api, path, nobody))[0] == 200, path
    for path in ("/", "/apis", "/api", DOMAINS, "/metrics", "/openapi/v3", "/nowhere"):
        status, text = await ask(api, path, nobody)
        assert (status, json.loads(text)["reason"]) == (401, "Unauthorized"), path
    assert (await ask(api, "/livez", nobody, "POST"))[0] == 405


async def test_a_certificate_without_the_administrators_group_has_no_rights(api: Api, tmp_path: Path) -> None:
    context = issue(api, tmp_path, "eve", "domctl:viewers")
    status, text = await ask(api, DOMAINS, context)
    assert (status, json.loads(text)["reason"]) == (403, "Forbidden")
    assert 'User "eve" cannot list resource "domains"' in json.loads(text)["message"]
    assert (await ask(api, f"{DOMAINS}/x", context, "DELETE"))[0] == 403
    _, tried, refused = lines(api.audit_log)
    assert (tried["user"]["username"], refused["responseStatus"]["code"]) == ("eve", 403)


async def test_a_certificate_of_another_authority_does_not_connect(api: Api, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = pki.ensure(tmp_path / "other", "127.0.0.1", 1, datetime.datetime.now(datetime.UTC))
    context = client_context(api.pki.ca_cert, other.admin_cert, other.admin_key)
    with pytest.raises(aiohttp.ClientError):
        await ask(api, "/livez", context)


async def test_a_certificate_out_of_its_time_does_not_connect(api: Api, tmp_path: Path) -> None:
    assert (await ask(api, DOMAINS, issue(api, tmp_path, "ann", "domctl:admins")))[0] == 200
    expired = issue(api, tmp_path, "ann", "domctl:admins", ends_in=-A_DAY)
    with pytest.raises(aiohttp.ClientError):
        await ask(api, DOMAINS, expired)


async def test_the_servers_own_certificate_is_no_clients(api: Api) -> None:
    context = client_context(api.pki.ca_cert, api.pki.server_cert, api.pki.server_key)
    with pytest.raises(aiohttp.ClientError):
        await ask(api, "/livez", context)


async def test_plain_http_gets_no_answer(api: Api) -> None:
    reader, writer = await asyncio.open_connection(*api.server.address)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(5):
        assert b"ok" not in await reader.read()
    writer.close()


# --- health, version, metrics


async def test_readiness_names_what_is_wrong(tmp_path: Path) -> None:
    async def good() -> None:
        return None

    async def bad() -> str:
        return "no leader was seen"

    async def stuck() -> None:
        await asyncio.sleep(3600)

    store = MemoryStore(asyncio.get_running_loop().time)
    async with serving(store, tmp_path, Options(checks={"store": good, "leader": bad})) as api:
        reply = await api.call("GET", "/readyz")
        assert reply.status == 503
        assert "[+]store ok" in reply.text
        assert "[-]leader failed: no leader was seen" in reply.text
        assert (await api.call("GET", "/livez")).text == "ok"
    async with serving(store, tmp_path, Options(checks={"stuck": stuck})) as api:
        async with asyncio.timeout(5):
            assert "no answer within" in (await api.call("GET", "/readyz")).text
    async with serving(store, tmp_path, Options(checks={"store": good})) as api:
        assert (await api.call("GET", "/readyz?verbose")).text == "[+]store ok\nreadyz check passed\n"
    await store.close()


async def test_the_version_tells_ours_behind_kubernetes(api: Api) -> None:
    body = (await api.call("GET", "/version")).body
    assert body["gitVersion"] == "v1.33.0+domctl.0.1.0"


async def test_metrics_may_also_be_had_on_loopback(tmp_path: Path) -> None:
    store = MemoryStore(asyncio.get_running_loop().time)
    options = Options(metrics_listen=("127.0.0.1", 0))
    async with serving(store, tmp_path, options) as api:
        await api.call("GET", DOMAINS)
        port = api.server.metrics_address[1]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
                text = await response.text()
            async with session.get(f"http://127.0.0.1:{port}{DOMAINS}") as response:
                assert response.status == 404
    assert 'domctl_api_requests_total{code="200",resource="domains",verb="list"} 1.0' in text
    with pytest.raises(ValueError, match="loopback"):
        async with serving(store, tmp_path, Options(metrics_listen=("0.0.0.0", 0))):
            raise AssertionError("it listened")
    await store.close()


# --- what may fail


class Broken(MemoryStore):
    """A store whose transactions end as `failure` says."""

    failure: Exception | None = None

    async def txn(self, compares: Any, writes: Any) -> TxnResult:
        if self.failure is not None:
            raise self.failure
        return await super().txn(compares, writes)


@pytest.mark.parametrize(
    ("failure", "code", "words"),
    [
        (StoreUnavailable("lost", maybe_committed=True), 504, "the change may have been made"),
        (StoreUnavailable("down"), 503, "the store does not answer"),
        (RuntimeError("a bug with a secret"), 500, "see the server's log"),
    ],
)
async def test_a_failing_store_is_answered_without_claiming_anything(
    tmp_path: Path, failure: Exception, code: int, words: str
) -> None:
    store = Broken(asyncio.get_running_loop().time)
    async with serving(store, tmp_path) as api:
        store.failure = failure
        reply = await api.call("POST", DOMAINS, domain())
        assert (reply.status, reply.body["code"]) == (code, code)
        assert words in reply.body["message"]
        assert "secret" not in reply.text
        assert reply.headers["Audit-Id"]
        store.failure = None
        assert (await api.call("POST", DOMAINS, domain())).status == 201
    await store.close()


async def test_a_body_that_never_comes_is_given_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.api.requests.BODY_TIMEOUT_S", 0.2)
    context = client_context(api.pki.ca_cert, api.pki.admin_cert, api.pki.admin_key)
    reader, writer = await asyncio.open_connection(*api.server.address, ssl=context)
    writer.write(
        f"POST {DOMAINS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Content-Length: 100\r\n\r\n{".encode()
    )
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n")
    assert b"408" in head
    writer.close()


async def test_a_connection_that_sends_no_request_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.api.server.IDLE_S", 0.3)
    store = MemoryStore(asyncio.get_running_loop().time)
    async with serving(store, tmp_path) as api:
        context = client_context(api.pki.ca_cert)
        reader, writer = await asyncio.open_connection(*api.server.address, ssl=context)
        writer.write(b"GET /livez HTTP/1.1\r\nX-Slow: ")
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()
    await store.close()


# --- the audit log


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_a_change_is_in_the_audit_log_before_and_after_it_acts(api: Api) -> None:
    reply = await api.call("POST", DOMAINS, domain())
    before, after = lines(api.audit_log)
    assert (before["stage"], after["stage"]) == ("RequestReceived", "ResponseComplete")
    assert before["auditID"] == after["auditID"] == reply.headers["Audit-Id"]
    assert before["user"]["username"] == "admin"
    assert "domctl:admins" in before["user"]["groups"]
    assert (before["verb"], before["objectRef"]["resource"]) == ("create", "domains")
    assert (after["objectRef"]["name"], after["responseStatus"]["code"]) == ("web-1", 201)
    assert api.audit_log.stat().st_mode & 0o777 == 0o600
    await api.call("GET", DOMAINS)
    assert len(lines(api.audit_log)) == 2, "reads are not audited"


async def test_a_decision_is_in_the_audit_log_with_what_was_decided(api: Api) -> None:
    await api.call("POST", NODES, node())
    await api.call("POST", f"{NODES}/hv1/confirmdead", {"reason": "burnt"})
    (decided,) = [line for line in lines(api.audit_log) if line["level"] == "Request"]
    assert decided["stage"] == "RequestReceived"
    assert (decided["requestObject"]["node"], decided["requestObject"]["reason"]) == ("hv1", "burnt")


async def test_nothing_changes_when_the_audit_log_cannot_be_written(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(log: audit.AuditLog, event: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(audit.AuditLog, "write", full)
    for method, path, body in (
        ("POST", DOMAINS, domain()),
        ("POST", f"{V1}/storeacks", {"nodes": []}),
    ):
        assert (await api.call(method, path, body)).status == 503
    assert (await api.call("GET", DOMAINS)).body["items"] == []


def test_the_audit_log_is_rotated_by_size_and_old_ones_end(tmp_path: Path) -> None:
    log = audit.AuditLog(tmp_path / "audit.log", max_bytes=100)
    for n in range(40):
        log.write({"n": n, "pad": "x" * 30})
    log.close()
    files = sorted(p.name for p in tmp_path.iterdir())
    assert files == ["audit.log", *(f"audit.log.{n}" for n in range(1, audit.KEPT + 1))]
    kept = [json.loads(line)["n"] for f in files for line in (tmp_path / f).read_text().splitlines()]
    assert sorted(kept) == list(range(40 - len(kept), 40)), "the youngest are kept"
    few = audit.AuditLog(tmp_path / "few.log", max_bytes=100, kept=1)
    for number in range(20):
        few.write({"n": number, "pad": "x" * 60})
    few.close()
    assert sorted(path.name for path in tmp_path.glob("few*")) == ["few.log", "few.log.1"]
    again = audit.AuditLog(tmp_path / "audit.log", max_bytes=100)
    again.write({"n": 40})
    again.close()
    assert (
        '"n":39' in (tmp_path / "audit.log").read_text() or '"n":39' in (tmp_path / "audit.log.1").read_text()
    )


# --- discovery and OpenAPI


async def test_both_forms_of_discovery_list_the_same_resources(api: Api) -> None:
    classic = (await api.call("GET", V1)).body["resources"]
    for version in ("v2", "v2beta1"):
        accept = (
            f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList,application/json"
        )
        reply = await api.call("GET", "/apis", Accept=accept)
        wanted = f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
        assert reply.headers["Content-Type"] == wanted
        group = reply.body["items"][0]
        resources = group["versions"][0]["resources"]
        assert [r["resource"] for r in resources] == [r["name"] for r in classic if "/" not in r["name"]]
        assert [s["subresource"] for r in resources for s in r.get("subresources", [])] == [
            *("status", "console", "log"),
            "status",
            "status",
        ]
    assert (await api.call("GET", "/apis")).body["groups"][0]["name"] == "domctl.io"
    assert (await api.call("GET", "/api")).body["versions"] == ["v1"]


async def test_domains_are_not_in_the_category_all(api: Api) -> None:
    for path in (V1, "/api/v1"):
        for resource in (await api.call("GET", path)).body["resources"]:
            assert "all" not in resource.get("categories", [])


async def test_every_reference_of_the_openapi_documents_leads_somewhere(api: Api) -> None:
    index = (await api.call("GET", "/openapi/v3")).body["paths"]
    kinds: set[str] = set()
    for entry in index.values():
        document = (await api.call("GET", entry["serverRelativeURL"])).body
        schemas = document["components"]["schemas"]
        found = list(references(document))
        assert found
        assert {r.removeprefix("#/components/schemas/") for r in found} <= schemas.keys()
        kinds |= {g["kind"] for s in schemas.values() for g in s.get("x-kubernetes-group-version-kind", [])}
    assert {"Domain", "Node", "Role", "ClusterRoleBinding"} <= kinds
    document = (await api.call("GET", f"/openapi/v3{V1}")).body
    patch = document["paths"][f"{V1}/namespaces/{{namespace}}/domains/{{name}}"]["patch"]
    assert {p["name"] for p in patch["parameters"]} >= {"fieldValidation", "dryRun"}
    assert "application/strategic-merge-patch+json" not in patch["requestBody"]["content"]
    collection = document["paths"][f"{V1}/namespaces/{{namespace}}/domains"]
    asked = {p["name"]: p["schema"]["type"] for p in collection["get"]["parameters"]}
    assert (asked["limit"], asked["watch"], asked["continue"]) == ("integer", "boolean", "string")
    assert collection["delete"]["x-kubernetes-action"] == "deletecollection"


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        value = list(value.values())
    for inner in value if isinstance(value, list) else ():
        yield from references(inner)


async def test_trailing_slashes_are_tolerated(api: Api) -> None:
    await api.call("POST", DOMAINS, domain())
    assert (await api.call("GET", f"{DOMAINS}/")).status == 200
    assert (await api.call("GET", f"{DOMAINS}/web-1/")).body["metadata"]["name"] == "web-1"
    assert (await api.call("GET", "/apis/")).status == 200


async def test_a_path_with_a_line_feed_is_answered_by_a_status(api: Api) -> None:
    for path in (f"{DOMAINS}/a%0Ab", "/%0A", "/apis%0D%0A"):
        reply = await api.call("GET", path)
        assert (reply.status, reply.body["kind"], reply.body["code"]) == (404, "Status", 404), path


async def test_a_warning_with_odd_characters_does_not_break_the_answer(api: Api) -> None:
    await api.call("POST", DOMAINS, domain())
    patch = {"spec": {'x"\r\ny: z\u2028': 1}}
    reply = await api.call("PATCH", f"{DOMAINS}/web-1", patch, type=MERGE)
    assert reply.status == 200
    assert len(reply.warnings) == 1
    assert "y" not in {k.lower() for k in reply.headers}
