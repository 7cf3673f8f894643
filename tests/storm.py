"""Clients that behave badly, as a program of its own: `storm.py KIND URL CA CERT KEY`.

It says `ready`, rages for a few seconds and says as JSON what it was answered: for each status how often,
and how often it asked for health and was answered.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from collections import Counter
from urllib.parse import urlsplit

SECONDS = 3.0
DOMAINS = "/apis/domctl.io/v1/namespaces/default/domains"
Told = Counter[str]


class Client:
    def __init__(self, url: str, ca: str, cert: str, key: str) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "", parts.port or 0
        self.nobody = ssl.create_default_context(cafile=ca)
        self.admin = ssl.create_default_context(cafile=ca)
        self.admin.load_cert_chain(cert, key)

    async def open(self, context: ssl.SSLContext | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.host, self.port, ssl=context)

    async def ask(self, head: str, body: bytes = b"", *, admin: bool = True) -> str:
        """One request on a connection of its own; its status."""
        reader, writer = await self.open(self.admin if admin else self.nobody)
        try:
            writer.write(head.encode() + b"\r\nHost: x\r\nConnection: close\r\n\r\n" + body)
            line = await reader.readline()
            return line.split()[1].decode() if line else "cut"
        finally:
            writer.transport.abort()


def post(size: int, kind: str = "application/json") -> str:
    return f"POST {DOMAINS} HTTP/1.1\r\nContent-Type: {kind}\r\nContent-Length: {size}"


async def health(client: Client, told: Told, until: float) -> None:
    while time.monotonic() < until:
        told["asked"] += 1
        async with asyncio.timeout(20):
            while await tried(client) != "200":
                told["tried again"] += 1
        told["health"] += 1
        await asyncio.sleep(0.2)


async def tried(client: Client) -> str:
    try:
        return await client.ask("GET /livez HTTP/1.1", admin=False)
    except OSError:
        return "cut"


async def repeated(told: Told, until: float, ask: object) -> None:
    while time.monotonic() < until:
        try:
            told[await ask()] += 1  # type: ignore[operator]
        except OSError:
            told["cut"] += 1


async def slow(client: Client, told: Told, until: float) -> None:
    """Heads that drip, handshakes that never begin, bodies that stand still."""
    writers = []
    for start in range(0, 1000, 50):
        made = await asyncio.gather(
            *(client.open(None if n % 10 == 0 else client.nobody) for n in range(start, start + 50)),
            return_exceptions=True,
        )
        writers += [pair[1] for pair in made if not isinstance(pair, BaseException)]
    told["open"] = len(writers)
    for writer in writers:
        writer.write(b"GET /livez HTTP/1.1\r\n" if writer.get_extra_info("ssl_object") else b"\x16")
    while time.monotonic() < until:
        for writer in writers:
            if writer.get_extra_info("ssl_object"):
                writer.write(b"X-Slow: 1\r\n")
        await asyncio.sleep(1)


async def bodies(client: Client, told: Told, until: float) -> None:
    large, cut = b'{"a":"' + b"x" * (2 << 20), b'{"apiVersion":'
    wide = b'{"a":"' + b"x" * (300 << 10) + b'"}'

    async def one(n: int) -> str:
        kinds = (
            (post(len(large)), large),
            (post(len(cut)), cut),
            (post(len(wide)), wide),
            (post(5, "text/plain"), b"hello"),
            (post(0, ""), b""),
            (post(4), b"\xff\xfe\x00\x01"),
            (post(4), b"[[[["),
        )
        return await client.ask(*kinds[n % len(kinds)])

    await asyncio.gather(*(repeated(told, until, lambda n=n: one(n)) for n in range(42)))


async def tokens(client: Client, told: Told, until: float) -> None:
    foreign = ("domctl-" + "a" * 43, "eyJhbGciOiJub25lIn0.e30.", "x" * 4000, "")

    async def one(n: int) -> str:
        head = f"GET {DOMAINS} HTTP/1.1\r\nAuthorization: Bearer {foreign[n % 4]}"
        return await client.ask(head, admin=False)

    await asyncio.gather(*(repeated(told, until, lambda n=n: one(n)) for n in range(60)))


async def watches(client: Client, told: Told, until: float) -> None:
    paths = (
        f"{DOMAINS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
        DOMAINS,
        f"{DOMAINS}?limit=50",
        f"{DOMAINS}?watch=1",
    )

    async def one(n: int) -> str:
        return await client.ask(f"GET {paths[n % 4]} HTTP/1.1")

    await asyncio.gather(*(repeated(told, until, lambda n=n: one(n)) for n in range(200)))


async def deaf(client: Client) -> None:
    for _ in range(20):
        _, writer = await client.open(client.admin)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(f"GET {DOMAINS}?watch=true HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        KEPT.append(writer)
    await asyncio.sleep(1)


KEPT: list[asyncio.StreamWriter] = []
KINDS = {"slow": slow, "bodies": bodies, "tokens": tokens, "watches": watches}


async def main(kind: str, *where: str) -> None:
    client = Client(*where)
    if kind == "deaf":
        await deaf(client)
        print("ready", flush=True)
        await asyncio.sleep(600)
        return
    told: Told = Counter()
    print("ready", flush=True)
    until = time.monotonic() + SECONDS
    await asyncio.gather(KINDS[kind](client, told, until), health(client, told, until))
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
