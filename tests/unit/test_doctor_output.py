"""What `domctl doctor` prints, against files; its command line; and the code it ends with.

`python -m tests.unit.test_doctor_output` writes the files anew, for their difference to be read.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.cli import doctor
from controller.cli.main import main
from controller.cli.output import as_json
from controller.doctor import app
from controller.doctor.examine import Request
from controller.doctor.facts import ClusterFacts, Pair, Probe, Round, Subject
from controller.doctor.report import exit_code, report
from drivers.errors import Cause
from drivers.inspection import CpuFit, SecurityModel
from tests.doctorcase import host, registered, resident, second, unreached

GOLDEN = Path(__file__).parents[1] / "golden" / "doctor"


def rounds() -> dict[str, Round]:
    good = host("hv1", "qemu:///system", node=False)
    bad = second(
        security=(SecurityModel("none"), SecurityModel("dac", "+0:+0")),
        residents=(resident("old\x1b[2J", autostart=True), resident("legacy", active=False)),
        unread={"pools": "no connection driver available"},
        hypervisor_version="6.2.0",
        encrypted=False,
        secure=False,
    )
    lost = unreached("unreachable", "port", "port 16509 of hv1 refuses connections", Cause.PORT_REFUSED)
    moved = Probe(took_s=1.0204, downtime_ms=82, virt_type="kvm")
    refused = Probe("migrate", "Unable to resolve address 'hv1' service '49152':\n\tName not known")
    pairs = (
        Pair("hv1", "hv2", CpuFit.IDENTICAL, peer_uri="qemu+tcp://hv2/system", probe=moved),
        Pair(
            "hv2", "hv1", cpu_unread="an answer of hv1: busy", peer_uri="qemu+tcp://hv1/system", probe=refused
        ),
    )
    return {
        "good": Round((good,), cluster=ClusterFacts(nodes=(registered("hv9", hypervisor_version="7.2.22"),))),
        "two": Round((host("hv1"), bad), pairs),
        "lost": Round((lost,)),
    }


def texts(seen: Round) -> tuple[str, str]:
    found = report(seen)
    return "".join(f"{line}\n" for line in doctor.text(found)), as_json(found)


@pytest.mark.parametrize("name", rounds())
def test_text_and_json_are_as_they_were(name: str) -> None:
    text, shown = texts(rounds()[name])
    assert text == (GOLDEN / f"{name}.txt").read_text()
    assert shown == (GOLDEN / f"{name}.json").read_text()


def test_nothing_a_host_says_can_steer_a_terminal() -> None:
    text, _ = texts(rounds()["two"])
    assert text.replace("\n", "").isprintable()


def test_pairs_of_which_the_same_is_to_be_said_are_told_together() -> None:
    hosts = [host(f"hv{n}", host_uuid=f"u{n}") for n in range(4)]
    pairs = [Pair(a.name, b.name, CpuFit.IDENTICAL) for a in hosts for b in hosts if a is not b]
    pairs[0] = Pair("hv0", "hv1", CpuFit.INCOMPATIBLE)
    text = doctor.text(report(Round(tuple(hosts), tuple(pairs))))
    assert "hv0 -> hv1" in text
    assert "hv0 -> hv2, hv0 -> hv3, hv1 -> hv0, hv1 -> hv2, hv1 -> hv3, hv2 -> hv0 and 5 more" in text
    assert sum(line.startswith("  ok: machines, cpu") for line in text) == 1


@pytest.mark.parametrize(("name", "code"), [("good", 0), ("lost", 2)])
def test_the_code_tells_nothing_wrong_from_not_reached(name: str, code: int) -> None:
    assert exit_code(report(rounds()[name])) == code


def test_warnings_alone_are_no_failure_and_errors_are() -> None:
    assert exit_code(report(Round((host("a", encrypted=False), second())))) == 0
    assert exit_code(report(rounds()["two"])) == 1  # the probe
    assert exit_code(report(Round((host("a"), host("b"))))) == 1  # of one host_uuid


# -- the command -----------------------------------------------------------------------------------------


def run(*argv: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["doctor", *argv])
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """There is no kubeconfig."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """What would be examined; the answer is a host without fault."""
    requests: list[Request] = []

    def examine(request: Request, _say: object) -> Mapping[str, Any]:
        requests.append(request)
        return report(rounds()["good"])

    monkeypatch.setattr(app, "examine", examine)
    return requests


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "name at least one host"),
        (("qemu:///system", "-o", "wide"), "-o must be json or yaml"),
        (("qemu+ext://h/system?command=/bin/sh",), "qemu+ext://h/system?command=/bin/sh: "),
        (("qemu:///system", "--nope"), "unknown flag: --nope"),
        (("hv1",), "there is no kubeconfig"),
    ],
)
@pytest.mark.usefixtures("nobody", "asked")
def test_a_wrong_command_line_ends_with_2_and_says_what_is_wrong(argv: tuple[str, ...], message: str) -> None:
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.usefixtures("nobody")
def test_a_uri_needs_no_cluster_and_says_what_was_not_asked(asked: list[Request]) -> None:
    code, out, _ = run("qemu:///system")
    assert code == 0 and out == texts(rounds()["good"])[0]
    assert asked[0].subjects == (Subject("qemu:///system", "qemu:///system"),)
    assert asked[0].cluster is None and "no kubeconfig" in asked[0].cluster_unread


@pytest.mark.usefixtures("nobody", "asked")
def test_json_and_yaml_say_the_same() -> None:
    assert json.loads(run("qemu:///system", "-o", "json")[1]) == yaml.safe_load(
        run("qemu:///system", "-oyaml")[1]
    )


def test_help_says_what_the_codes_mean() -> None:
    code, out, _ = run("--help")
    assert code == 0 and "2 a\n host was not" in out and "domctl doctor hv1 hv2" in out


if __name__ == "__main__":
    for _name, _seen in rounds().items():
        _text, _json = texts(_seen)
        (GOLDEN / f"{_name}.txt").write_text(_text)
        (GOLDEN / f"{_name}.json").write_text(_json)
