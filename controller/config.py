"""The configuration of `domctl serve`: a YAML file, the command line over it, and defaults under both.

    apiVersion: config.domctl.io/v1
    kind: ControllerConfig
    listen: 127.0.0.1:6443
    store: {endpoints: ["https://etcd-1:2379"], ca: ca.pem, cert: me.pem, key: me.key}

Read once, at the start, and strictly: all problems at once with their places, unknown fields refused, files
that it names looked for (paths are relative to the configuration file). What makes the promises untrue is
refused too: timings that break the lease's arithmetic, and quiet times below what was measured unless the
file says `timing.labOnly: true`. `file_memory` is the small file in which a replica remembers its store.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from controller import oidc
from controller.connections import ConnectionsConfig, ConnectionsSection, checked
from controller.limits import Bounds, Timing
from controller.sealedstore import Key, KeyFileError, read_keys
from specs import yamldoc
from specs.meta import Struct
from specs.problems import Keys, Problem, formatted
from specs.walker import Later, Report, walk

API_VERSION: Final = "config.domctl.io/v1"
KIND: Final = "ControllerConfig"
DEFAULT_LISTEN: Final = ("127.0.0.1", 6443)
QUIET_S: Final = Timing().quiet_s
TUNNEL_QUIET_S: Final = Timing().tunnel_quiet_s
STUCK_S: Final = Timing().stuck_s
NOTHING_LATER: Final = Later(fields={}, values={})

Seconds = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
T = TypeVar("T")


class ConfigError(Exception):
    """The configuration cannot be used; the text has one line per problem."""


class StoreSection(Struct, frozen=True, kw_only=True):
    endpoints: list[str] | UnsetType = UNSET
    ca: str | UnsetType = UNSET
    cert: str | UnsetType = UNSET
    key: str | UnsetType = UNSET
    username: str | UnsetType = UNSET
    password_file: str | UnsetType = UNSET
    binary: str | UnsetType = UNSET


class TimingSection(Struct, frozen=True, kw_only=True):
    """`controller.limits.Timing`, field by field."""

    lease_ttl_s: Annotated[int, Meta(ge=2)] | UnsetType = UNSET
    renew_every_s: Seconds | UnsetType = UNSET
    act_within_s: Seconds | UnsetType = UNSET
    quiet_s: Annotated[float, Meta(ge=0)] | UnsetType = UNSET
    tunnel_quiet_s: Annotated[float, Meta(ge=0)] | UnsetType = UNSET
    resync_s: Seconds | UnsetType = UNSET
    suspect_after_s: Seconds | UnsetType = UNSET
    probe_max_s: Seconds | UnsetType = UNSET
    retry_max_s: Seconds | UnsetType = UNSET
    event_batch_s: Seconds | UnsetType = UNSET
    stuck_s: Annotated[float, Meta(ge=0)] | UnsetType = UNSET
    stable_after_s: Seconds | UnsetType = UNSET
    lab_only: bool | UnsetType = UNSET


class BoundsSection(Struct, frozen=True, kw_only=True):
    """`controller.limits.Bounds`, field by field."""

    workers: Count | UnsetType = UNSET
    workers_each: Count | UnsetType = UNSET
    destroys_per_minute: Count | UnsetType = UNSET
    body_bytes: Count | UnsetType = UNSET
    document_bytes: Count | UnsetType = UNSET
    watchers: Count | UnsetType = UNSET
    watchers_each: Count | UnsetType = UNSET
    watch_queue: Count | UnsetType = UNSET
    connections: Count | UnsetType = UNSET
    requests_at_once: Count | UnsetType = UNSET
    requests_each: Count | UnsetType = UNSET
    requests_per_second: Count | UnsetType = UNSET
    requests_burst: Count | UnsetType = UNSET
    client_events: Count | UnsetType = UNSET
    client_events_each: Count | UnsetType = UNSET
    console_bytes: Count | UnsetType = UNSET
    consoles_bytes: Count | UnsetType = UNSET


class XmlOverlay(Struct, frozen=True, kw_only=True):
    """allowed: Whether users may add XML of their own (checked against a deny list)."""

    allowed: bool = False


class PolicySection(Struct, frozen=True, kw_only=True):
    """hand_migrations: Administrators migrate by hand behind the controller's back. migrations_per_node: How
    many live migrations may be under way at once on one node, in and out together."""

    hand_migrations: bool = False
    migrations_per_node: Count = 4


class EncryptionSection(Struct, frozen=True, kw_only=True):
    """key_file: The keys under which values that may hold secrets stand in etcd; the first one seals."""

    key_file: str | UnsetType = UNSET


class AuditSection(Struct, frozen=True, kw_only=True):
    """max_bytes: How large the audit log becomes before another is begun. kept: How many old ones stand
    beside it."""

    max_bytes: Annotated[int, Meta(ge=64 << 10)] = 32 << 20
    kept: Annotated[int, Meta(ge=1, le=1000)] = 5


class File(Struct, frozen=True, kw_only=True):
    api_version: Literal["config.domctl.io/v1"]
    kind: Literal["ControllerConfig"]
    listen: str | UnsetType = UNSET
    data_dir: str | UnsetType = UNSET
    metrics_listen: str | UnsetType = UNSET
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    store: StoreSection = StoreSection()
    timing: TimingSection = TimingSection()
    bounds: BoundsSection = BoundsSection()
    xml_overlay: XmlOverlay = XmlOverlay()
    policy: PolicySection = PolicySection()
    connections: ConnectionsSection = ConnectionsSection()
    oidc: oidc.OidcSection = oidc.OidcSection()
    encryption: EncryptionSection = EncryptionSection()
    audit: AuditSection = AuditSection()


_FILE: Final = msgspec.inspect.type_info(File)


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Without endpoints a private etcd is started, of this `binary`."""

    endpoints: tuple[str, ...] = ()
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    binary: str = "etcd"

    def etcd_config(self, make: Callable[..., T]) -> T:
        """The driver's own configuration, made by its own class, which only the composition root knows."""
        return make(
            endpoints=self.endpoints,
            ca_file=self.ca_file,
            cert_file=self.cert_file,
            key_file=self.key_file,
            user=self.user,
            password=self.password,
        )


@dataclass(frozen=True, slots=True)
class ControllerConfig:
    """What the composition root goes by: complete and checked."""

    data_dir: Path
    listen: tuple[str, int] = DEFAULT_LISTEN
    metrics_listen: tuple[str, int] | None = None
    log_level: str = "info"
    store: StoreConfig = field(default_factory=StoreConfig)
    timing: Timing = field(default_factory=Timing)
    bounds: Bounds = field(default_factory=Bounds)
    xml_overlay: XmlOverlay = field(default_factory=XmlOverlay)
    policy: PolicySection = field(default_factory=PolicySection)
    connections: ConnectionsConfig = field(default_factory=ConnectionsConfig)
    oidc: oidc.OidcConfig | None = None
    encryption_keys: tuple[Key, ...] = field(default=(), repr=False)
    audit: AuditSection = field(default_factory=AuditSection)


def load(args: argparse.Namespace) -> ControllerConfig:
    """From the command line's `config`, `data_dir`, `listen`, `log_level` and those of `controller.oidc`,
    each of which may be missing or empty. Raises ConfigError."""
    path = str(getattr(args, "config", "") or "")
    flags = {
        name: str(getattr(args, name, "") or "") for name in ("data_dir", "listen", "log_level", *oidc.FLAGS)
    }
    text = "" if not path else _read(Path(path))
    return parse(text, path, {name: value for name, value in flags.items() if value})


def parse(text: str, filename: str, flags: Mapping[str, str]) -> ControllerConfig:
    """The configuration in `text` (empty: none), overridden by `flags`. Raises ConfigError."""
    report = _Checked(filename)
    written = report.read(text) if filename else File(api_version=API_VERSION, kind=KIND)
    if written is None:
        raise ConfigError(report.lines())
    listen = flags.get("listen", written.listen)
    if listen == "{}:{}".format(*DEFAULT_LISTEN) and not isinstance(written.listen, UnsetType):
        listen = written.listen  # the command line's default does not override a file
    config = ControllerConfig(
        data_dir=report.data_dir(written, flags),
        listen=report.address(listen, ("listen",)) or DEFAULT_LISTEN,
        metrics_listen=report.address(written.metrics_listen, ("metricsListen",)),
        log_level=flags.get("log_level", written.log_level),
        store=report.store(written.store),
        timing=report.timing(written.timing),
        bounds=replace(Bounds(), **_given(written.bounds)),
        xml_overlay=written.xml_overlay,
        policy=written.policy,
        connections=checked(written.connections, Path(filename).parent, report.add),
        oidc=report.oidc(written.oidc, flags),
        encryption_keys=report.encryption(written.encryption),
        audit=written.audit,
    )
    if report.problems:
        raise ConfigError(report.lines())
    return config


class _Checked:
    """Collects problems with their places while the parts are put together."""

    def __init__(self, filename: str) -> None:
        self.problems: list[Problem] = []
        self._file = filename
        self._directory = Path(filename).parent
        self._document: yamldoc.Document | None = None

    def lines(self) -> str:
        return "\n".join(formatted(problem) for problem in self.problems)

    def add(self, keys: Keys, message: str) -> None:
        line, column = self._document.position(keys) if self._document is not None else (0, 0)
        self.problems.append(Problem(keys, message, line=line, column=column, file=self._file))

    def read(self, text: str) -> File | None:
        """The file's content by its schema; None if that is wrong."""
        loaded = yamldoc.load(text)
        for problem in loaded.problems:
            self.problems.append(replace(problem, file=self._file))
        if len(loaded.documents) != 1:
            if not self.problems:
                self.add((), f"must hold one document, holds {len(loaded.documents)}")
            return None
        self._document = loaded.documents[0]
        schema = Report()
        clean = walk(self._document.value, _FILE, (), schema, NOTHING_LATER)
        for problem in schema.problems:
            self.add(problem.keys, problem.message)
        if self.problems:
            return None
        return msgspec.convert(clean, File)

    def data_dir(self, written: File, flags: Mapping[str, str]) -> Path:
        if "data_dir" in flags:
            return Path(flags["data_dir"])
        if isinstance(written.data_dir, UnsetType) or not written.data_dir:
            self.add(("dataDir",), "is required: where certificates and data are kept (or use --data-dir)")
            return Path()
        return self._directory / written.data_dir

    def address(self, text: str | UnsetType, keys: Keys) -> tuple[str, int] | None:
        if isinstance(text, UnsetType):
            return None
        host, colon, port = text.rpartition(":")
        bare = host.removeprefix("[").removesuffix("]")
        bracketed = host.startswith("[") and host.endswith("]")
        if not colon or not bare or (":" in bare) != bracketed or not port.isdecimal() or int(port) > 65535:
            self.add(keys, f'must be HOST:PORT, is "{text}"')
            return None
        return bare, int(port)

    def store(self, section: StoreSection) -> StoreConfig:
        endpoints = () if isinstance(section.endpoints, UnsetType) else tuple(section.endpoints)
        names = ("ca", "cert", "key", "username", "passwordFile")
        if not endpoints:
            for name, value in zip(names, _texts(section), strict=True):
                if value:
                    self.add(("store", name), "has no use without store.endpoints")
        ca, cert, key, username, password_file = _texts(section)
        if bool(cert) != bool(key):
            self.add(("store",), "cert and key are needed together")
        if bool(username) != bool(password_file):
            self.add(("store",), "username and passwordFile are needed together")
        return StoreConfig(
            endpoints=endpoints,
            ca_file=self._file_at(ca, "ca"),
            cert_file=self._file_at(cert, "cert"),
            key_file=self._file_at(key, "key"),
            user=username,
            password=self._password(password_file),
            binary="etcd" if isinstance(section.binary, UnsetType) else section.binary,
        )

    def _file_at(self, path: str, name: str) -> str:
        if path and not (self._directory / path).is_file():
            self.add(("store", name), f"no such file: {self._directory / path}")
        return str(self._directory / path) if path else ""

    def _password(self, path: str) -> str:
        if not path:
            return ""
        try:
            return (self._directory / path).read_text().strip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            self.add(("store", "passwordFile"), f"cannot be read: {error}")
            return ""

    def oidc(self, section: oidc.OidcSection, flags: Mapping[str, str]) -> oidc.OidcConfig | None:
        return oidc.checked(oidc.with_flags(section, flags, self.add), self._directory, self.add)

    def encryption(self, section: EncryptionSection) -> tuple[Key, ...]:
        if isinstance(section.key_file, UnsetType):
            return ()
        try:
            return read_keys(self._directory / section.key_file)
        except KeyFileError as error:
            self.add(("encryption", "keyFile"), str(error))
            return ()

    def timing(self, section: TimingSection) -> Timing:
        given = _given(section)
        lab_only = bool(given.pop("lab_only", False))
        timing = replace(Timing(), **given)
        if timing.renew_every_s >= timing.act_within_s:
            self.add(("timing",), "renewEveryS must be less than actWithinS, or permits end in between")
        if timing.act_within_s >= timing.lease_ttl_s:
            self.add(("timing",), "actWithinS must be less than leaseTtlS, or a leader acts after its lease")
        if timing.quiet_s < QUIET_S and not lab_only:
            message = f"must be at least {QUIET_S:g}: commands of a dead leader may still arrive until then"
            self.add(("timing", "quietS"), f"{message} (where nothing can be lost: timing.labOnly: true)")
        if timing.tunnel_quiet_s < TUNNEL_QUIET_S and not lab_only:
            message = f"must be at least {TUNNEL_QUIET_S:g}: what a child has may still arrive until then"
            hint = "(where nothing can be lost: timing.labOnly: true)"
            self.add(("timing", "tunnelQuietS"), f"{message} {hint}")
        if timing.stuck_s < STUCK_S and not lab_only:
            message = f"must be at least {STUCK_S:g}: a migration or a start may still be at work until then"
            self.add(("timing", "stuckS"), f"{message} (where nothing can be lost: timing.labOnly: true)")
        return timing


def _given(section: Struct) -> dict[str, Any]:
    return {k: v for k, v in msgspec.structs.asdict(section).items() if not isinstance(v, UnsetType)}


def _texts(section: StoreSection) -> tuple[str, str, str, str, str]:
    ca, cert, key, username, password_file = (
        "" if isinstance(value, UnsetType) else value
        for value in (section.ca, section.cert, section.key, section.username, section.password_file)
    )
    return ca, cert, key, username, password_file


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def file_memory(path: Path) -> tuple[Callable[[], bytes | None], Callable[[bytes], None]]:
    """(load, save) of one small file that is always whole: written beside, synced, then put in place.
    `load` gives None when there is none yet; another failure raises OSError, for no memory and a memory
    that cannot be read are not the same."""

    def load() -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def save(data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".new")
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    return load, save
