"""The client against a server that misbehaves: scripted answers over real sockets."""

from __future__ import annotations

import gzip
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from controller.cli import watch as watching
from controller.cli.client import Client
from controller.cli.credentials import Credentials
from controller.cli.errors import CliError, StatusError, Unreached
from controller.cli.lists import read
from controller.cli.main import main
from controller.cli.watch import Scope, follow

Answer = bytes | Callable[[socket.socket], None]


def answer(body: object, code: int = 200, **headers: str) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"HTTP/1.1 {code} X", "Content-Type: application/json", f"Content-Length: {len(content)}"]
    head += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*head, "", ""]).encode() + content


def status(code: int, reason: str, **details: Any) -> dict[str, Any]:
    return {"kind": "Status", "code": code, "reason": reason, "message": f"says {reason}", "details": details}


def events(*lines: object) -> bytes:
    """A watch that ends after these lines."""
    chunks = b"".join(
        f"{len(text):x}\r\n".encode() + text + b"\r\n"
        for text in (json.dumps(e).encode() + b"\n" for e in lines)
    )
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def hang_up(connection: socket.socket) -> None:
    connection.close()


class Script:
    """Answers requests one after another; what was asked is in `asked`."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self.asked: list[str] = []
        self.heads: list[list[bytes]] = []
        self._answers = list(answers)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while self._answers:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        while self._answers:
            head = b""
            while b"\r\n\r\n" not in head:
                try:
                    got = connection.recv(65536)
                except OSError:
                    return
                if not got:
                    return
                head += got
            self.asked.append(head.split(b"\r\n")[0].decode())
            self.heads.append(head.split(b"\r\n"))
            reply = self._answers.pop(0)
            if not isinstance(reply, bytes):
                reply(connection)
                return
            connection.sendall(reply)
            if b"chunked" in reply:
                connection.close()
                return

    def close(self) -> None:
        self._listening.close()
        for connection in self._open:
            connection.close()


@contextmanager
def scripted(*answers: Answer) -> Iterator[tuple[Script, Client]]:
    script = Script(answers)
    client = Client(script.url, Credentials(None))
    try:
        yield script, client
    finally:
        client.close()
        script.close()


def test_who_is_impersonated_is_named_in_every_request_of_every_kind() -> None:
    who = [("Impersonate-User", "joé".encode()), ("Impersonate-Group", b"dev"), ("Impersonate-Group", b"ops")]
    with scripted(answer({}), answer({}), events(), events(), hang_up) as (script, _):
        client = Client(script.url, Credentials(None, who))
        client.get("/a")
        client.call("PATCH", "/a", body={})
        list(client.stream("/a", (), "application/json", None))
        list(client.pieces("/a"))
        with client.begin("/a", (), {}) as sock:
            assert sock.recv(1) == b""
        client.close()
    named = [[line for line in head if line.startswith(b"Impersonate-")] for head in script.heads]
    wanted = [f"{name}: ".encode() + value for name, value in who]
    assert named == [wanted] * 5


def test_a_dropped_get_is_sent_once_more() -> None:
    with scripted(hang_up, answer({"a": 1})) as (script, client):
        assert client.get("/x") == {"a": 1}
        assert len(script.asked) == 2


def test_a_get_that_is_dropped_again_is_given_up() -> None:
    with scripted(hang_up, hang_up, answer({})) as (script, client):
        with pytest.raises(Unreached, match="was lost before it answered"):
            client.get("/x")
        assert len(script.asked) == 2


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE", "PUT"])
def test_a_dropped_change_is_never_sent_again_and_may_have_happened(method: str) -> None:
    with scripted(hang_up, answer({})) as (script, client):
        with pytest.raises(Unreached) as caught:
            client.call(method, "/x", body={"a": 1})
        assert caught.value.maybe_done
        assert "may have been made" in caught.value.hint
        assert len(script.asked) == 1


def test_a_change_is_not_sent_on_a_connection_that_was_idle_for_long() -> None:
    with scripted(answer({"a": 1}), hang_up) as (_, client):
        client.get("/x")
        client._used_at -= 60
        with pytest.raises(Unreached):
            client.call("POST", "/x", body={})
    with scripted(answer({}), answer({})) as (script, client):
        client.get("/x")
        client.call("POST", "/x", body={})
        assert len(script._open) == 1


def test_too_many_requests_is_asked_again_after_the_time_named() -> None:
    refusal = answer(status(429, "TooManyRequests"), 429, Retry_After="0.2")
    with scripted(refusal, refusal, answer({"done": True})) as (script, client):
        began = time.monotonic()
        assert client.call("POST", "/x", body={}) == {"done": True}
        assert time.monotonic() - began >= 0.4
        assert len(script.asked) == 3


def test_a_server_that_does_not_answer_is_given_up() -> None:
    with scripted(lambda connection: time.sleep(1)) as (_, client):
        client.timeout_s = 0.2
        with pytest.raises(Unreached, match=r"did not answer within 0\.2s"):
            client.get("/x")


def test_what_is_no_status_is_an_error_with_its_text() -> None:
    with scripted(answer(b"<html>Bad Gateway</html>", 502)) as (_, client):
        with pytest.raises(StatusError, match="Bad Gateway") as caught:
            client.get("/x")
        assert caught.value.code == 502


def test_success_without_json_is_an_error() -> None:
    with scripted(answer(b"hello")) as (_, client), pytest.raises(Unreached, match="did not answer in JSON"):
        client.get("/x")


def test_an_unknown_path_is_not_a_missing_object() -> None:
    with scripted(answer(status(404, "NotFound"), 404), answer(status(404, "NotFound", name="a"), 404)) as (
        _,
        client,
    ):
        for expected in (False, True):
            with pytest.raises(StatusError) as caught:
                client.get("/x")
            assert caught.value.is_not_found is expected


def test_compressed_answers_are_unpacked() -> None:
    packed = gzip.compress(b'{"a": 1}')
    with scripted(answer(packed, Content_Encoding="gzip")) as (_, client):
        assert client.get("/x") == {"a": 1}


def test_each_warning_is_shown_once_and_without_control_characters() -> None:
    warned = answer({}, Warning='299 - "old \\"way\\" \x1b[31m"')
    shown = io.StringIO()
    with scripted(warned, warned) as (_, client), redirect_stderr(shown):
        client.get("/x")
        client.get("/x")
    assert shown.getvalue() == 'Warning: old "way" \\x1b[31m\n'


def test_pages_are_put_together_at_the_revision_of_the_first() -> None:
    pages = [
        {"metadata": {"resourceVersion": "7", "continue": "t"}, "items": [{"n": 1}]},
        {"metadata": {"resourceVersion": "7"}, "items": [{"n": 2}]},
    ]
    with scripted(*map(answer, pages)) as (_, client):
        found = read(client, "/x", page=1)
        assert [one["n"] for one in found["items"]] == [1, 2]
        assert found["metadata"]["resourceVersion"] == "7"


def test_a_list_that_expires_between_pages_is_read_again_as_a_whole() -> None:
    first = {"metadata": {"resourceVersion": "7", "continue": "t"}, "items": [{"n": 1}]}
    whole = {"metadata": {"resourceVersion": "9"}, "items": [{"n": 3}]}
    with scripted(answer(first), answer(status(410, "Expired"), 410), answer(whole)) as (script, client):
        assert read(client, "/x", page=1) == whole
        assert "limit" not in script.asked[-1]


def added(name: str, revision: int) -> dict[str, Any]:
    return {"type": "ADDED", "object": {"metadata": {"name": name, "resourceVersion": str(revision)}}}


def names(stream: Iterator[tuple[str, dict[str, Any]]], count: int) -> list[str]:
    return [value["metadata"]["name"] for _, (_, value) in zip(range(count), stream, strict=False)]


def test_a_watch_goes_on_from_where_it_was_cut() -> None:
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "8"}}}
    with scripted(events(added("a", 5)), hang_up, events(bookmark), events(added("b", 9))) as (
        script,
        client,
    ):
        assert names(follow(client, Scope("/x", []), "3"), 2) == ["a", "b"]
        asked = [line.partition("resourceVersion=")[2].partition("&")[0] for line in script.asked]
        assert asked == ["3", "5", "5", "8"]


def test_a_watch_survives_a_server_that_restarts() -> None:
    unready = answer(status(503, "ServiceUnavailable"), 503)
    with scripted(unready, hang_up, events(added("a", 5))) as (_, client):
        assert names(follow(client, Scope("/x", []), "3"), 1) == ["a"]


def test_a_watch_does_not_go_on_when_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        scripted(answer(status(403, "Forbidden"), 403)) as (_, client),
        pytest.raises(StatusError, match="Forbidden"),
    ):
        names(follow(client, Scope("/x", []), "3"), 1)


def test_a_watch_gives_up_on_a_server_that_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "RECONNECT_S", 0.5)
    client = Client("http://127.0.0.1:1", Credentials(None))
    began = time.monotonic()
    with pytest.raises(Unreached, match="was refused"):
        names(follow(client, Scope("/x", []), "3"), 1)
    assert 0.4 < time.monotonic() - began < 5


@pytest.mark.parametrize("in_stream", [True, False])
def test_a_watch_that_is_too_old_says_so(in_stream: bool) -> None:
    gone = status(410, "Expired")
    reply = events({"type": "ERROR", "object": gone}) if in_stream else answer(gone, 410)
    with scripted(reply) as (_, client), pytest.raises(StatusError) as caught:
        names(follow(client, Scope("/x", []), "3"), 1)
    assert caught.value.is_expired


def test_a_watch_ends_at_its_deadline_though_nothing_comes() -> None:
    silent = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

    def wait(connection: socket.socket) -> None:
        connection.sendall(silent)
        time.sleep(2)

    with scripted(wait) as (_, client):
        began = time.monotonic()
        assert names(follow(client, Scope("/x", []), "3", began + 0.3), 1) == []
        assert time.monotonic() - began < 1.5


def table(*rows: tuple[str, str, int]) -> dict[str, Any]:
    columns = [{"name": "Name", "format": "name"}, {"name": "State"}]
    listed = [
        {
            "cells": [name, state],
            "object": {"metadata": {"name": name, "namespace": "d", "resourceVersion": str(rv)}},
        }
        for name, state, rv in rows
    ]
    return {
        "kind": "Table",
        "metadata": {"resourceVersion": "10"},
        "columnDefinitions": columns,
        "rows": listed,
    }


def test_get_watch_lists_again_after_a_gap_and_prints_only_what_changed(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = answer(status(410, "Expired"), 410)
    first = answer(table(("a", "on", 1), ("b", "on", 2)))
    changed = events({"type": "MODIFIED", "object": table(("a", "off", 11))})
    later = answer(table(("a", "off", 11), ("b", "paused", 12), ("c", "on", 13)))
    end = answer(status(403, "Forbidden"), 403)
    with scripted(first, changed, gone, later, end) as (script, _):
        (tmp_path / "config").write_text(json.dumps({
            "clusters": [{"name": "x", "cluster": {"server": script.url}}],
            "contexts": [{"name": "x", "context": {"cluster": "x"}}],
            "current-context": "x",
        }))  # fmt: skip
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            assert main(["get", "domains", "-w"]) == 1
    shown = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert shown == ["NAME STATE", "a on", "b on", "a off", "b paused", "c on"]
    assert err.getvalue().startswith("Error from server (Forbidden)")


def test_a_watch_that_is_given_a_time_ends_then(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")

    with scripted(answer(table()), silent) as (script, _):
        (tmp_path / "config").write_text(json.dumps({
            "clusters": [{"name": "x", "cluster": {"server": script.url}}],
            "contexts": [{"name": "x", "context": {"cluster": "x"}}],
            "current-context": "x",
        }))  # fmt: skip
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        began = time.monotonic()
        with redirect_stdout(io.StringIO()):
            assert main(["get", "domains", "-w", "--request-timeout=1s"]) == 0
        assert 0.9 < time.monotonic() - began < 10


@pytest.mark.parametrize("server", ["ftp://x", "https://", "https://:1"])
def test_an_address_that_is_none_is_refused(server: str) -> None:
    with pytest.raises(CliError, match="must be https://HOST:PORT"):
        Client(server, Credentials(None))


def test_hosts_that_do_not_exist_are_named() -> None:
    with pytest.raises(Unreached, match="Unable to connect to the server"):
        Client("http://name.invalid:1", Credentials(None)).get("/x")


def test_a_migration_that_is_gone_before_it_is_waited_for_has_moved_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As --ttl=0 has it: what it said last is heard by a watch from when it was made."""
    monkeypatch.setattr("secrets.choice", lambda letters: letters[0])
    meta = {"name": "web-bbbbb", "namespace": "default", "uid": "u1", "resourceVersion": "7"}
    ended = {"metadata": meta, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    watched = events({"type": "MODIFIED", "object": ended}, {"type": "DELETED", "object": ended})
    answers = [answer({"metadata": {"name": "web"}}), answer({"metadata": meta}, 201), watched]
    with scripted(*answers) as (script, _), redirect_stdout(io.StringIO()) as out:
        config = {"clusters": [{"name": "a", "cluster": {"server": script.url}}]}
        (tmp_path / "config").write_text(json.dumps(config))
        words = ["migrate", "web", "--ttl=0", "--wait", "--timeout=5s", "--cluster", "a"]
        assert main([*words, "--kubeconfig", str(tmp_path / "config")]) == 0
    assert "resourceVersion=7" in script.asked[2] and "watch=" in script.asked[2]
    assert out.getvalue().endswith("migration.domctl.io/web-bbbbb condition met\n")
