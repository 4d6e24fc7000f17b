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
GRACE = 120  # seconds beyond a submission's own limit before a worker that says nothing is ended
DIED = (
    "The process that ran this submission died twice (the machine may have been out of memory), so it was not graded. "
    "Run it again, alone, with --student and --workers 1."
)


def run(jobs, tasks, limits, unsafe=False, workers=None, log=os.devnull):
    """Yield (job, outcome) as they are done. `tasks` by assignment; what workers print goes to the file `log`.

    Raises SandboxError where a worker finds no sandbox.
    """
    waiting, attempts = list(reversed(jobs)), {id(job): 0 for job in jobs}
    settings = (tasks, limits, unsafe, str(log))
    team = {Worker(settings) for _ in range(min(workers or os.cpu_count() or 1, len(jobs)))}
    stillborn = 0  # workers that ended before they could begin, one after the other
    try:
        while waiting or any(worker.job for worker in team):
            for worker in team:
                if waiting and not worker.job:
                    worker.give(waiting.pop(), limits, tasks)
            busy = {source: worker for worker in team if worker.job for source in worker.sources}
            wait(list(busy), timeout=1)
            for worker in list(team):
                job, outcome = worker.job, worker.take()
                if outcome is not None:
                    stillborn = 0
                    yield job, outcome
                elif worker.is_lost():
                    team.remove(worker)
                    worker.end()
                    stillborn += not worker.is_ready
                    if stillborn == STILLBORN:
                        raise SandboxError(NO_WORKERS.format(log=log, said=_last_lines(log)))
                    team.add(Worker(settings))
                    if job:
                        attempts[id(job)] += worker.is_ready
                    if job and attempts[id(job)] < ATTEMPTS:
                        waiting.append(job)
                    elif job:
                        yield job, Outcome(problem=DIED)
    finally:
        for worker in team:
            worker.end()


class Worker:
    """A process and its end of the pipe."""

    def __init__(self, settings):
        context = multiprocessing.get_context(METHOD)
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, os.getpid(), *settings))
        self.process.start()
        theirs.close()
        self.job, self.deadline, self.is_ready = None, None, False
        self.sources = [self.pipe, self.process.sentinel]

    def give(self, job, limits, tasks):
        notebooks = len(tasks[job.assignment].skeletons)
        self.job, self.deadline = job, time.monotonic() + 2 * limits.notebook_seconds * notebooks + GRACE
        with contextlib.suppress(OSError):  # it died while idle: seen in is_lost
            self.pipe.send(job)

    def take(self):
        """The outcome of its job, or None."""
        with contextlib.suppress(EOFError, OSError):
            if self.job and self.pipe.poll():
                outcome = self.pipe.recv()
                if outcome == READY:
                    self.is_ready = True
                    return None
                if isinstance(outcome, SandboxError):
                    raise outcome
                self.job = None
                return outcome
        return None

    def is_lost(self):
        return not self.process.is_alive() or bool(self.job and time.monotonic() > self.deadline)

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


def serve(pipe, parent, tasks, limits, unsafe, log):
    """The process: jobs in, outcomes out, until the pipe or the parent is gone."""
    _leave_with(parent)
    with open(log, "a", buffering=1, encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    with contextlib.suppress(EOFError, OSError):
        try:
            with Engine(unsafe=unsafe) as engine:
                pipe.send(READY)
                while True:
                    job = pipe.recv()
                    pipe.send(work(job, tasks[job.assignment], engine, limits))
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
