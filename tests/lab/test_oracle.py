"""The oracle of I1, judged on made files; that it catches real guests is shown in test_lab.py."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.oracle import Follower, Judge, watching


def judged(*looks: tuple[str, str, int, float]) -> Judge:
    """Each look is (domain, host, size in bytes, last written in ms)."""
    judge = Judge()
    for domain, host, size, written_ms in looks:
        judge.see(domain, host, size, written_ms / 1000)
    return judge


def _write_by_turns(hosts: dict[str, Path], watch_until: Callable[[], bool]) -> None:
    for step in range(30):
        for directory in hosts.values():
            with (directory / "d").open("a") as file:
                file.write(f"TICK {step}\n")
            time.sleep(0.03)
        if watch_until():
            return


def test_two_copies_that_both_advance_break_the_invariant() -> None:
    judge = judged(
        ("d", "a", 10, 0), ("d", "b", 10, 0), ("d", "a", 20, 55), ("d", "b", 20, 80), ("d", "a", 30, 110)
    )
    (violation,) = judge.violations
    assert (violation.domain, violation.hosts, violation.at) == ("d", ("a", "b"), (0.055, 0.080, 0.110))


def test_handing_over_in_a_migration_is_no_violation() -> None:
    looks = [("d", "a", size, size * 5.5) for size in range(10, 200, 10)]
    looks += [("d", "b", 0, 700.0)]
    looks += [("d", "b", size, 1100 + size * 5.5) for size in range(10, 200, 10)]
    assert judged(*looks).violations == []


def test_a_migration_there_and_back_is_no_violation() -> None:
    judge = judged(
        ("d", "a", 10, 0), ("d", "b", 10, 0), ("d", "a", 20, 55), ("d", "b", 20, 110),
        ("d", "b", 30, 420), ("d", "a", 30, 480), ("d", "a", 40, 535),
    )  # fmt: skip
    assert judge.violations == []


def test_what_stood_in_a_file_before_is_no_advance() -> None:
    assert judged(("d", "a", 999, 0), ("d", "b", 999, 10), ("d", "a", 999, 0)).violations == []


def test_different_domains_may_advance_at_once() -> None:
    looks = [(name, host, size, float(size)) for size in range(0, 100, 10) for name, host in ("xa", "yb")]
    assert judged(*looks).violations == []


def test_a_file_emptied_by_a_restart_counts_from_anew() -> None:
    judge = judged(
        ("d", "a", 500, 0), ("d", "b", 10, 0), ("d", "a", 0, 1000), ("d", "a", 10, 1050),
        ("d", "b", 20, 1080), ("d", "a", 20, 1105),
    )  # fmt: skip
    assert len(judge.violations) == 1


def test_looks_that_come_out_of_order_are_judged_by_when_the_file_was_written() -> None:
    judge = judged(
        ("d", "a", 1, 0), ("d", "b", 1, 0), ("d", "b", 2, 80), ("d", "a", 2, 55), ("d", "a", 3, 110)
    )
    assert len(judge.violations) == 1


def test_the_follower_finds_files_that_appear_later(tmp_path: Path) -> None:
    hosts = {name: tmp_path / name for name in ("a", "b")}
    for directory in hosts.values():
        directory.mkdir()
    follower = Follower(hosts)
    follower.look(0.0)
    for step in range(20):
        now = 1.0 + step * 0.1
        path = hosts["ab"[step % 2]] / "d"
        with path.open("a") as file:
            file.write(f"TICK {step}\n")
        os.utime(path, (now, now))
        follower.look(now)
    assert {violation.domain for violation in follower.judge.violations} == {"d"}
    assert follower.longest_gap_s == pytest.approx(1.0)


def test_the_oracle_runs_as_a_process_and_fails_the_test_it_watches(tmp_path: Path) -> None:
    hosts = {name: tmp_path / name for name in ("a", "b")}
    for directory in hosts.values():
        directory.mkdir()
        (directory / "d").write_text("TICK 0\n")
    with pytest.raises(AssertionError, match="I1 is broken"), watching(hosts, tmp_path / "out") as watch:
        _write_by_turns(hosts, watch_until=lambda: bool(watch.violations()))


def test_the_oracle_is_silent_when_one_host_writes(tmp_path: Path) -> None:
    hosts = {name: tmp_path / name for name in ("a", "b")}
    for directory in hosts.values():
        directory.mkdir()
        (directory / "d").write_text("TICK 0\n")
    with watching(hosts, tmp_path / "out") as watch:
        _write_by_turns({"a": hosts["a"]}, watch_until=lambda: False)
        watch.check()
