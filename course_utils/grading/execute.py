"""Execute one submission: the student's cells in a sandbox, the tests outside it.

The entry point of safe grading: `execute(notebook, ...)`, or for many submissions one `Engine`, whose fork server has
imported the libraries already.
"""

import copy
from dataclasses import dataclass

import nbclient
import nbformat


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


def probe():
    """Raise SandboxError, which says what to do, where no sandbox can be had on this machine."""


class Engine:
    """Executes submissions, one after the other; a context manager that leaves no process and no folder behind.

    Raises SandboxError where there can be no sandbox, unless `unsafe`: then students' code runs with your rights.
    """

    def __init__(self, unsafe=False):
        self.unsafe = unsafe
        if not unsafe:
            probe()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """End every process and remove every folder of the engine's."""

    def execute(self, notebook, files=None, limits=None, source=None):
        """See execute()."""
        limits = limits or Limits()
        notebook = copy.deepcopy(nbformat.from_dict(notebook))
        client = nbclient.NotebookClient(
            notebook,
            timeout=int(limits.cell_seconds),
            kernel_name="python3",
            allow_errors=True,
            resources={"metadata": {"path": str(files)}} if files else {},
        )
        client.execute()
        return notebook


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
