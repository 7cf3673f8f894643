"""Which server, as whom, in which namespace: kubectl's configuration files, read as kubectl reads them.

`--kubeconfig`, else the files of $KUBECONFIG merged (the first to name something wins), else
~/.kube/config; then the options of the command line over what was found. Paths in a file are relative to it.
A file that is JSON (as `domctl serve` writes it) costs no YAML parser, which is a third of a quick command's
time. Nothing is opened here but these files: certificates and tokens are `controller.cli.credentials`'.
Proxies are not supported.
"""

from __future__ import annotations

import os

from controller.cli.errors import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping
    from typing import Any

_NO_CONFIG = (
    "no configuration of a server was found: there is no kubeconfig",
    "export KUBECONFIG=DIR/kubeconfig, where DIR is what `domctl serve --data-dir DIR` was given",
)
_SECTIONS = ("clusters", "contexts", "users")
_PATHS = ("certificate-authority", "client-certificate", "client-key", "tokenFile")


class Target:
    """A server and an identity. `cluster` and `user` are the kubeconfig's own entries, with paths made
    absolute and the command line's options put over them."""

    def __init__(self, cluster: Mapping[str, Any], user: Mapping[str, Any], namespace: str) -> None:
        self.cluster = cluster
        self.user = user
        self.namespace = namespace

    @property
    def server(self) -> str:
        return str(self.cluster.get("server") or "")


class Config:
    """All files merged. `origin` tells where they were, for messages."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.current = ""
        self.sections: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in _SECTIONS}

    def entry(self, section: str, name: str) -> dict[str, Any]:
        found = self.sections[section].get(name)
        if found is None:
            raise CliError(f'{section[:-1]} "{name}" does not exist in {self.origin}')
        return found


def target(args: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Target:
    """What the command line and the files say together. Raises CliError."""
    config = _load(args.kubeconfig, environ)
    name = args.context or config.current
    context: Mapping[str, Any] = config.entry("contexts", name) if name else {}
    cluster_name = args.cluster or str(context.get("cluster") or "")
    user_name = args.user or str(context.get("user") or "")
    cluster = dict(config.entry("clusters", cluster_name)) if cluster_name else {}
    user = dict(config.entry("users", user_name)) if user_name else {}
    _override(cluster, user, args)
    if not cluster.get("server"):
        if not any(config.sections.values()):
            raise CliError(_NO_CONFIG[0], hint=_NO_CONFIG[1])
        known = ", ".join(sorted(config.sections["contexts"])) or "none"
        raise CliError(
            f"{config.origin} names no server for this command: no current context is set",
            hint=f"choose one with --context; there are: {known}",
        )
    if cluster.get("proxy-url"):
        raise CliError(f"{config.origin}: proxy-url is not supported; connect without a proxy")
    namespace = getattr(args, "namespace", "") or str(context.get("namespace") or "") or "default"
    return Target(cluster, user, namespace)


def contexts(args: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> list[str]:
    """The names of all contexts. Raises CliError."""
    return sorted(_load(args.kubeconfig, environ).sections["contexts"])


def _override(cluster: dict[str, Any], user: dict[str, Any], args: argparse.Namespace) -> None:
    """The options of the command line; embedded data must not win over a file that was named."""
    if args.server:
        cluster["server"] = args.server
    if args.certificate_authority:
        cluster["certificate-authority"] = os.path.abspath(args.certificate_authority)
        cluster.pop("certificate-authority-data", None)
    if args.insecure_skip_tls_verify:
        cluster["insecure-skip-tls-verify"] = True
    if args.tls_server_name:
        cluster["tls-server-name"] = args.tls_server_name
    if args.token:
        user["token"] = args.token
        user.pop("tokenFile", None)
        user.pop("exec", None)
    for key, wanted in (("as", getattr(args, "as")), ("as-uid", args.as_uid), ("as-groups", args.as_group)):
        if wanted:
            user[key] = wanted
    for option, key in ((args.client_certificate, "client-certificate"), (args.client_key, "client-key")):
        if option:
            user[key] = os.path.abspath(option)
            user.pop(f"{key}-data", None)


def _load(explicit: str, environ: Mapping[str, str]) -> Config:
    if explicit:
        paths, must_exist = [explicit], True
    elif environ.get("KUBECONFIG"):
        paths, must_exist = [p for p in environ["KUBECONFIG"].split(os.pathsep) if p], False
    else:
        paths, must_exist = [os.path.join(os.path.expanduser("~"), ".kube", "config")], False
    config = Config(os.pathsep.join(paths))
    for path in paths:
        text = _read(path, must_exist)
        if text.strip():
            _merge(config, _parse(text, path), path)
    return config


def _read(path: str, must_exist: bool) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        if must_exist:
            raise CliError(f"stat {path}: no such file or directory") from None
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"cannot read {path}: {getattr(error, 'strerror', '') or error}") from None


def _parse(text: str, path: str) -> Mapping[str, Any]:
    import json  # noqa: PLC0415

    value: object = None
    try:
        if text.lstrip().startswith("{"):
            value = json.loads(text)
    except ValueError:
        value = None  # YAML may begin with a brace too
    if value is None:
        import yaml  # noqa: PLC0415 - slow to load

        try:
            value = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
        except (yaml.YAMLError, ValueError) as error:
            words = " ".join(str(error).split())
            raise CliError(f"error loading config file {path!r}: {words}") from None
    if not isinstance(value, dict):
        raise CliError(f"error loading config file {path!r}: it is no kubeconfig")
    return value


def _merge(config: Config, file: Mapping[str, Any], path: str) -> None:
    config.current = config.current or str(file.get("current-context") or "")
    folder = os.path.dirname(os.path.abspath(path))
    for section in _SECTIONS:
        for name, body in _named(file.get(section), section[:-1]):
            entry = {k: _absolute(folder, v) if k in _PATHS else v for k, v in body.items()}
            plugin = entry.get("exec")
            if isinstance(plugin, dict) and "/" in str(plugin.get("command") or ""):
                entry["exec"] = {**plugin, "command": _absolute(folder, plugin["command"])}
            config.sections[section].setdefault(name, entry)


def _named(entries: object, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The entries of a section, each `{name: …, cluster|context|user: {…}}`."""
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict):
            body = entry.get(kind)
            yield str(entry.get("name") or ""), body if isinstance(body, dict) else {}


def _absolute(folder: str, path: object) -> object:
    return os.path.join(folder, path) if isinstance(path, str) and path else path
