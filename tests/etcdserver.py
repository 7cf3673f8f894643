"""Real etcd servers for tests: one process each, on a loopback address of its own, dead with the test run.

`EtcdServer` is one member, `EtcdCluster` several of them; both begin stopped. Every server has its own
address in 127.0.0.0/8, so that ports never collide and stay the same over a restart. Nothing waits for
the disk unless `fsync=True`. Start servers from the main thread: a child dies with the *thread* that
started it (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import ipaddress
import json
import random
import shutil
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

START_TIMEOUT_S = 30.0
FAST = ("--heartbeat-interval=20", "--election-timeout=200")  # one member needs no patience with others


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, as files."""

    cert: Path
    key: Path


class Authority:
    """A certificate authority in a directory: `ca` is its certificate, `issue` makes more."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"CA {directory.name}")])
        self._cert = self._sign(self._name, self._key, (), is_ca=True)
        self.ca = directory / "ca.pem"
        self.ca.write_bytes(self._cert.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, addresses: Sequence[str] = ()) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        cert = self._sign(subject, key, addresses, is_ca=False)
        identity = Identity(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        identity.cert.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        identity.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return identity

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, addresses: Sequence[str], *, is_ca: bool
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )
        if not is_ca:
            usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if addresses:
            names = [x509.IPAddress(ipaddress.ip_address(a)) for a in addresses]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())


class EtcdServer:
    """One etcd member. `authority`: TLS with client certificates required (its `issue` makes some)."""

    def __init__(
        self,
        directory: Path,
        *,
        authority: Authority | None = None,
        fsync: bool = False,
        args: Sequence[str] = (),
        name: str = "m0",
    ) -> None:
        self.binary = require_etcd()
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.data_dir = directory / "data"
        self.log = directory / "etcd.log"
        self.name = name
        self.address = _own_address()
        self.peer_url = f"http://{self.address}:2380"
        self.endpoint = f"{'https' if authority else 'http'}://{self.address}:2379"
        self.initial_cluster = f"{name}={self.peer_url}"
        self.token = str(directory)  # with the peers it makes the cluster id of a new data directory
        self.process: subprocess.Popen[bytes] | None = None
        self._args = [*FAST, *args] if fsync else [*FAST, "--unsafe-no-fsync", *args]
        self._context: ssl.SSLContext | None = None
        if authority is not None:
            self._use_tls(authority)

    def _use_tls(self, authority: Authority) -> None:
        server = authority.issue(f"server-{self.name}", [self.address])
        client = authority.issue(f"admin-{self.name}")
        self._args += [
            f"--cert-file={server.cert}",
            f"--key-file={server.key}",
            f"--trusted-ca-file={authority.ca}",
            "--client-cert-auth",
        ]
        self._context = ssl.create_default_context(cafile=str(authority.ca))
        self._context.load_cert_chain(client.cert, client.key)

    def start(self, *, wait: bool = True) -> EtcdServer:
        """Start the process on its data directory, new or old, and wait until it serves."""
        assert self.process is None, "it runs already"
        command = [
            *("/usr/bin/setpriv", "--pdeathsig", "KILL"),
            self.binary,
            f"--name={self.name}",
            f"--data-dir={self.data_dir}",
            f"--listen-client-urls={self.endpoint}",
            f"--advertise-client-urls={self.endpoint}",
            f"--listen-peer-urls={self.peer_url}",
            f"--initial-advertise-peer-urls={self.peer_url}",
            f"--initial-cluster={self.initial_cluster}",
            f"--initial-cluster-token={self.token}",
            f"--listen-metrics-urls=http://{self.address}:2381",
            "--log-level=warn",
            "--logger=zap",
            *self._args,
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env={})
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.is_healthy():
            if time.monotonic() > deadline or self.process is None or self.process.poll() is not None:
                raise RuntimeError(f"etcd does not serve:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}:2381/health", timeout=2) as reply:
                return bool(json.load(reply)["health"] == "true")
        except (OSError, ValueError):
            return False

    def kill(self) -> None:
        """SIGKILL: like a power cut of the process."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in good order; stopping what is stopped is no error."""
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing answers, until `thaw`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self.process.pid}/task")  # each thread stops when it is next looked at
        while any(
            (task / "stat").read_text().rpartition(")")[2].split()[0] != "T" for task in tasks.iterdir()
        ):
            time.sleep(0.001)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGCONT)
        process.send_signal(how)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)

    def api(self, path: str, body: dict[str, Any], *, token: str = "") -> dict[str, Any]:
        """Call etcd's JSON gateway, by a way that shares nothing with the driver under test."""
        request = urllib.request.Request(f"{self.endpoint}/v3/{path}", json.dumps(body).encode())
        if token:
            request.add_header("Authorization", token)
        with urllib.request.urlopen(request, timeout=10, context=self._context) as reply:
            result: dict[str, Any] = json.load(reply)
            return result

    def put(self, key: str, value: bytes = b"", *, token: str = "") -> int:
        """Write behind everybody's back; returns the revision."""
        body = {"key": _b64(key.encode()), "value": _b64(value)}
        return int(self.api("kv/put", body, token=token)["header"]["revision"])

    def get(self, key: str) -> bytes:
        """The value of a key; KeyError if there is none."""
        found = self.api("kv/range", {"key": _b64(key.encode())}).get("kvs", [])
        if not found:
            raise KeyError(key)
        return base64.b64decode(found[0].get("value", ""))

    def add_user(self, name: str, password: str, *, prefix: str = "", token: str = "") -> None:
        """Make a user who may read and write under `prefix` (and nothing else)."""
        self.api("auth/user/add", {"name": name, "password": password}, token=token)
        if not prefix:
            return
        self.api("auth/role/add", {"name": name}, token=token)
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        permission = {
            "permType": "READWRITE",
            "key": _b64(prefix.encode()),
            "range_end": _b64(end.encode()),
        }
        self.api("auth/role/grant", {"name": name, "perm": permission}, token=token)
        self.api("auth/user/grant", {"user": name, "role": name}, token=token)

    def enable_auth(self, root_password: str) -> str:
        """Switch authentication on; returns a token of root for `api`."""
        self.add_user("root", root_password)
        with contextlib.suppress(urllib.error.HTTPError):  # the role root is there already
            self.api("auth/role/add", {"name": "root"})
        self.api("auth/user/grant", {"user": "root", "role": "root"})
        self.api("auth/enable", {})
        reply = self.api("auth/authenticate", {"name": "root", "password": root_password})
        return str(reply["token"])

    def __enter__(self) -> EtcdServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class EtcdCluster:
    """Several members of one cluster."""

    def __init__(self, directory: Path, *, size: int = 3, args: Sequence[str] = ()) -> None:
        self.members = [EtcdServer(directory / f"m{i}", name=f"m{i}", args=args) for i in range(size)]
        together = ",".join(member.initial_cluster for member in self.members)
        for member in self.members:
            member.initial_cluster = together
            member.token = str(directory)
            member._args += ["--heartbeat-interval=50", "--election-timeout=500"]

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(member.endpoint for member in self.members)

    def heal(self) -> None:
        """Start what was killed, thaw what was frozen, wait until all serve."""
        for member in self.members:
            if member.process is None:
                member.start(wait=False)
            else:
                member.thaw()
        for member in self.members:
            member.wait_ready()

    def __enter__(self) -> EtcdCluster:
        self.heal()
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            member.kill()


def require_etcd() -> str:
    """The binary's path; skips the test where there is none."""
    binary = shutil.which("etcd")
    if binary is None:
        pytest.skip("etcd is not installed (package etcd-server)")
    return binary


def _own_address() -> str:
    return f"127.{random.randint(64, 254)}.{random.randint(1, 254)}.{random.randint(1, 254)}"


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
