"""Every reason that users can meet is explained to them."""

from __future__ import annotations

import re
from pathlib import Path

from controller.plan.types import Reason

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_readme_explains_every_reason_and_no_other() -> None:
    table = README.read_text().split("## When it holds")[1].split("##")[0]
    rows = re.findall(r"^\| ([A-Z][A-Za-z, ]+) \|", table, re.MULTILINE)
    told = {reason for row in rows for reason in row.split(", ")} - {"REASON"}
    assert told == {reason.value for reason in Reason}
