"""What a lab with doors writes, as far as it needs no host: certificates, configurations and Nodes."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from deploy.lablib import config, transports
from deploy.lablib.authority import Authority
from deploy.lablib.layout import Host, Lab, LabError
from specs.validate import load_file_objects

DAY = datetime.timedelta(days=1)
HOST = Host("lab-1", 1, "10.231.9.11", "", "0" * 32, "", "/nowhere/lab/hosts/lab-1")
LAB = Lab("lab", "/nowhere/lab", 9, session=False, complete=True, hosts=(HOST,), transports=True)


def test_a_certificate_is_of_its_authority_for_its_names_and_in_its_time(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca", "CA of mine")
    made = authority.issue(tmp_path / "pki", "server", "h", ["10.231.9.11", "h.lab"], days=(-30, -1))
    ca = x509.load_pem_x509_certificate((made / "cacert.pem").read_bytes())
    issued = x509.load_pem_x509_certificate((made / "servercert.pem").read_bytes())
    issued.verify_directly_issued_by(ca)
    names = issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["10.231.9.11"]
    assert names.get_values_for_type(x509.DNSName) == ["h.lab"]
    now = datetime.datetime.now(datetime.UTC)
    assert abs(issued.not_valid_before_utc - (now - 30 * DAY)) < DAY / 24
    assert abs(issued.not_valid_after_utc - (now - DAY)) < DAY / 24
    key = made / "serverkey.pem"
    assert key.stat().st_mode & 0o077 == 0
    assert isinstance(ca.public_key(), ec.EllipticCurvePublicKey)


def test_the_same_certificate_can_be_issued_again_for_a_time_to_the_second(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca", "CA")
    serials = set()
    for ends in (-1, 6 / 86400):
        made = authority.issue(tmp_path / "pki", "client", "c", days=(-2, ends))
        issued = x509.load_pem_x509_certificate((made / "clientcert.pem").read_bytes())
        serials.add(issued.serial_number)
    left = issued.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert len(serials) == 2 and datetime.timedelta(0) < left < datetime.timedelta(seconds=7)


def test_what_openssl_refuses_is_said_in_its_words(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca", "CA")
    with pytest.raises(LabError, match="openssl"):
        authority.issue(tmp_path / "pki", "client", "c", ["h, no-such-kind:x"])


@pytest.mark.parametrize("transport", transports.TRANSPORTS)
def test_the_node_of_each_transport_is_valid_as_it_is_printed(transport: str) -> None:
    (found,), problems = load_file_objects(transports.node(LAB, HOST, transport))
    assert problems == []
    assert found.raw["metadata"]["name"] == "lab-1"
    assert all(path.startswith("/nowhere/lab/clients/") for path in found.raw["spec"]["connection"].values())


def test_doors_replace_what_a_host_of_a_lab_says_of_its_ports() -> None:
    text = transports.with_doors(config.libvirtd_conf(HOST), ["a", "lab-1"])
    assert 'tls_allowed_dn_list = ["CN=a", "CN=lab-1"]' in text
    for name, value in (("listen_tls", "1"), ("auth_tcp", '"sasl"'), ("listen_tcp", "1")):
        assert [line for line in text.splitlines() if line.startswith(f"{name} =")] == [f"{name} = {value}"]
