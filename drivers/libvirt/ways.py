"""The transports, one function each: look at what can be looked at, and say what libvirt is to dial.

They run in an opening's thread, may block, and raise HypervisorErrors; `enter` is told what is being done.
None of them ever tries another way than the one that the URI names.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import libvirt

from drivers.errors import AuthFailed, Cause, HypervisorError, Unreachable, Unsupported
from drivers.hypervisor import Target
from drivers.libvirt import reach, tls, tunnel
from drivers.libvirt.access import Access, read_password, secret
from drivers.libvirt.reach import Enter
from drivers.libvirt.sockets import Peer, Sockets
from drivers.libvirt.way import NothingBeneath, SocketBeneath, Way
from specs.uri import ParsedUri


@dataclass(frozen=True, slots=True)
class Journey:
    """Where to, and what may be used on the way."""

    target: Target
    uri: ParsedUri
    sockets: Sockets
    access: Access


class Password:
    """Name and password for SASL, from the file that the Node names."""

    def __init__(self, username: str, password: str) -> None:
        self._answers = {libvirt.VIR_CRED_AUTHNAME: username, libvirt.VIR_CRED_PASSPHRASE: password}
        self.asked = False

    def request(self) -> list[object]:
        self.asked = False
        return [list(self._answers), self._answer, None]

    def _answer(self, credentials: list[list[Any]], _nothing: object) -> int:
        self.asked = True
        for credential in credentials:
            credential[4] = self._answers[credential[0]]
        return 0


def _sign_in(journey: Journey) -> Password | None:
    if not journey.target.credentials.auth_file:
        return None
    path = journey.access.path(journey.target.credentials, "auth_file", "a password")
    return Password(*read_password(path))


def _local(journey: Journey, _enter: Enter) -> Way:
    return Way(journey.uri.text, NothingBeneath(), must_hold=False, keep_alive=False)


def _unix(journey: Journey, _enter: Enter) -> Way:
    peer = Peer(frozenset(), journey.uri.socket)
    return Way(journey.uri.text, SocketBeneath(journey.sockets, peer), must_hold=False)


def _tcp(journey: Journey, enter: Enter) -> Way:
    sign_in = _sign_in(journey)
    peer = reach.find(journey.uri, enter)
    reach.knock(journey.uri, enter).close()
    beneath = SocketBeneath(journey.sockets, peer)
    return Way(journey.uri.text, beneath, sign_in=sign_in, explain=about_passwords)


def _tls(journey: Journey, enter: Enter) -> Way:
    sign_in = _sign_in(journey)
    directory = journey.access.path(journey.target.credentials, "pki_dir", "transport tls")
    mine = tls.ours(directory, datetime.datetime.now(datetime.UTC))
    peer = reach.find(journey.uri, enter)
    looked = tls.look(journey.uri, mine, enter)
    return Way(
        tls.dialled(journey.uri, mine),
        SocketBeneath(journey.sockets, peer),
        sign_in=sign_in,
        certificates=tls.certificates(mine, looked),
        explain=lambda error: tls.explain(about_passwords(error), looked),
    )


def _ssh(journey: Journey, enter: Enter) -> Way:
    credentials, access = journey.target.credentials, journey.access
    if lacking := tunnel.missing(tunnel.SSH, tunnel.SETPRIV):
        raise Unsupported(f"{lacking}: install openssh-client and util-linux there")
    known_hosts = access.path(credentials, "known_hosts", "transport ssh")
    key_file = secret(access.path(credentials, "key_file", "transport ssh"))
    reach.find(journey.uri, enter)
    reach.knock(journey.uri, enter).close()
    command, beneath = tunnel.ssh(access.private_dir, known_hosts, key_file)
    # no_tty: ssh must ask nobody anything.
    text = f"{journey.uri.text}?command={command}&no_tty=1"
    return Way(text, beneath, explain=lambda error: about_ssh(error, journey.uri, known_hosts, key_file))


def _ext(journey: Journey, _enter: Enter) -> Way:
    if lacking := tunnel.missing(tunnel.SETPRIV):
        raise Unsupported(f"{lacking}: install util-linux there")
    program = journey.access.program(journey.target.credentials.command)
    uri = journey.uri
    command, beneath = tunnel.ext(journey.access.private_dir, program, uri.host, uri.port)
    # What is told to the program is no part of libvirt's URI.
    return Way(f"{uri.driver}+ext://{uri.path}?command={command}", beneath)


WAYS: Final[Mapping[str, Callable[[Journey, Enter], Way]]] = MappingProxyType(
    {"local": _local, "unix": _unix, "tcp": _tcp, "tls": _tls, "ssh": _ssh, "ext": _ext}
)


# -- what libvirt's errors mean on a way --------------------------------------------------------------


def _explained(
    error: HypervisorError, kind: type[HypervisorError], cause: Cause, advice: str
) -> HypervisorError:
    words = " ".join(error.message.split())
    return kind(f"{advice} (libvirt: {words})", code=error.code, origin=error.origin, cause=cause)


def about_passwords(error: HypervisorError) -> HypervisorError:
    """libvirt's error, with its cause if it is about SASL."""
    if not isinstance(error, AuthFailed) or "certificate" in error.message:
        return error
    if "No worthy mechs" in error.message or "no mechanism available" in error.message:
        return _explained(
            error,
            AuthFailed,
            Cause.PASSWORD_NEEDED,
            "the host asks for a name and a password by SASL, and none fits: name a file with both in "
            "spec.connection.authFile; for tcp the host's mechanism must encrypt (digest-md5, gssapi)",
        )
    return _explained(
        error,
        AuthFailed,
        Cause.PASSWORD_REFUSED,
        "the host refuses the name or the password: set the same in the file of spec.connection.authFile "
        "and, with saslpasswd2 -a libvirt NAME, on the host; its sasl_allowed_username_list must have NAME",
    )


SSH_SAYS: Final = (
    (
        re.compile(r"REMOTE HOST IDENTIFICATION HAS CHANGED|differs from the key|has changed and you have"),
        Cause.HOST_KEY_CHANGED,
        "{host} shows another host key than {known_hosts} has: another machine answers there, or it was set "
        "up anew. If you are sure that it is the right one: ssh-keygen -f {known_hosts} -R {entry}, then add "
        "its new key",
    ),
    (
        re.compile(r"Host key verification failed|No \S+ host key is known|REVOKED HOST KEY"),
        Cause.HOST_KEY_UNKNOWN,
        "{known_hosts} has no key for {entry}: add the one that is in /etc/ssh/ssh_host_ed25519_key.pub on "
        "that host, after the word {entry}",
    ),
    (
        re.compile(r"Permission denied|Too many authentication failures|Load key|no such identity"),
        Cause.KEY_REFUSED,
        "{host} does not let {user} in with the key {key_file}: its authorized_keys there must have "
        "{key_file}.pub, and the user must exist",
    ),
    (
        re.compile(r"Failed to connect socket"),
        Cause.DAEMON_DOWN,
        "{host} lets {user} in, but its libvirt daemon does not run, or {user} may not use it: there, "
        "systemctl start libvirtd; usermod -aG libvirt {user}",
    ),
    (
        re.compile(
            r": not found|command not found|account is currently not|packet \d+ bytes received from server"
        ),
        Cause.SHELL_UNFIT,
        "{host} lets {user} in, but no libvirt answers: it needs virt-ssh-helper (or nc) in its PATH, and a "
        "login shell that prints nothing",
    ),
)


def about_ssh(error: HypervisorError, uri: ParsedUri, known_hosts: str, key_file: str) -> HypervisorError:
    """libvirt's error, which has ssh's last words in it, with the cause that they tell of."""
    entry = uri.host if uri.port == 22 else f"[{uri.host}]:{uri.port}"
    known = {
        "host": uri.host,
        "entry": entry,
        "user": uri.user or "the controller's user",
        "known_hosts": known_hosts,
        "key_file": key_file,
    }
    if not isinstance(error, Unreachable):
        return error
    for pattern, cause, advice in SSH_SAYS:
        if pattern.search(error.message):
            kind = Unreachable if cause is Cause.DAEMON_DOWN else AuthFailed
            return _explained(error, kind, cause, advice.format(**known))
    return error


def not_asked(journey: Journey) -> AuthFailed:
    """The host let us in without the password that the Node names: it may be anybody."""
    return AuthFailed(
        f"{journey.uri.host} asked for no password, although spec.connection.authFile names one: set "
        f'auth_{journey.uri.transport} = "sasl" in its libvirtd.conf, and restart libvirtd there',
        cause=Cause.PASSWORD_NOT_ASKED,
    )
