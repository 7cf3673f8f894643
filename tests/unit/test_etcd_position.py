"""What a watch makes of a server's events and progress, without a server."""

from __future__ import annotations

import pytest
from aetcd import rpc

from drivers.errors import Compacted
from drivers.etcd.position import CONFIRM_S, Position, orders_progress
from drivers.store import ChangeSet


def events(*revisions: int) -> list[rpc.Event]:
    return [
        rpc.Event(type=rpc.Event.PUT, kv=rpc.KeyValue(key=b"k%d" % i, mod_revision=revision))
        for i, revision in enumerate(revisions)
    ]


def revisions(change_sets: list[ChangeSet]) -> list[tuple[int, int]]:
    return [(change_set.revision, len(change_set.changes)) for change_set in change_sets]


def test_events_are_grouped_by_revision() -> None:
    position = Position(4)
    assert revisions(list(position.take(events(5, 5, 7, 9, 9, 9)))) == [(5, 2), (7, 1), (9, 3)]
    assert position.delivered == position.reached == 9


def test_what_was_delivered_is_dropped_when_it_comes_again() -> None:
    position = Position(6)
    assert revisions(list(position.take(events(5, 6, 7)))) == [(7, 1)]
    assert revisions(list(position.take(events(6, 7, 8)))) == [(8, 1)]


def test_a_consumer_that_stops_between_two_revisions_gets_the_second_again() -> None:
    position = Position(4)
    taking = position.take(events(5, 6))
    next(taking)
    next(taking)  # asked for the second: the first is done with
    assert position.delivered == 5


def test_sure_progress_is_a_mark_at_once() -> None:
    position = Position(4)
    assert position.progress(9, is_sure=True, now=0.0) == ChangeSet(9, ())
    assert (position.delivered, position.reached) == (4, 9)


def test_a_mark_never_goes_back() -> None:
    position = Position(4)
    assert position.progress(3, is_sure=True, now=0.0) == ChangeSet(4, ())


def test_doubtful_progress_is_a_mark_when_silence_confirms_it() -> None:
    position = Position(4)
    assert position.progress(9, is_sure=False, now=10.0) is None
    assert position.progress(12, is_sure=False, now=10.0 + CONFIRM_S / 2) is None
    assert position.progress(13, is_sure=False, now=10.0 + CONFIRM_S) == ChangeSet(9, ())
    assert position.progress(14, is_sure=False, now=10.0 + 2 * CONFIRM_S) == ChangeSet(13, ())


def test_an_event_takes_doubtful_progress_back() -> None:
    position = Position(4)
    position.progress(9, is_sure=False, now=10.0)
    assert revisions(list(position.take(events(8)))) == [(8, 1)]
    assert position.progress(9, is_sure=False, now=10.0 + CONFIRM_S) is None


def test_the_end_of_a_stream_takes_doubtful_progress_back() -> None:
    position = Position(4)
    position.progress(9, is_sure=False, now=10.0)
    position.lose()
    assert position.progress(9, is_sure=False, now=10.0 + CONFIRM_S) is None


def test_an_event_below_a_mark_means_list_again() -> None:
    position = Position(4)
    position.progress(9, is_sure=True, now=0.0)
    with pytest.raises(Compacted):
        list(position.take(events(8)))


@pytest.mark.parametrize(
    ("version", "ordered"),
    [
        ((), False),
        ((3, 4, 23), False),
        ((3, 4, 25), True),
        ((3, 4, 45), True),
        ((3, 5, 0), False),
        ((3, 5, 7), False),
        ((3, 5, 8), True),
        ((3, 6, 0), True),
    ],
)
def test_which_servers_order_the_progress_that_is_asked_for(version: tuple[int, ...], ordered: bool) -> None:
    assert orders_progress(version) is ordered
