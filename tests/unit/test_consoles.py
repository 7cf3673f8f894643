"""What is kept of consoles, and how it is shared: rings, lines, tapes and the desk."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.consoles import lines
from controller.consoles.desk import Desk
from controller.consoles.ring import MAX_PIECES, PIECE_BYTES, Ring
from controller.consoles.tape import Tape
from drivers.errors import WrongState
from drivers.hypervisor import ConsoleOutput
from specs.consoles import recorded, recorded_in, terminals
from specs.domain import CharacterDevice, DomainSpec

AT = "2026-11-28T11:00:0{}Z"


def content(ring: Ring) -> bytes:
    return b"".join(data for _, _, data in ring.pieces())


def clock() -> str:
    return AT.format(0)


# --- rings


@given(st.lists(st.tuples(st.binary(max_size=9000), st.integers(0, 9)), max_size=12), st.integers(1, 20_000))
def test_a_ring_keeps_the_newest_and_never_more_than_its_limit(
    parts: list[tuple[bytes, int]], limit: int
) -> None:
    ring, everything = Ring(limit), b""
    for data, second in parts:
        ring.append(data, AT.format(second))
        everything += data
        assert ring.ends == len(everything)
        assert ring.ends - ring.begins == len(content(ring)) <= limit
        assert content(ring) == (everything[-len(content(ring)) :] if content(ring) else b"")
    if everything:
        assert len(content(ring)) >= min(limit, len(everything)) - PIECE_BYTES


@given(st.lists(st.binary(min_size=1, max_size=5000), max_size=6), st.integers(0, 30_000))
def test_a_reader_at_any_offset_gets_what_follows_it(parts: list[bytes], offset: int) -> None:
    ring = Ring(12_000)
    for data in parts:
        ring.append(data, clock())
    read = b"".join(data for _, _, data in ring.pieces(offset))
    assert read == content(ring)[max(0, offset - ring.begins) :]


def test_a_guest_that_writes_a_byte_a_second_is_bounded_too() -> None:
    ring = Ring(1 << 20)
    for number in range(MAX_PIECES + 10):
        ring.append(b"x", f"{number:05}")
    assert ring.ends - ring.begins == MAX_PIECES


def test_the_memory_of_small_rings_is_bounded_by_their_size_too() -> None:
    tracemalloc.start()
    try:
        rings = [Ring(PIECE_BYTES) for _ in range(4)]
        for second in range(1000):
            at = f"2026-11-28T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}Z"
            for ring in rings:
                ring.append(b"x", at)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 5 * PIECE_BYTES * len(rings)


# --- lines


def log_of(*parts: tuple[bytes, int]) -> Ring:
    ring = Ring(1 << 16)
    for data, second in parts:
        ring.append(data, AT.format(second))
    return ring


def shown(ring: Ring, *, tail: int | None = None, since: str = "") -> bytes:
    offset = lines.beginning(ring, tail=tail, since=since)
    return b"".join(data for _, _, data in ring.pieces(offset)) if offset < ring.ends else b""


@pytest.mark.parametrize(
    ("tail", "since", "wanted"),
    [
        (None, "", b"one\ntwo\nthree\nfo"),
        (0, "", b""),
        (1, "", b"fo"),
        (2, "", b"three\nfo"),
        (9, "", b"one\ntwo\nthree\nfo"),
        (None, AT.format(2), b"three\nfo"),
        (1, AT.format(2), b"fo"),
        (None, AT.format(9), b""),
    ],
)
def test_a_log_can_be_asked_for_from_a_line_or_a_time_on(tail: int | None, since: str, wanted: bytes) -> None:
    ring = log_of((b"one\ntw", 0), (b"o\n", 1), (b"three\n", 2), (b"fo", 3))
    assert shown(ring, tail=tail, since=since) == wanted


@given(
    st.lists(st.tuples(st.sampled_from([b"a", b"\n", b"bc\n", b"\n\n", b"d\ne"]), st.integers(0, 1))),
    st.none() | st.integers(0, 9),
    st.integers(0, 9),
)
def test_of_any_ring_the_last_lines_that_began_in_time_are_found(
    parts: list[tuple[bytes, int]], tail: int | None, since: int
) -> None:
    ring, second, began = Ring(1 << 16), 0, []
    for data, later in parts:
        second = min(9, second + later)
        for byte in data:
            if not content(ring) or content(ring).endswith(b"\n"):
                began.append((ring.ends, second))
            ring.append(bytes([byte]), AT.format(second))
    wanted = [offset for offset, at in began if at >= since]
    wanted = wanted[-tail:] if tail else [] if tail == 0 else wanted
    found = lines.beginning(ring, tail=tail, since=AT.format(since))
    assert found == (wanted[0] if wanted else ring.ends)


@pytest.mark.parametrize("tail", [None, 1, 100_000, 1 << 40])
def test_to_find_a_line_in_a_ring_that_is_full_of_line_feeds_costs_little(tail: int | None) -> None:
    ring = Ring(1 << 20)
    ring.append(b"\n" * (1 << 20), clock())
    began_s = time.process_time()
    offset = lines.beginning(ring, tail=tail, since="")
    assert time.process_time() - began_s < 0.05, "it is a millisecond or two"
    assert offset == ring.ends - min(1 << 20, (1 << 20) if tail is None else tail)


@given(st.lists(st.sampled_from([b"a", b"\n", b"bc\n", b"\n\n", b"d\ne"]), max_size=20))
def test_times_stand_before_every_line_however_it_came(parts: list[bytes]) -> None:
    stamper = lines.Stamper()
    stamped = b"".join(stamper.stamped(part, "T") for part in parts)
    assert stamped.replace(b"T ", b"") == b"".join(parts)
    whole = b"".join(parts)
    rows = whole.split(b"\n")[:-1] if whole.endswith(b"\n") else whole.split(b"\n")
    if whole:
        assert stamped.split(b"\n")[: len(rows)] == [b"T " + row for row in rows]


# --- tapes


class Typed:
    """A console that notes what is typed."""

    def __init__(self) -> None:
        self.data = b""

    async def send(self, data: bytes) -> None:
        await asyncio.sleep(0)
        self.data += data

    async def close(self) -> None:
        return


def tape() -> Tape:
    return Tape(("u", "main"), Ring(1 << 16), clock)


def test_what_was_lost_and_when_nobody_read_stands_in_the_log() -> None:
    one = tape()
    one.opened(Typed(), "n1")
    one.heard(ConsoleOutput(b"half a li"))
    one.heard(ConsoleOutput(b"ne\n", lost=77))
    one.closed("it ended")
    one.opened(Typed(), "n2")
    said = content(one.ring).decode()
    assert said == (
        "half a li\r\n[domctl: 77 bytes came faster than they are read, and are not here]\r\nne\n"
        "[domctl: read again, on node n2; what was written in between is not here]\r\n"
    )


async def test_what_several_type_reaches_the_guest_whole() -> None:
    one, typed = tape(), Typed()
    one.opened(typed, "n1")
    await asyncio.gather(*(one.write(word) for word in (b"first\n", b"second\n", b"third\n")))
    assert typed.data == b"first\nsecond\nthird\n"


async def test_typing_on_a_closed_console_says_why_it_is_closed() -> None:
    one = tape()
    one.closed("the domain is not running")
    with pytest.raises(WrongState, match="the domain is not running"):
        await one.write(b"x")


async def test_who_waits_is_woken_by_output_and_by_the_end() -> None:
    one = tape()
    for happen in (lambda: one.heard(ConsoleOutput(b"x")), lambda: one.end("deleted")):
        news = one.news
        assert not news.is_set()
        happen()
        assert news.is_set()


# --- the desk


def test_all_rings_together_stay_below_their_bound() -> None:
    desk = Desk(clock, each=1 << 16, total=1 << 20)
    for number in range(100):
        desk.open(f"u{number}", "main").ring.append(b"x" * (1 << 16), clock())
    kept = sum(len(content(tape.ring)) for uuid in desk.uuids for tape in desk.of(uuid))
    assert kept <= 1 << 20
    for uuid in desk.uuids[1:]:
        for one in desk.of(uuid):
            desk.drop(one, "gone")
    desk.open("u0", "main").ring.append(b"y" * (1 << 16), clock())
    assert len(content(desk.open("u0", "main").ring)) == 1 << 16


def test_a_console_is_wanted_while_somebody_is_attached() -> None:
    asked: list[str] = []
    desk = Desk(clock, each=1 << 16, total=1 << 20, serving=True, on_change=asked.append)
    with desk.attaching("u", "main", "ann") as one:
        assert one.is_wanted
        with desk.attaching("u", "main", "ben") as other:
            assert other is one
            assert sorted(one.attached.values()) == ["ann", "ben"]
        assert one.is_wanted
    assert not one.is_wanted
    assert asked == ["u"] * 4


def test_after_its_term_a_desk_keeps_what_was_recorded_and_nothing_else() -> None:
    desk = Desk(clock, each=1 << 16, total=1 << 20, serving=True)
    kept, looked_at = desk.open("u", "main"), desk.open("u", "other")
    kept.recorded = True
    kept.heard(ConsoleOutput(b"hello"))
    desk.retire()
    assert not desk.serving
    assert desk.find("u", "main") is kept
    assert content(kept.ring) == b"hello"
    assert desk.find("u", "other") is None
    assert looked_at.gone


# --- which console is meant


def device(name: str, **more: object) -> CharacterDevice:
    return CharacterDevice(name=name, **more)  # type: ignore[arg-type]


def test_only_terminals_can_be_read_and_only_what_is_asked_for_is_recorded() -> None:
    spec = DomainSpec(
        memory="32Mi",
        serials=[device("file", type="file", path="/x"), device("plain")],
        consoles=[device("kept", record=True), device("not", record=False)],
    )
    assert terminals(spec) == {"plain": False, "kept": True, "not": False}
    assert recorded(spec) == recorded_in(msgspec.to_builtins(spec)) == ("kept",)


def test_a_container_has_a_console_even_if_none_is_named() -> None:
    assert terminals(DomainSpec(memory="32Mi", type="lxc")) == {"": False}
    assert terminals(DomainSpec(memory="32Mi")) == {}


@pytest.mark.parametrize("spec", [{"serials": 7}, {"serials": [7, {"record": True}]}, {"consoles": {"a": 1}}])
def test_what_is_no_console_in_the_store_names_none(spec: dict[str, Any]) -> None:
    assert recorded_in(spec) == ()
