"""How large a document may be, and that one which is larger costs the loop no more than one which may be."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from controller.api import doubles, patch, protobuf
from controller.api.errors import ApiError, Subject
from controller.api.requests import decode_json
from controller.api.sizes import MAX_DEPTH, MAX_FIELDS, MAX_FIELDS_IN_ALL, fields_of
from drivers.memory import MemoryStore
from tests.apiserver import DOMAINS, MERGE, Api, domain, serving
from tests.unit.test_api_storm import Lag

BOUND_S = 0.100  # of the thread itself; measured: 3 to 8 ms, and 25 ms for the numbers
MIB = 1 << 20


@pytest.fixture(autouse=True)
def others_garbage() -> Generator[None]:
    """What pytest has loaded is not the server's to look through, as in `domctl serve`."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
async def api(tmp_path: Path) -> AsyncGenerator[Api]:
    store = MemoryStore(asyncio.get_running_loop().time)
    async with serving(store, tmp_path) as found:
        assert (await found.call("POST", DOMAINS, domain())).status == 201
        yield found
    await store.close()


def filled(unit: bytes, size: int = MIB) -> bytes:
    return b'{"x":[' + unit * (size // len(unit)) + b"1]}"


def several(item: bytes) -> bytes:
    """As many as pass without being looked at one by one."""
    return b'{"status":[' + b",".join([item] * MAX_FIELDS_IN_ALL * 2) + b"]}"


LARGE = {
    "of lists": filled(b"[[[]]],"),
    "of objects": filled(b'{"a":1},'),
    "of numbers": filled(b"1,"),
    "of texts": filled(b'"",'),
    "of quotes in a text": filled(b"1,", 60_000) + b'"' + rb"\"" * 490_000 + b'"',
    "of backslashes in a text": filled(b"[],", 60_000) + b'"' + rb"\\" * 490_000 + b'"',
    "of one name": b'{"a":{' + b'"a":1,' * 170_000 + b'"a":1}}',
    "of small numbers": several(b"2.2250738585072011e-308"),
    "of lists alone": b"[" * MIB,
}


def spent_s(work: Callable[[], Any]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began


def refused(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        decode_json(body)
    assert caught.value.code == 413
    assert f"at most {MAX_FIELDS} are accepted" in caught.value.message


@pytest.mark.parametrize("body", LARGE.values(), ids=LARGE)
def test_what_is_too_much_costs_little(body: bytes) -> None:
    assert spent_s(lambda: refused(body)) < BOUND_S


async def test_a_patch_of_a_mebibyte_of_lists_leaves_the_loop_to_others(api: Api) -> None:
    lag = Lag()
    watching = asyncio.create_task(lag.watch())
    for _ in range(3):
        reply = await api.call("PATCH", f"{DOMAINS}/web-1", LARGE["of lists"][:MIB], type=MERGE)
        assert (reply.status, reply.body["reason"]) == (413, "RequestEntityTooLarge")
    watching.cancel()
    assert lag.longest_s < BOUND_S


SMALL = {"metadata": {"name": "x"}, "data": {f"k{n}": "v" for n in range(1400)}}
WIDE = {"metadata": {"name": "x"}, "status": {"a": [1] * 9000}, "data": {"a": "x" * 240_000}}
COPY = {"op": "copy", "from": "/data", "path": "/x"}
JSON_PATCHES: dict[str, tuple[Any, list[Any], int]] = {
    "copies of many fields": (SMALL, [COPY] * 370, 413),
    "copies of a long text": (WIDE, [COPY] * 1000, 413),
    "copies of the whole": (WIDE, [{**COPY, "from": ""}] * 1000, 413),
    "copies of copies": (SMALL, [{**COPY, "from": "", "path": f"/{n}"} for n in range(60)], 413),
    "a path of slashes": (SMALL, [{"op": "add", "path": "/" * 1_000_000, "value": 1}], 400),
    "a source of slashes": (SMALL, [{**COPY, "from": "/" * 1_000_000}], 400),
    "too many": (SMALL, [{"op": "test", "path": "/data/k1", "value": "v"}] * 1001, 413),
    "many": (SMALL, [{"op": "add", "path": f"/data/n{n}", "value": "v"} for n in range(1000)], 0),
}


@pytest.mark.parametrize(("body", "operations", "code"), JSON_PATCHES.values(), ids=JSON_PATCHES)
def test_a_json_patch_costs_little_whatever_it_copies(
    body: dict[str, Any], operations: list[Any], code: int
) -> None:
    sent = json.dumps(operations).encode()

    def patched() -> None:
        value = decode_json(sent, patch.most_fields(patch.JSON))
        patch.parse(patch.JSON, value, Subject("ConfigMap", "x", ""), 256 << 10)(body)

    def answered() -> None:
        if not code:
            return patched()
        with pytest.raises(ApiError) as caught:
            patched()
        assert caught.value.code == code

    assert spent_s(answered) < BOUND_S


def test_a_json_patch_that_is_done_again_does_the_same() -> None:
    operations = [
        {"op": "add", "path": "/items", "value": []},
        {"op": "add", "path": "/items/-", "value": {"a": {}}},
        {"op": "add", "path": "/items/0/a/b", "value": 1},
    ]
    change = patch.parse(patch.JSON, operations, Subject("ConfigMap", "x", ""), 1000)
    once, again = change({"metadata": {}}), change({"metadata": {}})
    assert once == again == {"metadata": {}, "items": [{"a": {"b": 1}}]}


def test_what_looks_like_many_fields_within_texts_is_taken() -> None:
    texts = [",[{" * 30_000, '",' * 20_000, "\\" * 9, '\\"', '"\\', "\\\\" + '"' * 3, "," * 24_100]
    body = {f'n"{n}\\': text for n, text in enumerate([*texts, *texts[:-1], ",\\"])}
    assert decode_json(json.dumps(body).encode()) == body


def test_as_much_as_may_be_is_taken_and_one_more_is_not() -> None:
    for make in (list[Any], dict[str, Any]):
        counts = (MAX_FIELDS, MAX_FIELDS + 1)
        fit, over = (
            ["x,"] * count if make is list[Any] else dict.fromkeys(map(str, range(count)), ",")
            for count in counts
        )
        assert decode_json(json.dumps(fit).encode()) == fit
        refused(json.dumps(over).encode())
    told = {"status": {"x": [{}] * (MAX_FIELDS_IN_ALL - 2)}}
    assert decode_json(json.dumps(told).encode()) == told
    told["status"]["x"].append({})
    refused(json.dumps(told).encode())


def test_what_is_too_deep_is_refused_wherever_it_is() -> None:
    def nested(levels: int) -> bytes:
        return b'{"metadata":' * levels + b"1" + b"}" * levels

    assert fields_of(decode_json(nested(MAX_DEPTH))) == MAX_DEPTH
    for body in (nested(MAX_DEPTH + 1), b'{"status":%s}' % nested(MAX_DEPTH)):
        with pytest.raises(ApiError, match="nested deeper than 40 levels"):
            decode_json(body)


@pytest.mark.parametrize(
    "text", ["1e400", "-1e400", "1.5", "-0.0", "1e-400", "123456789012345678901234567890"]
)
def test_numbers_are_read_as_python_reads_them_or_refused(text: str) -> None:
    if abs(float(text)) == float("inf"):
        with pytest.raises(ApiError, match="out of range"):
            decode_json(text.encode())
    else:
        assert repr(decode_json(text.encode())) == repr(json.loads(text))


def test_a_long_name_of_many_fields_is_not_written_for_each() -> None:
    name = b"k" * 200_000
    inner = b",".join(b'"%d":1,"%d":2' % (n, n) for n in range(700))
    body = b'{"%s":{%s}}' % (name, inner)
    found: list[str] = []
    assert spent_s(lambda: found.extend(doubles.doubles(body, 10))) < BOUND_S
    assert (len(found), max(map(len, found)) < 300) == (10, True)


@pytest.mark.parametrize("unit", [b"\x20\x01", b"\x0a\x00", b"\x12\x00", b"\x12\x02\x0a\x00"])
def test_protobuf_of_too_many_fields_costs_little(unit: bytes) -> None:
    raw = unit * (250_000 // len(unit))
    head = b"\x0a\x0f\x0a\x02v1\x12\x09ConfigMap"
    size = len(raw)
    varint = bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14])
    body = protobuf.MAGIC + head + b"\x12" + varint + raw

    def read() -> None:
        with pytest.raises(ApiError) as caught:
            protobuf.decode(body)
        assert caught.value.code == 413

    assert spent_s(read) < BOUND_S
