"""How a connection proves who it is: the TLS context, bearer tokens, and exec plugins.

Keys that a kubeconfig embeds must pass through a file to reach OpenSSL: it is a file in memory where the
system has them, else one that only its owner can read and that is gone at once. Plugins are run as
client.authentication.k8s.io says; what they print is used for this command only and kept nowhere.
"""

from __future__ import annotations

import os
import ssl

from controller.cli.errors import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from controller.cli.kubeconfig import Target

_EXEC_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
_PLUGIN_TIMEOUT_S = 120.0


class Credentials:
    """`context` is None for a server without TLS. `headers` go with every request."""

    def __init__(self, context: ssl.SSLContext | None, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        self.context = context
        self.headers = headers


def credentials(target: Target) -> Credentials:
    """Raises CliError for what cannot be read or run."""
    user = dict(target.user)
    if "auth-provider" in user:
        raise CliError("auth-provider in a kubeconfig is not supported; use an exec plugin")
    if isinstance(user.get("exec"), dict) and not _has_own(user):
        user.update(_run_plugin(user["exec"], target))
    encrypted = target.server.startswith("https://")
    authorization = _authorization(user)
    if authorization and not encrypted and not _is_loopback(target.server):
        raise CliError(f"a token would be sent in clear to {target.server}: use https")
    headers = [("Authorization", authorization.encode())] if authorization else []
    headers += _impersonation(user)
    return Credentials(_context(target.cluster, user) if encrypted else None, headers)


def _impersonation(user: Mapping[str, Any]) -> list[tuple[str, bytes]]:
    """As whom to act, which is part of who one is: to leave any of it out would be to act with more rights
    than were asked for. Raises CliError."""
    if user.get("as-user-extra"):
        raise CliError(
            "as-user-extra in a kubeconfig is not supported: only a user and groups are impersonated"
        )
    groups = user.get("as-groups") or []
    if not isinstance(groups, list):
        raise CliError("as-groups in a kubeconfig must be a list")
    name, uid = user.get("as"), user.get("as-uid")
    if (groups or uid) and not name:
        raise CliError("requesting uid, groups or user-extra without impersonating a user (--as)")
    named = [("User", name), ("Uid", uid), *(("Group", group) for group in groups)]
    return [(f"Impersonate-{what}", _header_text(value)) for what, value in named if value]


def _header_text(value: object) -> bytes:
    text = str(value)
    try:
        if not text.isprintable():
            raise ValueError
        return text.encode()
    except ValueError:  # UnicodeEncodeError is one
        raise CliError(f"{text!a} cannot be impersonated: it is no name") from None


def _has_own(user: Mapping[str, Any]) -> bool:
    keys = ("token", "tokenFile", "client-certificate", "client-certificate-data", "username")
    return any(user.get(key) for key in keys)


def _authorization(user: Mapping[str, Any]) -> str:
    if user.get("tokenFile"):
        return f"Bearer {_text_of(str(user['tokenFile'])).strip()}"
    if user.get("token"):
        return f"Bearer {user['token']}"
    if user.get("username"):
        import base64  # noqa: PLC0415

        pair = f"{user['username']}:{user.get('password') or ''}"
        return "Basic " + base64.b64encode(pair.encode()).decode()
    return ""


def _context(cluster: Mapping[str, Any], user: Mapping[str, Any]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if cluster.get("insecure-skip-tls-verify") is True:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif authority := _pem(cluster, "certificate-authority"):
        try:
            context.load_verify_locations(cadata=authority)
        except (ssl.SSLError, ValueError) as error:
            raise CliError(f"certificate-authority is no certificate: {error}") from None
    else:
        context.load_default_certs()
    certificate, key = _pem(user, "client-certificate"), _pem(user, "client-key")
    if certificate and not key:
        raise CliError("the kubeconfig has a client-certificate without its client-key")
    if certificate:
        _load_pair(context, certificate, key)
    return context


def _pem(entry: Mapping[str, Any], name: str) -> str:
    """Embedded data wins over a file, as in kubectl."""
    data = entry.get(f"{name}-data")
    if data:
        import binascii  # noqa: PLC0415

        try:
            return binascii.a2b_base64(str(data)).decode("ascii")
        except ValueError:
            raise CliError(f"{name}-data in the kubeconfig is not base64 of a PEM text") from None
    return _text_of(str(entry[name])) if entry.get(name) else ""


def _text_of(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"unable to read {path}: {getattr(error, 'strerror', '') or error}") from None


def _load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    def load(path: str) -> None:
        try:
            context.load_cert_chain(path, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            raise CliError(f"client-certificate and client-key do not fit together: {error}") from None

    _with_file(f"{certificate.rstrip()}\n{key}".encode(), load)


def _no_password() -> str:
    """Without this OpenSSL would ask on the terminal."""
    raise CliError("the client-key is encrypted; domctl needs one without a password")


def _with_file(content: bytes, use: Callable[[str], None]) -> None:
    """Call `use` with the path of a file that nobody else can read and that is gone afterwards."""
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        descriptor = os.memfd_create("domctl-key", os.MFD_CLOEXEC)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            use(f"/proc/self/fd/{descriptor}")
        return
    import tempfile  # noqa: PLC0415

    descriptor, path = tempfile.mkstemp(prefix="domctl-")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        use(path)
    finally:
        os.unlink(path)


def _is_loopback(server: str) -> bool:
    host = server.split("://", 1)[-1].split("/", 1)[0]
    name = host[1:].split("]")[0] if host.startswith("[") else host.rsplit(":", 1)[0]
    return name in {"localhost", "::1"} or name.startswith("127.")


def _run_plugin(plugin: Mapping[str, Any], target: Target) -> dict[str, Any]:
    """The plugin's credential in the kubeconfig's own words."""
    import json  # noqa: PLC0415
    import subprocess  # noqa: PLC0415
    import sys  # noqa: PLC0415

    version, command = str(plugin.get("apiVersion") or ""), str(plugin.get("command") or "")
    if version not in _EXEC_VERSIONS:
        raise CliError(f'exec plugin: apiVersion must be {_EXEC_VERSIONS[0]}, is "{version}"')
    mode = str(plugin.get("interactiveMode") or "IfAvailable")
    interactive = mode != "Never" and sys.stdin is not None and sys.stdin.isatty()
    if mode == "Always" and not interactive:
        raise CliError("exec plugin needs a terminal (interactiveMode: Always), and stdin is none")
    info: dict[str, Any] = {
        "apiVersion": version,
        "kind": "ExecCredential",
        "spec": {"interactive": interactive},
    }
    if plugin.get("provideClusterInfo"):
        info["spec"]["cluster"] = {k: v for k, v in target.cluster.items() if k != "extensions"}
    environ = {str(e.get("name")): str(e.get("value")) for e in plugin.get("env") or ()}
    try:
        done = subprocess.run(  # noqa: S603 - the user's own configuration names it
            [command, *(str(a) for a in plugin.get("args") or ())],
            env={**os.environ, **environ, "KUBERNETES_EXEC_INFO": json.dumps(info)},
            stdin=None if interactive else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=_PLUGIN_TIMEOUT_S,
            check=True,
        )
        status = json.loads(done.stdout)["status"]
    except FileNotFoundError:
        raise CliError(
            f"exec plugin: {command} not found", hint=str(plugin.get("installHint") or "")
        ) from None
    except (OSError, subprocess.SubprocessError) as error:
        raise CliError(f"exec plugin: {error}") from None
    except (ValueError, KeyError, TypeError):
        raise CliError(f"exec plugin: {command} printed no ExecCredential with a status") from None
    return _credential(status, command)


def _credential(status: object, command: str) -> dict[str, Any]:
    import base64  # noqa: PLC0415

    given: Mapping[str, Any] = status if isinstance(status, dict) else {}
    found: dict[str, Any] = {}
    if given.get("token"):
        found["token"] = str(given["token"])
    if given.get("clientCertificateData"):
        found["client-certificate-data"] = base64.b64encode(
            str(given["clientCertificateData"]).encode()
        ).decode()
        found["client-key-data"] = base64.b64encode(str(given.get("clientKeyData") or "").encode()).decode()
    if not found:
        raise CliError(f"exec plugin: {command} gave neither a token nor a client certificate")
    return found
