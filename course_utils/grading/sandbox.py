"""The sandbox: namespaces by bubblewrap, limits by the kernel, and a way in for a process that is warm already.

`Jail` is a bubblewrap that holds the namespaces open around a sleeping program. A process of the fork server, which
has imported everything, walks in with `enter`: so a submission costs neither the imports nor weaker walls. The same
command, around a kernel of its own, serves the provisioner (provisioner.py).
"""

import contextlib
import ctypes
import fcntl
import os
import platform
import resource
import shutil
import signal
import site
import socket
import struct
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from . import NEEDS_LINUX

HOME = "/home/student"
ETC = "ld.so.cache ld.so.conf ld.so.conf.d alternatives fonts localtime mime.types".split()
LAUNCH = {"PATH": "/usr/bin:/bin:/usr/local/bin"}  # the environment of bubblewrap itself
UIDS = range(61_184, 64_184)  # as root, each engine's students are a user of their own that nobody else is


class SandboxError(Exception):
    """This machine can't run code in a sandbox; the message says what to do."""


@dataclass(frozen=True)
class Limits:
    """What a submission may use: seconds of time, bytes of memory and disk, numbers of processes and files."""

    cell_seconds: float = 120  # wall clock of one cell, or of one test
    notebook_seconds: float = 900  # of all cells together
    memory: int = 2 * 2**30  # of the student's processes together, beyond what the libraries take
    disk: int = 256 * 2**20  # of the working folder and of the temporary one, each
    processes: int = 64
    open_files: int = 256
    output: int = 1_000_000  # of one cell: characters of text, and 4 times as many of pictures
    total_output: int = 10_000_000


# ---- what is to be seen inside ---------------------------------------------------------------------------------------


def packages():
    """The folders of the environment that runs: Python's own, and those with its libraries."""
    wanted = {sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib"), *site.getsitepackages()}
    wanted |= {p for p in sys.path if p.rstrip("/").endswith(("site-packages", "dist-packages"))}
    real = {os.path.realpath(p) for p in wanted} | {os.path.abspath(p) for p in wanted}
    real = {p for p in real if os.path.isdir(p) and not p.startswith("/usr/") and p != "/usr"}
    return sorted(p for p in real if not any(p.startswith(f"{other}/") for other in real))


def course_folder():
    return str(Path(__file__).parents[1])


def jail_command(limits, uid=None, course=True, binds=(), shows=()):
    """(arguments, fds to pass on): bubblewrap's command line up to the program, with `uid` inside.

    No network, no processes but its own, the system and the environment read-only, everything else empty. Without
    `course`, the package course_utils is not there either. `binds` and `shows` map folders outside to those inside, to
    write in or to read. The fds are the caller's to close.
    """
    command = ["bwrap", "--die-with-parent", "--new-session", "--unshare-ipc", "--unshare-pid", "--unshare-net"]
    command += ["--unshare-uts", "--unshare-cgroup-try", "--hostname", "sandbox", "--cap-drop", "ALL"]
    if os.geteuid():
        command += ["--unshare-user"]
    made = {"/"}

    def folders(path):
        """Parents are made as bubblewrap would not: open to everybody."""
        for parent in reversed(Path(path).parents):
            if str(parent) not in made:
                command.extend(["--perms", "0755", "--dir", str(parent)])
                made.add(str(parent))

    def show(path):
        folders(path)
        command.extend(["--ro-bind", path, path])
        made.add(path)

    show("/usr")
    for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"):
        if os.path.islink(name):
            command += ["--symlink", os.readlink(name), name]
        elif os.path.isdir(name):
            show(name)
    for name in ETC:
        if os.path.exists(f"/etc/{name}"):
            show(f"/etc/{name}")
    command += ["--proc", "/proc", "--dev", "/dev"]
    # Before what is shown: an environment or a course in one of these folders would lie hidden below.
    for path in ("/tmp", HOME, "/dev/shm"):
        folders(path)
        command += ["--perms", "1777", "--size", str(limits.disk), "--tmpfs", path]
    for path in packages():
        show(path)
    if course:
        show(course_folder())
    elif any(course_folder().startswith(f"{p}/") for p in packages()):
        command += ["--tmpfs", course_folder(), "--remount-ro", course_folder()]
    for option, paths in (("--bind", binds), ("--ro-bind", shows)):
        for outside, inside in dict(paths).items():
            folders(inside)
            command += [option, outside, inside]
    uid = os.geteuid() if uid is None else uid
    fds = [memory_file(f"student:x:{uid}:{uid}:student:{HOME}:/bin/sh\n"), memory_file(f"student:x:{uid}:\n")]
    for fd, name in zip(fds, ("passwd", "group"), strict=True):
        command += ["--perms", "0444", "--ro-bind-data", str(fd), f"/etc/{name}"]
    command += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", HOME]
    return command, fds


def memory_file(text):
    """A file in memory that holds the text, as an fd to be read from its start."""
    fd = os.memfd_create("sandbox")
    os.write(fd, text.encode() if isinstance(text, str) else text)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


class Jail:
    """The namespaces of one submission, held open by bubblewrap until `close`. Raises SandboxError where it can't."""

    def __init__(self, limits, uid=None, course=True):
        if not shutil.which("bwrap"):
            raise SandboxError(NO_BUBBLEWRAP)
        command, fds = jail_command(limits, uid, course)
        reading, writing = os.pipe()
        command += ["--info-fd", str(writing), "--", "/bin/sh", "-c", "echo ready; exec cat >/dev/null"]
        try:
            self.process = subprocess.Popen(
                command,
                env=LAUNCH,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[*fds, writing],
                cwd="/",
            )
        finally:
            for fd in (*fds, writing):
                os.close(fd)
        with open(reading, encoding="utf-8") as file:
            info = file.read()
        if self.process.stdout.readline() != b"ready\n":
            said = self.process.stderr.read().decode(errors="replace").strip()
            self.close()
            raise SandboxError(advice(said))
        self.pid = int(info.split('"child-pid":')[1].split(",")[0].split("}")[0])

    def close(self):
        """End everything inside: the kernel kills a namespace's processes with its first one."""
        if hasattr(self, "pid") and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(OSError):
                stream.close()


# ---- where it can't be had -------------------------------------------------------------------------------------------

NO_BUBBLEWRAP = (
    "Students' code is graded in a sandbox, for which the program bubblewrap is needed, and it is not installed. "
    "On Debian or Ubuntu: sudo apt-get install bubblewrap; elsewhere your system's packages have it. "
    "--unsafe runs students' code with your rights, without any protection."
)
NO_NAMESPACES = (
    "Students' code is graded in a sandbox, and this system does not let bubblewrap make one ({said}). "
    "Ubuntu 24.04 and later: give bubblewrap an AppArmor profile that allows user namespaces, or "
    "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0. "
    "Debian: sudo sysctl kernel.unprivileged_userns_clone=1. "
    "In a container: docker run --security-opt seccomp=unconfined --security-opt systempaths=unconfined "
    "--cap-add SYS_ADMIN, or grade on the host. "
    "--unsafe runs students' code with your rights, without any protection."
)


def advice(said):
    return NO_NAMESPACES.format(said=said.removeprefix("bwrap: ") or "it gives no reason")


def probe():
    """Raise SandboxError, which says what to do, where no sandbox can be had on this machine."""
    if sys.platform != "linux":
        raise SandboxError(NEEDS_LINUX)
    Jail(Limits(disk=2**20), student_uid()).close()


def student_uid():
    """Which user students' code is run as: oneself, or as root one that no process is of."""
    if os.geteuid():
        return os.geteuid()
    taken = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                taken.add(os.stat(f"/proc/{name}").st_uid)
    start = os.getpid() % len(UIDS)
    return next(uid for uid in (*UIDS[start:], *UIDS[:start]) if uid not in taken)


# ---- walking in ------------------------------------------------------------------------------------------------------

NAMESPACES = ("mnt", "pid", "net", "ipc", "uts", "cgroup")
NS_GET_USERNS = 0xB701
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 4, 24, 38, 22
libc = ctypes.CDLL(None, use_errno=True)


def _checked(result):
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def die_with_parent():
    """End when the parent, a process of one thread, ends."""
    _checked(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))


def enter(pid):
    """Join the namespaces of the process `pid`, a jail's; its processes' are those of the children from now on."""
    fds = {name: os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY) for name in (*NAMESPACES, "user")}
    owner = fcntl.ioctl(fds["mnt"], NS_GET_USERNS)

    def number(fd):
        return os.fstat(fd).st_ino

    def join(fd):
        _checked(libc.setns(fd, 0))

    if number(owner) != os.stat("/proc/self/ns/user").st_ino:
        join(owner)
    for name in NAMESPACES:
        join(fds[name])
    if number(fds["user"]) != number(owner):  # bubblewrap may go on into one more, without rights
        join(fds["user"])
    for fd in (*fds.values(), owner):
        os.close(fd)


def drop_rights(uid):
    """Become `uid` for good, without capabilities or a way to get any."""
    for capability in range(64):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
            break
    if os.geteuid() == 0 and uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    header, empty = struct.pack("<Ii", 0x20080522, 0), bytes(24)
    _checked(libc.capset(header, empty))
    _checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def limit(limits):
    """Set the kernel's limits for this process and its children, beyond what it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bounds = {
        "AS": pages * os.sysconf("SC_PAGE_SIZE") + limits.memory,
        "CPU": int(limits.notebook_seconds) + 10,
        "NPROC": limits.processes + _others(),
        "FSIZE": limits.disk,
        "NOFILE": limits.open_files,
        "CORE": 0,
        "MSGQUEUE": 0,
        "MEMLOCK": 0,
    }
    for name, bound in bounds.items():
        which = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(which)[1]
        bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(which, (bound, bound))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _others():
    """How many threads the user has already, where the limit on processes counts them: before Linux 5.14."""
    if tuple(int(n) for n in platform.release().split("-")[0].split(".")[:2]) >= (5, 14):
        return 0
    return sum(
        len(os.listdir(f"/proc/{name}/task"))
        for name in os.listdir("/proc")
        if name.isdigit() and os.stat(f"/proc/{name}").st_uid == os.geteuid()
    )


# ---- system calls that no homework needs -----------------------------------------------------------------------------

# Namespaces and mounts of one's own, other processes' memory, keyrings, memory that no limit counts.
REFUSED = {
    "x86_64": dict(
        arch=0xC000003E, clone=56, clone3=435, socket=41, others=(
            272, 308, 165, 166, 155, 101, 310, 311, 250, 248, 249, 321, 298, 323, 425, 426, 427, 428, 429, 430, 431,
            432, 433, 442, 438, 246, 320, 175, 313, 176, 303, 304, 319, 447, 29, 161, 167, 168, 169,
        ),
    ),
    "aarch64": dict(
        arch=0xC00000B7, clone=220, clone3=435, socket=198, others=(
            97, 268, 40, 39, 41, 117, 270, 271, 219, 217, 218, 280, 241, 282, 425, 426, 427, 428, 429, 430, 431,
            432, 433, 442, 438, 104, 294, 105, 273, 106, 264, 265, 279, 447, 194, 51, 224, 225, 142,
        ),
    ),
}  # fmt: skip
FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, 16)  # 16: netlink. Not vsock, which reaches the host


def seccomp_program():
    """The filter as the kernel's BPF instructions, or None on other processors."""
    table = REFUSED.get(platform.machine())
    if table is None:
        return None
    allow, refuse, missing, kill = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000

    def load(offset):
        return (0x20, 0, 0, offset)

    def equal(value, yes, no=0):
        return (0x15, yes, no, value)

    def give(what):
        return (0x06, 0, 0, what)

    code = [load(4), equal(table["arch"], 1), give(kill), load(0)]
    if table["clone"] == 56:
        code += [(0x35, 0, 1, 0x40000000), give(refuse)]  # the same calls under other numbers (x32)
    for number in table["others"]:
        code += [equal(number, 0, 1), give(refuse)]
    code += [equal(table["clone3"], 0, 1), give(missing)]  # its flags can't be seen; the C library then uses clone
    code += [equal(table["clone"], 0, 3), load(16), (0x45, 0, 1, 0x10000000), give(refuse), load(0)]
    code += [equal(table["socket"], 0, 6), load(16)]
    for i, family in enumerate(FAMILIES):
        code.append(equal(family, len(FAMILIES) - i, 0))
    code += [give(refuse), give(allow)]
    return b"".join(struct.pack("<HBBI", *line) for line in code)


def filter_calls():
    """Refuse those system calls in this process and its children, for good."""
    program = seccomp_program()
    if program is None:
        return
    data = ctypes.create_string_buffer(program, len(program))
    description = struct.pack("@HP", len(program) // 8, ctypes.addressof(data))
    _checked(libc.prctl(PR_SET_SECCOMP, 2, description, 0, 0))


# ---- memory ----------------------------------------------------------------------------------------------------------


def children(pid):
    """The processes whose parent is `pid`."""
    found = []
    for task in _entries(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError, ValueError):
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


def memory(roots, inherited=0):
    """Bytes that the processes `roots` and all below them hold for themselves, less `inherited` from the fork server.

    What several share, as after a fork, counts once.
    """
    processes = list(roots)
    for pid in processes:
        processes += [child for child in children(pid) if child not in processes]
    total = 0
    for pid in processes:
        with contextlib.suppress(OSError, ValueError, IndexError):
            resident, shared = map(int, Path(f"/proc/{pid}/statm").read_text().split()[1:3])
            total += (resident - shared) * os.sysconf("SC_PAGE_SIZE")
    if total - inherited > 2**28 and len(processes) > 3:
        total = 0
        for pid in processes:
            with contextlib.suppress(OSError, ValueError, IndexError):
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                total += int(rollup.split("Pss_Anon:")[1].split()[0]) * 1024
    return max(0, total - inherited)


def _entries(folder):
    try:
        return os.listdir(folder)
    except OSError:
        return []
