"""What crosses between the sandbox and the grader: exact types, there and back, and nothing else."""

import collections
import datetime
import decimal
import fractions
import json
import math
import socket
import struct
import threading
import time

import numpy as np
import pandas as pd
import pytest
import torch

from course_utils.grading import peer, wire


def through(value):
    header, buffers = wire.dump(value)
    return wire.load(header, b"".join(buffers))


def alike(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        form = (a.dtype, a.shape, a.requires_grad, a.device) == (b.dtype, b.shape, b.requires_grad, b.device)
        return form and (a.is_meta or torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num()))
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, float):
        return a == b or (a != a and b != b)
    return a == b


Point = collections.namedtuple("Point", "x y")
PLAIN = [None, True, 0, -1, 2**62, 2**200, 0.1, -0.0, math.inf, math.nan, "é\n", b"\0a", bytearray(b"b"), 1 + 2j, ...]
NESTED = [
    [],
    (1, [2.0, {"a": (True, None)}]),
    {1, 2},
    frozenset("ab"),
    {1: "a", (2, 3): []},
    range(1, 9, 2),
    slice(1, None),
]
RARE = [
    collections.OrderedDict(b=1, a=2),
    collections.Counter("aab"),
    collections.deque([1, 2]),
    decimal.Decimal("-1.50"),
    fractions.Fraction(-2, 3),
    datetime.date(2026, 1, 2),
    datetime.datetime(2026, 1, 2, 3, 4),
    datetime.timedelta(1, 2),
]
ARRAYS = [
    np.arange(6).reshape(2, 3)[:, ::-1],
    np.array([1.5, np.nan], dtype=">f4"),
    np.array(["a", "bcd"]),
    np.array([True, False]),
    np.zeros((0, 3)),
    np.float32(2.5),
    np.array(7),
    np.array(["2026-01-02"], dtype="M8[D]"),
    np.dtype("int16"),
]
TENSORS = [
    torch.randn(2, 3).T,
    torch.tensor(3.0),
    torch.tensor([1.0, float("nan")], dtype=torch.float64),
    torch.ones(3, dtype=torch.bfloat16),
    torch.tensor([True, False]),
    torch.empty(0, 4),
    torch.empty(2, 3, device="meta"),
    torch.complex(torch.ones(2), torch.ones(2)).conj(),
    torch.randn(3).requires_grad_(),
    torch.Size([1, 2]),
    torch.float16,
    torch.device("cpu"),
]


VALUES = [*PLAIN, *NESTED, *RARE, *ARRAYS, *TENSORS]


@pytest.mark.parametrize("value", VALUES, ids=[f"{i}-{type(v).__name__}" for i, v in enumerate(VALUES)])
def test_there_and_back(value):
    assert alike(through(value), value)


def test_a_generator_draws_what_it_would_have_drawn():
    generator = torch.Generator().manual_seed(7)
    torch.randn(3, generator=generator)
    assert torch.equal(torch.randn(5, generator=through(generator)), torch.randn(5, generator=generator))


def test_named_tuples_and_data_frames():
    assert through(Point(1, [2]))._asdict() == {"x": 1, "y": [2]}
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": pd.Categorical(["u", "v"])}, index=["p", "q"])
    pd.testing.assert_frame_equal(through(frame), frame)
    pd.testing.assert_series_equal(through(frame["a"]), frame["a"])


class EqualsAll(int):
    def __eq__(self, other):
        return True

    __hash__ = int.__hash__


def test_a_class_of_ones_own_does_not_cross():
    """An int that equals everything arrives as the int that it is."""
    assert type(through(EqualsAll(3))) is int and through([EqualsAll(3)]) != [5]
    with pytest.raises(wire.WireError, match="type object cannot"):
        wire.dump(object())


def test_what_contains_itself_is_refused():
    ring = []
    ring.append(ring)
    with pytest.raises(wire.WireError, match="contains itself"):
        wire.dump(ring)


WRONG = [
    b"",
    b"{",
    b"[" * 100_000,
    b'{"v": 1}',
    b'{"tag": 5}',
    b'{"tag": "_init__", "v": []}',
    b'{"tag": "values", "v": [1]}',
    b'{"tag": "set", "v": [[1]]}',
    b'{"tag": "mine", "id": 1}',
    b'{"tag": "tensor", "dtype": "float32", "shape": [-1], "n": 4, "grad": false}',
    b'{"tag": "tensor", "dtype": "load", "shape": [1], "n": 4, "grad": false}',
    b'{"tag": "array", "dtype": "O", "shape": [1], "n": 8}',
    b'{"tag": "array", "dtype": "<f4", "shape": [1000000000], "n": 4}',
    b'{"tag": "array", "dtype": "<U1", "shape": [1], "n": 4}',
    b'{"tag": "bytes", "n": 10}',
    b'{"tag": "bytes", "n": -1}',
    b'{"tag": "named", "name": "a; b", "fields": [], "v": []}',
    b"1" * 10_000,
]


@pytest.mark.parametrize("header", WRONG, ids=lambda h: h[:40].decode())
def test_what_is_no_value_is_refused(header):
    with pytest.raises(wire.WireError):
        wire.load(header, b"\xff\xff\xff\x7f")


def test_numbers_whose_hashes_collide_do_not_take_for_ever():
    clash = [{"tag": "int", "v": hex(k * (2**61 - 1))} for k in range(2, 40_000)]
    started = time.monotonic()
    with pytest.raises(wire.WireError, match="rare"):
        wire.load(json.dumps({"tag": "set", "v": clash}).encode(), b"")
    assert time.monotonic() - started < 10


def test_a_bool_is_true_or_false():
    header, _ = wire.dump(np.array([True]))
    assert wire.load(header, b"\x05").view(np.uint8).tolist() == [1]
    header, _ = wire.dump(torch.tensor([True]))
    assert wire.load(header, b"\x05").view(torch.uint8).tolist() == [1]


# ---- frames ----------------------------------------------------------------------------------------------------------


def pair():
    return [wire.Channel(s) for s in socket.socketpair()]


def test_a_large_message_goes_through_a_small_pipe():
    one, other = pair()
    sent = torch.randn(2_000_000)
    threading.Thread(target=one.send, args=[sent]).start()
    assert torch.equal(other.receive(time.monotonic() + 60), sent)


def test_no_wait_is_for_ever():
    one, other = pair()
    with pytest.raises(wire.Late):
        other.receive(time.monotonic() + 0.05)
    one.socket.send(wire.HEAD.pack(100, 0) + b"[1")  # a message that never ends
    with pytest.raises(wire.Late):
        other.receive(time.monotonic() + 0.05)
    with pytest.raises(wire.Late):  # and one that nobody reads
        one.send(b"0" * 30_000_000, time.monotonic() + 0.05)
    one.socket.close()
    with pytest.raises(wire.Closed):
        other.receive()


def test_a_message_that_is_too_large_is_not_read():
    one, other = pair()
    one.socket.send(struct.pack("<IQ", 2**31, 2**62))
    with pytest.raises(wire.WireError, match="too large"):
        other.receive(time.monotonic() + 5)


# ---- arguments that are changed in place -----------------------------------------------------------------------------


def test_changes_are_found_and_put():
    def inputs():
        net = torch.nn.Linear(2, 1)
        with torch.no_grad():
            net.weight.fill_(1.0)
        return [[3, 1, 2], torch.tensor([1.0, float("nan")]), np.zeros(3), {"a": 1}, net, (torch.zeros(2), [5])]

    theirs, ours = inputs(), inputs()
    before = peer.snapshot(theirs, {})
    assert peer.changed(before, theirs, {}) == []
    theirs[0].sort()
    theirs[1][0] = 2.0
    theirs[2][1] = 7.0
    theirs[3]["b"] = 2
    theirs[4](torch.ones(1, 2)).sum().backward()
    theirs[5][0].add_(1)
    for place, new in peer.changed(before, theirs, {}):
        peer.put(peer.mutables(ours, {})[place], new)
    assert ours[0] == [1, 2, 3] and ours[1][0] == 2 and ours[2].tolist() == [0, 7, 0] and ours[3] == {"a": 1, "b": 2}
    assert ours[4].weight.grad.tolist() == [[1, 1]] and ours[5][0].tolist() == [1, 1] and ours[5][1] == [5]


@pytest.mark.parametrize("value, new", [([1], {1}), ([1], 5), ({"a": 1}, [1]), (bytearray(b"a"), "b")], ids=str)
def test_a_change_of_type_is_refused(value, new):
    with pytest.raises(wire.WireError):
        peer.put(value, new)
