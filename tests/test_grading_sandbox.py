"""The sandbox: what code inside can reach, tried by the code itself, by both ways in."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import nbclient
import pytest
from grading_notebooks import QUICK, answer, graded, notebook, passed, plain, shared_engine, text_of
from nbformat.v4 import new_code_cell, new_notebook

from course_utils.grading import sandbox
from course_utils.grading.execute import Engine, Limits, execute

ROOT = Path(__file__).parents[1]
LIGHT = ("numpy",)
pytestmark = pytest.mark.slow

# What a student's code tries: each line gives a list of what it got, empty where the sandbox holds.
TRIES = '''
import ctypes, glob, json, os, signal, socket, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)

def got(*things):
    """The things that worked: each a function."""
    found = []
    for thing in things:
        try:
            value = thing()
        except BaseException:
            continue
        if value:
            found.append(repr(value)[:200])
    return found

def connect(family, address):
    s = socket.socket(family, socket.SOCK_STREAM)
    s.settimeout(2)
    s.connect(address)
    return address

def write(path):
    open(path, "x").close()
    os.unlink(path)
    return path

def read(path):
    with open(path, "rb") as file:
        return file.read(50)

status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
def command(p):
    return open(f"/proc/{p}/cmdline", "rb").read()

tried = {
    "network": got(
        lambda: connect(socket.AF_INET, ("127.0.0.1", PORT)),
        lambda: connect(socket.AF_UNIX, "\\0" + ABSTRACT),
        lambda: connect(socket.AF_UNIX, SOCKET),
        lambda: socket.socket(40, socket.SOCK_STREAM),
        lambda: [n for _, n in socket.if_nameindex() if n != "lo"],
    ),
    "reading": got(
        *(lambda p=p: read(p) for p in (SECRET, "/etc/shadow", "/etc/hostname", "/root/.bashrc", *TESTS)),
        lambda: b"SECRET" in read("/proc/1/environ"),
        lambda: glob.glob(ROOT + "/tests/*") + glob.glob(ROOT + "/solutions/*") + glob.glob("/home/*/*/*.ipynb"),
    ),
    "environment": [k for k in os.environ if "SECRET" in k] + got(lambda: b"SECRET" in read("/proc/self/environ") or 0),
    "writing": got(
        *(lambda p=p: write(p + "/tried") for p in ("/", "/usr", "/etc", "/dev", "/home", ROOT, sys.prefix, SITE))
    ),
    "processes": [p for p in os.listdir("/proc") if p.isdigit() and not any(n in command(p) for n in OURS)],
    "signals": got(lambda: os.kill(PARENT, 0) or "signal"),
    "rights": [n for n in ("CapEff", "CapPrm", "CapBnd", "CapAmb", "CapInh") if int(status[n], 16)]
    + [n for n in (status["Uid"].split()) if n == "0"]
    + ["new privileges"] * (status["NoNewPrivs"].strip() != "1"),
    "system calls": [n for n, call in {
        "a namespace": lambda: libc.unshare(0x10000000) == 0,
        "a mount": lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0,
        "tracing": lambda: libc.ptrace(16, os.getppid(), 0, 0) == 0,
        "memory without a name": lambda: libc.memfd_create(b"x", 0) >= 0,
        "shared memory": lambda: libc.shmget(0, 4096, 0o1600) >= 0,
        "a keyring": lambda: libc.syscall(250 if os.uname().machine == "x86_64" else 219, 0, -3, 1) >= 0,
    }.items() if call()],
}
print("TRIED" + json.dumps(tried))
'''
# What it may use up: each gives how far it came.
LIMITS = '''
import json, os, sys, time
def most(step, at_most):
    """How often a step can be taken."""
    for n in range(at_most):
        try:
            step(n)
        except (OSError, MemoryError) as error:
            return [n, type(error).__name__]
    return [at_most, ""]

def fork(n):
    if os.fork() == 0:
        time.sleep(20)
        os._exit(0)

kept = []
came = {"disk": most(lambda n: open(f"/tmp/{n}", "wb").write(bytes(2**22)), 40)}
came["home"] = most(lambda n: open(f"{n}.bin", "wb").write(bytes(2**22)), 40)
came["shm"] = most(lambda n: open(f"/dev/shm/{n}", "wb").write(bytes(2**22)), 40)
came["files"] = most(lambda n: kept.append(open("/dev/null")), 2000)
kept.clear()
came["memory"] = most(lambda n: kept.append(bytearray(2**26)), 200)
kept.clear()
came["processes"] = most(fork, 300)
print("CAME" + json.dumps(came))
'''
SMALL = Limits(cell_seconds=60, memory=512 * 2**20, disk=32 * 2**20, processes=20, open_files=64)


@pytest.fixture(scope="module")
def engine():
    yield from shared_engine(libraries=LIGHT)


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """What an attack is after, all of it there: a server, sockets, a secret file; as text that names them."""
    folder = tmp_path_factory.mktemp("outside")
    os.chmod(folder, 0o755)
    (folder / "secret").write_text("secret")
    servers = [socket.create_server(("127.0.0.1", 0)), *(socket.socket(socket.AF_UNIX) for _ in range(2))]
    abstract = f"course-{os.getpid()}"
    servers[1].bind("\0" + abstract)
    servers[2].bind(str(folder / "socket"))
    for server in servers[1:]:
        server.listen()
    names = {
        "PORT": servers[0].getsockname()[1],
        "ABSTRACT": abstract,
        "SOCKET": str(folder / "socket"),
        "SECRET": str(folder / "secret"),
        "TESTS": [str(Path(__file__)), str(ROOT / "pyproject.toml")],
        "ROOT": str(ROOT),
        "SITE": str(Path(pytest.__file__).parents[1]),
        "PARENT": os.getpid(),
        "OURS": [b"python", b"bwrap", b"cat"],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECRET_TOKEN", "1")
        yield "\n".join(f"{name} = {value!r}" for name, value in names.items())
    for server in servers:
        server.close()


def in_engine(engine, text, limits):
    executed = engine.execute(notebook(plain(text)), limits=limits)
    return text_of(executed.cells[0])


def in_kernel(_, text, limits):
    """Through the provisioner: a stock kernel of nbclient's."""
    from course_utils.grading.provisioner import SandboxProvisioner

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_DEFAULT_PROVISIONER_NAME", "grading-sandbox")
        patch.setattr(SandboxProvisioner, "limits", limits)
        cells = new_notebook(cells=[new_code_cell(text)])
        nbclient.NotebookClient(cells, timeout=120, kernel_name="python3", allow_errors=True).execute()
    return text_of(cells.cells[0])


def found(text, mark):
    assert mark in text, text[-2000:]
    return json.loads(text.split(mark)[1].splitlines()[0])


@pytest.mark.parametrize("way", [in_engine, in_kernel])
def test_nothing_outside_can_be_reached(engine, outside, way):
    tried = found(way(engine, f"{outside}\n{TRIES}", QUICK), "TRIED")
    tried = {what: got for what, got in tried.items() if got}
    assert tried == {}


def test_without_the_sandbox_everything_could_be(outside):
    """The same tries outside get through, so that each of them could fail."""
    ran = subprocess.run(
        [sys.executable, "-c", f"{outside}\n{TRIES}"],
        capture_output=True,
        text=True,
        env=os.environ | {"SECRET_KEY": "1"},
        cwd="/",
    )
    tried = found(ran.stdout, "TRIED")
    for what in ("network", "reading", "environment", "processes", "signals", "system calls"):
        assert tried[what], what


def test_what_may_be_used_is_limited(engine):
    came = found(in_engine(engine, LIMITS, SMALL), "CAME")
    for what in ("disk", "home", "shm"):
        assert came[what][0] <= 8 and came[what][1] == "OSError", came
    assert came["files"][0] < 64 and came["files"][1] == "OSError", came
    assert came["memory"][0] <= 8 and came["memory"][1] == "MemoryError", came
    assert 0 < came["processes"][0] < 25 and came["processes"][1] == "BlockingIOError", came


def test_what_a_kernel_may_use_is_limited():
    """Without the tries that take a kernel's own threads from it."""
    disk_and_files = LIMITS.split('came["memory"]')[0] + 'print("CAME" + json.dumps(came))'
    came = found(in_kernel(None, disk_and_files, SMALL), "CAME")
    assert all(came[what][0] <= 8 and came[what][1] == "OSError" for what in ("disk", "home", "shm")), came
    assert came["files"][0] < 1024 and came["files"][1] == "OSError", came


def test_memory_of_many_processes_counts_together(engine):
    text = """
import os, time
for n in range(6):
    if os.fork() == 0:
        kept = bytearray(os.urandom(2**20)) * 150
        time.sleep(30)
        os._exit(0)
time.sleep(30)
"""
    started = time.monotonic()
    limits = Limits(cell_seconds=60, memory=400 * 2**20)
    executed = engine.execute(notebook(plain(text), answer("x = 1"), graded("assert x == 1")), limits=limits)
    assert "more memory than the 400 MB" in text_of(executed.cells[0])
    assert passed(executed) == [True] and time.monotonic() - started < 50


def below(pid):
    """Every process below one, and itself."""
    found = [pid]
    for one in found:
        found += sandbox.children(one)
    return found


def test_nothing_outlives_a_submission_or_the_engine(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    leave = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for n in range(1, 32):
            try: signal.signal(n, signal.SIG_IGN)
            except OSError: pass
        while True: time.sleep(1)
    os._exit(0)
"""
    before = below(os.getpid())
    with contextlib.ExitStack() as stack:
        try:
            engine = stack.enter_context(Engine(libraries=LIGHT))
        except sandbox.SandboxError as error:
            pytest.skip(str(error))
        engine.start()
        idle = len(below(os.getpid()))
        for _ in range(2):
            executed = engine.execute(notebook(plain(leave), answer("x = 1"), graded("assert x == 1")), limits=QUICK)
            assert passed(executed) == [True]
        deadline = time.monotonic() + 20
        while len(below(os.getpid())) > idle and time.monotonic() < deadline:
            time.sleep(0.1)  # the kernel takes a moment to end a namespace
        assert len(below(os.getpid())) == idle
    assert set(below(os.getpid())) <= set(before) and list(tmp_path.iterdir()) == []


def test_everything_ends_with_the_grader(tmp_path):
    """SIGKILL in the middle of a cell: no process is left."""
    script = tmp_path / "one.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from grading_notebooks import *\n"
        "import os\n"
        "if __name__ == '__main__':\n"
        "    with Engine(libraries=('numpy',)) as engine:\n"
        "        engine.start()\n"
        "        print('ready', flush=True)\n"
        "        engine.execute(notebook(plain('import time; time.sleep(600)')), limits=QUICK)\n"
    )
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if process.stdout.readline() != b"ready\n":
        pytest.skip("there is no sandbox here")
    deadline = time.monotonic() + 60
    while not any("bwrap" in name_of(pid) for pid in below(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    family = [pid for pid in below(process.pid) if pid != process.pid]
    assert len(family) > 4
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(map(alive, family)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [name_of(pid) for pid in family if alive(pid)] == []


def name_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ---- where there is none ---------------------------------------------------------------------------------------------


def test_without_bubblewrap_nothing_is_run(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(sandbox.SandboxError, match="sudo apt-get install bubblewrap.*--unsafe"):
        execute(notebook(plain(f"open({str(tmp_path / 'x')!r}, 'w')")))
    assert not (tmp_path / "x").exists()


def test_without_namespaces_nothing_is_run(monkeypatch, tmp_path):
    refuses = tmp_path / "bwrap"
    refuses.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    refuses.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(sandbox, "LAUNCH", {"PATH": os.environ["PATH"]})
    with pytest.raises(sandbox.SandboxError, match="No permissions.*AppArmor.*docker run.*--unsafe"):
        execute(notebook(plain("1")))


@pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")
def test_an_ordinary_user_has_the_same_sandbox(outside, tmp_path):
    """As root the suite runs this as nobody, by the system's Python: bubblewrap, the walk in, and the same tries."""
    python = shutil.which("python3", path="/usr/bin:/bin")
    if os.geteuid() or not python or not shutil.which("bwrap"):
        pytest.skip("needs root, bubblewrap and the system's Python")
    module = tmp_path / "course_utils" / "grading" / "sandbox.py"  # it shows the folder above its own: the course
    module.parent.mkdir(parents=True)
    for name in (sandbox.__file__, Path(sandbox.__file__).with_name("__init__.py")):
        shutil.copy(name, module.parent)
    for path in module.parents:  # pytest's folders are for their owner only
        path.chmod(path.stat().st_mode | 0o055)
    script = tmp_path / "walk.py"
    script.write_text(
        f"import os, sys\nsys.path.insert(0, {str(tmp_path)!r})\nfrom course_utils.grading import sandbox\n"
        "sandbox.probe()\nlimits = sandbox.Limits()\njail = sandbox.Jail(limits)\n"
        "if os.fork() == 0:\n"
        "    sandbox.enter(jail.pid)\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n        sandbox.drop_rights(os.getuid())\n        sandbox.die_with_parent()\n"
        "        os.environ.clear()\n"
        "        os.chdir(sandbox.HOME)\n        sandbox.limit(limits)\n        sandbox.filter_calls()\n"
        f"        exec({(outside + chr(10) + TRIES)!r})\n        sys.stdout.flush()\n        os._exit(0)\n"
        "    os.wait()\n    os._exit(0)\n"
        "os.wait()\njail.close()\n"
    )
    ran = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", python, str(script)],
        capture_output=True,
        text=True,
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
    )
    if "no sandbox" in ran.stderr or "user namespaces" in ran.stderr:
        pytest.skip(ran.stderr[-300:])
    assert ran.returncode == 0, ran.stderr
    assert {what: got for what, got in found(ran.stdout, "TRIED").items() if got} == {}


@pytest.mark.skipif(not shutil.which("bwrap"), reason="needs bubblewrap")
def test_a_course_in_a_temporary_folder_is_seen(monkeypatch):
    """The sandbox's own empty /tmp does not hide a clone that lies in /tmp, and shows it read-only."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        (course := Path(folder, "course_utils")).mkdir()
        (course / "exercise.py").write_text("here")
        monkeypatch.setattr(sandbox, "course_folder", lambda: str(course))
        command, fds = sandbox.jail_command(sandbox.Limits())
        look = f"cat {course}/exercise.py; touch {course}/new || echo , and read-only"
        ran = subprocess.run(
            [*command, "--", "/bin/sh", "-c", look], env=sandbox.LAUNCH, pass_fds=fds, capture_output=True, text=True
        )
        for fd in fds:
            os.close(fd)
        assert ran.stdout == "here, and read-only\n", ran.stderr
        assert not (course / "new").exists()


def test_unsafe_runs_without_a_sandbox_and_still_splits():
    with Engine(unsafe=True, libraries=LIGHT) as engine:
        executed = engine.execute(notebook(answer("def f(x): return 2 * x"), graded("assert f(2) == 4"), graded("f(")))
    assert passed(executed) == [True, False]


def test_threads_may_each_have_an_engine_of_their_own(engine):
    """The engine is used from another thread than it was made in."""
    done = []
    work = threading.Thread(target=lambda: done.append(engine.execute(notebook(plain("1 + 1")), limits=QUICK)))
    work.start()
    work.join(120)
    assert text_of(done[0].cells[0]) == "2"
