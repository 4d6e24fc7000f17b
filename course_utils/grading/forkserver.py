"""A process that has imported the libraries, and forks one that is ready for each submission into its sandbox.

There are two. The plain one has numpy, torch, matplotlib and IPython, and never imports what the course's exercises ask
for: from it come the exams (split.py). Its child has the course as well: from that come the students' processes and the
graders. Both have one thread, or a fork would not be safe, and a clean environment.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import select
import signal
import socket
import struct
import sys
import traceback

from . import sandbox, student

LIBRARIES = ("numpy", "torch", "matplotlib.pyplot")
GRADER = ("course_utils.grading.split", "cloudpickle", "nbformat", "jsonschema")
COURSE = ("course_utils.exercises", "course_utils.plotting", *GRADER)
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "HOME": sandbox.HOME,
    "USER": "student",
    "LOGNAME": "student",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "PYTHONDONTWRITEBYTECODE": "1",
}


def main(plain, course, settings, libraries=LIBRARIES):
    """Serve on the sockets of these numbers until they close; `settings` are those that libraries look for.

    The fewer `libraries`, the sooner it serves; what is left out is imported by each submission that needs it.
    """
    os.environ.update(settings)
    plain, course = socket.socket(fileno=plain), socket.socket(fileno=course)
    prepare(libraries)
    shell = student.make_shell()
    warm_up(shell)
    for name in settings:
        os.environ.pop(name, None)
    child = os.fork()
    if child == 0:
        sandbox.die_with_parent()
        plain.close()
        prepare(COURSE if "torch" in libraries else GRADER)
        serve(course, shell)
    else:
        course.close()
        serve(plain, shell)
        os.waitpid(child, 0)
    os._exit(0)


def prepare(names):
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def warm_up(shell):
    """Do once what is slow at its first use: a traceback, a figure, a backward pass."""
    shell.run_cell("1 / 0")
    if "matplotlib.pyplot" in sys.modules:
        shell.run_cell("import matplotlib.pyplot; matplotlib.pyplot.plot([0, 1]); matplotlib.pyplot.show()")
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        torch.set_num_threads(1)
        (torch.ones(2, requires_grad=True) * 2).sum().backward()
    shell.reset()


def warm_up_optimisers():
    """The first optimiser imports torch's compiler, two seconds long: nothing for which a first result should wait."""
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=1.0)


def serve(control, shell):
    """Fork what is asked for: a JSON message with the sockets that it gets, one after the other.

    The role "warm" is no process to be: it has this one do what may come later.
    """
    control.send(json.dumps({"ready": len(os.listdir("/proc/self/task"))}).encode())
    while True:
        ready = select.select([control], [], [], 1.0)[0]
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not ready:
            continue
        message, fds, _, _ = socket.recv_fds(control, 65536, 4)
        if not message:
            return
        order = json.loads(message)
        if order["role"] == "warm":
            warm_up_optimisers()
            continue
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                control.close()
                sandbox.die_with_parent()
                sockets = [socket.socket(fileno=fd) for fd in fds]
                (grader if order["role"] == "grader" else students)(order, sockets, shell)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        for fd in fds:
            os.close(fd)
        control.send(json.dumps({"pid": pid}).encode())


# ---- a student's process ---------------------------------------------------------------------------------------------


def students(order, sockets, shell):
    """Walk into the jail, fork what runs the student's code there, and stay outside to tell its end."""
    wire, life = sockets
    limits = sandbox.Limits(**order["limits"])
    jail = None
    if order["jail"]:
        jail = os.pidfd_open(order["jail"])
        sandbox.enter(order["jail"])
    pid = os.fork()
    if pid == 0:
        life.close()
        settle(order, limits, wire)
        student.main(wire, shell, limits, order["role"] == "exam")
        os._exit(0)
    wire.close()
    watch(pid, life, limits, jail)


def settle(order, limits, kept):
    """Make this process, in its jail already, one without rights, in a clean environment and within limits."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if order["jail"]:
        sandbox.drop_rights(order["uid"])
    sandbox.die_with_parent()
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    if not order["jail"]:
        os.environ["HOME"] = order["folder"]
    os.chdir(os.environ["HOME"])
    close_all_but(kept.fileno())
    sandbox.limit(limits)
    if order["jail"]:
        sandbox.filter_calls()


def watch(pid, life, limits, jail):
    """Look after the process `pid`: its interrupts, its memory; end it when `life` closes, and tell how it ended.

    `jail` is the pidfd of its jail's first process, which takes with it whatever else is inside; /proc shows only that.
    """
    pidfd, reason = os.pidfd_open(pid), b"-"

    def held():
        return sandbox.memory([pid]) if jail is None else sandbox.memory(everything())

    inherited = held()
    while True:
        ready = select.select([life, pidfd], [], [], 0.2)[0]
        if pidfd in ready:
            break
        if life in ready:
            command = life.recv(1)
            os.kill(pid, signal.SIGINT if command == b"i" else signal.SIGKILL)
            if not command:
                break
        if held() - inherited > limits.memory * 1.1:
            reason = b"m"
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        if jail is not None:
            signal.pidfd_send_signal(jail, signal.SIGKILL)
        else:
            os.killpg(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    with contextlib.suppress(OSError):
        life.send(reason + status.to_bytes(4, "little", signed=True))


def everything():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def close_all_but(*kept):
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(name))


# ---- a grader --------------------------------------------------------------------------------------------------------

LENGTH = struct.Struct("<I")


def send_json(control, message):
    data = json.dumps(message).encode()
    control.sendall(LENGTH.pack(len(data)) + data)


def receive_json(control):
    """The next message, or None at the end."""
    length = receive_exactly(control, LENGTH.size)
    data = length and receive_exactly(control, LENGTH.unpack(length)[0])
    return json.loads(data) if data else None


def receive_exactly(control, size):
    data = bytearray()
    while len(data) < size:
        part = control.recv(min(size - len(data), 2**20))
        if not part:
            return None
        data += part
    return bytes(data)


def grader(order, sockets, shell):
    """Grade one notebook, which comes over the socket, and ask there for the sandboxes that it needs.

    A test is trusted, what it takes from the sandbox is not: so it has a jail of its own, should ever something that an
    answer gives back do more than it may.
    """
    from . import split

    control = sockets[0]
    request = receive_json(control)
    limits = sandbox.Limits(**request["limits"])
    roomy = dataclasses.replace(limits, memory=2 * limits.memory + 2**30, processes=256)
    files = split.read_files(request["folder"], min(limits.disk // 2, 2**27)) if request["folder"] else {}
    if order["jail"]:
        sandbox.enter(order["jail"])
        pid = os.fork()
        if pid:
            os._exit(os.waitpid(pid, 0)[1] != 0)
    settle(order, roomy, control)
    if order["jail"]:
        split.write_files(files)
    elif request["folder"]:
        os.chdir(request["folder"])
    os.environ.update(request["environment"])
    student.reseed()

    def need(kind):
        send_json(control, {"need": kind})
        _, fds, _, _ = socket.recv_fds(control, 4096, 2)
        return [socket.socket(fileno=fd) for fd in fds]

    def tell(message):
        send_json(control, message)

    split.grade(request["notebook"], request["source"], files, limits, shell, need, tell)
