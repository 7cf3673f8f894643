"""How little a quick command loads, and what that costs."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

from controller.cli import verbs

# `get` may import none of these; each costs more than it is worth to a table.
HEAVY = {
    "aiohttp", "asyncio", "concurrent.futures", "cryptography", "dataclasses", "encodings.idna", "grpc",
    "inspect", "libvirt",
    "msgspec", "prometheus_client", "rich", "subprocess", "tempfile", "yaml", "drivers", "specs.meta",
    "controller.api", "controller.app", "controller.cli.apply", "controller.cli.jsonpath",
}  # fmt: skip
NEVER = {
    "aiohttp",
    "asyncio",
    "cryptography",
    "grpc",
    "libvirt",
    "drivers",
    "controller.api",
    "controller.app",
}
FLOOR = "import argparse, http.client, ssl, json"
GET = "import controller.cli.main, controller.cli.get"
RUNS = 7
ROOT = Path(__file__).parents[2]


def environment(tmp_path: Path) -> dict[str, str]:
    """With compiled modules kept outside of the project, as an installation has them."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return {**environ, "PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}


def loaded_after(script: str, tmp_path: Path, **environ: str) -> set[str]:
    code = f"{script}\nimport sys, json; print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment(tmp_path), **environ},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_get_loads_nothing_heavy_on_its_way_to_the_server(tmp_path: Path) -> None:
    config = {"clusters": [{"name": "a", "cluster": {"server": "https://127.0.0.1:1"}}]}
    (tmp_path / "config").write_text(json.dumps(config))
    run = "from controller.cli.main import main; main(['get', 'domains', '--cluster', 'a'])"
    found = loaded_after(run, tmp_path, KUBECONFIG=str(tmp_path / "config"))
    assert "controller.cli.client" in found
    assert not found & HEAVY


def test_no_verb_loads_the_server(tmp_path: Path) -> None:
    modules = sorted({module for _, _, module, _ in verbs.VERBS})
    script = "\n".join(f"import controller.cli.{module}" for module in modules)
    assert not loaded_after(script, tmp_path) & NEVER


def test_verbs_that_read_no_files_load_nothing_to_check_them(tmp_path: Path) -> None:
    modules = ("get", "describe", "delete", "wait", "power", "decisions", "version", "apiresources")
    script = "\n".join(f"import controller.cli.{module}" for module in modules)
    assert not loaded_after(script, tmp_path) & {"specs.meta", "msgspec", "yaml"}


def test_apply_loads_only_what_its_files_need(tmp_path: Path) -> None:
    """Of a file without raw XML, and without a set that is pruned; the server is not there."""
    config = {"clusters": [{"name": "a", "cluster": {"server": "https://127.0.0.1:1"}}]}
    (tmp_path / "config").write_text(json.dumps(config))
    meta = {"apiVersion": "domctl.io/v1", "kind": "Domain", "metadata": {"name": "web"}}
    (tmp_path / "web.yaml").write_text(json.dumps({**meta, "spec": {"memory": "64Mi"}}))
    run = "from controller.cli.main import main; main(['apply', '--cluster', 'a', '-f', 'web.yaml'])"
    found = loaded_after(run, tmp_path, KUBECONFIG=str(tmp_path / "config"))
    assert "controller.cli.serverside" in found
    assert not found & (NEVER | {"controller.cli.applyset", "hashlib", "specs.overlay", "xml", "tempfile"})


def cpu_s(script: str, tmp_path: Path) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", script], env=environment(tmp_path), cwd=tmp_path, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_our_own_modules_cost_a_fraction_of_what_python_needs_anyway(tmp_path: Path) -> None:
    """Processor time in pairs, so that a busy machine slows both; the least of each, so that noise is out.
    Measured: 45 ms for what the standard library needs, 52 ms with all of ours."""
    cpu_s(GET, tmp_path)
    pairs = [(cpu_s(FLOOR, tmp_path), cpu_s(GET, tmp_path)) for _ in range(RUNS)]
    floor, ours = min(p[0] for p in pairs), min(p[1] for p in pairs)
    assert ours <= 1.5 * floor, f"{ours * 1000:.0f} ms against {floor * 1000:.0f} ms"


def domctl(tmp_path: Path, shell: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    """A line of a shell, in which `domctl` is the command."""
    command = f'domctl() {{ {sys.executable} -m controller.cli.main "$@"; }}; {shell}'
    environ = {**environment(tmp_path), **environ}
    return subprocess.run(["bash", "-c", command], env=environ, capture_output=True, check=False)


def test_output_that_cannot_be_written_is_an_error_and_no_trace(tmp_path: Path) -> None:
    full = domctl(tmp_path, "domctl completion bash >/dev/full")
    assert (full.returncode, full.stderr) == (1, b"error: No space left on device\n")
    closed = domctl(tmp_path, "domctl completion bash >&-")
    assert (closed.returncode, closed.stderr) == (0, b"")
    both = domctl(tmp_path, "domctl nothing >&- 2>&-")
    assert (both.returncode, both.stderr) == (1, b"")


def test_what_is_written_is_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    said = domctl(tmp_path, "domctl é", PYTHONIOENCODING="latin-1")
    assert 'unknown command "é"'.encode() in said.stderr


def test_a_word_that_is_no_text_is_named(tmp_path: Path) -> None:
    config = {"clusters": [{"name": "a", "cluster": {"server": "http://127.0.0.1:1"}}]}
    (tmp_path / "config").write_text(json.dumps(config))
    words = "domctl logs --cluster a $'\\xff'"
    said = domctl(tmp_path, words, KUBECONFIG=str(tmp_path / "config"))
    assert (said.returncode, b"Traceback" in said.stderr) == (1, False)
    assert b"is not UTF-8" in said.stderr
