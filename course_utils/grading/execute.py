"""Execute one submission: the student's cells in a sandbox, the tests outside it.

The entry point of safe grading: `execute(notebook, ...)`, or for many submissions one `Engine`, whose fork server has
imported the libraries already.
"""

import contextlib
import copy
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict

import nbformat

from .forkserver import ENVIRONMENT, LIBRARIES, receive_json, send_json
from .sandbox import Jail, Limits, SandboxError, probe, student_uid

__all__ = ["Engine", "Limits", "SandboxError", "execute", "probe"]

BOOT = (
    "import sys; sys.path[:] = {path!r}; from course_utils.grading import forkserver; "
    "forkserver.main({plain}, {course}, {settings!r}, {libraries!r})"
)
SETTINGS = ("MPLCONFIGDIR", "XDG_CACHE_HOME", "COURSE_SITE")
ENDED = "the grader ended before its time"
FELL = "Grading came to a halt in this cell, so neither it nor those below it could be graded: {why}."


class Engine:
    """Executes submissions, one after the other; a context manager that leaves no process and no folder behind.

    `libraries` are imported once for all submissions, before the first. Raises SandboxError where there can be no
    sandbox, unless `unsafe`: then students' code runs with your rights.
    """

    def __init__(self, unsafe=False, libraries=LIBRARIES):
        self.libraries = tuple(libraries)
        self.unsafe, self.server, self.plain, self.course = unsafe, None, None, None
        if not unsafe:
            probe()
        self.uid = student_uid()
        self.folder = tempfile.TemporaryDirectory(prefix="grading-engine-")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """End every process and remove every folder of the engine's."""
        for control in (self.plain, self.course):
            if control is not None:
                control.close()
        if self.server is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.server.wait(5)
            self.server.kill()
            self.server.wait()
        self.server = self.plain = self.course = None
        self.folder.cleanup()

    def start(self):
        """Start the fork server, where it does not run."""
        if self.server is not None and self.server.poll() is None:
            return
        self.executed = 0  # by this fork server
        self.plain, plain = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.course, course = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        settings = {name: os.environ[name] for name in SETTINGS if name in os.environ}
        settings.setdefault("XDG_CACHE_HOME", os.path.join(os.path.expanduser("~"), ".cache"))
        path = [p or os.getcwd() for p in sys.path]
        numbers = {"plain": plain.fileno(), "course": course.fileno()}
        boot = BOOT.format(path=path, settings=settings, libraries=self.libraries, **numbers)
        self.log = open(os.path.join(self.folder.name, "log"), "w+", encoding="utf-8", errors="replace")
        self.server = subprocess.Popen(
            [sys.executable, "-c", boot],
            env=ENVIRONMENT,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            pass_fds=[plain.fileno(), course.fileno()],
            start_new_session=True,
        )
        plain.close()
        course.close()
        for control in (self.plain, self.course):
            if not control.recv(4096):
                self.log.seek(0)
                raise SandboxError(f"The fork server of grading did not start: {self.log.read()[-2000:]}")

    def warm_up(self):
        """Let the fork server prepare what many submissions need and the first could wait for; it is not waited for."""
        for control in (self.plain, self.course):
            with contextlib.suppress(OSError):
                control.send(json.dumps({"role": "warm"}).encode())

    def fork(self, control, order, sockets):
        """Have the fork server make a process; returns its number."""
        socket.send_fds(control, [json.dumps(order).encode()], [s.fileno() for s in sockets])
        for given in sockets:
            given.close()
        reply = control.recv(4096)
        if not reply:
            self.server.wait()
            raise SandboxError("The fork server of grading has ended.")
        return json.loads(reply)["pid"]

    def execute(self, notebook, files=None, limits=None, source=None):
        """See execute(). Where the grader itself fails, it is tried once more."""
        for _ in range(2):
            self.start()
            if self.executed == 1:
                self.warm_up()
            self.executed += 1
            executed = Run(self, notebook, files, limits or Limits(), source).result()
            if executed.metadata.get("grading_halted") != ENDED:
                break
        return executed


class Run:
    """One notebook in the hands of a grader of its own, with the sandboxes that it asks for."""

    def __init__(self, engine, notebook, files, limits, source):
        self.engine, self.limits = engine, limits
        self.notebook = copy.deepcopy(nbformat.from_dict(notebook))
        self.source, self.files = source, files
        self.jails, self.pid, self.cell = [], None, None
        self.begun = time.monotonic()

    def result(self):
        """The executed notebook."""
        self.control, given = socket.socketpair()
        try:
            self.pid = self.fork("grader", [given])
            self.request()
            return self.follow()
        finally:
            self.end()

    def request(self):
        send_json(
            self.control,
            {
                "notebook": self.notebook,
                "source": self.source,
                "folder": os.path.abspath(self.files) if self.files else None,
                "limits": asdict(self.limits),
                "environment": {k: v for k, v in os.environ.items() if k in SETTINGS},
            },
        )

    def follow(self):
        """Take note of what the grader tells, until it is done, or is not to be waited for any longer."""
        why = "it took far too long"
        patience = 2 * self.limits.cell_seconds + 60
        deadline = time.monotonic() + patience
        while select.select([self.control], [], [], max(0.0, deadline - time.monotonic()))[0]:
            message = receive_json(self.control)
            if message is None:
                why = ENDED
                break
            deadline = min(time.monotonic() + patience, self.begun + self.limits.notebook_seconds + 120)
            if "done" in message:
                return nbformat.from_dict(message["done"])
            if "need" in message:
                self.provide(message["need"])
            elif "started" in message:
                self.cell = message["cell"]
            elif "outputs" in message:
                cell = self.notebook.cells[message["cell"]]
                cell.outputs, cell.execution_count = nbformat.from_dict(message["outputs"]), message["count"]
        return self.broken(why)

    def provide(self, role):
        """A student's process in a sandbox of its own."""
        (wire, theirs), (life, watched) = socket.socketpair(), socket.socketpair()
        self.fork(role, [theirs, watched])
        socket.send_fds(self.control, [b"-"], [wire.fileno(), life.fileno()])
        wire.close()
        life.close()

    def fork(self, role, sockets):
        """A process of the fork server's in a jail of its own; the exam's is one that course_utils is not in."""
        engine, jail, folder = self.engine, None, None
        if engine.unsafe:
            folder = tempfile.mkdtemp(dir=engine.folder.name)
        else:
            jail = Jail(self.limits, engine.uid, course=role != "exam")
            self.jails.append(jail)
        order = {"role": role, "jail": jail and jail.pid, "uid": engine.uid, "limits": asdict(self.limits)}
        control = engine.plain if role == "exam" else engine.course
        return engine.fork(control, order | {"folder": folder}, sockets)

    def broken(self, why):
        """The notebook where its grader failed: the cells done keep their outputs, the tests left get an error.

        Its metadata say "grading_halted", and why: it is not the last word on this submission.
        """
        self.notebook.metadata["grading_halted"] = why
        for place, cell in enumerate(self.notebook.cells):
            if cell.cell_type == "code" and (self.cell is None or place >= self.cell):
                said = FELL.format(why=why)
                cell.outputs = [
                    nbformat.v4.new_output(
                        "error", ename="GradingHalted", evalue=said, traceback=[f"GradingHalted: {said}"]
                    )
                ]
        return self.notebook

    def end(self):
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self.control.close()
        for jail in self.jails:
            jail.close()


def execute(notebook, files=None, limits=None, unsafe=False, engine=None, source=None):
    """A copy of the notebook with every code cell's execution_count and outputs in place, to be scored by nbgrader.

    `notebook` is the submission, already repaired on the instructor's skeleton: test cells (nbgrader's grade=True,
    solution=False) are the instructor's own text, hidden tests included, and run outside the sandbox; all others run
    inside. `source` is the instructor's notebook: imports, helpers and constants that its locked and plain cells
    define are what tests see under these names, whatever the student binds to them. Give it wherever it is at hand:
    without it only the locked cells of `notebook` count as the instructor's.
    `files` is a folder with what else was handed in: a copy of it, without notebooks, is the working folder.
    Never raises for anything that a student did: the notebook then says, in an output, what happened.
    Raises SandboxError where there can be no sandbox (see Engine).
    """
    if engine is not None:
        return engine.execute(notebook, files, limits, source)
    with Engine(unsafe) as engine:
        return engine.execute(notebook, files, limits, source)
