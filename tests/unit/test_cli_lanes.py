"""Which objects of a file `domctl apply` sends at once, against a server that holds its answers."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from controller.cli.lanes import LANES
from controller.cli.main import main

SPECS = {
    "Domain": {"memory": "64Mi"},
    "Migration": {"domain": "web", "node": "n1"},
    "Node": {"uri": "qemu+tls://host.example/system"},
}
RIGHTS = "rbac.authorization.k8s.io/v1"
PATIENCE_S = 5.0


class Server(ThreadingHTTPServer):
    """Has nothing, and takes what is applied. `change`: what is answered to the apply of a name, and when."""

    daemon_threads = True

    def __init__(self, change: Callable[[str], int]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.change = change
        self.lock = threading.Condition()
        self.under_way: list[str] = []
        self.beside: dict[str, list[str]] = {}  # what was under way when a name came
        self.times: dict[str, int] = {}

    @property
    def most(self) -> int:
        return 1 + max(len(others) for others in self.beside.values())

    def meet(self, count: int) -> None:
        """Wait until so many are under way."""
        with self.lock:
            self.lock.wait_for(lambda: self.most >= count, PATIENCE_S)

    @contextmanager
    def noted(self, name: str) -> Iterator[None]:
        with self.lock:
            self.times[name] = self.times.get(name, 0) + 1
            self.beside[name] = list(self.under_way)
            self.under_way.append(name)
            self.lock.notify_all()
        try:
            yield
        finally:
            with self.lock:
                self.under_way.remove(name)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        status = {"kind": "Status", "reason": "NotFound", "message": "not found", "details": {"name": "it"}}
        self._answer(404, status)

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = body["metadata"]["name"]
        with self.server.noted(name):
            code = self.server.change(name)
        if not code:
            self.close_connection = True
        elif code >= 400:
            self._answer(code, {"kind": "Status", "reason": "Invalid", "message": f"{name} is refused"})
        else:
            self._answer(code, {**body, "metadata": {**body["metadata"], "resourceVersion": "1"}})

    def _answer(self, code: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(change: Callable[[str], int]) -> Iterator[Server]:
    server = Server(change)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def apply(server: Server, tmp_path: Path, *objects: dict[str, Any]) -> tuple[int, list[str], str]:
    path = tmp_path / "all.yaml"
    path.write_text("---\n".join(json.dumps(one) + "\n" for one in objects))
    out, err = io.StringIO(), io.StringIO()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    (tmp_path / "config").write_text(json.dumps({"clusters": [{"name": "a", "cluster": {"server": url}}]}))
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["apply", "--kubeconfig", str(tmp_path / "config"), "--cluster", "a", "-f", str(path)])
    names = [line.split("/")[1].split(" ")[0] for line in out.getvalue().splitlines()]
    return code, names, err.getvalue()


def made(kind: str, *names: str) -> list[dict[str, Any]]:
    head = {"apiVersion": "domctl.io/v1", "kind": kind}
    return [{**head, "metadata": {"name": name}, "spec": SPECS[kind]} for name in names]


def test_neighbours_of_a_kind_are_with_the_server_at_once_but_not_all_of_many(tmp_path: Path) -> None:
    def change(name: str) -> int:
        server.meet(LANES)
        return 201

    names = [f"m{number}" for number in range(3 * LANES)]
    with serving(change) as server:
        assert apply(server, tmp_path, *made("Migration", *names)) == (0, names, "")
        assert server.most == LANES


def test_outcomes_are_told_in_the_order_of_the_file_whatever_comes_first(tmp_path: Path) -> None:
    def change(name: str) -> int:
        server.meet(3)
        time.sleep({"a": 0.3, "b": 0.15}.get(name, 0.0))
        return 201

    with serving(change) as server:
        assert apply(server, tmp_path, *made("Domain", "a", "b", "c")) == (0, ["a", "b", "c"], "")


def test_an_object_is_sent_when_all_of_another_kind_before_it_are_answered(tmp_path: Path) -> None:
    def change(name: str) -> int:
        time.sleep(0.1)
        return 201

    objects = [*made("Node", "n1", "n2"), *made("Domain", "a", "b"), *made("Migration", "m1")]
    with serving(change) as server:
        assert apply(server, tmp_path, *objects)[:2] == (0, ["n1", "n2", "a", "b", "m1"])
        assert not {"n1", "n2"} & {*server.beside["a"], *server.beside["b"]}
        assert server.beside["m1"] == []


def test_rights_are_given_one_after_another(tmp_path: Path) -> None:
    def change(name: str) -> int:
        time.sleep(0.05)
        return 201

    rule = {"apiGroups": ["domctl.io"], "resources": ["domains"], "verbs": ["get"]}
    head = {"apiVersion": RIGHTS, "kind": "ClusterRole", "rules": [rule]}
    with serving(change) as server:
        assert apply(server, tmp_path, *({**head, "metadata": {"name": name}} for name in "abc"))[0] == 0
        assert server.most == 1


def test_what_is_refused_beside_others_is_tried_once_more_after_those_before_it(tmp_path: Path) -> None:
    """It may have wanted a MAC address that one before it gave up."""

    def change(name: str) -> int:
        if name == "b":
            return 422 if "a" in server.under_way or server.times["b"] == 1 else 201
        server.meet(2)
        time.sleep(0.1)
        return 422 if name == "c" else 201

    with serving(change) as server:
        code, told, err = apply(server, tmp_path, *made("Domain", "a", "b", "c"))
    assert (code, told) == (1, ["a", "b"])
    assert "c is refused" in err and "b is refused" not in err
    assert server.times == {"a": 1, "b": 2, "c": 2}


def test_a_connection_that_is_lost_beside_others_says_what_to_do(tmp_path: Path) -> None:
    def change(name: str) -> int:
        server.meet(3)
        return 0 if name == "b" else 201

    with serving(change) as server:
        code, told, err = apply(server, tmp_path, *made("Domain", "a", "b", "c"))
    assert (code, told) == (1, ["a"])
    assert "was lost before it answered" in err
    assert "what is not named above may have been applied, too; run the command again" in err
    assert server.times["b"] == 1
