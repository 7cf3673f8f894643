"""A thousand watchers of one server while domains change: `crowd.py watch URL CA CERT KEY COUNT`.

Seven in ten want everything as JSON, as informers do, two in ten what has a label, and one in ten a Table.
One in nine is read and decoded by this process, which tells how long each change took since it was sent to
etcd. What the others are sent is taken from their sockets by the kernel (MSG_TRUNC), so that the crowd does
not cost this machine more than the server that is measured. It says `ready` when all of them are open, and
fails if one is refused, or ends before it is told to.

`crowd.py change ENDPOINT SECONDS RATE` is who changes them, with the time in an annotation.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket
import ssl
import sys
import threading
import time
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import msgspec

from controller import keys
from drivers.etcd import EtcdConfig, EtcdStore
from drivers.store import Put
from tests.apiserver import TABLE, V1

MARK = b'"bench/at":"'


def wanted(number: int) -> tuple[str, str]:
    """The query and the Accept header of a watcher."""
    match number % 10:
        case 7 | 8:
            return f"&labelSelector=app%3Da{number // 10 % 10}", "application/json"
        case 9:
            return "&includeObject=Metadata", TABLE
        case _:
            return "", "application/json"


def request(number: int, revision: str) -> bytes:
    query, accept = wanted(number)
    path = f"{V1}/domains?watch=1&resourceVersion={revision}&allowWatchBookmarks=true{query}"
    # An end of the watch is to be an end of the connection, which is seen without reading.
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n".encode()


class Crowd:
    def __init__(self, url: str, ca: str, cert: str, key: str) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "", parts.port or 0
        self.context = ssl.create_default_context(cafile=ca)
        self.context.load_cert_chain(cert, key)
        self.delays: list[float] = []
        self.silent: list[socket.socket] = []
        self.open = 0  # of those that are read by this process
        self.lost: list[str] = []

    def revision(self) -> str:
        with self.context.wrap_socket(
            socket.create_connection((self.host, self.port)), server_hostname=self.host
        ) as conn:
            conn.sendall(
                f"GET {V1}/domains?limit=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
            )
            answer = b"".join(iter(lambda: conn.recv(1 << 16), b""))
        found: str = json.loads(answer.partition(b"\r\n\r\n")[2])["metadata"]["resourceVersion"]
        return found

    def join_silent(self, number: int, revision: str) -> None:
        """After the handshake and the request nobody has to understand what comes."""
        conn = self.context.wrap_socket(
            socket.create_connection((self.host, self.port)), server_hostname=self.host
        )
        conn.sendall(request(number, revision))
        if (said := conn.recv(15)) != b"HTTP/1.1 200 OK":
            sys.exit(f"watcher {number} was refused: {said.decode()}")
        self.silent.append(socket.socket(fileno=conn.detach()))

    def drain(self) -> None:
        poll = select.epoll()
        found = {conn.fileno(): conn for conn in self.silent}
        for number in found:
            poll.register(number, select.EPOLLIN)
        room = bytearray(1 << 20)  # into which nothing is written
        while True:
            for number, _ in poll.poll():
                with contextlib.suppress(ConnectionError):
                    if found[number].recv_into(room, 0, socket.MSG_TRUNC):
                        continue
                poll.unregister(number)
                self.lost.append("one of those who are not read")

    async def read(self, number: int, revision: str) -> None:
        reader, writer = await asyncio.open_connection(self.host, self.port, ssl=self.context, limit=1 << 20)
        writer.write(request(number, revision))
        try:
            if b"200" not in (said := await reader.readline()):
                self.lost.append(f"{number}, which was refused: {said.decode().strip()}")
                return
            self.open += 1
            while line := await reader.readline():
                if (at := line.find(MARK)) >= 0:
                    now, began = time.monotonic(), at + len(MARK)
                    self.delays.append(now - float(line[began : line.index(b'"', began)]))
            self.lost.append(f"{number}, which the server ended")
        except (OSError, ValueError) as error:
            self.lost.append(f"{number}: {error}")
        finally:
            writer.transport.abort()

    async def opened(self, wanted: int) -> None:
        """Until all that are read are open, or one is lost."""
        async with asyncio.timeout(60):
            while self.open < wanted and not self.lost:  # noqa: ASYNC110 - it counts, once
                await asyncio.sleep(0.05)
        self.check()

    def check(self) -> None:
        if self.lost:
            sys.exit(f"{len(self.lost)} watchers were lost: {'; '.join(self.lost[:5])}")


async def watch(crowd: Crowd, count: int) -> None:
    """Until a line is said to it."""
    revision = await asyncio.to_thread(crowd.revision)
    loud = range(0, count, 9)  # prime to ten: of each kind
    for number in set(range(count)) - set(loud):
        await asyncio.to_thread(crowd.join_silent, number, revision)
    threading.Thread(target=crowd.drain, daemon=True).start()
    readers = [asyncio.create_task(crowd.read(number, revision)) for number in loud]
    await crowd.opened(len(readers))
    await asyncio.sleep(2)  # for the server to have done with their beginning
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    crowd.check()
    for reader in readers:
        reader.cancel()
    for ended in await asyncio.gather(*readers, return_exceptions=True):
        if not isinstance(ended, asyncio.CancelledError):
            sys.exit(f"a watcher failed: {ended!r}")
    delays = sorted(crowd.delays)
    if not delays:
        sys.exit("no change was seen by anybody")
    told = {
        "events": len(delays),
        "open": crowd.open + len(crowd.silent),
        "median_ms": median(delays) * 1000,
        "p99_ms": delays[int(len(delays) * 0.99)] * 1000,
        "max_ms": delays[-1] * 1000,
    }
    print(json.dumps(told), flush=True)


async def change(endpoint: str, seconds: float, rate: float) -> None:
    store = EtcdStore(EtcdConfig(endpoints=(endpoint,)))
    page = await store.page(keys.object_prefix("domains"), limit=200)
    bodies = [(kv.key, msgspec.json.decode(kv.value)) for kv in page.items]
    began, sent = time.monotonic(), 0
    while (due := began + sent / rate) < began + seconds:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        key, body = bodies[sent % len(bodies)]
        body["metadata"]["annotations"] = {"bench/at": f"{time.monotonic():.6f}"}
        await store.txn([], [Put(key, msgspec.json.encode(body))])
        sent += 1
    print(json.dumps({"changes": sent, "seconds": time.monotonic() - began}), flush=True)
    await store.close()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["watch", url, ca, cert, key, count]:
            asyncio.run(watch(Crowd(url, ca, cert, key), int(count)))
        case ["change", endpoint, seconds, rate]:
            asyncio.run(change(endpoint, float(seconds), float(rate)))
        case _:
            sys.exit(__doc__)
