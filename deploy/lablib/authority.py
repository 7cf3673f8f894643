"""A CA for one lab, and the certificates that it issues: openssl's command, which every system has.

Nothing made here is worth anything elsewhere: a lab's CA is of that lab, and goes with it. Times are to the
second and may lie in the past, since a lab must also have what no longer opens a door.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from .layout import LabError

_PURPOSES = {"server": "serverAuth", "client": "clientAuth"}
_CA_DAYS = 365
_CONF = """\
[ca]
default_ca = own
[own]
database = {directory}/index.txt
new_certs_dir = {directory}
certificate = {directory}/cacert.pem
private_key = {directory}/cakey.pem
default_md = sha256
rand_serial = yes
unique_subject = no
policy = any
[any]
commonName = supplied
[req]
distinguished_name = empty
[empty]
"""
_LEAF = """\
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = {purpose}
"""


class Authority:
    """A CA, made anew in `directory` (which is made, and readable by its owner alone)."""

    def __init__(self, directory: Path, name: str) -> None:
        directory.mkdir(mode=0o700, parents=True)
        self._directory = directory
        (directory / "index.txt").touch()
        (directory / "openssl.cnf").write_text(_CONF.format(directory=directory))
        self._openssl(
            *("req", "-x509", *_new_key(directory / "cakey.pem"), "-subj", f"/CN={name}"),
            *("-days", str(_CA_DAYS), "-out", f"{directory}/cacert.pem"),
            *("-addext", "basicConstraints=critical,CA:TRUE,pathlen:0"),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        )

    def issue(
        self,
        directory: Path,
        role: str,
        name: str,
        names: Iterable[str] = (),
        days: tuple[float, float] = (-1, 90),
    ) -> Path:
        """`role` (client or server) + cert.pem and key.pem, and cacert.pem, in `directory`; `names`: of
        hosts, or addresses; valid from and to so many days from now."""
        directory.mkdir(parents=True, exist_ok=True)
        request, extensions = self._directory / "request.pem", self._directory / "extensions.cnf"
        key = directory / f"{role}key.pem"
        self._openssl("req", "-new", *_new_key(key), "-subj", f"/CN={name}", "-out", str(request))
        known = ", ".join(_general(one) for one in names)
        extensions.write_text(
            _LEAF.format(purpose=_PURPOSES[role]) + (f"subjectAltName = {known}\n" if known else "")
        )
        begins, ends = (f"{datetime.now(UTC) + timedelta(days=day):%Y%m%d%H%M%SZ}" for day in days)
        self._openssl(
            *("ca", "-batch", "-notext", "-in", str(request), "-out", str(directory / f"{role}cert.pem")),
            *("-startdate", begins, "-enddate", ends, "-extfile", str(extensions)),
        )
        shutil.copyfile(self._directory / "cacert.pem", directory / "cacert.pem")
        return directory

    def _openssl(self, *args: str) -> None:
        verb, *rest = args
        command = ["openssl", verb, "-config", f"{self._directory}/openssl.cnf", *rest]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=30, umask=0o077,
            stdin=subprocess.DEVNULL, env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
        if done.returncode != 0:
            raise LabError(f"{' '.join(command)}: {done.stderr.strip()}")


def _new_key(path: Path) -> tuple[str, ...]:
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(path))


def _general(name: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(name)}"
    except ValueError:
        return f"DNS:{name}"
