"""What a test sees of an answer: a proxy, whose work is done in the student's process.

Data that comes back is data of an exact type (wire.py); comparing it is Python's own work, out here. A proxy is never
equal to data, and has no order with it: an object that says it equals everything equals nothing.
"""

import builtins
import inspect
import operator
import types

FORWARDED = (
    "neg pos abs invert getitem setitem delitem len float int index complex round iter next reversed enter exit"
).split()
WITH_ANOTHER = (
    "add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod pow rpow matmul rmatmul "
    "and rand or ror xor rxor lshift rshift contains"
).split()
PLAIN = ("list", "dict", "set", "frozenset", "tuple", "str", "int", "float", "complex")
KNOWN_DUNDERS = {"__name__", "__qualname__", "__doc__", "__dict__", "__annotations__", "__defaults__", "__self__"}
ORDERED = {"lt": "<", "le": "<=", "gt": ">", "ge": ">="}


class Proxy:
    """Something that the student's process holds. Made by `make`, which gives it what its class can do."""

    _runs_elsewhere = True  # for course_utils.exercises.running

    def __init__(self, grader, number, about):
        vars_of(self).update(grader=grader, number=number, about=about, root=None, of=None, origin=grader.origin)

    def __getattr__(self, name):
        mine = vars_of(self)
        if name == "__signature__":
            return signature(mine["about"])
        if name.startswith("__") and name.endswith("__") and name not in KNOWN_DUNDERS:
            raise AttributeError(f"{mine['about']['type']!r} object has no attribute {name!r}")
        if name in ("__name__", "__qualname__") and mine["about"].get("name"):
            return mine["about"]["name"]
        if name == "__doc__":
            return mine["about"].get("doc")
        if name == "zero_grad" and is_module(mine["about"]):
            mine["grader"].forget_gradients()
        found = ask_of(self, "get", mine["number"], name)
        if isinstance_proxy(found):
            vars_of(found)["of"] = name
        return found

    def __setattr__(self, name, value):
        ask_of(self, "set", vars_of(self)["number"], name, args=[value])

    def __delattr__(self, name):
        ask_of(self, "delete", vars_of(self)["number"], name)

    @property
    def __class__(self):
        return known_class(vars_of(self)["about"]) or type(self)

    @property
    def __doc__(self):
        return vars_of(self)["about"].get("doc")

    def __instancecheck__(self, instance):
        return isinstance_proxy(instance) and ask_of(self, "is", vars_of(self)["number"], args=[instance]) is True

    def __subclasscheck__(self, other):
        return isinstance_proxy(other) and ask_of(self, "under", vars_of(self)["number"], args=[other]) is True

    def __eq__(self, other):
        return compare(self, other, "eq", lambda a, b: a is b)

    def __ne__(self, other):
        return not self == other

    def __hash__(self):
        return hash(vars_of(self)["number"])

    def __bool__(self):
        about = vars_of(self)["about"]
        if about["kind"] == "object":
            return operate(self, "bool") is True
        return True

    def __str__(self):
        return text(operate(self, "str"))

    def __format__(self, spec):
        return format(str(self), spec) if not spec else text(operate(self, "format", spec))

    def __repr__(self):
        about = vars_of(self)["about"]
        return f"<{about['kind']} {about.get('name') or about['type']} of the submission>"

    def __dir__(self):
        return [str(name) for name in operate(self, "dir")]

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __reduce_ex__(self, protocol):
        raise TypeError("what a student's process holds cannot be copied out of it")


def vars_of(proxy):
    """The proxy's own fields: all other names are the student's."""
    return object.__getattribute__(proxy, "__dict__")


def isinstance_proxy(value):
    return issubclass(type(value), Proxy)


def text(value):
    return value if type(value) is str else ""


def ask_of(proxy, what, *details, **arguments):
    """Ask for something of a proxy's; what comes back has the same origin."""
    mine = vars_of(proxy)
    mine["grader"].origin = mine["origin"]
    return mine["grader"].ask(what, *details, **arguments)


def operate(proxy, name, *args):
    return ask_of(proxy, "op", name, args=[proxy, *args])


def is_asked_for(proxy, name):
    """Whether the assignment asks for a method of that name of what the proxy comes from.

    Only then does what it says of data count.
    """
    mine = vars_of(proxy)
    return name in mine["grader"].instructor.methods(mine["origin"])


def plain_of(proxy):
    """(data,) of an object whose class derives from a list, dict, str, ...; () of any other."""
    if any(f"builtins.{name}" in vars_of(proxy)["about"]["mro"] for name in PLAIN):
        return (operate(proxy, "plain"),)
    return ()


def compare(one, other, name, same):
    """An operator that compares: the student's own between two of the student's objects, else none at all.

    With data only where the assignment asks for it; a list's subclass, say, is compared as the list that it is.
    """
    if isinstance_proxy(other) or is_asked_for(one, f"__{name}__"):
        return (name == "eq" and one is other) or operate(one, name, other) is True
    for data in plain_of(one):
        return getattr(operator, name)(data, other)
    if name == "eq":
        return False
    sign, kind = ORDERED[name], vars_of(one)["about"]["type"]
    raise TypeError(f"{sign!r} not supported between an object ({kind}) of the submission and data")


def _forward(name):
    def method(self, *args):
        if name == "exit":
            args = (None, None, None)
        return operate(self, name, *args)

    return method


def _with_another(name):
    """An operator with something else: with data only where the instructor's own class has it.

    It would hand the expected value to the student's code, and take its word for the difference.
    """

    def method(self, other, *more):
        if isinstance_proxy(other) or is_asked_for(self, f"__{name}__"):
            return operate(self, name, other, *more)
        if name == "contains":
            return any(other is value or other == value for value in self)
        for data in plain_of(self):
            call = getattr(type(data), f"__{name}__", None)
            return call(data, other, *more) if call else NotImplemented
        return NotImplemented

    return method


def _ordered(name):
    def method(self, other):
        return compare(self, other, name, None)

    return method


def _call(self, *args, **kwargs):
    mine = vars_of(self)
    return mine["grader"].call(self, args, kwargs)


METHODS = {name: _forward(name) for name in FORWARDED} | {name: _with_another(name) for name in WITH_ANOTHER}
METHODS |= {name: _ordered(name) for name in ORDERED} | {"call": _call}
_classes = {}


def make(grader, number, about):
    """The proxy of an object, of a class that has just the operators that the object's has."""
    can = frozenset(name for name in about["can"] if name in METHODS)
    if can not in _classes:
        _classes[can] = type("Proxy", (Proxy,), {f"__{name}__": METHODS[name] for name in can})
    return _classes[can](grader, number, about)


def check_about(about):
    """Whether a description from the student's process is one."""
    return (
        type(about) is dict
        and all(type(about.get(key)) is str for key in ("type", "module", "kind"))
        and all(type(about.get(key)) is list and all(type(v) is str for v in about[key]) for key in ("mro", "can"))
        and all(type(about.get(key)) in (str, type(None)) for key in ("name", "doc"))
    )


def known_class(about):
    """The class that an object, by what it says of itself, has or descends from; for isinstance."""
    if about["kind"] in ("function", "method"):
        return {"function": types.FunctionType, "method": types.MethodType}[about["kind"]]
    if about["kind"] == "class":
        return type
    if is_module(about):
        import torch

        return torch.nn.Module
    for name in about["mro"]:
        home, _, kind = name.rpartition(".")
        found = getattr(builtins, kind, None) if home == "builtins" else None
        if isinstance(found, type) and found is not object:
            return found
    return None


def is_module(about):
    return "torch.nn.modules.module.Module" in about["mro"]


class Default:
    """A default value, of which only its text is known."""

    def __init__(self, text):
        self.text = text

    def __repr__(self):
        return self.text


def signature(about):
    """The signature of a function that it says it has; raises AttributeError where it says none."""
    parameters, empty = [], inspect.Parameter.empty
    try:
        for name, kind, default in about["signature"]:
            default = empty if default is None else Default(str(default)[:100])
            parameters.append(inspect.Parameter(name, inspect._ParameterKind(kind), default=default))
        return inspect.Signature(parameters)
    except (KeyError, TypeError, ValueError):
        raise AttributeError("__signature__") from None


# ---- errors ----------------------------------------------------------------------------------------------------------


def make_error(about, iterating=False):
    """The error that an answer raised: of the builtin type where there is one, else of one with its name.

    StopIteration is one only where a test iterates: else it would end a loop of the test's that it has no part in.
    """
    message, line = str(about.get("message", ""))[:5000], str(about.get("line", ""))[:500]
    names = [str(n) for n in about.get("mro", [])[:50]] or ["builtins.Exception"]
    kind = next((k for n in names if (k := error_class(n)) is not None), Exception)
    if issubclass(kind, StopIteration | StopAsyncIteration) and not iterating:
        kind, message = RuntimeError, f"the answer raised {kind.__name__} {message}".strip()
        names, about = ["builtins.RuntimeError"], {}
    first = names[0].rpartition(".")[2]
    if kind.__name__ != first and first.isidentifier():
        kind = type(first, (kind,), {})
    args = [a for a in about.get("args", []) if type(a) in (str, int, float)]
    for given in (args, [message]):
        try:
            error = kind(*given)
        except Exception:  # a type that wants other arguments
            continue
        if text_of(error) == message:
            break
    else:
        error = plain_error(kind, message)
    error.students_line, error.finished = line, str(about.get("finished", ""))[:200]
    return error


def text_of(error):
    try:
        return str(error)
    except Exception:
        return None


def plain_error(kind, message):
    """An error of a class under `kind` whose text is the message, whatever `kind` makes of its arguments."""
    made = type(kind.__name__, (kind,), {"__init__": lambda self: None, "__str__": lambda self: message})
    error = made.__new__(made)
    error.args = (message,)
    return error


def error_class(name):
    home, _, kind = name.rpartition(".")
    if name == "numpy.linalg.LinAlgError":
        import numpy.linalg

        return numpy.linalg.LinAlgError
    found = getattr(builtins, kind, None) if home == "builtins" else None
    if isinstance(found, type) and issubclass(found, (Exception, SystemExit)):
        return found
    return None
