"""Pytest fixtures that give tests real libvirt hosts: `lab` (three hosts, one lab for the whole session),
`hosts` (the same hosts, made whole and empty before and after each test that asks for them), and `doors` (the
last of them, reached over every transport, for as long as a module's tests need it).

Without root both skip, saying so; whether skipping is allowed is for the command that runs the tests.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doors import Doors, open_doors
from tests.labhost import Lab, LabHost, lab_up


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("lab: needs root")
    base: Path = tmp_path_factory.mktemp("lab")
    made = lab_up(base, f"t{os.getpid()}")
    try:
        made.make_guests()
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def doors(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    lab.hosts[-1].reset(lab.hosts[-1].status())
    opened = open_doors(lab.hosts[-1], tmp_path_factory.mktemp("doors"))
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
def hosts(lab: Lab) -> Iterator[tuple[LabHost, ...]]:
    lab.reset()
    yield lab.hosts
    lab.reset()
