"""Workers on this machine: processes, each with its own engine. One that dies loses its submission, not the batch."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.connection import wait

from .execute import Engine, SandboxError
from .worker import Outcome, work

ATTEMPTS = 2
METHOD = "spawn"
READY, STILLBORN = "ready", 3
NO_WORKERS = "The processes that run submissions end before they begin; {log} says why, at its end:\n{said}"
GRACE = 120  # seconds to start, or beyond a submission's own limit, before a worker that says nothing is ended
DIED = (
    "The process that ran this submission died twice (the machine may have been out of memory), so it was not graded. "
    "Run it again, alone, with --student and --workers 1."
)


class Pool:
    """Up to `workers` processes (default: one a core); a context manager. What they print goes to the file `log`."""

    def __init__(self, unsafe=False, workers=None, log=os.devnull):
        self.settings, self.size, self.log, self.team = (unsafe, str(log)), workers or os.cpu_count() or 1, log, set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for worker in self.team:
            worker.end()

    def begin(self, number=1):
        """Let as many workers start as so many submissions need: each takes some seconds of a core."""
        while len(self.team) < min(self.size, number):
            self.team.add(Worker(self.settings))

    def run(self, jobs, tasks, limits):
        """Yield (job, outcome) as they are done. `tasks` by assignment.

        Raises SandboxError where a worker finds no sandbox.
        """
        waiting, attempts = list(reversed(jobs)), {id(job): 0 for job in jobs}
        stillborn = 0  # workers that ended before they could begin, one after the other
        self.begin(len(jobs))
        while waiting or any(worker.job for worker in self.team):
            for worker in self.team:
                if waiting and worker.is_ready and not worker.job:
                    job = waiting.pop()
                    worker.give(job, tasks[job.assignment], limits)
            wait([source for worker in self.team if worker.is_awaited for source in worker.sources], timeout=1)
            for worker in list(self.team):
                job, outcome = worker.job, worker.take()
                if outcome is not None:
                    stillborn = 0
                    yield job, outcome
                elif worker.is_lost():
                    self.team.remove(worker)
                    worker.end()
                    stillborn += not worker.is_ready
                    if stillborn == STILLBORN:
                        raise SandboxError(NO_WORKERS.format(log=self.log, said=_last_lines(self.log)))
                    self.team.add(Worker(self.settings))
                    if job:
                        attempts[id(job)] += 1
                        if attempts[id(job)] < ATTEMPTS:
                            waiting.append(job)
                        else:
                            yield job, Outcome(problem=DIED)


class Worker:
    """A process and its end of the pipe."""

    def __init__(self, settings):
        context = multiprocessing.get_context(METHOD)
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, os.getpid(), *settings))
        self.process.start()
        theirs.close()
        self.job, self.is_ready, self.deadline = None, False, time.monotonic() + GRACE
        self.sources = [self.pipe, self.process.sentinel]

    @property
    def is_awaited(self):
        return bool(self.job) or not self.is_ready

    def give(self, job, task, limits):
        """Send it, once it is ready, the next job."""
        self.job, self.deadline = job, time.monotonic() + 2 * limits.notebook_seconds * len(task.skeletons) + GRACE
        with contextlib.suppress(OSError):  # it died while idle: seen in is_lost
            self.pipe.send((job, task, limits))

    def take(self):
        """The outcome of its job, or None."""
        with contextlib.suppress(EOFError, OSError):
            if self.is_awaited and self.pipe.poll():
                outcome = self.pipe.recv()
                if isinstance(outcome, SandboxError):
                    raise outcome
                self.deadline = None
                if outcome == READY:
                    self.is_ready = True
                    return None
                self.job = None
                return outcome
        return None

    def is_lost(self):
        return not self.process.is_alive() or bool(self.deadline and time.monotonic() > self.deadline)

    def end(self):
        """Ask the process to leave, and after a while make it."""
        with contextlib.suppress(OSError):
            self.pipe.close()
        if self.process.is_alive():
            self.process.terminate()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def serve(pipe, parent, unsafe, log):
    """The process: jobs in, outcomes out, until the pipe or the parent is gone."""
    _leave_with(parent)
    with open(log, "a", buffering=1, encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    with contextlib.suppress(EOFError, OSError):
        try:
            with Engine(unsafe=unsafe) as engine:
                with contextlib.suppress(SandboxError):  # tried again by the first job, which then says what is wrong
                    engine.start()
                pipe.send(READY)
                while True:
                    job, task, limits = pipe.recv()
                    pipe.send(work(job, task, engine, limits))
        except SandboxError as error:
            pipe.send(error)


def _last_lines(log):
    with contextlib.suppress(OSError), open(log, encoding="utf-8", errors="replace") as file:
        return "".join(file.readlines()[-5:]).strip()
    return ""


def _leave_with(parent):
    """Leave when asked, or when the parent is gone, however it went; Ctrl-C is the parent's to answer."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    signal.signal(signal.SIGINT, lambda *_: None)  # not SIG_IGN, which kernels would inherit
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            sys.exit(1)
