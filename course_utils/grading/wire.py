"""Values between the sandbox and the grader as data: a JSON header and raw buffers, and nothing that could execute.

What arrives is of an exact type from a short list, its size and form checked: no class of the sender's, no pickle, no
import. Anything else crosses as a handle (see split.py), which `refer` makes and `resolve` takes.

A frame on the socket is: length of the header (4 bytes), length of all buffers (8 bytes), header, buffers.
"""

import collections
import datetime
import decimal
import fractions
import functools
import json
import math
import re
import select
import struct
import sys
import time

import numpy as np

MAX_HEADER = 4 * 2**20
MAX_BUFFERS = 128 * 2**20
MAX_ODD = 5_000  # numbers in a message whose hashes a sender could make collide, so that a set of them takes for ever
HEAD = struct.Struct("<IQ")
RATIONAL = re.compile(r"-?\d{1,4000}(/\d{1,4000})?")
DECIMAL = re.compile(r"-?(\d{1,1000}(\.\d{1,1000})?(E[+-]?\d{1,3})?|NaN|Infinity)")
DTYPE = re.compile(r"[<>|=]?([biufcSUMm])\d+(\[\w+\])?")
NAME = re.compile(r"[^\W\d]\w*")
PLAIN = (str, int, float, complex, list, tuple, dict, set, frozenset)
TORCH = (
    "float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128 "
    "uint16 uint32 uint64 complex32"
).split()


class WireError(Exception):
    """What arrived, or should be sent, is not among what may cross."""


class Closed(WireError):
    """The other side is gone."""


class Late(WireError):
    """The other side did not answer in time."""


# ---- values ----------------------------------------------------------------------------------------------------------


def dump(value, refer=None):
    """A value as (header: bytes, buffers: list of bytes).

    `refer(value, last, plain)` gives the dict for what shall not cross as data, or None; asked first, and again at the
    end. `plain` is what makes a dict of the data within.

    Raises WireError for what is neither, for what refers to itself, and beyond the sizes allowed.
    """
    buffers = []
    try:
        header = json.dumps(_plain(value, buffers, refer), separators=(",", ":")).encode()
    except RecursionError:
        raise WireError("a value that contains itself, or is nested too deeply, cannot be passed on") from None
    except (UnicodeEncodeError, ValueError) as error:
        raise WireError(f"a value cannot be passed on: {error}") from None
    if len(header) > MAX_HEADER or sum(map(len, buffers)) > MAX_BUFFERS:
        raise WireError("a value is too large to be passed on")
    return header, buffers


def load(header, body, resolve=None):
    """The value of a header (bytes) and its buffers, joined; `resolve(dict)` gives what a handle stands for.

    Raises WireError whatever else is wrong with them.
    """
    try:
        return _Loader(body, resolve).value(json.loads(header))
    except WireError:
        raise
    except (Exception, RecursionError) as error:
        raise WireError(f"what arrived makes no sense ({type(error).__name__})") from None


def _plain(value, buffers, refer):
    """What JSON can hold of a value; raw data is appended to `buffers`."""
    kind = type(value)
    if value is None or kind in (bool, str, float):
        return value
    if kind is int:
        return value if -(2**63) <= value < 2**63 else {"tag": "int", "v": hex(value)}

    def inner(v):
        return _plain(v, buffers, refer)

    def raw(data):
        buffers.append(data)
        return len(data)

    if kind is list:
        return [inner(v) for v in value]
    if kind in (tuple, set, frozenset, collections.deque):
        return {"tag": kind.__name__, "v": [inner(v) for v in value]}
    if kind in (dict, collections.OrderedDict, collections.Counter, collections.defaultdict):
        return {"tag": kind.__name__, "v": [[inner(k), inner(v)] for k, v in value.items()]}
    if kind is complex:
        return {"tag": "complex", "v": [value.real, value.imag]}
    if kind in (bytes, bytearray):
        return {"tag": kind.__name__, "n": raw(bytes(value))}
    if kind in (range, slice):
        return {"tag": kind.__name__, "v": [inner(v) for v in (value.start, value.stop, value.step)]}
    if value is Ellipsis or value is NotImplemented:
        return {"tag": "constant", "v": repr(value)}
    if kind in (decimal.Decimal, fractions.Fraction, datetime.date, datetime.datetime):
        return {"tag": kind.__name__, "v": str(value)}
    if kind is datetime.timedelta:
        return {"tag": "timedelta", "v": [value.days, value.seconds, value.microseconds]}
    found = refer(value, False, inner) if refer is not None else None
    if found is None:
        found = _numbers(value, inner, raw)
    if found is None:
        found = _subclass(value, inner)
    if found is None and refer is not None:
        found = refer(value, True, inner)
    if found is None:
        raise WireError(f"a value of type {kind.__name__} cannot be passed on")
    return found


def _numbers(value, inner, raw):
    """Arrays, tensors and data frames, or None."""
    if isinstance(value, np.generic):
        return {"tag": "scalar", "v": _array(np.asarray(value), inner, raw)}
    if type(value) is np.ndarray:
        return _array(value, inner, raw)
    if isinstance(value, np.dtype):
        return {"tag": "dtype", "v": value.str}
    torch, pandas = sys.modules.get("torch"), sys.modules.get("pandas")
    if torch is not None and hasattr(torch, "Tensor"):
        if isinstance(value, torch.Tensor):
            return _tensor(torch, value, raw)
        if isinstance(value, torch.Size):
            return {"tag": "Size", "v": list(value)}
        if isinstance(value, torch.dtype | torch.device):
            return {"tag": f"torch.{type(value).__name__}", "v": str(value).removeprefix("torch.")}
        if isinstance(value, torch.Generator):
            return {"tag": "Generator", "n": raw(value.get_state().numpy().tobytes())}
    if pandas is not None and hasattr(pandas, "DataFrame"):
        return _frame(pandas, value, inner)
    return None


def _array(value, inner, raw):
    if value.dtype.hasobject:
        return {"tag": "objects", "shape": list(value.shape), "v": [inner(v) for v in value.ravel().tolist()]}
    if not DTYPE.fullmatch(value.dtype.str):
        raise WireError(f"an array of {value.dtype} cannot be passed on")
    return {"tag": "array", "dtype": value.dtype.str, "shape": list(value.shape), "n": raw(value.tobytes())}


def _tensor(torch, value, raw):
    name = str(value.dtype).removeprefix("torch.")
    if name not in TORCH or value.layout != torch.strided or value.device.type not in ("cpu", "cuda", "meta"):
        raise WireError(f"a tensor of {value.layout} and {value.dtype} on {value.device} cannot be passed on")
    found = {"tag": "tensor", "dtype": name, "shape": list(value.shape), "grad": value.requires_grad, "n": None}
    if isinstance(value, torch.nn.Parameter):
        found["parameter"] = True
    if value.device.type != "meta":
        plain = value.detach().as_subclass(torch.Tensor).resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
        found["n"] = raw(plain.view(torch.int16).numpy().tobytes() if name == "bfloat16" else plain.numpy().tobytes())
    return found


def _frame(pandas, value, inner):
    """A data frame, series or index: its columns one by one, an extension type's values as a list."""

    def column(values):
        dtype = values.dtype
        if isinstance(dtype, np.dtype) and DTYPE.fullmatch(dtype.str):
            return [None, inner(values.to_numpy())]
        return [str(dtype), [None if pandas.api.types.is_scalar(v) and pandas.isna(v) else inner(v) for v in values]]

    def index(values):
        if isinstance(values, pandas.MultiIndex):
            return {"names": inner(list(values.names)), "tuples": inner(list(values))}
        return {"name": inner(values.name), "v": column(values)}

    if isinstance(value, pandas.DataFrame):
        columns = [column(value.iloc[:, i]) for i in range(value.shape[1])]
        return {"tag": "DataFrame", "v": columns, "columns": index(value.columns), "index": index(value.index)}
    if isinstance(value, pandas.Series):
        return {"tag": "Series", "v": column(value), "name": inner(value.name), "index": index(value.index)}
    if isinstance(value, pandas.Index):
        return {"tag": "Index", "v": index(value)}
    if isinstance(value, pandas.Timestamp):
        return {"tag": "Timestamp", "v": str(value)}
    return None


def _subclass(value, inner):
    """A value of a class derived from a plain type, as that plain type (a namedtuple with its names), or None."""
    for plain in PLAIN:
        if isinstance(value, plain) and type(value).__module__ != "enum" and not _is_enum(value):
            names = getattr(type(value), "_fields", None)
            if plain is tuple and isinstance(names, tuple) and all(isinstance(n, str) for n in names):
                fields = [inner(v) for v in tuple.__iter__(value)]
                return {"tag": "named", "name": type(value).__name__, "fields": list(names), "v": fields}
            return inner(exact(value, plain))
    return None


def exact(value, plain=None):
    """The plain value that one of a class derived from list, dict, str, ... holds, by that type's own methods."""
    plain = plain or next(kind for kind in PLAIN if isinstance(value, kind))
    if plain in (str, int, float, complex):
        return plain.__add__(value, plain())
    return dict(dict.items(value)) if plain is dict else plain(plain.__iter__(value))


def _is_enum(value):
    enum = sys.modules.get("enum")
    return enum is not None and isinstance(value, enum.Enum)


class _Loader:
    """Builds the value that a header describes; takes its raw data from `body`, in order."""

    def __init__(self, body, resolve):
        self.body, self.at, self.resolve, self.odd = memoryview(body), 0, resolve, 0

    def value(self, plain):
        if isinstance(plain, list):
            return [self.value(v) for v in plain]
        if not isinstance(plain, dict):
            return plain
        tag = plain["tag"].replace(".", "_")
        make = None if tag.startswith("_") else getattr(self, f"_{tag}", None)
        if make is not None:
            return make(plain)
        if self.resolve is None:
            raise WireError("a handle where data should be")
        return self.resolve(plain, self.value, self.raw)

    def values(self, plain):
        return [self.value(v) for v in plain["v"]]

    def raw(self, size):
        """The next `size` bytes of the buffers."""
        if type(size) is not int or not 0 <= size <= len(self.body) - self.at:
            raise WireError("a buffer is shorter than its header says")
        self.at += size
        return self.body[self.at - size : self.at]

    def count_odd(self):
        self.odd += 1
        if self.odd > MAX_ODD:
            raise WireError("too many numbers of a rare kind")

    def _int(self, plain):
        self.count_odd()
        return int(plain["v"], 16)

    def _tuple(self, plain):
        return tuple(self.values(plain))

    def _set(self, plain):
        return set(self.values(plain))

    def _frozenset(self, plain):
        return frozenset(self.values(plain))

    def _deque(self, plain):
        return collections.deque(self.values(plain))

    def _dict(self, plain, kind=dict):
        return kind({self.value(k): self.value(v) for k, v in plain["v"]})

    def _OrderedDict(self, plain):
        return self._dict(plain, collections.OrderedDict)

    def _Counter(self, plain):
        return self._dict(plain, collections.Counter)

    def _defaultdict(self, plain):
        return self._dict(plain, lambda items: collections.defaultdict(None, items))

    def _named(self, plain):
        names = [name for name in (plain["name"], *plain["fields"]) if NAME.fullmatch(name) and len(name) < 100]
        if len(names) != len(plain["v"]) + 1 or len(names) > 100:
            raise WireError("a named tuple whose names make no sense")
        return named(*names)(*self.values(plain))

    def _complex(self, plain):
        self.count_odd()
        real, imag = plain["v"]
        return complex(float(real), float(imag))

    def _bytes(self, plain):
        return bytes(self.raw(plain["n"]))

    def _bytearray(self, plain):
        return bytearray(self.raw(plain["n"]))

    def _range(self, plain):
        return range(*self.values(plain))

    def _slice(self, plain):
        return slice(*self.values(plain))

    def _constant(self, plain):
        return {"Ellipsis": Ellipsis, "NotImplemented": NotImplemented}[plain["v"]]

    def _Decimal(self, plain):
        self.count_odd()
        return decimal.Decimal(matching(DECIMAL, plain["v"]))

    def _Fraction(self, plain):
        self.count_odd()
        return fractions.Fraction(matching(RATIONAL, plain["v"]))

    def _date(self, plain):
        return datetime.date.fromisoformat(plain["v"])

    def _datetime(self, plain):
        return datetime.datetime.fromisoformat(plain["v"])

    def _timedelta(self, plain):
        return datetime.timedelta(*plain["v"])

    # ---- numpy ----

    def _scalar(self, plain):
        return self._array(plain["v"])[()]

    def _array(self, plain):
        if not DTYPE.fullmatch(plain["dtype"]):
            raise WireError("an array of an unknown type")
        dtype, shape = np.dtype(plain["dtype"]), self.shape(plain)
        array = np.frombuffer(self.exactly(plain["n"], shape, dtype.itemsize), dtype).reshape(shape)
        if dtype.kind == "b":
            return array.view(np.uint8) != 0  # no bool that is neither
        if dtype.kind == "U" and array.size and (array.reshape(-1).view(f"{dtype.str[0]}u4") > 0x10FFFF).any():
            raise WireError("an array of text with characters that do not exist")
        return array.copy()

    def _objects(self, plain):
        array = np.empty(len(plain["v"]), dtype=object)
        array[:] = [*self.values(plain), None][:-1]
        return array.reshape(self.shape(plain))

    def _dtype(self, plain):
        if not DTYPE.fullmatch(plain["v"]):
            raise WireError("an unknown dtype")
        return np.dtype(plain["v"])

    def shape(self, plain):
        shape = tuple(plain["shape"])
        if len(shape) > 32 or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
            raise WireError("a shape that makes no sense")
        return shape

    def exactly(self, size, shape, itemsize):
        if math.prod(shape) * itemsize != size:
            raise WireError("an array whose size does not match its shape")
        return self.raw(size)

    # ---- torch ----

    def _tensor(self, plain):
        import torch

        if plain["dtype"] not in TORCH:
            raise WireError("a tensor of an unknown type")
        dtype, shape = getattr(torch, plain["dtype"]), self.shape(plain)
        if plain["n"] is None:
            tensor = torch.empty(shape, dtype=dtype, device="meta")
        elif math.prod(shape) == 0:
            self.exactly(plain["n"], shape, dtype.itemsize)
            tensor = torch.empty(shape, dtype=dtype)
        else:
            data = bytearray(self.exactly(plain["n"], shape, dtype.itemsize))
            if dtype is torch.bool:  # no bool that is neither
                tensor = torch.frombuffer(data, dtype=torch.uint8).ne(0).reshape(shape)
            else:
                tensor = torch.frombuffer(data, dtype=dtype).reshape(shape)
        if plain.get("parameter") is True:
            return torch.nn.Parameter(tensor, requires_grad=plain["grad"] is True)
        return tensor.requires_grad_(plain["grad"] is True)

    def _Size(self, plain):
        import torch

        return torch.Size(self.values(plain))

    def _torch_dtype(self, plain):
        import torch

        if plain["v"] not in TORCH:
            raise WireError("an unknown dtype")
        return getattr(torch, plain["v"])

    def _torch_device(self, plain):
        import torch

        return torch.device(plain["v"])

    def _Generator(self, plain):
        import torch

        generator = torch.Generator()
        generator.set_state(torch.frombuffer(bytearray(self.raw(plain["n"])), dtype=torch.uint8))
        return generator

    # ---- pandas ----

    def column(self, plain):
        import pandas

        dtype, values = plain
        if dtype is None:
            return self.value(values)
        if not re.fullmatch(r"(string|str|object|category|boolean|bool|U?Int\d+|Float\d+)(\[python\])?", str(dtype)):
            return pandas.array([self.value(v) for v in values])
        return pandas.array([self.value(v) for v in values], dtype=dtype)

    def index(self, plain):
        import pandas

        if "tuples" in plain:
            return pandas.MultiIndex.from_tuples(self.value(plain["tuples"]), names=self.value(plain["names"]))
        return pandas.Index(self.column(plain["v"]), name=self.value(plain["name"]))

    def _DataFrame(self, plain):
        import pandas

        columns, index = [self.column(c) for c in plain["v"]], plain
        frame = pandas.DataFrame(dict(enumerate(columns)))
        names, frame.index = self.index(index["columns"]), self.index(index["index"])
        frame.columns = names
        return frame

    def _Series(self, plain):
        import pandas

        values = self.column(plain["v"])
        return pandas.Series(values, name=self.value(plain["name"]), index=self.index(plain["index"]))

    def _Index(self, plain):
        return self.index(plain["v"])

    def _Timestamp(self, plain):
        import pandas

        return pandas.Timestamp(str(plain["v"]))


@functools.lru_cache(200)
def named(name, *fields):
    return collections.namedtuple(name, fields)


def matching(pattern, text):
    if type(text) is not str or not pattern.fullmatch(text):
        raise WireError("a number that makes no sense")
    return text


# ---- messages on a socket --------------------------------------------------------------------------------------------


class Channel:
    """Frames over a socket, with a deadline for each and a size that none may exceed.

    `tick()` is called now and then while it waits. Raises Closed, Late and WireError.
    """

    def __init__(self, socket, refer=None, resolve=None, tick=None):
        self.socket, self.refer, self.resolve, self.tick = socket, refer, resolve, tick
        self.received = 0  # bytes
        socket.setblocking(False)

    def send(self, value, deadline=None):
        header, buffers = dump(value, self.refer)
        total = sum(map(len, buffers))
        data = memoryview(b"".join([HEAD.pack(len(header), total), header, *buffers]))
        while data:
            self._wait(select.POLLOUT, deadline)
            try:
                data = data[self.socket.send(data) :]
            except BlockingIOError:
                pass
            except OSError:
                raise Closed("the other side is gone") from None

    def receive(self, deadline=None):
        header, total = HEAD.unpack(self._exactly(HEAD.size, deadline))
        if header > MAX_HEADER or total > MAX_BUFFERS:
            raise WireError("a message that is too large")
        self.received += header + total
        return load(self._exactly(header, deadline), self._exactly(total, deadline), self.resolve)

    def _exactly(self, size, deadline):
        data = bytearray()
        while len(data) < size:
            self._wait(select.POLLIN, deadline)
            try:
                part = self.socket.recv(min(size - len(data), 2**20))
            except BlockingIOError:
                continue
            except OSError:
                part = b""
            if not part:
                raise Closed("the other side is gone")
            data += part
        return data

    def _wait(self, event, deadline):
        poll = select.poll()
        poll.register(self.socket, event)
        while True:
            left = math.inf if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise Late("no answer in time")
            if self.tick is not None:
                self.tick()
            if poll.poll(None if self.tick is None and left == math.inf else min(left, 0.25) * 1000):
                return
