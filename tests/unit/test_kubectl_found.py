"""Which kubectl the tests run: every version that is found, and none of them twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import kubectl


def program(path: Path, version: str) -> None:
    major, minor = version.split(".")[:2]
    told = f'{{"clientVersion": {{"gitVersion": "v{version}", "major": "{major}", "minor": "{minor}"}}}}'
    path.write_text(f"#!/bin/sh\necho '{told}'\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("plain", "expected"),
    [
        ("1.5.2", ["kubectl", "kubectl.1.9", "kubectl.1.10"]),  # Debian's, of a version of its own
        ("1.10.4", ["kubectl.1.9", "kubectl.1.10"]),
        ("1.8.4-dispatcher", ["kubectl.1.9", "kubectl.1.10"]),  # runs one of the others
    ],
)
def test_a_kubectl_without_a_number_is_run_where_it_is_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: str, expected: list[str]
) -> None:
    for name, version in (("kubectl.1.10", "1.10.0"), ("kubectl.1.9", "1.9.0"), ("kubectl", plain)):
        program(tmp_path / name, version)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = [Path(binary) for binary in kubectl.kubectls()]
    assert [path.name for path in found if path.parent == tmp_path] == expected


def test_the_newest_is_the_newest_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, version in (("kubectl.1.99", "1.99.0"), ("kubectl.1.100", "1.100.0"), ("kubectl", "1.20.2")):
        program(tmp_path / name, version)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert kubectl.newest() == kubectl.newest(100) == str(tmp_path / "kubectl.1.100")
