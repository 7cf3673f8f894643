"""The server's configuration: what stands where, and every problem at once with its place."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controller.config import (
    AuditSection,
    BoundsSection,
    ConfigError,
    ControllerConfig,
    StoreConfig,
    TimingSection,
    file_memory,
    load,
    parse,
)
from controller.connections import ConnectionsConfig
from controller.limits import Bounds, Timing

HEAD = "apiVersion: config.domctl.io/v1\nkind: ControllerConfig\n"


def read(text: str, **flags: str) -> ControllerConfig:
    return parse(HEAD + text, "/etc/domctl/serve.yaml", flags)


def problems(text: str, **flags: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text, **flags)
    return [line.removeprefix("/etc/domctl/serve.yaml:") for line in str(caught.value).splitlines()]


def test_without_a_file_the_command_line_and_the_defaults_are_enough(tmp_path: Path) -> None:
    config = load(argparse.Namespace(config="", data_dir=str(tmp_path), listen="127.0.0.1:0"))
    assert config == ControllerConfig(data_dir=tmp_path, listen=("127.0.0.1", 0))
    assert (config.timing, config.bounds, config.store) == (Timing(), Bounds(), StoreConfig())
    assert not config.xml_overlay.allowed
    assert not config.policy.hand_migrations


def test_how_large_the_audit_log_becomes_and_how_many_are_kept_can_be_said() -> None:
    assert read("dataDir: d").audit == AuditSection(max_bytes=32 << 20, kept=5)
    assert read("dataDir: d\naudit: {maxBytes: 1048576, kept: 20}").audit == AuditSection(
        max_bytes=1 << 20, kept=20
    )
    assert len(problems("dataDir: d\naudit: {maxBytes: 10, kept: 0}")) == 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{keyFile: none}", "4:2: connections.keyFile: no such file: /etc/domctl/none"),
        ("{pkiDir: none}", "4:2: connections.pkiDir: no such directory: /etc/domctl/none"),
        ("{filesUnder: ['a b']}", "must be a path of letters"),
        ("{commands: [reach]}", "must be absolute paths"),
        ("{commands: ['/bin/sh -c x']}", "must be absolute paths"),
        ("{noVerify: true}", "unknown field"),
    ],
)
def test_what_connections_may_use_is_checked(text: str, problem: str) -> None:
    (line,) = problems(f"dataDir: d\nconnections:\n  {text}")
    assert problem.partition(": ")[2] in line


def test_a_file_says_everything_and_the_command_line_overrides_it(tmp_path: Path) -> None:
    for name in ("ca.pem", "me.pem", "me.key"):
        (tmp_path / name).write_text("x")
    (tmp_path / "password").write_text("s3cret\n")
    path = tmp_path / "serve.yaml"
    path.write_text(
        HEAD
        + """
listen: "[::1]:7443"
dataDir: data
metricsListen: 127.0.0.1:9177
logLevel: debug
store:
  endpoints: ["https://etcd-1:2379", "https://etcd-2:2379"]
  ca: ca.pem
  cert: me.pem
  key: me.key
  username: domctl
  passwordFile: password
  binary: /opt/etcd
timing: {resyncS: 30, leaseTtlS: 20, actWithinS: 12.5}
bounds: {workers: 8}
xmlOverlay: {allowed: true}
policy: {handMigrations: true}
connections:
  filesUnder: [hosts, /srv/keys]
  knownHosts: ca.pem
  pkiDir: hosts
  commands: [/usr/local/libexec/reach-host]
"""
    )
    (tmp_path / "hosts").mkdir()
    config = load(argparse.Namespace(config=str(path), data_dir="", listen=""))
    assert config.listen == ("::1", 7443)
    assert config.data_dir == tmp_path / "data"
    assert config.metrics_listen == ("127.0.0.1", 9177)
    assert config.log_level == "debug"
    assert config.timing == dataclasses.replace(Timing(), resync_s=30, lease_ttl_s=20, act_within_s=12.5)
    assert config.bounds == dataclasses.replace(Bounds(), workers=8)
    assert config.xml_overlay.allowed
    assert config.policy.hand_migrations
    assert config.connections == ConnectionsConfig(
        files_under=(str(tmp_path / "hosts"), "/srv/keys"),
        defaults={"known_hosts": str(tmp_path / "ca.pem"), "pki_dir": str(tmp_path / "hosts")},
        commands=frozenset({"/usr/local/libexec/reach-host"}),
    )
    assert config.store.etcd_config(dict) == {
        "endpoints": ("https://etcd-1:2379", "https://etcd-2:2379"),
        "ca_file": str(tmp_path / "ca.pem"),
        "cert_file": str(tmp_path / "me.pem"),
        "key_file": str(tmp_path / "me.key"),
        "user": "domctl",
        "password": "s3cret",
    }
    assert "s3cret" not in repr(config)
    over = load(argparse.Namespace(config=str(path), data_dir="/d", listen="10.0.0.1:1", log_level="error"))
    assert (over.listen, over.data_dir, over.log_level) == (("10.0.0.1", 1), Path("/d"), "error")


def test_the_command_lines_default_address_does_not_override_a_file() -> None:
    assert read("listen: 10.0.0.1:7000\ndataDir: d", listen="127.0.0.1:6443").listen == ("10.0.0.1", 7000)
    assert read("dataDir: d", listen="127.0.0.1:6443").listen == ("127.0.0.1", 6443)


def test_every_problem_of_the_schema_is_told_at_once_with_its_place() -> None:
    assert problems("listen: 17\nstoer: {}\nbounds:\n  workers: 0\ntiming:\n  quietSeconds: 1\n") == [
        "3:1: listen: must be text (put it in quotes), is 17",
        "4:1: stoer: unknown field, did you mean store?",
        "6:3: bounds.workers: must be at least 1, is 0",
        "8:3: timing.quietSeconds: unknown field, did you mean quietS?",
    ]


def test_every_problem_of_meaning_is_told_at_once_with_its_place() -> None:
    text = (
        "listen: host\nmetricsListen: '::1:80'\nstore:\n  ca: ca.pem\n  cert: a.pem\ntiming:\n  quietS: 3\n"
    )
    assert problems(text) == [
        "1:1: dataDir: is required: where certificates and data are kept (or use --data-dir)",
        '3:1: listen: must be HOST:PORT, is "host"',
        '4:1: metricsListen: must be HOST:PORT, is "::1:80"',
        "6:3: store.ca: has no use without store.endpoints",
        "7:3: store.cert: has no use without store.endpoints",
        "5:1: store: cert and key are needed together",
        "6:3: store.ca: no such file: /etc/domctl/ca.pem",
        "7:3: store.cert: no such file: /etc/domctl/a.pem",
        "9:3: timing.quietS: must be at least 35: commands of a dead leader may still arrive until then "
        "(where nothing can be lost: timing.labOnly: true)",
    ]


@pytest.mark.parametrize(
    ("timing", "wrong"),
    [
        ("{renewEveryS: 10}", "renewEveryS must be less than actWithinS"),
        ("{actWithinS: 15}", "actWithinS must be less than leaseTtlS"),
        ("{leaseTtlS: 9}", "actWithinS must be less than leaseTtlS"),
        ("{leaseTtlS: 1}", "must be at least 2"),
        ("{quietS: 34.9}", "must be at least 35"),
        ("{tunnelQuietS: 119}", "must be at least 120"),
        ("{resyncS: 0}", "must be more than 0"),
    ],
)
def test_timings_that_break_a_promise_are_refused(timing: str, wrong: str) -> None:
    (problem,) = problems(f"dataDir: d\ntiming: {timing}")
    assert wrong in problem


def test_a_lab_may_be_in_a_hurry_if_it_says_that_it_is_one() -> None:
    timing = read(
        "dataDir: d\ntiming: {leaseTtlS: 3, renewEveryS: 0.5, actWithinS: 2, quietS: 0, labOnly: true}"
    ).timing
    assert timing == dataclasses.replace(
        Timing(), lease_ttl_s=3, renew_every_s=0.5, act_within_s=2, quiet_s=0
    )


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "must hold one document"),
        ("a: 1\n---\nb: 1", "must hold one document"),
        ("[]", "must be an object"),
        ("apiVersion: v1\nkind: ControllerConfig", "apiVersion: must be config.domctl.io/v1"),
        ("kind: ControllerConfig", "apiVersion: is required"),
        (HEAD + "kind: ControllerConfig", "kind"),
        (HEAD + "listen: !!python/name:os.system x", "tag"),
        (HEAD + "listen: [", "serve.yaml:4:1: YAML"),
    ],
)
def test_what_is_no_configuration_is_refused(text: str, wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"\S") as caught:
        parse(text, "serve.yaml", {})
    assert wrong in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load(argparse.Namespace(config=str(tmp_path / "none.yaml")))
    path = tmp_path / "serve.yaml"
    path.write_text(HEAD + "dataDir: d\nstore: {endpoints: [x], username: u, passwordFile: none}")
    with pytest.raises(ConfigError, match=r"store.passwordFile: cannot be read"):
        load(argparse.Namespace(config=str(path)))


@pytest.mark.parametrize(("section", "limits"), [(TimingSection, Timing), (BoundsSection, Bounds)])
def test_every_duration_and_bound_can_be_configured(section: Any, limits: Any) -> None:
    configurable = {field.name for field in msgspec.structs.fields(section)} - {"lab_only"}
    assert configurable == {field.name for field in dataclasses.fields(limits)}


def test_a_small_file_is_whole_or_as_before(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "memory.json"
    fetch, save = file_memory(path)
    assert fetch() is None
    save(b"one")
    save(b"two")
    assert fetch() == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["memory.json"]
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        fetch()
