"""Workers on a dask cluster (`dask scheduler`, `dask worker`): jobs carry their files, so no disk need be shared."""

import atexit
import functools
import itertools
import threading

from .execute import Engine, SandboxError
from .pool import DIED
from .reading import Unreadable, pack
from .worker import Outcome, work

AHEAD = 2  # jobs a thread that are sent before their turn: enough that none waits, few enough for the memory
PATIENCE = 10  # seconds to find the scheduler
LOCK = threading.Lock()


class Cluster:
    """The workers of the dask cluster at the address `scheduler`; a context manager.

    Raises GradingError where the cluster can't be reached or has no workers.
    """

    def __init__(self, scheduler, unsafe=False):
        from .course import GradingError

        try:
            from distributed import Client
        except ImportError:
            raise GradingError("--scheduler needs dask: pip install distributed") from None
        try:
            self.client = Client(scheduler, timeout=PATIENCE, set_as_default=False)
        except (OSError, ValueError) as error:
            raise GradingError(f"There is no dask scheduler at {scheduler}: {error}") from None
        self.unsafe, self.threads = unsafe, sum(self.client.nthreads().values())
        if not self.threads:
            self.client.close()
            raise GradingError(f"The dask scheduler at {scheduler} has no workers: start some with `dask worker`.")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()

    def begin(self, number=1):
        """Nothing: a cluster's workers have started."""

    def run(self, jobs, tasks, limits):
        """Yield (job, outcome) as they are done; a job whose worker is lost is done by another.

        Raises SandboxError where a worker finds no sandbox.
        """
        from distributed import as_completed

        waiting, of, futures = iter(jobs), {}, as_completed(loop=self.client.loop)

        def send(number):
            for job in itertools.islice(waiting, number):
                options = (tasks[job.assignment], limits, self.unsafe)
                future = self.client.submit(remote, _packed(job), *options, pure=False)
                of[future] = job
                futures.add(future)

        send(AHEAD * self.threads)
        for future in futures:
            yield of.pop(future), _outcome(future)
            send(1)


def _packed(job):
    """A copy of the job that carries its files, or why they can't be read."""
    try:
        parcel = pack(job.folder)
    except Unreadable as error:
        parcel = error
    return type(job)(job.student, job.assignment, job.folder, parcel)


def _outcome(future):
    try:
        return future.result()
    except SandboxError:
        raise
    except Exception as error:  # KilledWorker, where one worker after the other was lost over it
        return Outcome(problem=DIED, log=f"{type(error).__name__}: {error}")


def remote(job, task, limits, unsafe):
    """What a dask worker does: one submission at a time, with the engine that its process has."""
    with LOCK:
        return work(job, task, engine(unsafe), limits)


@functools.cache
def engine(unsafe):
    """This process's engine, closed when the process ends."""
    made = Engine(unsafe=unsafe)
    atexit.register(made.close)
    return made.__enter__()
