"""label, annotate, events, explain, edit, scale, dumpxml, completion and the plugin, beside kubectl's own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from controller import keys
from controller.cli import verbs
from tests.clicase import DOMCTL, Cli, Ran, applied, domain, node

ROOT = Path(__file__).parents[2]

# label, annotate


SESSION = (
    "label domain web a=b", "label domain web a=b", "label domain web a=c",
    "label domain web a=c --overwrite", "label domain web a-",
    "label domain web zz-", "label domain web x=y app-", "label domain web nope r=2",
    "label domain/web domain/db q=1", "label domain web k=v --dry-run=client",
    "label domain web k=v --dry-run=server", "label domain web k=v -o name", "label domains --all all=yes",
    "label domains -l app=none k=v", "label domain web q=1 q-", "label domain web",
    "label", "annotate domain web a=b", "annotate domain web a=c", "annotate domain web a=c --overwrite",
    "annotate domain web b=c/d=e", "annotate domain web a-", "annotate domain web",
    "label nodes.domctl.io hv1 rack=1",
    "annotate domain/web domain/db nodes.domctl.io/hv1 n=1",
)  # fmt: skip


async def test_label_and_annotate_say_and_do_what_kubectls_do(cli: Cli) -> None:
    """The same session twice, from the same start."""
    outcomes = []
    for run in (cli, cli.kubectl):
        await applied(cli, domain("web"), domain("db"), node())
        said = [await run(command) for command in SESSION]
        metas = [(await cli.body(name))["metadata"] for name in ("web", "db")]
        kept = [{key: meta.get(key) for key in ("labels", "annotations")} for meta in metas]
        outcomes.append((said, kept))
        for plural, name in (("domains", "web"), ("domains", "db"), ("nodes", "hv1")):
            await cli.api.store.txn([], [forget(plural, name)])
    (ours, kept), (theirs, kept_by_them) = outcomes
    differing = [(c, o, t) for c, o, t in zip(SESSION, ours, theirs, strict=True) if o != t]
    assert not differing, "\n".join(map(repr, differing))
    assert kept == kept_by_them


def forget(plural: str, name: str) -> Any:
    from drivers.store import Delete

    return Delete(keys.object_key(plural, "" if plural == "nodes" else "default", name))


async def test_labels_are_listed(cli: Cli) -> None:
    await applied(cli, domain("web"), domain("db"))
    assert await cli("label domain web --list") == Ran(0, "app=web\n", "")
    parts = [f"Listing labels for Domain.domctl.io/{name}:\n app={name}\n" for name in ("db", "web")]
    assert await cli("label domains --all --list") == Ran(0, "".join(parts), "")


async def test_a_label_that_the_server_refuses_is_refused(cli: Cli) -> None:
    await applied(cli, domain())
    ran = await cli("label domain web bad=a/b")
    assert ran.code == 1 and "metadata.labels" in ran.err
    assert (await cli("label domain web a=1 oops")).code == 1


# events


async def event(cli: Cli, name: str, kind: str, reason: str, minute: int) -> None:
    at = f"2026-11-28T06:{minute:02}:00Z"
    uid = (await cli.body("web"))["metadata"]["uid"]
    about = {
        "apiVersion": "domctl.io/v1",
        "kind": "Domain",
        "name": "web",
        "namespace": "default",
        "uid": uid,
    }
    value = {
        "apiVersion": "domctl.io/v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": "default", "uid": name, "creationTimestamp": at},
        "involvedObject": {**about, "uid": uid},
        "type": kind,
        "reason": reason,
        "message": f"words about {reason}",
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    }
    await cli.api.put_raw(keys.object_key("events", "default", name), json.dumps(value).encode())


def without_ages(ran: Ran) -> tuple[int, list[str], str]:
    lines = [re.sub(r"\b\d+[smhd](\d+[smhd])?\b", "AGE", line) for line in ran.out.splitlines()]
    return ran.code, [" ".join(line.split()) for line in lines], ran.err


async def test_events_are_those_that_kubectl_shows(cli: Cli) -> None:
    await applied(cli, domain("web"), domain("db"))
    nothing = "events"
    assert without_ages(await cli(nothing)) == without_ages(await cli.kubectl(nothing))
    await event(cli, "later", "Warning", "Started", 30)
    await event(cli, "earlier", "Normal", "Placed", 10)
    for options in ("", "-A", "--for domain/web", "--for domain/db", "--types=Warning", "--no-headers"):
        ours, theirs = await cli(f"events {options}"), await cli.kubectl(f"events {options}")
        assert without_ages(ours) == without_ages(theirs), options
    assert [line.split()[2] for line in (await cli("events")).out.splitlines()[1:]] == ["Placed", "Started"]
    assert (await cli("events --types=Odd")).code == 1


async def test_events_that_are_watched_are_printed_as_they_happen(cli: Cli) -> None:
    await applied(cli, domain("web"))
    await event(cli, "one", "Normal", "First", 1)
    process = await cli.start("events -w")
    assert process.stdout is not None
    lines = [await asyncio.wait_for(process.stdout.readline(), 20) for _ in range(2)]
    await event(cli, "two", "Normal", "Second", 2)
    lines.append(await asyncio.wait_for(process.stdout.readline(), 20))
    process.terminate()
    await process.wait()
    assert b"Second" in lines[2]


# explain


@pytest.mark.parametrize(
    "words",
    ["domain", "domain.spec.disks", "domain.spec.memory", "domain.spec.shutdown.method", "domain.spec.nope",
     "migration --recursive", "domain.metadata.labels", "domain --recursive", "role.rules",
     "clusterrole.rules",
     "domain.status.conditions", "widget"],
)  # fmt: skip
async def test_explain_prints_what_kubectl_prints(cli: Cli, words: str) -> None:
    ours, theirs = await cli(f"explain {words}"), await cli.kubectl(f"explain {words}")
    assert (ours.code, ours.out) == (theirs.code, theirs.out)
    assert (
        ours.err.removeprefix("error: ").splitlines()[:1] == theirs.err.removeprefix("error: ").splitlines()
    )


@pytest.mark.parametrize("options", ["", "-o wide", "-o name", "--api-group=domctl.io", "--no-headers"])
async def test_api_resources_are_those_that_kubectl_lists(cli: Cli, options: str) -> None:
    assert await cli(f"api-resources {options}") == await cli.kubectl(f"api-resources {options}")


# edit


def editor(cli: Cli, script: str) -> str:
    path = Path(cli.file(f"#!/bin/sh\n{script}\n", "editor"))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


async def test_edit_sends_what_was_changed_and_no_more(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    await applied(cli, domain(vcpus=1))
    monkeypatch.setenv("KUBE_EDITOR", editor(cli, "sed -i 's/vcpus: 1/vcpus: 2/' \"$1\""))
    assert await cli("edit domain/web") == Ran(0, "domain.domctl.io/web edited\n", "")
    body = await cli.body("web")
    assert body["spec"] == {"type": "qemu", "memory": "64Mi", "vcpus": 2}
    owners = {e["manager"]: e["fieldsV1"] for e in body["metadata"]["managedFields"]}
    assert owners["domctl-edit"] == {"f:spec": {"f:vcpus": {}}}


@pytest.mark.parametrize(
    ("script", "said"),
    [("true", "Edit cancelled, no changes made.\n"), (': > "$1"', "Edit cancelled, saved file was empty.\n")],
)
async def test_edit_without_a_change_changes_nothing(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    await applied(cli, domain())
    before = await cli.body("web")
    monkeypatch.setenv("EDITOR", editor(cli, script))
    monkeypatch.delenv("KUBE_EDITOR", raising=False)
    assert await cli("edit domain web") == Ran(0, said, "")
    assert await cli.body("web") == before


@pytest.mark.parametrize("words", ['vi "', "vi '-c"])
async def test_an_editor_that_cannot_be_read_as_words_is_told(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    await applied(cli, domain())
    monkeypatch.setenv("KUBE_EDITOR", words)
    ran = await cli("edit domain web")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("error: unable to launch the editor")
    assert "hint: set KUBE_EDITOR or EDITOR" in ran.err


def taken_away(path: str) -> bytes:
    """What a file held, which is gone then."""
    held = Path(path).read_bytes()
    os.unlink(path)
    return held


async def test_a_ctrl_c_in_the_editor_is_the_editors(cli: Cli) -> None:
    await applied(cli, domain(vcpus=1))
    cli.environ["KUBE_EDITOR"] = editor(cli, "echo open; sleep 1; sed -i 's/vcpus: 1/vcpus: 2/' \"$1\"")
    process = await cli.start("edit domain/web")
    assert process.stdout is not None
    async with asyncio.timeout(20):
        assert await process.stdout.readline() == b"open\n"
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert (process.returncode, out, err) == (0, b"domain.domctl.io/web edited\n", b"")


async def test_what_is_not_utf_8_is_refused_and_kept(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    await applied(cli, domain())
    before = await cli.body("web")
    monkeypatch.setenv("KUBE_EDITOR", editor(cli, "printf 'a: \\377' > \"$1\""))
    ran = await cli("edit domain web")
    assert (ran.code, ran.out) == (1, "")
    assert "is not UTF-8" in ran.err
    assert taken_away(ran.err.split("what you wrote is in ")[1].strip()) == b"a: \xff"
    assert await cli.body("web") == before


async def test_what_is_refused_comes_back_with_the_reason_and_is_kept(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    await applied(cli, domain(vcpus=1))
    seen = cli.directory / "seen"
    monkeypatch.setenv("KUBE_EDITOR", editor(cli, f'sed -i \'s/vcpus: 1/vcpus: 0/\' "$1"; cp "$1" {seen}'))
    ran = await cli("edit domain/web")
    assert ran.code == 1 and "no valid changes were saved" in ran.err
    assert '# The Domain "web" is invalid: spec.vcpus: must be between 1 and 4096, is 0' in seen.read_text()
    kept = ran.err.rsplit("what you wrote is in ", 1)[1].strip()
    with open(kept, encoding="utf-8") as file:  # noqa: ASYNC230 - a few bytes
        assert "vcpus: 0" in file.read()
    os.unlink(kept)
    monkeypatch.setenv("KUBE_EDITOR", "/nope/editor")
    assert "unable to launch the editor" in (await cli("edit domain/web")).err
    monkeypatch.setenv("KUBE_EDITOR", "false")
    assert "failed with exit code 1; nothing was changed" in (await cli("edit domain/web")).err


# scale


async def test_scale_of_what_has_no_replicas_says_so(cli: Cli) -> None:
    await applied(cli, domain())
    ran = await cli("scale domain web --replicas=2")
    assert (ran.code, ran.err) == (1, "error: cannot scale domains.domctl.io: it has no replicas\n")
    assert "--replicas=COUNT is required" in (await cli("scale domain web")).err


# dumpxml


async def test_dumpxml_is_what_the_spec_becomes(cli: Cli) -> None:
    disks = [{"name": "root", "source": {"file": "/images/web.qcow2"}, "format": "qcow2"}]
    interfaces = [{"name": "lan", "network": "default"}]
    file = cli.file(domain(vcpus=2, disks=disks, interfaces=interfaces))
    ran = await cli("dumpxml -f", file)
    assert ran.code == 0, ran.err
    root = ElementTree.fromstring(ran.out)
    assert (root.get("type"), root.findtext("vcpu"), root.find("uuid")) == ("qemu", "2", None)
    assert root.find("devices/interface/mac") is not None
    assert "domctl:domain" not in ran.out and "mark" not in ran.out
    await cli("apply -f", file)
    root = ElementTree.fromstring((await cli("dumpxml web")).out)
    assert root.findtext("uuid") == (await cli.body("web"))["metadata"]["uid"]
    assert (await cli("dumpxml nope")).code == 1
    assert (await cli("dumpxml")).code == 1


async def test_dumpxml_masks_passwords_but_for_who_asks_and_may_read_the_secret(cli: Cli) -> None:
    named = {"name": "screens", "key": "of-web"}
    await applied(cli, domain(graphics=[{"type": "vnc", "passwordSecret": named}]))
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "screens"}}
    await applied(cli, json.dumps({**secret, "stringData": {"of-web": "hunter2"}}))
    described = await cli("describe secret screens")
    assert "7 bytes" in described.out and "hunter2" not in described.out
    masked = await cli("dumpxml web")
    assert 'passwd="***"' in masked.out and "hunter2" not in masked.out
    assert 'passwd="hunter2"' in (await cli("dumpxml web --security-info")).out
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "seers"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}],
    }
    await applied(cli, json.dumps(binding))
    hers = cli.directory.with_name("ann.kubeconfig")
    hers.write_text((await cli("token create ann --duration 1h -o kubeconfig")).out)
    masked = await cli(f"--kubeconfig {hers} dumpxml web")
    assert 'passwd="***"' in masked.out, masked.err
    refused = await cli(f"--kubeconfig {hers} dumpxml web --security-info")
    assert refused.code == 1 and 'cannot get resource "secrets"' in refused.err
    assert "hunter2" not in refused.out + refused.err


async def test_dumpxml_refuses_paths_that_its_node_does_not_allow(cli: Cli) -> None:
    disks = [{"name": "root", "source": {"file": "/images/web.raw"}}]
    await applied(cli, domain(disks=disks), node())

    def place(body: dict[str, Any]) -> None:
        body["status"] = {"node": "hv1"}

    await cli.change("web", place)
    ran = await cli("dumpxml web")
    assert (ran.code, ran.out) == (1, "") and "spec.disks[0].source.file" in ran.err


# completion


@pytest.fixture
def bin_directory(cli: Cli) -> Iterator[Path]:
    """A domctl, and a kubectl plugin, on the path."""
    directory = cli.directory / "bin"
    directory.mkdir(parents=True)
    for name in ("domctl", "kubectl-domctl"):
        path = directory / name
        path.write_text(f"#!{DOMCTL[0]}\n{DOMCTL[2]}\n")
        path.chmod(0o755)
    cli.environ["PATH"] = f"{directory}:{os.environ['PATH']}"
    return directory


async def completed(cli: Cli, line: str) -> list[str]:
    """What bash itself would offer for a line whose end is where the cursor stands."""
    script = r"""
        source <(domctl completion bash)
        compopt() { :; }
        COMP_LINE=$1; COMP_POINT=${#1}
        # As readline parts words: at blanks, and = and : are words of their own.
        COMP_WORDS=($(printf '%s' "$1" | sed -E 's/([=:]+)/ \1 /g'))
        [[ $1 == *" " ]] && COMP_WORDS+=("")
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _domctl
        printf '%s\n' "${COMPREPLY[@]}"
    """
    done = await asyncio.to_thread(
        subprocess.run, ["bash", "-c", script, "bash", line], env=cli.environ, capture_output=True, text=True,
        check=False, cwd=cli.directory,
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.split()


@pytest.mark.usefixtures("bin_directory")
async def test_bash_completes_verbs_types_names_and_values(cli: Cli) -> None:
    await applied(cli, domain("web"), domain("wide"), domain("db"), node())
    cli.file("", "site.yaml")
    assert await completed(cli, "domctl des") == ["describe"]
    assert set(await completed(cli, "domctl ")) >= {"get", "apply", "node", "auth"}
    assert await completed(cli, "domctl auth ") == ["can-i", "whoami"]
    assert await completed(cli, "domctl get do") == ["domains"]
    assert await completed(cli, "domctl get domains w") == ["web", "wide"]
    assert await completed(cli, "domctl get domains web w") == ["wide"]
    assert await completed(cli, "domctl describe domain/d") == ["domain/db"]
    assert await completed(cli, "domctl start d") == ["db"]
    assert await completed(cli, "domctl node confirm-dead ") == ["hv1"]
    assert await completed(cli, "domctl get domains -o y") == ["yaml"]
    assert await completed(cli, "domctl apply --dry-run=se") == ["server"]
    assert await completed(cli, "domctl apply --dry-run=") == ["none", "client", "server"]
    assert await completed(cli, "domctl apply --force") == ["--force-conflicts"]
    assert await completed(cli, "domctl apply -f si") == ["site.yaml"]
    assert await completed(cli, "domctl --context ") == ["domctl"]
    assert await completed(cli, "domctl -n ") == ["default"]
    assert await completed(cli, "domctl completion ") == ["bash", "zsh", "fish"]
    assert await completed(cli, "domctl nonsense ") == []


@pytest.mark.usefixtures("bin_directory")
async def test_without_a_server_bash_still_completes_what_needs_none(cli: Cli) -> None:
    cli.environ["KUBECONFIG"] = "/nonexistent"
    assert await completed(cli, "domctl get domains w") == []
    assert await completed(cli, "domctl get no") == ["nodes"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_each_shell_that_is_here_takes_its_script(cli: Cli, shell: str) -> None:
    script = (await cli(f"completion {shell}")).out
    assert "domctl __complete" in script
    binary = shutil.which(shell)
    if binary is None:
        assert shell != "bash"
        return
    done = await asyncio.to_thread(
        subprocess.run, [binary, "-n"], input=script, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_verb_can_be_completed(capsys: pytest.CaptureFixture[str]) -> None:
    from controller.cli import completion

    for _, verb, _, _ in verbs.VERBS:
        assert completion.answer([*verb.split(), "--"]) == 0
        assert "--" in capsys.readouterr().out or verb in {"options", "completion"}, verb


# kubectl domctl


@pytest.mark.usefixtures("bin_directory")
async def test_kubectl_runs_domctl_as_a_plugin(cli: Cli) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts["kubectl-domctl"] == scripts["domctl"]
    await applied(cli, domain())
    assert await cli.kubectl("domctl get domains -o name") == Ran(0, "domain.domctl.io/web\n", "")
    assert (await cli.kubectl("domctl get domain nope")).code == 1


# migrate


async def test_a_request_says_how_long_it_stays_where_that_is_said(cli: Cli) -> None:
    await applied(cli, domain("web"))
    for words, expected in (("", None), (" --ttl=90m", 5400), (" --ttl 1500ms", 2), (" --ttl=0", 0)):
        ran = await cli(f"migrate web{words}")
        assert ran.code == 0, ran.err
        name = ran.out.split()[0].partition("/")[2]
        asked = (await cli.api.call("GET", f"/apis/domctl.io/v1/namespaces/default/migrations/{name}")).body
        assert asked["spec"].get("ttlSecondsAfterFinished") == expected, words
    for words, said in (
        ("--ttl=-1s", "negative"),
        ("--ttl=soon", "invalid duration"),
        ("--abort --ttl=1s", "no --to"),
    ):
        refused = await cli(f"migrate web {words}")
        assert (refused.code, said in refused.err) == (1, True), (words, refused)
