"""The grader's end of the wire: asks the student's process, and refuses nearly all that it asks back."""

import io
import os
import random
import select
import sys
import time
import types
import weakref

import numpy as np

from .peer import Peer, bridge, is_tensor, mutables, put
from .proxies import check_about, is_asked_for, is_module, isinstance_proxy, make, make_error, vars_of
from .student import NO_MEMORY
from .wire import Closed, Late, WireError

GRACE = 5  # seconds that an interrupted cell has to come to an end
MIB = 2**20
WORDS = {
    "time": "This took longer than the {seconds:g} seconds that it may take, and was stopped.",
    "memory": "Your code used more memory than the {memory:g} MB that it may use, and was stopped.",
    "flood": "Your code put out far more than can be kept, and was stopped.",
    "nonsense": "Your code disturbed the process that runs it, which was then stopped.",
    "killed": "The process that runs your code was killed by signal {code}.",
    "exit": "The process that runs your code came to an end (exit code {code}): don't call exit() or os._exit().",
    "gone": "The process that runs your code has ended.",
    "late": "The notebook's time is up: all cells together may take {total:g} seconds.",
}


class Ended(Exception):
    """The student's process has ended; the message says how, in a sentence for the student."""


class TimeLimit(Exception):
    """An answer took too long."""


class Grader(Peer):
    """Holds one student's process by its socket; `life` tells of its end and passes on interrupts."""

    def __init__(self, socket, life, limits, emit, instructor):
        super().__init__(socket, self.watch)
        self.life, self.limits, self.emit, self.instructor = life, limits, emit, instructor
        self.judging = False  # whether the course's check or grade calls: on copies, of which it sees every change
        self.ended = ""  # how, when it has
        self.interrupted, self.heard, self.looked, self.exported = False, 0, 0.0, set()
        self.iterating, self.calling, self.origin = False, None, None
        self.proxies = weakref.WeakValueDictionary()
        self.mirrored, self.draws = {}, {name: mark for name, (mark, _) in generators().items()}
        life.setblocking(False)

    # ---- its life ---------------------------------------------------------------------------------------------------

    def watch(self):
        """Look now and then whether the process is there, while waiting for it."""
        now = time.monotonic()
        if now - self.looked > 0.2:
            self.looked = now
            if self.has_died():
                raise Closed("gone")

    def has_died(self):
        return bool(select.select([self.life], [], [], 0)[0])

    def kill(self, why):
        """End the process for a reason, and say so. Raises Ended."""
        self.ended = self.ended or self.words(why)
        try:
            self.life.send(b"k")
        except OSError:
            pass
        raise Ended(self.ended)

    def words(self, why, code=0):
        limits = self.limits
        return WORDS[why].format(
            seconds=limits.cell_seconds, memory=limits.memory / MIB, total=limits.notebook_seconds, code=code
        )

    def how_it_ended(self):
        """The sentence for a process that is gone."""
        if not self.ended:
            self.life.setblocking(True)
            self.life.settimeout(2)
            try:
                said = self.life.recv(5)
            except OSError:
                said = b""
            code = int.from_bytes(said[1:], "little", signed=True) if len(said) == 5 else None
            if said[:1] == b"m" or code is not None and os.waitstatus_to_exitcode(code) == NO_MEMORY:
                self.ended = self.words("memory")
            elif code is None:
                self.ended = self.words("gone")
            elif os.WIFSIGNALED(code):
                self.ended = self.words("killed", os.WTERMSIG(code))
            else:
                self.ended = self.words("exit", os.WEXITSTATUS(code))
        return self.ended

    def begin(self, deadline):
        """A new cell, which must be done by then."""
        self.deadline, self.interrupted, self.heard = deadline, False, 0
        self.exported.clear()

    # ---- asking -----------------------------------------------------------------------------------------------------

    def ask(self, what, *details, args=(), kwargs=None, context=None):
        if self.ended:
            raise Ended(self.ended)
        self.iterating = what == "op" and details[0] in ("next", "iter", "getitem")
        if self.interrupted and not self.stack:
            raise TimeLimit(self.words("time"))  # the test had its time: it does not go on with the next call
        try:
            return super().ask(what, *details, args=args, kwargs=kwargs, context=context)
        except Closed:
            raise Ended(self.how_it_ended()) from None
        except TimeLimit:
            self.kill("time")
        except (Late, WireError) as error:
            if self.stack or getattr(error, "ours", False):
                raise
            self.kill("nonsense")

    def give(self, message):
        """Send a question; what can't cross is the test's own matter, and nothing has been sent then."""
        try:
            super().give(message)
        except Closed:
            raise
        except WireError as error:
            error.ours = True
            raise

    def receive(self):
        try:
            return super().receive()
        except Late:
            if self.interrupted:
                self.kill("time")
            self.interrupted, self.deadline = True, time.monotonic() + GRACE
            self.life.send(b"i")
            return self.receive()

    def call(self, proxy, args, kwargs):
        """Call an object of the student's with data, its draws and defaults those of the test."""
        number, about, of = (vars_of(proxy)[key] for key in ("number", "about", "of"))
        if is_module(about) and number not in self.mirrored:
            self.mirrored[number] = None
            self.ask("parameters", number)
        for key, held in list(self.mirrored.items()):
            if held is not None and held[0]._version != held[1]:
                self.ask("put", key, args=[held[0].detach()])
                self.mirrored[key] = (held[0], held[0]._version)
        self.calling, self.origin = proxy, vars_of(proxy)["origin"]
        try:
            value = self.ask("call", number, args=args, kwargs=kwargs, context=self.context())
        finally:
            if self.interrupted:
                raise TimeLimit(self.words("time"))
        if of is not None and type(value) is bool and (args or kwargs) and not is_asked_for(proxy, of):
            raise TypeError(f"the verdict of {of}(), which the assignment does not ask for, does not count")
        return value

    def take_changes(self, what, details, args, kwargs, changes):
        """An answer has changed what it was given: the test sees it only where the instructor's own answer does so too.

        Else an answer could bring a test's inputs into line with a wrong result.
        """
        held = mutables(args, kwargs)
        if not all(type(c) is list and len(c) == 2 and type(c[0]) is int and 0 <= c[0] < len(held) for c in changes):
            raise WireError("changes that make no sense")
        allowed = None if self.judging else self.instructor.changes(vars_of(self.calling)["root"], args, kwargs)
        for place, new in changes:
            if allowed is None or place in allowed:
                put(held[place], new)

    def context(self):
        """What a test has set: the state of random generators since the last call, and torch's defaults.

        It goes in, and never comes back: a test's inputs would otherwise be the student's to choose.
        """
        torch, marks = sys.modules.get("torch"), generators()
        context = {"grad": torch.is_grad_enabled(), "dtype": torch.get_default_dtype()} if torch else {}
        for name, (mark, state) in marks.items():
            if self.draws[name] != mark:
                context[name] = state
        self.draws = {name: mark for name, (mark, _) in marks.items()}
        return context

    def advance(self, names):
        """An answer has drawn: so that setting a seed again is seen, the test's generators move on by a draw too."""
        if "random" in names:
            random.random()
        if "numpy" in names:
            np.random.rand()
        if "torch" in names and "torch" in sys.modules:
            sys.modules["torch"].rand(1)
        self.draws = {name: mark for name, (mark, _) in generators().items()}

    def forget_gradients(self):
        for held in self.mirrored.values():
            if held is not None:
                held[0].grad = None

    # ---- what crosses -----------------------------------------------------------------------------------------------

    def refer_own(self, value, plain):
        if isinstance_proxy(value):
            mine = vars_of(value)
            if mine["grader"] is not self:
                raise WireError("an object of a process that has ended")
            return {"tag": "yours", "id": mine["number"]}
        return None

    def refer(self, value, last, plain):
        if not last:
            return super().refer(value, last, plain)
        code = None if is_watched(value) else as_code(value)
        if code is not None:
            self.stack[-1].leaves += leaves_of(value)
            return {"tag": "code", "v": plain(code)}
        self.exported.add(self.keep(value))
        return super().refer(value, last, plain)

    def describe(self, value):
        """What the student's process may know of something of a test's: a name."""
        return {"type": type(value).__name__, "name": getattr(value, "__name__", None)}

    def describe_error(self, error):
        kind = type(error)
        return {"mro": [f"{c.__module__}.{c.__qualname__}" for c in kind.__mro__], "message": str(error)[:2000]}

    def error(self, about):
        if type(about) is not dict:
            raise WireError("an error that makes no sense")
        return make_error(about, self.iterating)

    def remote(self, number, about):
        if not check_about(about):
            raise WireError("an object that makes no sense")
        known = self.proxies.get(number)
        if known is None:
            known = self.proxies[number] = make(self, number, about)
        return known

    def live(self, plain, data):
        number = int(plain["id"])
        if not is_tensor(data):
            raise WireError("a gradient of what is no tensor")
        if plain["leaf"] is not True:
            return self.bridged(number, plain["frame"], data)
        held = self.mirrored.get(number)
        if held is None or held[0].shape != data.shape:
            tensor = data.requires_grad_(True)
            if plain["parameter"] is True:
                import torch

                tensor = torch.nn.Parameter(data.detach())
            held = (tensor, tensor._version)
        else:
            held[0].data = data.detach().to(held[0].dtype)
        self.mirrored[number] = held
        return held[0]

    def bridged(self, number, frame, data):
        call = self.frames.get(frame)
        others = {n: held[0] for n, held in self.mirrored.items() if held is not None}
        tensor = bridge(self, number, frame, data, call.leaves if call else [], others)
        if len(self.stack) > 1 and self.stack[-1] is call:
            self.stack[-2].leaves.append(tensor)
        return tensor

    # ---- being asked ------------------------------------------------------------------------------------------------

    def notice(self, message):
        """An output of the student's, or that an answer has drawn random numbers."""
        if message[0] not in ("out", "drew") or len(message) != 2 or type(message[1]) not in (dict, list):
            raise WireError("a message that makes no sense")
        if message[0] == "drew":
            return self.advance(message[1])
        self.heard += 1
        if self.heard > 10_000 or self.channel.received > 2**30:
            self.kill("flood")
        self.emit(message[1])

    def serve(self, what, details, args, kwargs, context):
        """A function that a test handed over may be called, and what is public of an object looked at: no more."""
        if what == "vjp":
            return self.vjp(*details, *args)
        thing = self.objects.get(details[0]) if details and details[0] in self.exported else None
        if thing is None:
            raise WireError("there is nothing of that number to ask for")
        if what == "call" and callable(thing):
            return thing(*args, **kwargs)
        if what == "list" and not callable(thing):
            return [value for value, _ in zip(thing, range(100_000), strict=False)]
        if what == "get" and is_tests_own(type(thing)) and type(details[1]) is str and details[1][:1] != "_":
            return getattr(thing, details[1])
        raise WireError(f"{what} is nothing to ask for here")


def generators():
    """Of each global random generator a mark, and its state."""
    state = np.random.get_state()
    found = {
        "random": (hash(random.getstate()), random.getstate()),
        "numpy": (state[1].tobytes() + bytes(str(state[2:]), "ascii"), state),
    }
    if "torch" in sys.modules:
        state = sys.modules["torch"].get_rng_state()
        found["torch"] = (state.numpy().tobytes(), state)
    return found


# ---- what goes in as code --------------------------------------------------------------------------------------------


def is_watched(value):
    """Whether an object remembers what it was asked: evidence, which stays out here."""
    return getattr(type(value), "remembers", False) is True


def is_tests_own(thing):
    """Whether a function or class was written in a test cell: its text is not for the sandbox."""
    return getattr(thing, "__module__", None) in ("__main__", None)


def leaves_of(value):
    torch = sys.modules.get("torch")
    if torch and isinstance(value, torch.nn.Module):
        return [p for p in value.parameters() if p.requires_grad and not p.is_meta]
    return []


def as_code(value):
    """An object of the course's or of a library's as bytes that build it again inside, or None.

    What comes from a test cell, or holds anything of one, is not: it is called from inside, and works out here.
    """
    import cloudpickle

    import course_utils

    class Pickler(cloudpickle.Pickler):
        def reducer_override(self, thing):
            if isinstance(thing, types.FunctionType | type) and is_tests_own(thing):
                raise TypeError("a test's own")
            if isinstance_proxy(thing) or isinstance(thing, types.FrameType | types.TracebackType):
                raise TypeError("not to be taken in")
            if isinstance(thing, types.ModuleType) and thing.__name__.split(".")[0] == course_utils.__name__:
                raise TypeError("a whole module of the course")
            return super().reducer_override(thing)

    if not any(m is course_utils.__name__ for m in cloudpickle.list_registry_pickle_by_value()):
        cloudpickle.register_pickle_by_value(course_utils)
    file = io.BytesIO()
    try:
        Pickler(file).dump(value)
    except Exception:
        return None
    return file.getvalue()
