"""The student's side: a shell that runs cells and answers calls, inside the sandbox.

Nothing here is trusted: a student's code may change any of it. It never holds a test, an expected value or a verdict.
"""

import ast
import builtins
import inspect
import linecache
import operator
import os
import pickle
import random
import signal
import sys
import tempfile
import time
import traceback
import types

import numpy as np
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets import Any, Type

from .peer import Frame, Peer
from .wire import Closed, WireError, exact

COURSE = "course_utils"
NO_MEMORY = 137  # an exit code, as a shell has it for a process that was killed
DUNDERS = (
    "call len iter next getitem setitem delitem contains enter exit add radd sub rsub mul rmul truediv rtruediv "
    "floordiv rfloordiv mod rmod pow rpow matmul rmatmul neg pos abs invert and rand or ror xor rxor lshift rshift "
    "float int index complex round lt le gt ge eq reversed"
).split()


# ---- a shell whose outputs go to a function --------------------------------------------------------------------------


class Publisher(DisplayPublisher):
    emit = Any()

    def publish(self, data, metadata=None, *, transient=None, update=False, **_):
        self.emit({"output_type": "display_data", "data": data, "metadata": metadata or {}})

    def clear_output(self, wait=False):
        self.emit({"output_type": "clear"})


class Hook(DisplayHook):
    emit = Any()

    def write_output_prompt(self):
        pass

    def write_format_data(self, format_dict, md_dict=None):
        count = self.prompt_count
        data = {"output_type": "execute_result", "data": format_dict, "metadata": md_dict or {}}
        self.emit(data | {"execution_count": count})

    def finish_displayhook(self):
        pass


class Shell(InteractiveShell):
    """IPython without a terminal: what it shows goes to `emit(output)`, as nbformat has it."""

    displayhook_class = Type(Hook)
    display_pub_class = Type(Publisher)
    emit = Any(lambda output: None)

    def show_to(self, emit):
        self.emit = self.displayhook.emit = self.display_pub.emit = emit

    def _showtraceback(self, etype, evalue, stb):
        sys.stdout.flush()
        sys.stderr.flush()
        traceback = [str(line) for line in (stb if isinstance(stb, list) else [stb])]
        output = {"output_type": "error", "ename": etype.__name__, "evalue": str(evalue), "traceback": traceback}
        self.emit(output)

    def enable_gui(self, gui=None):
        pass

    def ask_exit(self):
        pass


class Stream:
    """sys.stdout or sys.stderr: text becomes an output, gathered so that a thousand prints are not a thousand."""

    encoding, errors, closed = "utf-8", "replace", False

    def __init__(self, name, emit, limit=8192):
        self.name, self.emit, self.limit, self.parts, self.size, self.last = name, emit, limit, [], 0, 0.0
        self.owner = os.getpid()

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if os.getpid() != self.owner:  # a child's goes where commands' goes
            os.write(1, text.encode(errors="replace"))
            return len(text)
        self.parts.append(text)
        self.size += len(text)
        if self.size > self.limit or time.monotonic() - self.last > 0.5:
            self.flush()
        return len(text)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def flush(self):
        if self.parts and os.getpid() == self.owner:
            text, self.parts, self.size = "".join(self.parts), [], 0
            self.last = time.monotonic()
            self.emit({"output_type": "stream", "name": self.name, "text": text})

    def isatty(self):
        return False

    def fileno(self):
        return {"stdout": 1, "stderr": 2}[self.name]

    def readable(self):
        return False

    def writable(self):
        return True


def make_shell():
    """A shell as a notebook's kernel has it, with figures inline; made before the fork, so that it costs nothing."""
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    config.InteractiveShell.autocall = 0
    shell = Shell.instance(config=config)
    shell.register_magic_function(lambda line: None, magic_name="pip")  # nothing can be installed, nor need be
    if "matplotlib" in sys.modules:
        from matplotlib_inline.backend_inline import configure_inline_support

        configure_inline_support(shell, "module://matplotlib_inline.backend_inline")
    return shell


# ---- the student's end of the wire -----------------------------------------------------------------------------------


class Remote:
    """Something of a test's that an answer was given: it can be called; its work is done outside."""

    def __init__(self, kernel, number, about):
        self._kernel, self._number, self._about = kernel, number, about
        self.__name__ = about.get("name") or about["type"]

    def __call__(self, *args, **kwargs):
        return self._kernel.ask("call", self._number, args=args, kwargs=kwargs)

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(f"{self._about['type']!r} object has no attribute {name!r}")
        return self._kernel.ask("get", self._number, name)

    def __iter__(self):
        return iter(self._kernel.ask("list", self._number))

    def __repr__(self):
        return f"<{self._about['type']}>"

    def __deepcopy__(self, memo):
        return self


class Kernel(Peer):
    """Runs cells and answers calls until the other side is gone."""

    sign = -1

    def __init__(self, socket, shell, limits, exam=False):
        super().__init__(socket)
        self.shell, self.limits, self.owner, self.running = shell, limits, os.getpid(), False
        self.said, self.exam = 0, exam
        self.raw = tempfile.TemporaryFile()  # what commands and libraries write past Python
        os.dup2(self.raw.fileno(), 1)
        os.dup2(self.raw.fileno(), 2)
        sys.stdin = open(os.devnull)
        sys.stdout, sys.stderr = (Stream(name, self.emit) for name in ("stdout", "stderr"))
        shell.show_to(self.emit)
        signal.signal(signal.SIGINT, self.interrupt)

    def interrupt(self, *_):
        if self.running:
            self.running = False
            raise KeyboardInterrupt

    def loop(self):
        while True:
            try:
                message = self.receive()
                self.answer(message)
            except Closed:
                return
            except KeyboardInterrupt:
                continue
            except MemoryError:
                os._exit(NO_MEMORY)
            if os.getpid() != self.owner:  # a child that came out of a student's fork
                os._exit(0)

    def emit(self, output):
        """Tell an output, as long as the cell has not said too much: beyond that it is not kept anyway."""
        if output["output_type"] != "stream":  # what was printed before it comes before it
            sys.stdout.flush()
            sys.stderr.flush()
        self.said += len(output.get("text", "")) or 1000
        if self.said <= 4 * self.limits.output + 100_000 and os.getpid() == self.owner:
            try:
                self.channel.send(["out", output])
            except Closed:
                os._exit(0)
            except MemoryError:  # in the middle of a message, perhaps
                os._exit(NO_MEMORY)
            except WireError:
                pass

    # ---- what may be asked ----

    def serve(self, what, details, args, kwargs, context):
        if what == "run":
            return self.run(*details)
        if what == "rehearse":
            return self.rehearse(*details)
        if what == "files":
            return self.files(*args)
        if what == "all names":
            return [name for name in self.shell.user_ns if type(name) is str]
        if what == "names":
            return {n: self.shell.user_ns[n] for n in details if n in self.shell.user_ns}
        if what == "vjp":
            return self.vjp(*details, *args)
        if what == "put":
            return self.put_data(*details, *args)
        if what == "parameters":
            return list(self.objects[details[0]].parameters())
        if context:
            self.settle(context)
        before = draws() if context else {}
        self.running, self.said = True, 0
        try:
            with self.mode(context):
                return getattr(self, f"do_{what}")(*details, args, kwargs)
        finally:
            self.running = False
            self.flush()
            drew = [name for name, state in (draws() if context else {}).items() if state != before[name]]
            if drew:
                self.channel.send(["drew", drew])

    def flush(self):
        sys.stdout.flush()
        sys.stderr.flush()
        self.raw.seek(0)
        text = self.raw.read(self.limits.output + 1).decode(errors="replace")
        if text:
            self.raw.seek(0)
            self.raw.truncate()
            self.emit({"output_type": "stream", "name": "stdout", "text": text})

    def run(self, code, count):
        """Run a cell; its outputs have been told by then. Gives back whether it went right."""
        self.shell.execution_count, self.running, self.said = count, True, 0
        try:
            result = self.shell.run_cell(code, store_history=True)
        finally:
            self.running = False
            self.flush()
        return result.success

    def rehearse(self, code, whole):
        """Run a cell once more where the course's functions are not at hand: statement by statement, quietly.

        Of a cell that is not an answer only definitions and assignments. A statement that needs the course's functions
        leaves the names that it would bind to what stands for them.
        """
        try:
            tree = ast.parse(self.shell.transform_cell(code))
        except SyntaxError:
            return
        space, self.running = self.shell.user_ns, True
        keep = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        keep += (ast.Assign, ast.AnnAssign)
        self.shell.show_to(lambda output: None)
        try:
            for statement in tree.body:
                if not whole and not isinstance(statement, keep):
                    continue
                name = f"<answer {self.next}>"
                self.next += 1
                lines = code.splitlines(keepends=True)
                linecache.cache[name] = (len(code), None, lines, name)
                try:
                    module = ast.Module([statement], [])
                    exec(compile(module, name, "exec", dont_inherit=True), space)
                except FinishedUsed as error:
                    for target in bound(statement):
                        space[target] = Finished(error.finished)
                except Exception:
                    if whole:
                        return
        finally:
            self.running = False
            self.shell.show_to(self.emit)

    def files(self, files):
        for name, content in files.items():
            os.makedirs(os.path.dirname(os.path.abspath(name)), exist_ok=True)
            with open(name, "wb") as file:
                file.write(content)

    def put_data(self, number, data):
        self.objects[number].data = data

    def settle(self, context):
        """Draws and defaults as the test has them."""
        torch = sys.modules.get("torch")
        if "random" in context:
            random.setstate(context["random"])
        if "numpy" in context:
            np.random.set_state(context["numpy"])
        if torch and "torch" in context:
            torch.set_rng_state(context["torch"])
        if torch and "dtype" in context:
            torch.set_default_dtype(context["dtype"])

    def mode(self, context):
        torch = sys.modules.get("torch")
        if torch is None:
            import contextlib

            return contextlib.nullcontext()
        return torch.set_grad_enabled(bool((context or {}).get("grad", True)))

    def do_call(self, target, args, kwargs):
        made = self.objects[target](*args, **kwargs)
        own = type(made).__module__.split(".")[0] not in ("builtins", "collections", "numpy", "torch", "pandas")
        if isinstance(self.objects[target], type) and own and not hasattr(made, "_fields"):
            self.keep(made)  # an object of a class that is called by name stays one, also where it is a list's subclass
        return made

    def do_get(self, target, name, args, kwargs):
        return getattr(self.objects[target], name)

    def do_set(self, target, name, args, kwargs):
        setattr(self.objects[target], name, *args)

    def do_delete(self, target, name, args, kwargs):
        delattr(self.objects[target], name)

    def do_is(self, kind, args, kwargs):
        return isinstance(args[0], self.objects[kind])

    def do_under(self, kind, args, kwargs):
        return issubclass(args[0], self.objects[kind])

    def do_op(self, name, args, kwargs):
        if name in ("len", "iter", "next", "str", "repr", "bool", "float", "int", "complex", "round", "format", "dir"):
            return getattr(builtins, name)(*args)
        if name == "plain":
            return exact(*args)
        if name == "reversed":
            return reversed(*args)
        if name in ("enter", "exit"):
            return getattr(type(args[0]), f"__{name}__")(*args)
        return getattr(operator, f"__{name}__")(*args)

    # ---- descriptions ----

    def refer_own(self, value, plain):
        if type(value) is Remote:
            return {"tag": "yours", "id": value._number}
        if self.numbers.get(id(value)) in self.objects or isinstance(value, BaseException | types.ModuleType):
            return {"tag": "mine", "id": self.keep(value), "about": self.describe(value)}
        return None

    def resolve(self, plain, value, raw):
        if plain["tag"] == "code":
            made = pickle.loads(value(plain["v"]))  # from the grader, who is trusted; never the other way
            torch = sys.modules.get("torch")
            if torch and isinstance(made, torch.nn.Module):
                self.arriving = self.arriving or Frame(False)
                self.arriving.leaves += [p for p in made.parameters() if p.requires_grad and not p.is_meta]
            return made
        return super().resolve(plain, value, raw)

    def remote(self, number, about):
        return Remote(self, number, about)

    def describe(self, value):
        kind = type(value)
        about = {"type": kind.__name__, "module": str(getattr(kind, "__module__", ""))}
        about["mro"] = [f"{c.__module__}.{c.__qualname__}" for c in kind.__mro__[:50]]
        has = {n for c in kind.__mro__ for n, method in vars(c).items() if method is not None}
        about["can"] = [n for n in DUNDERS if f"__{n}__" in has]
        if isinstance(
            value, types.ModuleType | types.FunctionType | types.MethodType | type | types.BuiltinFunctionType
        ):
            about["name"] = str(getattr(value, "__name__", ""))[:200]
            about["doc"] = str(value.__doc__)[:5000] if value.__doc__ is not None else None
        about["kind"] = next((n for n, t in KINDS.items() if isinstance(value, t)), "object")
        if callable(value):
            about["signature"] = signature(value)
        return about

    def describe_error(self, error):
        kind = type(error)
        students = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(LIBRARIES)]
        line = (
            f"line {students[-1].lineno}" + (f": {students[-1].line}" if students[-1].line else "") if students else ""
        )
        return {
            "mro": [f"{c.__module__}.{c.__qualname__}" for c in kind.__mro__[:50]],
            "message": text_of(error)[:5000],
            "args": [a for a in error.args[:5] if type(a) in (str, int, float)],
            "line": line[:500],
            "finished": getattr(error, "finished", "") if isinstance(error, FinishedUsed) else "",
        }

    def error(self, about):
        """An error of a test's own function, as an answer that calls it sees it."""
        kind = next(
            (k for n in about["mro"] if isinstance(k := getattr(builtins, n.split(".")[-1], None), type)), Exception
        )
        return kind(about["message"]) if issubclass(kind, Exception) else Exception(about["message"])


KINDS = {
    "class": type,
    "module": types.ModuleType,
    "function": (types.FunctionType, types.BuiltinFunctionType),
    "method": types.MethodType,
    "generator": types.GeneratorType,
}
LIBRARIES = (sys.prefix, sys.base_prefix, os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "<frozen")


def text_of(error):
    try:
        return str(error)
    except Exception:
        return ""


def signature(function):
    """[name, kind, text of the default or None] of each parameter, or None."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    empty = inspect.Parameter.empty
    return [[p.name, int(p.kind), None if p.default is empty else repr(p.default)[:100]] for p in parameters]


def bound(statement):
    """The names that a statement would bind."""
    names = [n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    names += [(n.asname or n.name).split(".")[0] for n in ast.walk(statement) if isinstance(n, ast.alias)]
    return [*names, *([statement.name] if hasattr(statement, "name") else [])]


# ---- the course, without its finished functions ----------------------------------------------------------------------


class FinishedUsed(Exception):
    """An answer hands the work to a function of the course."""

    def __init__(self, name):
        super().__init__(f"it hands the work to {name}")
        self.finished = name


class Finished:
    """Stands for something of course_utils: any use of it says so."""

    def __init__(self, name):
        self.__dict__["_name"] = name

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Finished(f"{self._name}.{name}")

    def __call__(self, *args, **kwargs):
        raise FinishedUsed(self._name)

    def __mro_entries__(self, bases):
        raise FinishedUsed(self._name)

    __iter__ = __len__ = __getitem__ = __add__ = __radd__ = __mul__ = __rmul__ = __sub__ = __rsub__ = __call__
    __truediv__ = __rtruediv__ = __matmul__ = __rmatmul__ = __neg__ = __bool__ = __enter__ = __lt__ = __gt__ = __call__


class FinishedModule(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        full = f"{self.__name__}.{name}"
        if full == f"{COURSE}.exercises.working":
            return lambda id, names: names.get(id.split(".")[-1])  # the student's own: the course's is not at hand
        if full in (f"{COURSE}.exercises.check", f"{COURSE}.exercises.grade"):
            return lambda *_: None
        return Finished(full)


class FinishedFinder:
    """Finds a FinishedModule for every module of the course."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] == COURSE:
            from importlib.machinery import ModuleSpec

            return ModuleSpec(name, FinishedFinder, is_package=True)
        return None

    @staticmethod
    def create_module(spec):
        return FinishedModule(spec.name)

    @staticmethod
    def exec_module(module):
        module.__path__ = []


def take_course_away():
    """Replace course_utils, of which nothing but this runner was ever imported here, by what stands for it."""
    for name in [n for n in sys.modules if n.split(".")[0] == COURSE]:
        del sys.modules[name]
    sys.meta_path.insert(0, FinishedFinder)


# ---- the process -----------------------------------------------------------------------------------------------------


def draws():
    """Where each global random generator stands."""
    state = np.random.get_state()
    found = {"random": hash(random.getstate()), "numpy": (state[1].tobytes(), state[2:])}
    if "torch" in sys.modules:
        found["torch"] = sys.modules["torch"].get_rng_state().numpy().tobytes()
    return found


def reseed():
    """Draws of its own for every submission."""
    random.seed()
    np.random.seed()
    if "torch" in sys.modules:
        sys.modules["torch"].seed()


def main(socket, shell, limits, exam):
    """Serve one submission; the process is in its sandbox already."""
    kernel = Kernel(socket, shell, limits, exam)
    if exam:
        take_course_away()
    reseed()
    sys.path.insert(0, "")  # modules that were handed in
    kernel.loop()
