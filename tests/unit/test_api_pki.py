"""The private PKI: what is made once, kept, renewed in time, made again when broken, and never readable."""

from __future__ import annotations

import base64
import datetime
import json
import stat
from pathlib import Path

import pytest
from cryptography import x509

from controller import pki

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def days(count: int) -> datetime.timedelta:
    return datetime.timedelta(days=count)


def cert(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_a_second_start_changes_nothing(tmp_path: Path) -> None:
    pki.ensure(tmp_path, "127.0.0.1", 8443, NOW)
    before = contents(tmp_path)
    pki.ensure(tmp_path, "127.0.0.1", 8443, NOW + days(300))
    assert contents(tmp_path) == before


def test_nobody_else_can_read_any_file(tmp_path: Path) -> None:
    pki.ensure(tmp_path, "127.0.0.1", 8443, NOW)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) == 7
    assert all(stat.S_IMODE(p.stat().st_mode) == 0o600 for p in files)
    assert stat.S_IMODE((tmp_path / "pki").stat().st_mode) == 0o700


def test_leaves_are_renewed_before_they_end_and_the_authority_stays(tmp_path: Path) -> None:
    files = pki.ensure(tmp_path, "127.0.0.1", 8443, NOW)
    ca, server = files.ca_cert.read_bytes(), files.server_cert.read_bytes()
    later = NOW + days(340)
    pki.ensure(tmp_path, "127.0.0.1", 8443, later)
    assert files.ca_cert.read_bytes() == ca
    assert files.server_cert.read_bytes() != server
    for path in (files.server_cert, files.admin_cert):
        assert cert(path).not_valid_after_utc > later + days(360)
        cert(path).verify_directly_issued_by(cert(files.ca_cert))
    user = json.loads(files.kubeconfig.read_text())["users"][0]["user"]
    assert base64.b64decode(user["client-certificate-data"]) == files.admin_cert.read_bytes()


def test_an_expired_authority_is_replaced_with_all_it_issued(tmp_path: Path) -> None:
    files = pki.ensure(tmp_path, "127.0.0.1", 8443, NOW)
    old = files.ca_cert.read_bytes()
    pki.ensure(tmp_path, "127.0.0.1", 8443, NOW + days(3651))
    assert files.ca_cert.read_bytes() != old
    cert(files.server_cert).verify_directly_issued_by(cert(files.ca_cert))


def test_the_server_is_named_by_all_that_it_is_reached_by(tmp_path: Path) -> None:
    files = pki.ensure(tmp_path, "10.1.2.3", 8443, NOW)
    before = files.admin_cert.read_bytes()
    names = cert(files.server_cert).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(n.value) for n in names} >= {"10.1.2.3", "127.0.0.1", "::1", "localhost"}
    pki.ensure(tmp_path, "control.example.org", 8443, NOW)
    names = cert(files.server_cert).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "control.example.org" in {str(n.value) for n in names}
    assert files.admin_cert.read_bytes() == before


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "https://127.0.0.1:8443"),
        ("::1", "https://[::1]:8443"),
        ("[::1]", "https://[::1]:8443"),
        ("0.0.0.0", "https://127.0.0.1:8443"),
        ("::", "https://127.0.0.1:8443"),
        ("control.example.org", "https://control.example.org:8443"),
    ],
)
def test_the_kubeconfig_names_an_address_that_clients_can_reach(tmp_path: Path, host: str, url: str) -> None:
    files = pki.ensure(tmp_path, host, 8443, NOW)
    config = json.loads(files.kubeconfig.read_text())
    assert config["clusters"][0]["cluster"]["server"] == url
    assert config["current-context"] == config["contexts"][0]["name"] == "domctl"


def test_the_kubeconfig_follows_the_address(tmp_path: Path) -> None:
    files = pki.ensure(tmp_path, "127.0.0.1", 8443, NOW)
    keep = files.server_cert.read_bytes()
    pki.ensure(tmp_path, "127.0.0.1", 9443, NOW)
    assert "https://127.0.0.1:9443" in files.kubeconfig.read_text()
    assert files.server_cert.read_bytes() == keep


@pytest.mark.parametrize("content", [b"", b"not PEM", None])
@pytest.mark.parametrize("name", ["server.crt", "server.key", "admin.key"])
def test_what_a_crash_left_half_done_is_made_again(tmp_path: Path, name: str, content: bytes | None) -> None:
    files = pki.ensure(tmp_path, "127.0.0.1", 8443, NOW)
    ca = files.ca_cert.read_bytes()
    path = tmp_path / "pki" / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    pki.ensure(tmp_path, "127.0.0.1", 8443, NOW)
    assert files.ca_cert.read_bytes() == ca
    for leaf in (files.server_cert, files.admin_cert):
        cert(leaf).verify_directly_issued_by(cert(files.ca_cert))


def test_a_key_that_is_not_the_certificates_is_replaced(tmp_path: Path) -> None:
    files = pki.ensure(tmp_path, "127.0.0.1", 8443, NOW)
    files.server_key.write_bytes(files.admin_key.read_bytes())
    pki.ensure(tmp_path, "127.0.0.1", 8443, NOW)
    assert files.server_key.read_bytes() != files.admin_key.read_bytes()
