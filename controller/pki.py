"""The private PKI of one data directory: a CA, the server's certificate, an administrator's, a kubeconfig.

Made on first start and looked after at every later one; `ensure` may be called again at any time. Leaves
are renewed when less than 30 days are left, or when the server's names change; the CA is never replaced
while it is valid, since every client trusts it. Everything is written atomically with mode 0600. The API
knows users by certificate: CN is the user, each O a group. Not here: issuing certificates for others,
revocation, and libvirt's own TLS.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ADMIN = "admin"
ADMIN_GROUP = "domctl:admins"
_CA_DAYS = 3650
_LEAF_DAYS = 365
_RENEW_DAYS = 30
_BACKDATE = datetime.timedelta(minutes=5)  # clocks of clients differ


@dataclass(frozen=True, slots=True)
class Pki:
    """Where the files are, all PEM."""

    ca_cert: Path
    server_cert: Path
    server_key: Path
    admin_cert: Path
    admin_key: Path
    kubeconfig: Path


@dataclass(frozen=True, slots=True)
class _Pair:
    cert: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class _Leaf:
    """What a leaf certificate should say. `names` is empty for a client."""

    common_name: str
    organization: str = ""
    names: tuple[str, ...] = ()


def ensure(data_dir: Path, host: str, port: int, now: datetime.datetime) -> Pki:
    """Make or renew what is missing under `data_dir`/pki, and write `data_dir`/kubeconfig for the server at
    `host`:`port`. `now` is timezone-aware. Blocks for some milliseconds."""
    folder = data_dir / "pki"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    pki = Pki(
        folder / "ca.crt",
        folder / "server.crt",
        folder / "server.key",
        folder / "admin.crt",
        folder / "admin.key",
        data_dir / "kubeconfig",
    )
    ca = _ensure_ca(pki.ca_cert, folder / "ca.key", now)
    names = server_names(host)
    _ensure_leaf(pki.server_cert, pki.server_key, ca, _Leaf("domctl", names=names), now)
    _ensure_leaf(pki.admin_cert, pki.admin_key, ca, _Leaf(ADMIN, ADMIN_GROUP), now)
    write_kubeconfig(pki, server_url(host, port))
    return pki


def server_names(host: str) -> tuple[str, ...]:
    """The names and addresses under which a server listening on `host` is reached."""
    wanted = [host.strip("[]"), "localhost", "127.0.0.1", "::1", socket.gethostname()]
    return tuple(dict.fromkeys(n for n in wanted if n and n not in {"0.0.0.0", "::"}))  # noqa: S104


def server_url(host: str, port: int) -> str:
    host = host.strip("[]")
    if host in {"", "0.0.0.0", "::"}:  # noqa: S104 - clients cannot connect to "any address"
        host = "127.0.0.1"
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def write_kubeconfig(pki: Pki, url: str) -> None:
    """A kubeconfig that needs no other file. JSON is YAML, so every client reads it."""

    def embedded(path: Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    user = {"client-certificate-data": embedded(pki.admin_cert), "client-key-data": embedded(pki.admin_key)}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "domctl",
                "cluster": {"server": url, "certificate-authority-data": embedded(pki.ca_cert)},
            }
        ],
        "users": [{"name": "domctl-admin", "user": user}],
        "contexts": [{"name": "domctl", "context": {"cluster": "domctl", "user": "domctl-admin"}}],
        "current-context": "domctl",
    }
    content = json.dumps(config, indent=2).encode() + b"\n"
    if not pki.kubeconfig.exists() or pki.kubeconfig.read_bytes() != content:
        write_private(pki.kubeconfig, content)


def write_private(path: Path, content: bytes) -> None:
    """Replace `path` atomically; nobody but its owner can read it at any moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _ensure_ca(cert_path: Path, key_path: Path, now: datetime.datetime) -> _Pair:
    pair = _load(cert_path, key_path)
    if pair is not None and pair.cert.not_valid_after_utc > now:
        return pair
    key = ec.generate_private_key(ec.SECP256R1())
    # A name of its own for each CA: OpenSSL then never confuses an old one with a new one.
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, f"domctl CA {x509.random_serial_number() % 2**32:08x}")]
    )
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    cert = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + datetime.timedelta(days=_CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _save(_Pair(cert, key), cert_path, key_path)
    return _Pair(cert, key)


def _ensure_leaf(cert_path: Path, key_path: Path, ca: _Pair, leaf: _Leaf, now: datetime.datetime) -> None:
    pair = _load(cert_path, key_path)
    if pair is not None and _is_good(pair.cert, ca, leaf, now):
        return
    key = ec.generate_private_key(ec.SECP256R1())
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, leaf.common_name)]
    if leaf.organization:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, leaf.organization))
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if leaf.names else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(attributes))
        .issuer_name(ca.cert.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(min(now + datetime.timedelta(days=_LEAF_DAYS), ca.cert.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key()), critical=False
        )
    )
    if leaf.names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(n) for n in leaf.names]), critical=False
        )
    _save(_Pair(builder.sign(ca.key, hashes.SHA256()), key), cert_path, key_path)


def _is_good(cert: x509.Certificate, ca: _Pair, leaf: _Leaf, now: datetime.datetime) -> bool:
    """Ours, long enough valid, and for the names wanted (more names do no harm)."""
    if cert.issuer != ca.cert.subject:
        return False
    if cert.not_valid_after_utc < now + datetime.timedelta(days=_RENEW_DAYS):
        return False
    if not leaf.names:
        return True
    try:
        present = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    return set(present) >= {_general_name(n) for n in leaf.names}


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _load(cert_path: Path, key_path: Path) -> _Pair | None:
    """None when a file is missing, unreadable as PEM, or the two do not belong together (a crash between
    the two writes): then both are made again."""
    try:
        cert = x509.load_pem_x509_certificate(cert_path.read_bytes())
        key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != cert.public_key():
        return None
    return _Pair(cert, key)


def _save(pair: _Pair, cert_path: Path, key_path: Path) -> None:
    write_private(
        key_path,
        pair.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    write_private(cert_path, pair.cert.public_bytes(serialization.Encoding.PEM))
