"""A limit of time on a block of code, by the system's alarm."""

import contextlib
import signal
import threading


@contextlib.contextmanager
def time_limit(seconds, error, processor=False):
    """Raises `error` in the block once it has taken that long, and again each second until it ends.

    With `processor`, its own processor time counts: other programs' work doesn't. Nothing happens where there is no
    such alarm: on Windows, or in a thread of its own.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    number, clock = (signal.SIGVTALRM, signal.ITIMER_VIRTUAL) if processor else (signal.SIGALRM, signal.ITIMER_REAL)

    def stop(*_):
        raise error

    before = signal.signal(number, stop)
    signal.setitimer(clock, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(clock, 0)
        signal.signal(number, before)
