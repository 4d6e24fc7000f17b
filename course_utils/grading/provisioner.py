"""A whole Jupyter kernel in the sandbox, for tools that start kernels: nbgrader's own commands, nbclient, nbconvert.

    JUPYTER_DEFAULT_PROVISIONER_NAME=grading-sandbox nbgrader autograde ...

(The setting of that name in nbgrader_config.py does nothing; the variable works.) A kernel holds tests and answers
together, so a sandbox around it keeps the machine safe and not the grades: `make grade` splits the two (split.py).
"""

import contextlib
import os
import shutil
import signal
import tempfile
from pathlib import Path

from jupyter_client.provisioning import LocalProvisioner

from . import sandbox
from .forkserver import ENVIRONMENT
from .split import read_files

HANDED_IN = "/handed-in"
LIBRARIES = 8 * 2**30  # addresses that libraries take without using them


class SandboxProvisioner(LocalProvisioner):
    """Starts a kernel inside bubblewrap; its folder is a copy of the notebook's, without the notebooks.

    Raises SandboxError where there can be no sandbox.
    """

    limits = sandbox.Limits()
    folder = None

    async def pre_launch(self, **kwargs):
        sandbox.probe()
        self.uid = sandbox.student_uid()
        self.folder = tempfile.mkdtemp(prefix="kernel-")
        os.chmod(self.folder, 0o711)
        inside = Path(self.folder, "k")  # a socket's path may have 107 characters at most
        inside.mkdir(mode=0o700)
        handed_in = Path(self.folder, "files")
        handed_in.mkdir()
        for name, content in read_files(kwargs.get("cwd") or os.getcwd(), self.limits.disk // 2).items():
            path = handed_in / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        manager = self.parent
        manager.transport, manager.ip = "ipc", str(inside / "s")
        manager.connection_file = str(inside / "connection.json")
        kwargs = await super().pre_launch(**kwargs)
        if os.geteuid() == 0:
            for path in (inside, *inside.iterdir()):
                os.chown(path, self.uid, self.uid)
        kwargs["env"] = dict(ENVIRONMENT)
        kwargs["cwd"] = "/"
        kwargs["cmd"], self.fds = self.command(kwargs["cmd"], str(inside), str(handed_in))
        return kwargs

    def command(self, kernel, inside, handed_in):
        """(arguments, fds to pass on) of the kernel's command within bubblewrap."""
        command, fds = sandbox.jail_command(self.limits, self.uid, binds={inside: inside}, shows={handed_in: HANDED_IN})
        program = sandbox.seccomp_program()
        if program:
            fds.append(sandbox.memory_file(program))
            command += ["--seccomp", str(fds[-1])]
        bounds = {
            "as": self.limits.memory + LIBRARIES,
            "nproc": max(64, self.limits.processes),
            "fsize": self.limits.disk,
            "nofile": max(1024, self.limits.open_files),
            "core": 0,
        }
        rights = []
        if os.geteuid() == 0:
            command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP"]
            rights = ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups"]
            rights += ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
        copy = f'cp -r {HANDED_IN}/. . && exec "$@"'
        prlimit = ["prlimit", *(f"--{name}={value}" for name, value in bounds.items())]
        command += ["--unsetenv", "JPY_PARENT_PID"]  # it would look for that process, which is not to be seen inside
        return [*command, "--", *rights, *prlimit, "/bin/sh", "-c", copy, "sh", *kernel], fds

    async def launch_kernel(self, cmd, **kwargs):
        try:
            return await super().launch_kernel(cmd, pass_fds=self.fds, **kwargs)
        finally:
            for fd in self.fds:
                os.close(fd)

    async def send_signal(self, signum):
        """Signals go to the kernel itself; to end it is to end its whole sandbox."""
        if self.process is None:
            return
        if signum == signal.SIGKILL:
            self.process.kill()
            return
        for pid in sandbox.children(self.process.pid):
            for inner in sandbox.children(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(inner, signum)

    async def cleanup(self, restart=False):
        await super().cleanup(restart)
        if self.folder and not restart:
            shutil.rmtree(self.folder, ignore_errors=True)
