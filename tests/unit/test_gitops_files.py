"""What of deploy/gitops no test can run, GitHub's and GitLab's side of it, is at least well-formed, and does
nothing but call the script that is run as git's hook."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.cli.main import main

GITOPS = Path(__file__).resolve().parents[2] / "deploy" / "gitops"
GITHUB = GITOPS / "github" / "domctl.yml"
GITLAB = GITOPS / "gitlab" / ".gitlab-ci.yml"
SECRET = "${{ secrets."


def github() -> dict[str, Any]:
    found: dict[str, Any] = yaml.load(GITHUB.read_text(), yaml.BaseLoader)
    return found


def gitlab() -> dict[str, Any]:
    found: dict[str, Any] = yaml.load(GITLAB.read_text(), yaml.BaseLoader)
    return found


def scripts() -> Iterator[tuple[str, str]]:
    for job, about in github()["jobs"].items():
        for number, step in enumerate(about["steps"]):
            if "run" in step:
                yield f"github {job} {number}", step["run"]
    for job in ("check", "apply"):
        yield f"gitlab {job}", "\n".join(gitlab()[job]["script"])


@pytest.mark.parametrize("path", [GITHUB, GITLAB], ids=lambda path: path.parent.name)
def test_a_template_says_that_it_was_not_run_and_what_to_replace(path: Path) -> None:
    head = path.read_text().partition("\n\n")[0] + path.read_text()[:800]
    assert "NOT RUN by domctl's own tests" in head and "replace PACKAGE" in head


@pytest.mark.parametrize(("name", "script"), list(scripts()), ids=[name for name, _ in scripts()])
def test_steps_are_sound_shell(name: str, script: str) -> None:
    checker = shutil.which("shellcheck")
    command = [checker, "-s", "bash", "-e", "SC2154", "-"] if checker else ["bash", "-n"]
    done = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
    assert SECRET not in script, "a secret is given by the environment, so that no shell reads it as code"
    assert "${{" not in script, "what a stranger named a branch must not become code"


def test_both_forges_call_the_script_as_the_hooks_do() -> None:
    called = {name.split()[0] + " " + name.split()[1]: "" for name, _ in scripts()}
    for name, script in scripts():
        called[" ".join(name.split()[:2])] += script
    for forge in ("github", "gitlab"):
        assert re.search(r"pipeline\"? check HEAD ", called[f"{forge} check"]), forge
        assert re.search(r"ci/pipeline apply (HEAD|FETCH_HEAD)", called[f"{forge} apply"]), forge
    for hook in (GITOPS / "hooks").iterdir():
        assert hook.read_text().splitlines()[-1].endswith(f'/../pipeline" {hook.name}')


def test_what_was_not_reviewed_sees_no_credentials_that_may_change_anything() -> None:
    check, apply = github()["jobs"]["check"], github()["jobs"]["apply"]
    assert "secrets.DOMCTL_KUBECONFIG }}" not in str(check)
    assert "secrets.DOMCTL_KUBECONFIG }}" in str(apply) and apply["environment"] == "production"
    assert gitlab()["check"]["variables"]["KUBECONFIG"] == "$DOMCTL_KUBECONFIG_CHECK"


def test_one_run_at_a_time_and_none_is_cut_short_for_the_next() -> None:
    concurrency = github()["jobs"]["apply"]["concurrency"]
    assert concurrency["group"] and concurrency["cancel-in-progress"] == "false"
    assert gitlab()["apply"]["resource_group"]


def test_the_objects_of_the_folder_are_valid(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "-f", str(GITOPS / "rights.yaml"), "-f", str(GITOPS / "specs")]) == 0
    assert capsys.readouterr().out.count(" valid\n") == 5


def test_the_user_of_the_check_has_no_right_to_change_anything() -> None:
    roles = [one for one in yaml.safe_load_all((GITOPS / "rights.yaml").read_text()) if one["kind"] == "Role"]
    rules = {one["metadata"]["name"]: one["rules"] for one in roles}
    assert {verb for rule in rules["gitops-check"] for verb in rule["verbs"]} == {"get", "list", "dryrun"}
    assert all("*" not in str(rule) for rule in rules["gitops"])
