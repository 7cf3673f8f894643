"""The README on the command line, taken at its word: its blocks are run as they stand."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from pathlib import Path

from tests.clicase import DOMCTL, Cli

README = Path(__file__).parents[2] / "README.md"


def blocks() -> list[str]:
    marked = re.search(r"<!-- cli: .*?-->(.*?)<!-- end of cli -->", README.read_text(), re.DOTALL)
    assert marked, "the README marks where its commands begin and end"
    return re.findall(r"^```sh\n(.*?)^```$", marked[1], re.DOTALL | re.MULTILINE)


async def test_every_command_of_the_readme_on_the_command_line_works(cli: Cli) -> None:
    program = cli.file(f"#!{DOMCTL[0]}\n{DOMCTL[2]}\n", "bin/domctl")
    os.chmod(program, 0o755)
    environ = {**cli.environ, "PATH": f"{os.path.dirname(program)}:{os.environ['PATH']}"}
    script = "\n".join(["set -eux", "set -o pipefail", *blocks()])
    done = await asyncio.to_thread(
        subprocess.run, ["bash", "-c", script], cwd=cli.directory, env=environ, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert 'conflict with "domctl"' in done.stderr and ": .spec.state" in done.stderr
    assert "**1 to delete**, 1 to create." in done.stdout
    names = {word for block in blocks() for word in re.findall(r"^domctl (\S+)", block, re.MULTILINE)}
    assert names >= {
        "apply",
        "diff",
        "delete",
        "label",
        "annotate",
        "explain",
        "events",
        "dumpxml",
        "validate",
    }
