"""Requests that are not text, not HTTP, or packed: answered, audited, no fault of ours."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import ssl
import time
import zlib
from typing import Any

import pytest

from tests.apiserver import DOMAINS, Api, client_context, domain
from tests.unit.test_api_server import lines


def admin(api: Api) -> ssl.SSLContext:
    return client_context(api.pki.ca_cert, api.pki.admin_cert, api.pki.admin_key)


async def sent(api: Api, context: ssl.SSLContext, request: bytes, later: bytes = b"") -> tuple[int, Any]:
    """The status and body that these bytes are answered with, on a connection of their own."""
    reader, writer = await asyncio.open_connection(*api.server.address, ssl=context)
    writer.write(request)
    if later:
        await asyncio.sleep(0.1)
        writer.write(later)
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        size = next(
            int(line[15:]) for line in head.splitlines() if line.lower().startswith(b"content-length")
        )
        body = await reader.readexactly(size)
    writer.close()
    return int(head.split()[1]), body


def request(method: str, path: str, *headers: bytes, body: bytes = b"") -> bytes:
    first = f"{method} {path} HTTP/1.1".encode()
    length = b"Content-Length: %d" % len(body)
    return b"\r\n".join((first, b"Host: x", *headers, length, b"", body))


@pytest.mark.parametrize("header", [b"User-Agent: \xff", b"Authorization: Bearer \xff", b"Accept: \xff"])
async def test_a_header_that_is_no_text_hides_no_refusal(api: Api, header: bytes) -> None:
    nobody = client_context(api.pki.ca_cert)
    code, body = await sent(api, nobody, request("GET", "/api/v1/secrets", header))
    assert (code, json.loads(body)["reason"]) == (401, "Unauthorized")
    (line,) = lines(api.audit_log)
    assert (line["responseStatus"]["code"], line["objectRef"]["resource"]) == (401, "secrets")


async def test_who_sends_a_header_that_is_no_text_may_change_what_he_may(api: Api) -> None:
    body = json.dumps(domain()).encode()
    json_type = b"Content-Type: application/json"
    code, answer = await sent(
        api, admin(api), request("POST", DOMAINS, b"User-Agent: k\xff/1", json_type, body=body)
    )
    assert code == 201
    assert json.loads(answer)["metadata"]["managedFields"][0]["manager"] == "unknown"
    assert [line["userAgent"] for line in lines(api.audit_log)] == ["k?/1", "k?/1"]


@pytest.mark.parametrize(
    "who", [(b"Impersonate-User: \xff",), (b"Impersonate-User: a", b"Impersonate-Group: \xff")]
)
async def test_names_that_are_no_text_cannot_be_impersonated(api: Api, who: tuple[bytes, ...]) -> None:
    code, body = await sent(api, admin(api), request("GET", DOMAINS, *who))
    assert (code, json.loads(body)["reason"]) == (400, "BadRequest")
    assert "must be UTF-8" in json.loads(body)["message"]


@pytest.mark.parametrize("coding", [b"gzip", b"deflate", b"br", b"zstd", b"gzip, gzip", b"x"])
async def test_a_packed_body_is_refused_and_not_unpacked(api: Api, coding: bytes) -> None:
    headers = (b"Content-Type: application/json", b"Content-Encoding: " + coding)
    body = gzip.compress(json.dumps(domain()).encode())
    code, answer = await sent(api, admin(api), request("POST", DOMAINS, *headers, body=body))
    assert (code, json.loads(answer)["reason"]) == (415, "UnsupportedMediaType")
    assert "send it as it is" in json.loads(answer)["message"]


@pytest.mark.parametrize("headers", [(b"Content-Encoding: identity",), (b"Content-Encoding:",)])
async def test_a_body_that_is_packed_in_nothing_is_taken(api: Api, headers: tuple[bytes, ...]) -> None:
    whole = request(
        "POST", DOMAINS, b"Content-Type: application/json", *headers, body=json.dumps(domain()).encode()
    )
    assert (await sent(api, admin(api), whole))[0] == 201


@pytest.mark.parametrize(("method", "path", "code"), [("GET", "/livez", 200), ("POST", DOMAINS, 401)])
async def test_nothing_is_unpacked_for_who_nobody_knows(api: Api, method: str, path: str, code: int) -> None:
    packed, unpacked = zlib.compressobj(9, zlib.DEFLATED, 31), zlib.decompressobj(31)
    body = b"".join(packed.compress(bytes(1 << 20)) for _ in range(512)) + packed.flush()
    before_s, rest = time.process_time(), body
    while rest:
        unpacked.decompress(rest, 1 << 18)
        rest = unpacked.unconsumed_tail
    unpacking_s = time.process_time() - before_s
    whole = request(method, path, b"Content-Encoding: gzip", body=body)
    reader, writer = await asyncio.open_connection(*api.server.address, ssl=client_context(api.pki.ca_cert))
    before_s = time.process_time()
    writer.write(whole + request("GET", "/livez"))  # answered once the body before it is over
    async with asyncio.timeout(60):
        answers = await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"HTTP/1.1 200 OK\r\n")
    took_s = time.process_time() - before_s
    writer.close()
    assert answers.startswith(b"HTTP/1.1 %d" % code)
    assert took_s < unpacking_s / 2


@pytest.mark.parametrize("junk", [b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"\x16\x03\x01 what\r\n\r\n"])
async def test_what_is_not_http_is_refused_and_not_logged_as_a_fault(
    api: Api, junk: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        code, _ = await sent(api, client_context(api.pki.ca_cert), junk)
    assert code == 400
    assert not [record for record in caplog.records if record.exc_info]
