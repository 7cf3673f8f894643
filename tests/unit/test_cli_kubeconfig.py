"""Configuration as kubectl reads it, and what a connection proves itself with."""

from __future__ import annotations

import base64
import json
import os
import stat
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.cli import credentials as module
from controller.cli.credentials import Credentials, credentials
from controller.cli.errors import CliError
from controller.cli.flags import Flags
from controller.cli.kubeconfig import Target, target
from tests.etcdserver import Authority


def arguments(*argv: str) -> Namespace:
    flags = Flags("domctl get")
    flags.connection()
    return flags.parse(argv)


def config(name: str, server: str, **user: Any) -> dict[str, Any]:
    return {
        "clusters": [{"name": name, "cluster": {"server": server}}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": f"ns-{name}"}}],
        "current-context": name,
    }


def write(path: Path, value: object, *, as_yaml: bool = True) -> Path:
    path.write_text(yaml.safe_dump(value) if as_yaml else json.dumps(value))
    return path


def authorization(found: Credentials) -> str:
    return dict(found.headers).get("Authorization", b"").decode()


@pytest.mark.parametrize("as_yaml", [True, False])
def test_current_context_names_server_user_and_namespace(tmp_path: Path, as_yaml: bool) -> None:
    file = write(tmp_path / "config", config("a", "https://a:1", token="t"), as_yaml=as_yaml)
    found = target(arguments(), {"KUBECONFIG": str(file)})
    assert (found.server, found.user["token"], found.namespace) == ("https://a:1", "t", "ns-a")


def test_the_first_of_several_files_wins_and_the_others_add(tmp_path: Path) -> None:
    first = write(tmp_path / "1", config("a", "https://first:1"))
    second = write(tmp_path / "2", {**config("b", "https://b:1"), "clusters": [
        {"name": "a", "cluster": {"server": "https://second:1"}},
        {"name": "b", "cluster": {"server": "https://b:1"}},
    ]})  # fmt: skip
    environ = {"KUBECONFIG": os.pathsep.join([str(first), str(tmp_path / "missing"), str(second)])}
    assert target(arguments(), environ).server == "https://first:1"
    assert target(arguments("--context", "b"), environ).server == "https://b:1"


def test_options_override_the_files(tmp_path: Path) -> None:
    file = write(tmp_path / "c", config("a", "https://a:1", token="t"))
    argv = ["--kubeconfig", str(file), "-n", "mine", "--server=https://b:2", "--token", "u"]
    found = target(arguments(*argv), {"KUBECONFIG": "/nonexistent"})
    assert (found.server, found.user["token"], found.namespace) == ("https://b:2", "u", "mine")


def test_the_home_directory_is_the_last_resort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".kube").mkdir()
    write(tmp_path / ".kube/config", config("home", "https://home:1"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert target(arguments(), {}).server == "https://home:1"


def test_namespace_is_default_when_nothing_says_otherwise(tmp_path: Path) -> None:
    value = config("a", "https://a:1")
    del value["contexts"][0]["context"]["namespace"]
    assert target(arguments("--kubeconfig", str(write(tmp_path / "c", value))), {}).namespace == "default"


def test_paths_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    value = config("a", "https://a:1", **{"client-certificate": "me.crt", "tokenFile": "/abs/token"})
    value["clusters"][0]["cluster"]["certificate-authority"] = "pki/ca.crt"
    found = target(arguments("--kubeconfig", str(write(tmp_path / "c", value))), {})
    assert found.cluster["certificate-authority"] == str(tmp_path / "pki/ca.crt")
    assert found.user["client-certificate"] == str(tmp_path / "me.crt")
    assert found.user["tokenFile"] == "/abs/token"


@pytest.mark.parametrize(
    ("content", "argv", "message"),
    [
        ("", "", "no configuration of a server was found"),
        ("{}", "", "no configuration of a server was found"),
        ("- a", "", "it is no kubeconfig"),
        ("a: [", "", "error loading config file"),
        ("a: b\n", "--context nope", 'context "nope" does not exist'),
        ("contexts: [{name: a, context: {cluster: c}}]", "--context a", 'cluster "c" does not exist'),
        ("contexts: [{name: a, context: {}}]", "", "no current context is set"),
        (
            "clusters: [{name: a, cluster: {server: 'https://x', proxy-url: 'http://p'}}]",
            "--cluster a",
            "proxy-url",
        ),
    ],
)
def test_what_is_wrong_with_a_kubeconfig_is_said(
    tmp_path: Path, content: str, argv: str, message: str
) -> None:
    (tmp_path / "c").write_text(content)
    with pytest.raises(CliError) as caught:
        target(arguments("--kubeconfig", str(tmp_path / "c"), *argv.split()), {})
    assert message in caught.value.message


def test_a_file_named_on_the_command_line_must_exist() -> None:
    with pytest.raises(CliError, match="stat /nope: no such file or directory"):
        target(arguments("--kubeconfig", "/nope"), {})


def https(user: dict[str, Any], cluster: dict[str, Any] | None = None) -> Target:
    return Target({"server": "https://a:1", **(cluster or {})}, user, "default")


def test_token_file_is_read_and_wins_over_the_token(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("from-file\n")
    found = credentials(https({"token": "x", "tokenFile": str(tmp_path / "t")}))
    assert authorization(found) == "Bearer from-file"


def test_user_and_password_become_basic_authentication() -> None:
    expected = "Basic " + base64.b64encode(b"me:secret").decode()
    assert authorization(credentials(https({"username": "me", "password": "secret"}))) == expected


def test_a_token_is_never_sent_in_clear_to_another_host() -> None:
    with pytest.raises(CliError, match="in clear"):
        credentials(Target({"server": "http://example.com:1"}, {"token": "x"}, ""))
    for server in ("http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1/x"):
        assert credentials(Target({"server": server}, {"token": "x"}, "")).context is None


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    authority = Authority(tmp_path_factory.mktemp("ca"))
    me = authority.issue("me")
    return {"ca": authority.ca.read_text(), "cert": me.cert.read_text(), "key": me.key.read_text()}


def embedded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_embedded_certificates_are_used(pair: dict[str, str]) -> None:
    user = {"client-certificate-data": embedded(pair["cert"]), "client-key-data": embedded(pair["key"])}
    context = credentials(https(user, {"certificate-authority-data": embedded(pair["ca"])})).context
    assert context is not None
    assert len(context.get_ca_certs()) == 1
    assert context.check_hostname


def test_certificates_in_files_are_used(pair: dict[str, str], tmp_path: Path) -> None:
    for name, text in pair.items():
        (tmp_path / name).write_text(text)
    user = {"client-certificate": str(tmp_path / "cert"), "client-key": str(tmp_path / "key")}
    context = credentials(https(user, {"certificate-authority": str(tmp_path / "ca")})).context
    assert context is not None
    assert len(context.get_ca_certs()) == 1


def test_a_key_passes_through_a_file_that_only_its_owner_can_read(
    pair: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    seen: list[int] = []

    def look(path: str) -> None:
        seen.append(stat.S_IMODE(os.stat(path).st_mode))

    module._with_file(b"secret", look)
    user = {"client-certificate-data": embedded(pair["cert"]), "client-key-data": embedded(pair["key"])}
    assert credentials(https(user)).context is not None
    assert seen == [0o600]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("user", "cluster", "message"),
    [
        ({"client-certificate-data": "eA=="}, {}, "without its client-key"),
        ({"client-certificate-data": "eA==", "client-key-data": "eA=="}, {}, "do not fit together"),
        ({"client-certificate": "/nope"}, {}, "unable to read /nope"),
        ({"client-certificate-data": "!", "client-key-data": "/w=="}, {}, "not base64 of a PEM text"),
        ({}, {"certificate-authority-data": "eA=="}, "is no certificate"),
        ({"auth-provider": {}}, {}, "auth-provider"),
        ({"as": "joe", "as-user-extra": {"scopes": ["x"]}}, {}, "as-user-extra"),
        ({"as-groups": ["dev"]}, {}, "without impersonating a user"),
        ({"as-uid": "7"}, {}, "without impersonating a user"),
        ({"as": "joe", "as-groups": "dev"}, {}, "must be a list"),
        ({"as": "joe\r\nX: y"}, {}, "cannot be impersonated"),
        ({"as": "joe\udcff"}, {}, "cannot be impersonated"),
        ({"exec": {"apiVersion": "v0", "command": "x"}}, {}, "apiVersion must be"),
        ({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "/nope/x"}}, {}, "not found"),
    ],
)
def test_credentials_that_cannot_be_used_are_named(
    user: dict[str, Any], cluster: dict[str, Any], message: str
) -> None:
    with pytest.raises(CliError) as caught:
        credentials(https(user, cluster))
    assert message in caught.value.message


def plugin(tmp_path: Path, script: str, **more: Any) -> dict[str, Any]:
    file = tmp_path / "plugin.py"
    file.write_text(script)
    api = "client.authentication.k8s.io/v1"
    return {"exec": {"apiVersion": api, "command": sys.executable, "args": [str(file)], **more}}


ECHO = """
import json, os
info = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
cluster = info["spec"].get("cluster", {}).get("server", "none")
print(json.dumps({"apiVersion": info["apiVersion"], "kind": "ExecCredential",
                  "status": {"token": os.environ["WHO"] + "@" + cluster}}))
"""


def test_exec_plugin_gives_a_token_and_knows_the_cluster(tmp_path: Path) -> None:
    user = plugin(tmp_path, ECHO, env=[{"name": "WHO", "value": "me"}], provideClusterInfo=True)
    assert authorization(credentials(https(user))) == "Bearer me@https://a:1"


def test_exec_plugin_may_give_a_certificate(tmp_path: Path, pair: dict[str, str]) -> None:
    status = {"clientCertificateData": pair["cert"], "clientKeyData": pair["key"]}
    user = plugin(tmp_path, f"import json; print(json.dumps({{'status': {status!r}}}))")
    assert authorization(credentials(https(user))) == ""


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("print('{}')", "printed no ExecCredential"),
        ("print('no')", "printed no ExecCredential"),
        ("print('{\"status\": {}}')", "neither a token nor a client certificate"),
        ("raise SystemExit(3)", "exit status 3"),
    ],
)
def test_exec_plugin_that_fails_is_named(tmp_path: Path, script: str, message: str) -> None:
    with pytest.raises(CliError) as caught:
        credentials(https(plugin(tmp_path, script)))
    assert message in caught.value.message


def test_exec_plugin_is_not_run_when_there_is_a_token(tmp_path: Path) -> None:
    user = {**plugin(tmp_path, "raise SystemExit(3)"), "token": "mine"}
    assert authorization(credentials(https(user))) == "Bearer mine"


def test_who_is_impersonated_by_the_file_or_the_command_line_is_asked_for(tmp_path: Path) -> None:
    user = {"token": "mine", "as": "joé", "as-groups": ["dev", "ops"]}
    file = write(tmp_path / "c", config("a", "https://a:1", **user))
    asked = [("Authorization", b"Bearer mine"), ("Impersonate-User", "joé".encode())]
    groups = [("Impersonate-Group", b"dev"), ("Impersonate-Group", b"ops")]
    found = credentials(target(arguments("--kubeconfig", str(file))))
    assert found.headers == [*asked, *groups]
    argv = ("--kubeconfig", str(file), "--as", "eve", "--as-group=a", "--as-group", "b", "--as-uid=7")
    assert credentials(target(arguments(*argv))).headers[1:] == [
        ("Impersonate-User", b"eve"),
        ("Impersonate-Uid", b"7"),
        ("Impersonate-Group", b"a"),
        ("Impersonate-Group", b"b"),
    ]


def test_a_plugin_named_by_a_path_is_looked_for_beside_the_file(tmp_path: Path) -> None:
    for command, found in (("./bin/plug", f"{tmp_path}/./bin/plug"), ("plug", "plug"), ("/bin/x", "/bin/x")):
        value = config("a", "https://a:1", exec={"command": command})
        file = write(tmp_path / "c", value)
        assert target(arguments("--kubeconfig", str(file))).user["exec"]["command"] == found
