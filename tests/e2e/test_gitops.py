"""The pipeline of deploy/gitops as git's hooks: real pushes, a real etcd, a node that really starts domains.

What is pushed is judged by users with the least rights that `rights.yaml` gives. The node is libvirt's test
driver, so that no lab is needed.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.e2e.serve import CHECKOUT, DOMCTL, Controller, until
from tests.etcdserver import require_etcd
from tests.smallserver import cleared, small_domain, small_server

GITOPS = CHECKOUT / "deploy" / "gitops"
README = CHECKOUT / "README.md"
RUNNING = "refs/domctl/running"
pytestmark = [pytest.mark.etcd, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    require_etcd()
    with small_server(tmp_path_factory.mktemp("gitops")) as found:
        yield cleared(found)


@dataclass(frozen=True)
class Site:
    """A bare repository with the hooks, and a clone of it to push from."""

    server: Controller
    place: Path
    environ: dict[str, str]

    @property
    def bare(self) -> Path:
        return self.place / "site.git"

    @property
    def clone(self) -> Path:
        return self.place / "site"

    def git(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["git", *words], cwd=self.clone, env=self.environ, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"git {words}: {done.stdout}{done.stderr}"
        return done

    def set(self, name: str, value: str) -> None:
        self.git("-C", str(self.bare), "config", f"domctl.{name}", value)

    def write(self, name: str, **spec: object) -> None:
        body = small_domain(name)
        body["spec"] |= spec
        (self.clone / "specs").mkdir(exist_ok=True)
        (self.clone / "specs" / f"{name}.yaml").write_text(yaml.safe_dump(body, sort_keys=False))

    def remove(self, *names: str) -> None:
        for name in names:
            (self.clone / "specs" / f"{name}.yaml").unlink()

    def commit(self, message: str, *more: str) -> str:
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message, *more)
        return self.git("rev-parse", "HEAD").stdout.strip()

    def push(self, branch: str = "main") -> subprocess.CompletedProcess[str]:
        """stderr has what the hooks said."""
        done = self.git("push", "origin", f"HEAD:{branch}", check=False)
        said = re.sub(r"^remote: ?|\s+$", "", done.stderr, flags=re.MULTILINE)
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout, said)

    def merge(self) -> str:
        """The change on main, pushed; what was said, where it was taken."""
        done = self.push()
        assert done.returncode == 0, done.stderr
        return done.stderr

    def tip(self, ref: str) -> str:
        found = self.git("-C", str(self.bare), "rev-parse", "--verify", "-q", ref, check=False)
        return found.stdout.strip()

    def note(self, commit: str) -> str:
        return self.git("-C", str(self.bare), "notes", "--ref=domctl", "show", commit).stdout

    def ready(self) -> dict[str, str]:
        listed = yaml.safe_load(self.server.domctl("get", "domains", "-o", "yaml"))["items"]
        return {
            one["metadata"]["name"]: next(
                c["status"] for c in one["status"]["conditions"] if c["type"] == "Ready"
            )
            for one in listed
            if "deletionTimestamp" not in one["metadata"]
        }


@pytest.fixture
def site(server: Controller, tmp_path: Path) -> Site:
    cleared(server)
    server.run("delete", "configmap", "gitops", "--ignore-not-found")
    server.domctl("apply", "-f", str(GITOPS / "rights.yaml"))
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "GITOPS_", "KUBECONFIG"))}
    environ |= {
        "HOME": str(tmp_path),
        "PATH": f"{DOMCTL.parent}:{os.environ['PATH']}",
        **{
            f"GIT_{who}_{what}": f"{who}@example.org"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        },
    }
    found = Site(server, tmp_path, environ)
    found.clone.mkdir()
    found.git("init", "-q", "--bare", "-b", "main", str(found.bare))
    found.git("-C", str(found.bare), "config", "core.hooksPath", str(GITOPS / "hooks"))
    for setting, user in (("kubeconfig", "gitops"), ("kubeconfigCheck", "gitops-check")):
        path = tmp_path / f"{user}.kubeconfig"
        path.write_text(server.domctl("token", "create", user, "--duration", "1h", "-o", "kubeconfig"))
        path.chmod(0o600)
        found.set(setting, str(path))
    found.set("timeout", "30s")
    found.git("init", "-q", "-b", "main")
    found.git("remote", "add", "origin", str(found.bare))
    return found


def started(site: Site, *names: str) -> str:
    for name in names:
        site.write(name)
    commit = site.commit("Begin")
    site.merge()
    return commit


def test_a_branch_with_mistakes_is_refused_with_their_lines(site: Site) -> None:
    started(site, "web-1")
    site.write("web-2", memory="lots", vcpu=2)
    site.commit("Wrong")
    done = site.push("wrong")
    assert done.returncode == 1
    assert re.search(r"^specs/web-2\.yaml:\d+:3: spec\.memory: ", done.stderr, re.MULTILINE), done.stderr
    assert re.search(r"^specs/web-2\.yaml:\d+:3: spec\.vcpu: ", done.stderr, re.MULTILINE)
    assert "error: wrong is not taken" in done.stderr
    assert not site.tip("wrong")


def test_a_branch_is_answered_with_what_merging_it_would_do_and_does_nothing(site: Site) -> None:
    started(site, "web-1", "web-2", "old")
    site.git("checkout", "-q", "-b", "larger")
    for name in ("web-1", "web-2"):
        site.write(name, memory="48Mi")
    site.remove("old")
    site.commit("Larger")
    said = site.push("larger")
    assert said.returncode == 0, said.stderr
    assert "### domctl diff" in said.stderr and "**1 to delete**, 2 to change." in said.stderr
    assert said.stderr.count("\n-  memory: 32Mi\n+  memory: 48Mi\n") == 2
    assert "deleted domain.domctl.io/old in default" in said.stderr
    assert site.ready() == dict.fromkeys(("old", "web-1", "web-2"), "True")


def test_what_is_shown_is_the_merge_and_not_the_branch(site: Site) -> None:
    """A branch that began before others merged would seem to take back what they did."""
    first = started(site, "web-1")
    site.write("since")
    site.commit("Since")
    site.merge()
    site.git("checkout", "-q", "-b", "late", first)
    site.write("mine")
    site.commit("Mine")
    said = site.push("late").stderr
    assert "1 to create." in said and "to delete" not in said, said
    site.write("since", memory="64Mi")
    site.commit("Both")
    done = site.push("late")
    assert done.returncode == 1 and "does not merge into main" in done.stderr
    assert "specs/since.yaml" in done.stderr


def test_a_merge_is_applied_pruned_and_waited_for(site: Site) -> None:
    started(site, "web-1", "old")
    site.write("web-1", memory="48Mi")
    site.write("web-2")
    site.remove("old")
    commit = site.commit("Next")
    said = site.merge()
    assert f"{commit[:7]} is applied, and all of it is Ready" in said
    assert "domain.domctl.io/old pruned" in said
    assert site.ready() == {"web-1": "True", "web-2": "True"}
    assert "is applied" in site.note(commit)
    shown = site.server.domctl("get", "configmap", "gitops", "-o", "yaml")
    assert f"domctl.io/gitops-commit: {commit}" in shown
    assert not site.tip(RUNNING)


def test_a_domain_that_does_not_come_fails_the_pipeline_with_its_own_reason(site: Site) -> None:
    started(site, "web-1")
    site.set("timeout", "3s")
    site.write("far", placement={"nodeSelector": {"zone": "nowhere"}})
    commit = site.commit("Far")
    said = site.merge()
    assert f"{commit[:7]} FAILED" in said
    reason = re.search(r"^- .* on domains/far: NoNodeFits: (.+)$", said, re.MULTILINE)
    assert reason and "hv1" in reason[1], said
    assert "What was applied stays applied." in said
    assert "FAILED" in site.note(commit)
    assert site.ready() == {"far": "False", "web-1": "True"}
    site.remove("far")
    site.commit("Back")
    assert "all of it is Ready" in site.merge()
    assert site.ready() == {"web-1": "True"}


def test_a_merge_that_deletes_more_than_allowed_is_refused_and_says_how_to_allow_it(site: Site) -> None:
    site.set("allowDestroy", "1")
    names = ("a", "b", "c")
    first = started(site, "web-1", *names)
    site.remove(*names)
    site.commit("Fewer")
    for branch in ("fewer", "main"):
        done = site.push(branch)
        assert done.returncode == 1, done.stderr
        assert "This deletes 3 objects, and 1 may be." in done.stderr
        trailer = re.search(r"^ +git (commit .*--trailer '(Allow-Destroy: 3)')$", done.stderr, re.MULTILINE)
        assert trailer, done.stderr
    assert site.tip("main") == first and len(site.ready()) == 4
    site.commit("Let them go", "--trailer", trailer[2])
    site.write("web-1", memory="40Mi")
    site.commit("And something else")
    assert site.merge().count(" pruned") == 3
    assert site.ready() == {"web-1": "True"}


def test_main_without_its_folder_or_deleted_deletes_nothing(site: Site) -> None:
    first = started(site, "web-1")
    site.git("mv", "specs", "elsewhere")
    site.commit("Moved")
    done = site.push()
    assert done.returncode == 1 and "there is no folder specs/" in done.stderr
    done = site.git("push", "origin", ":main", check=False)
    assert done.returncode == 1 and "cannot be deleted" in done.stderr
    assert site.tip("main") == first and site.ready() == {"web-1": "True"}


def test_a_link_in_the_repository_reads_no_file_of_the_server(site: Site) -> None:
    secret = site.place / "secret.yaml"
    secret.write_text("kind: TopSecret\n")
    started(site, "web-1")
    (site.clone / "specs" / "link.yaml").symlink_to(secret)
    site.commit("Link")
    done = site.push("link")
    assert done.returncode == 1 and "specs/link.yaml:1:1" in done.stderr
    assert "TopSecret" not in done.stderr


def test_the_user_of_the_check_may_change_nothing(site: Site) -> None:
    started(site, "web-1")
    config = str(site.place / "gitops-check.kubeconfig")
    path = str(site.clone / "specs" / "web-1.yaml")
    site.write("web-1", memory="48Mi")
    refused = site.server.run("--kubeconfig", config, "apply", "--force-conflicts", "-f", path)
    assert refused.returncode == 1 and 'cannot patch resource "domains"' in refused.stderr
    tried = site.server.run(
        "--kubeconfig", config, "apply", "--force-conflicts", "-f", path, "--dry-run=server"
    )
    assert tried.returncode == 0, tried.stderr
    shown = site.server.domctl("get", "domain", "web-1", "-o", "jsonpath={.spec.memory}")
    assert shown == "32Mi"


def test_two_pushes_do_not_interleave_and_the_later_stands(site: Site) -> None:
    """The first waits for a domain that does not come; the second pushes meanwhile."""
    started(site, "web-1")
    site.set("timeout", "4s")
    site.write("far", placement={"nodeSelector": {"zone": "nowhere"}})
    site.commit("Far")
    first = subprocess.Popen(
        ["git", "push", "origin", "HEAD:main"], cwd=site.clone, env=site.environ,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until(lambda: site.tip(RUNNING), 20, "the first push is not being applied")
    site.remove("far")
    site.write("web-2")
    second = site.commit("Near")
    began = time.monotonic()
    said = site.merge()
    assert "another run is under way" in said and time.monotonic() - began > 1
    assert f"{second[:7]} is applied" in said
    assert "FAILED" in first.communicate(timeout=30)[1] and first.returncode == 0
    assert site.ready() == {"web-1": "True", "web-2": "True"}


def test_a_run_that_was_killed_is_repeated_by_the_next_push(site: Site) -> None:
    started(site, "web-1", "old")
    site.set("timeout", "60s")
    site.remove("old")
    site.write("far", placement={"nodeSelector": {"zone": "nowhere"}})
    commit = site.commit("Far")
    push = subprocess.Popen(
        ["git", "push", "origin", "HEAD:main"], cwd=site.clone, env=site.environ,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    until(lambda: "far" in site.ready(), 30, "it was not applied")
    os.killpg(push.pid, signal.SIGKILL)
    push.wait(10)
    assert site.tip("main") == site.tip(RUNNING) == commit
    site.set("timeout", "3s")
    site.git("checkout", "-q", "-b", "other")
    site.commit("Something else")
    said = site.push("other").stderr
    assert f"{commit[:7]} FAILED" in said and "domains/far: NoNodeFits" in said
    assert not site.tip(RUNNING)
    assert site.ready() == {"far": "False", "web-1": "True"}


def test_a_branch_is_taken_with_a_warning_where_the_cluster_does_not_answer_and_main_is_not(
    site: Site,
) -> None:
    first = started(site, "web-1")
    config = site.place / "nobody.kubeconfig"
    text = (site.place / "gitops.kubeconfig").read_text()
    config.write_text(
        re.sub(r'server"?: "?https://[0-9.:]+', lambda m: m[0].rpartition("/")[0] + "/127.0.0.1:9", text)
    )
    assert config.read_text() != text
    site.set("kubeconfigCheck", str(config))
    site.write("web-2")
    commit = site.commit("Next")
    done = site.push("next")
    assert done.returncode == 0 and "next is taken, and was not compared" in done.stderr, done.stderr
    assert site.push().returncode == 1
    assert (site.tip("main"), site.tip("next")) == (first, commit)


def blocks() -> list[str]:
    marked = re.search(r"<!-- gitops: .*?-->(.*?)<!-- end of gitops -->", README.read_text(), re.DOTALL)
    assert marked, "the README marks where its commands begin and end"
    return re.findall(r"^```sh\n(.*?)^```$", marked[1], re.DOTALL | re.MULTILINE)


def test_every_command_of_the_readme_on_gitops_works(server: Controller, tmp_path: Path) -> None:
    cleared(server)
    server.run("delete", "configmap", "gitops", "--ignore-not-found")
    (tmp_path / "deploy").mkdir()
    shutil.copytree(GITOPS, tmp_path / "deploy" / "gitops")
    example = tmp_path / "deploy" / "gitops" / "specs" / "web.yaml"
    example.write_text(example.read_text().replace("type: qemu", "type: test"))
    environ = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "GITOPS_"))},
        "HOME": str(tmp_path),
        "KUBECONFIG": str(server.kubeconfig),
        "PATH": f"{DOMCTL.parent}:{os.environ['PATH']}",
    }
    identity = "git config --global user.name me; git config --global user.email me@example.org"
    script = "\n".join(["set -eux", "set -o pipefail", identity, *blocks()])
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environ, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "1 to change." in done.stderr and "all of it is Ready" in done.stdout
