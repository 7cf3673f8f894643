"""TLS: our certificate and the host's, looked at before and after libvirt does.

libvirt checks certificates itself and is never told not to; but most that goes wrong it reports with one
number and a few words: "Unable to read TLS confirmation" is a certificate that the host does not know, one
that has expired, and a name that its allow-list has not. So our own files are looked at first, and one
handshake of our own tells what the host shows and whether it takes us; libvirt's daemon says that with one
byte after the handshake. What was found explains libvirt's error, if there is one, and decides nothing else.
"""

from __future__ import annotations

import contextlib
import datetime
import ssl
from dataclasses import dataclass

from cryptography import x509

from drivers.errors import AuthFailed, Cause, HypervisorError
from drivers.hypervisor import Certificate
from drivers.libvirt.access import readable, secret, unfit
from drivers.libvirt.reach import Enter, explained, knock
from specs.uri import ParsedUri

# GnuTLS's words for: nothing older than TLS 1.2.
PRIORITY = "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"
FILES = ("cacert.pem", "clientcert.pem", "clientkey.pem")
ACCEPTED = b"\x01"  # what libvirt's daemon sends to a client whose certificate it takes

_EXPIRED, _NOT_YET, _MISNAMED, _MISADDRESSED = 10, 9, 62, 64  # X509_V_ERR_*


@dataclass(frozen=True, slots=True)
class Ours:
    """The three files of a pkipath directory."""

    directory: str
    certificate: x509.Certificate

    def file(self, name: str) -> str:
        return f"{self.directory}/{name}"


@dataclass(frozen=True, slots=True)
class Looked:
    """What a handshake of our own came to. `verdict`: what is wrong, None if nothing is."""

    server: Certificate | None
    verdict: HypervisorError | None


def ours(directory: str, now: datetime.datetime) -> Ours:
    """Our own side. Raises AuthFailed."""
    for name in FILES[:2]:
        readable(f"{directory}/{name}")
    secret(f"{directory}/{FILES[2]}")
    path = f"{directory}/{FILES[1]}"
    try:
        with open(path, "rb") as file:
            certificate = x509.load_pem_x509_certificate(file.read())
    except (OSError, ValueError) as error:
        raise unfit(f"{path}: is no certificate in PEM ({error})") from None
    if certificate.not_valid_after_utc <= now:
        raise AuthFailed(
            f"our certificate {path} expired at {_wall(certificate.not_valid_after_utc)}; put a new one in "
            "its place, it is used at the next attempt",
            cause=Cause.CLIENT_CERTIFICATE_EXPIRED,
        )
    if certificate.not_valid_before_utc > now:
        raise AuthFailed(
            f"our certificate {path} is not valid before {_wall(certificate.not_valid_before_utc)}; look at "
            "the clock of the controller's machine",
            cause=Cause.CLIENT_CERTIFICATE_INVALID,
        )
    return Ours(directory, certificate)


def look(uri: ParsedUri, mine: Ours, enter: Enter) -> Looked:
    """Shake hands with the host once. Raises Unreachable, or AuthFailed for files that cannot be used."""
    context = _context(mine)
    with knock(uri, enter) as connection:
        enter("shaking hands for TLS")
        try:
            with context.wrap_socket(connection, server_hostname=uri.host) as secured:
                server = _described(secured.getpeercert(binary_form=True))
                return Looked(server, _answer(secured, mine))
        except ssl.SSLCertVerificationError as error:
            return Looked(None, _untrusted(uri, mine, error))
        except ssl.SSLError as error:
            return Looked(None, _refused(mine, str(error)))
        except ConnectionResetError as error:
            return Looked(None, _refused(mine, str(error)))
        except OSError as error:
            raise explained(uri, error) from None


def _context(mine: Ours) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(mine.file(FILES[0]))
        context.load_cert_chain(mine.file(FILES[1]), mine.file(FILES[2]))
    except (OSError, ssl.SSLError) as error:
        raise AuthFailed(
            f"the certificates in {mine.directory} cannot be used, or certificate and key do not belong "
            f"together: {error}",
            cause=Cause.CLIENT_CERTIFICATE_INVALID,
        ) from None
    return context


def _answer(secured: ssl.SSLSocket, mine: Ours) -> HypervisorError | None:
    """Whether the host takes our certificate, which it says only after the handshake."""
    said = b""
    with contextlib.suppress(ssl.SSLError, ConnectionResetError):
        said = secured.recv(1)
    return None if said == ACCEPTED else _refused(mine, "it ended the connection after the handshake")


def _refused(mine: Ours, how: str) -> AuthFailed:
    return AuthFailed(
        f"the host does not take our certificate ({how}): let its tls_allowed_dn_list in libvirtd.conf have "
        f'"{mine.certificate.subject.rfc4514_string()}", and its ca_file be the CA that issued it, '
        f'"{mine.certificate.issuer.rfc4514_string()}"; then restart libvirtd there',
        cause=Cause.CLIENT_REFUSED,
    )


def _untrusted(uri: ParsedUri, mine: Ours, error: ssl.SSLCertVerificationError) -> AuthFailed:
    said = error.verify_message
    if error.verify_code == _EXPIRED:
        return AuthFailed(
            f"the certificate of {uri.host} has expired: give that host a new one, and restart libvirtd",
            cause=Cause.SERVER_CERTIFICATE_EXPIRED,
        )
    if error.verify_code == _NOT_YET:
        return AuthFailed(
            f"the certificate of {uri.host} is not valid yet: look at the clocks of both machines",
            cause=Cause.SERVER_CERTIFICATE_EXPIRED,
        )
    if error.verify_code in (_MISNAMED, _MISADDRESSED):
        return AuthFailed(
            f"the certificate of {uri.host} is for another name ({said}): reach that host by a name of its "
            f"certificate, or give it one whose subjectAltName has {uri.host}",
            cause=Cause.SERVER_CERTIFICATE_MISNAMED,
        )
    return AuthFailed(
        f"the certificate of {uri.host} is not of the CA in {mine.file(FILES[0])} ({said}): it is another "
        "machine that answers there, or that file must hold the CA which issued its certificate",
        cause=Cause.SERVER_CERTIFICATE_UNTRUSTED,
    )


def certificates(mine: Ours, looked: Looked) -> tuple[Certificate, ...]:
    own = Certificate(
        "client", mine.certificate.subject.rfc4514_string(), _wall(mine.certificate.not_valid_after_utc)
    )
    return (own,) if looked.server is None else (own, looked.server)


def _described(der: bytes | None) -> Certificate | None:
    if der is None:
        return None
    try:
        found = x509.load_der_x509_certificate(der)
    except ValueError:
        return None
    return Certificate("server", found.subject.rfc4514_string(), _wall(found.not_valid_after_utc))


def _wall(at: datetime.datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def dialled(uri: ParsedUri, mine: Ours) -> str:
    """What libvirt is given. Without `no_verify`, whatever happens (I7)."""
    return f"{uri.text}?pkipath={mine.directory}&tls_priority={PRIORITY}"


def explain(error: HypervisorError, looked: Looked) -> HypervisorError:
    """libvirt's error, with what our own look had found. Without a finding it stays what it was, and so does
    one that is about something else: the daemon may have died in between."""
    found = looked.verdict
    if found is None or not ("TLS" in error.message or "certificate" in error.message):
        return _from_words(error)
    return AuthFailed(
        f"{found.message} (libvirt: {error.message})", code=error.code, origin=error.origin, cause=found.cause
    )


def _from_words(error: HypervisorError) -> HypervisorError:
    """What libvirt finds in our own files and Python does not."""
    if "Our own certificate" not in error.message and "client certificate" not in error.message:
        return error
    return AuthFailed(
        f"our own certificate cannot be used; clientcert.pem must be issued by the CA in cacert.pem beside "
        f"it, for client authentication (libvirt: {error.message})",
        code=error.code,
        origin=error.origin,
        cause=Cause.CLIENT_CERTIFICATE_INVALID,
    )
