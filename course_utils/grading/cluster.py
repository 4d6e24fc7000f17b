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


def run(jobs, tasks, limits, unsafe, scheduler):
    """Yield (job, outcome) as they are done; a job whose worker is lost is done by another.

    Raises GradingError where the cluster can't be reached, SandboxError where a worker finds no sandbox.
    """
    from .course import GradingError

    try:
        from distributed import Client, as_completed
    except ImportError:
        raise GradingError("--scheduler needs dask: pip install distributed") from None
    try:
        client = Client(scheduler, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise GradingError(f"There is no dask scheduler at {scheduler}: {error}") from None
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise GradingError(f"The dask scheduler at {scheduler} has no workers: start some with `dask worker`.")
        waiting, of, futures = iter(jobs), {}, as_completed(loop=client.loop)

        def send(number):
            for job in itertools.islice(waiting, number):
                future = client.submit(remote, _packed(job), tasks[job.assignment], limits, unsafe, pure=False)
                of[future] = job
                futures.add(future)

        send(AHEAD * threads)
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
