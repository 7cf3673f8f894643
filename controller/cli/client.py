"""One HTTPS connection to the API server: JSON in, JSON out, watches as lines.

Guaranteed: a GET whose connection was dropped is sent once more, and nothing else is ever sent twice unless
the server said that it did nothing (429); whatever is not a success is a `StatusError`, no answer at all an
`Unreached` that says whether a change may have been made; no wait is without a bound. Blocking, and without
threads: a request is a generator that pauses once it is sent, so that `controller.cli.lanes` can send others
meanwhile. Kinds and paths are in `controller.cli.resources`, reconnecting watches in `controller.cli.watch`.
"""

from __future__ import annotations

import copy
import http.client
import json
import socket
import ssl
import sys
import time
from urllib.parse import urlencode, urlsplit

from controller.cli.credentials import credentials
from controller.cli.errors import CliError, StatusError, Unreached, printable
from controller.cli.flags import duration_s
from controller.cli.kubeconfig import target

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Generator, Iterator, Sequence
    from typing import Any, TypeVar

    from controller.cli.credentials import Credentials

    Query = Sequence[tuple[str, str]]
    T = TypeVar("T")
    Steps = Generator[None, None, T]  # pauses where a request was sent whose answer was not read yet

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"

CONNECT_S = 10.0
IDLE_S = 90.0  # a watch without even a bookmark for so long is a dead connection
KEPT_S = 5.0  # a connection that was idle longer may be closed at the other end: not for changes
MAX_REFUSALS = 5  # of 429
MAX_WAIT_S = 30.0
_DROPPED = (http.client.HTTPException, OSError)


class Client:
    """`namespace`: where to look when the command does not say."""

    def __init__(self, server: str, proof: Credentials, namespace: str = "default") -> None:
        parts = urlsplit(server if "://" in server else f"https://{server}")
        if parts.scheme not in {"https", "http"} or not parts.hostname:
            raise CliError(f'the server\'s address must be https://HOST:PORT, is "{server}"')
        self.namespace = namespace
        self.timeout_s: float | None = 60.0
        self.watch_s: float | None = None  # after which a watch ends that nothing else ends
        self.verbosity = 0
        self.server_name = ""
        self._proof = proof
        self._tls = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port or (443 if self._tls else 80)
        self._base = parts.path.rstrip("/")
        self._connection: http.client.HTTPConnection | None = None
        self._used_at = 0.0
        self._warned: set[str] = set()

    @property
    def address(self) -> str:
        return f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"

    def get(self, path: str, query: Query = (), accept: str = JSON) -> Any:
        return self.call("GET", path, query, accept=accept)

    def twin(self) -> Client:
        """The same server, asked by the same, on a connection of its own."""
        other = copy.copy(self)
        other._connection = None
        return other

    def call(self, method: str, path: str, query: Query = (), body: object = None, **headers: str) -> Any:
        """The decoded answer. `headers`: `accept`, `content_type`. Raises StatusError, Unreached."""
        return at_last(self.asked(method, path, query, body, **headers))

    def asked(
        self, method: str, path: str, query: Query = (), body: object = None, **headers: str
    ) -> Steps[Any]:
        """The same in steps; until they are through, this client can be asked nothing else."""
        content = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        sent = {"Accept": headers.get("accept", JSON), "Accept-Encoding": "gzip"}
        if content:
            sent["Content-Type"] = headers.get("content_type", JSON)
        for attempt in range(MAX_REFUSALS + 1):
            response, answer = yield from self._exchange(method, self._url(path, query), content, sent)
            if response.status != 429 or attempt == MAX_REFUSALS:
                break
            time.sleep(_retry_after_s(response))
        if response.status >= 400:
            raise StatusError(status_of(response.status, answer))
        try:
            return json.loads(answer, parse_float=_number)
        except ValueError:
            raise Unreached(f"the server at {self.address} did not answer in JSON: is it domctl?") from None

    def stream(self, path: str, query: Query, accept: str, until: float | None) -> Iterator[dict[str, Any]]:
        """The lines of a watch, on a connection of its own. Ends when the connection does, when it is silent
        for too long, or at `until` (monotonic). Raises StatusError, Unreached for the request itself."""
        connection = self._open()
        try:
            response = self._get(connection, self._url(path, query), {"Accept": accept})
            if response.status >= 400:
                raise StatusError(status_of(response.status, response.read()))
            yield from _lines(response, connection.sock, until)
        except _DROPPED as error:
            raise self._lost(error, maybe_done=False) from None
        finally:
            connection.close()

    def pieces(self, path: str, query: Query = ()) -> Iterator[bytes]:
        """The answer's bytes as they come, on a connection of its own; once it has begun, silence is no sign
        of an end. Raises StatusError, Unreached."""
        connection = self._open()
        try:
            response = self._get(connection, self._url(path, query), {"Accept": "*/*"})
            if response.status >= 400:
                raise StatusError(status_of(response.status, response.read()))
            if connection.sock is not None:
                connection.sock.settimeout(None)
                connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            while chunk := response.read1(1 << 16):
                yield chunk
        except _DROPPED as error:
            raise self._lost(error, maybe_done=False) from None
        finally:
            connection.close()

    def begin(self, path: str, query: Query, headers: dict[str, str]) -> socket.socket:
        """A connection on which a GET was sent and nothing read: for what is HTTP no longer than that.
        Raises Unreached."""
        connection = self._open()
        sent = self._headers(headers)
        try:
            connection.request("GET", self._url(path, query), headers=sent)
        except _DROPPED as error:
            raise self._lost(error, maybe_done=False) from None
        return connection.sock

    def _exchange(
        self, method: str, url: str, content: bytes, headers: dict[str, str]
    ) -> Steps[tuple[http.client.HTTPResponse, bytes]]:
        read_only = method == "GET"
        for attempt in (1, 2):
            connection = self._kept(read_only)
            began = time.monotonic()
            try:
                connection.request(method, url, body=content or None, headers=self._headers(headers))
                yield
                response = self._answer(connection, f"{method} https://{self.address}{url}", began)
                answer = response.read()
            except TimeoutError:
                self._drop()
                raise Unreached(
                    f"The server at {self.address} did not answer within {self.timeout_s:g}s",
                    hint="" if read_only else "the change may have been made; read the object again",
                    maybe_done=not read_only,
                ) from None
            except _DROPPED as error:
                self._drop()
                if read_only and attempt == 1:
                    continue
                raise self._lost(error, maybe_done=not read_only) from None
            except BaseException:
                self._drop()  # an answer half read would be taken for the next one's
                raise
            self._used_at = time.monotonic()
            if response.getheader("Content-Encoding") == "gzip":
                import zlib  # noqa: PLC0415

                answer = zlib.decompress(answer, 31)
            return response, answer
        raise AssertionError("unreachable")

    def _get(
        self, connection: http.client.HTTPConnection, url: str, headers: dict[str, str]
    ) -> http.client.HTTPResponse:
        began = time.monotonic()
        connection.request("GET", url, headers=self._headers(headers))
        return self._answer(connection, f"GET https://{self.address}{url}", began)

    def _answer(
        self, connection: http.client.HTTPConnection, request: str, began: float
    ) -> http.client.HTTPResponse:
        response = connection.getresponse()
        if self.verbosity >= 6:
            took_ms = (time.monotonic() - began) * 1000
            sys.stderr.write(f"{request} {response.status} in {took_ms:.0f} ms\n")
        for warning in response.headers.get_all("Warning") or ():
            self._warn(warning)
        return response

    def _headers(self, own: dict[str, str]) -> Any:
        """With those that say who asks, of which one may be there more than once."""
        sent: Any = http.client.HTTPMessage()
        for name, value in ({"User-Agent": "domctl"} | own).items():
            sent[name] = value
        for name, proof in self._proof.headers:
            sent[name] = proof  # as bytes: names are UTF-8 to the server
        return sent

    def _kept(self, read_only: bool) -> http.client.HTTPConnection:
        idle = time.monotonic() - self._used_at
        if self._connection is not None and not read_only and idle > KEPT_S:
            self._drop()
        if self._connection is None:
            self._connection = self._open()
        return self._connection

    def close(self) -> None:
        self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> http.client.HTTPConnection:
        """A connected connection. Raises Unreached in kubectl's words."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=CONNECT_S)
        try:
            address: Any = (_host_name(self._host), self._port)
            connection.sock = socket.create_connection(address, CONNECT_S)
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._proof.context is not None:
                name = _host_name(self.server_name or self._host)
                connection.sock = self._proof.context.wrap_socket(connection.sock, server_hostname=name)
        except ConnectionRefusedError:
            raise Unreached(
                f"The connection to the server {self.address} was refused - "
                "did you specify the right host or port?"
            ) from None
        except ssl.SSLCertVerificationError as error:
            connection.close()
            raise self._untrusted(error) from None
        except socket.gaierror:
            raise self._no_way(f"lookup {self._host}: no such host") from None
        except TimeoutError:
            connection.close()
            raise self._no_way(f"{self.address} did not answer within {CONNECT_S:g}s") from None
        except OSError as error:
            connection.close()
            raise self._no_way(f"{self.address}: {getattr(error, 'strerror', '') or error}") from None
        connection.sock.settimeout(self.timeout_s)
        return connection

    def _no_way(self, why: str) -> Unreached:
        return Unreached(f"Unable to connect to the server: {why}")

    def _untrusted(self, error: ssl.SSLCertVerificationError) -> Unreached:
        return Unreached(
            f"Unable to connect to the server: its certificate is not trusted: {error.verify_message}",
            hint="the kubeconfig may be another server's: compare its certificate-authority and address",
        )

    def _lost(self, error: Exception, *, maybe_done: bool) -> Unreached:
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            return self._no_way(f"{self.address}: TLS: {error}")
        return Unreached(
            f"The connection to the server {self.address} was lost before it answered",
            hint="the change may have been made; read the object again" if maybe_done else "",
            maybe_done=maybe_done,
        )

    def _url(self, path: str, query: Query) -> str:
        return f"{self._base}{path}?{urlencode(query)}" if query else f"{self._base}{path}"

    def _warn(self, header: str) -> None:
        """`299 - "text"`: each text once."""
        text = header.partition('"')[2].rpartition('"')[0].replace('\\"', '"') or header
        if text not in self._warned:
            self._warned.add(text)
            sys.stderr.write(f"Warning: {printable(text)}\n")


def connect(args: argparse.Namespace) -> Client:
    """The client that the command line asks for. Nothing is sent yet."""
    chosen = target(args)
    client = Client(chosen.server, credentials(chosen), chosen.namespace)
    client.server_name = str(chosen.cluster.get("tls-server-name") or "")
    client.verbosity = args.v
    try:
        if args.request_timeout:
            client.timeout_s = client.watch_s = duration_s(args.request_timeout) or None
        args.cleanup.append(client.close)
    except ValueError:
        raise CliError(f'invalid --request-timeout "{args.request_timeout}": write 30s or 2m') from None
    return client


def at_last(steps: Steps[T]) -> T:
    """What comes of steps that are taken without a pause."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found


def _host_name(name: str) -> str | bytes:
    """As bytes where that is enough: the codec for names that are not ASCII costs a sixth of a command."""
    return name.encode("ascii") if name.isascii() else name


def _lines(
    response: http.client.HTTPResponse, sock: socket.socket | None, until: float | None
) -> Iterator[dict[str, Any]]:
    rest = b""
    while True:
        left = IDLE_S if until is None else min(IDLE_S, until - time.monotonic())
        if left <= 0:
            return
        if sock is not None:
            sock.settimeout(left)
        try:
            chunk = response.read1(1 << 16)
        except (TimeoutError, *_DROPPED):
            return
        if not chunk:
            return
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line.strip():
                yield json.loads(line, parse_float=_number)


def _number(text: str) -> float | int:
    """1.0 is 1 to every client that decodes JSON as Go does."""
    number = float(text)
    return int(number) if number.is_integer() and abs(number) < 1e21 else number


def status_of(code: int, answer: bytes) -> dict[str, Any]:
    """The server's Status, or one made of what a proxy in between said."""
    try:
        status = json.loads(answer)
        if isinstance(status, dict) and status.get("kind") == "Status":
            return {**status, "code": code}
    except ValueError:
        pass
    text = answer.decode(errors="replace").strip()[:200]
    reasons = {401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 503: "ServiceUnavailable"}
    return {
        "code": code,
        "reason": reasons.get(code, ""),
        "message": text or http.client.responses.get(code, ""),
    }


def _retry_after_s(response: http.client.HTTPResponse) -> float:
    try:
        return min(MAX_WAIT_S, max(0.1, float(response.getheader("Retry-After") or 1)))
    except ValueError:
        return 1.0
