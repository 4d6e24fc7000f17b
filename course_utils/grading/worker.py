"""What a worker does with one submission: read, repair, execute. It never raises for what a student did."""

import contextlib
import json
import re
import tempfile
import time
import traceback
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

import nbformat

from .execute import SandboxError
from .reading import Parcel, Unreadable, pack, read_notebook
from .repair import likeness, rebuild

HALTED = "Grading came to a halt in this notebook, so its points are not final: the next run tries it again."


@dataclass
class Job:
    """One submission to grade; `parcel` holds its files where the worker can't read `folder` itself."""

    student: str
    assignment: str
    folder: str
    parcel: Parcel | Unreadable | None = None


@dataclass
class Outcome:
    """What came of a job: executed notebooks (name -> text), or the problem; notes for the student, a log for us."""

    notebooks: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)
    problem: str = ""
    log: str = ""
    seconds: float = 0.0
    halted: bool = False  # by the grader's fault, not the student's: what is below that cell was not graded


def work(job, task, engine, limits):
    """The Outcome of a job."""
    from .sanitising import clean_notebook  # half a second, for which the first worker's start would wait

    outcome, begin = Outcome(), time.monotonic()
    try:
        parcel = job.parcel or pack(job.folder)
        if isinstance(parcel, Unreadable):
            raise parcel
        outcome.notes += parcel.notes
        rebuilt = repair(parcel, task, outcome.notes)
        with tempfile.TemporaryDirectory(prefix="grading-") as folder:
            write_files(folder, parcel, task)
            for name, notebook in rebuilt.items():
                source = nbformat.reads(task.sources[name], as_version=4)
                executed = engine.execute(notebook, files=folder, limits=limits, source=source)
                if is_halted(executed):  # once more: it may have been the machine
                    executed = engine.execute(notebook, files=folder, limits=limits, source=source)
                if is_halted(executed):
                    outcome.halted = True
                    outcome.notes.append(HALTED)
                executed.metadata["grading"] = {"notes": outcome.notes}
                outcome.notebooks[name] = json.dumps(clean_notebook(executed, json.loads(task.skeletons[name])))
    except Unreadable as error:
        outcome.problem = str(error)
    except SandboxError as error:
        outcome.problem = f"The notebook could not be run: {error}"
    except MemoryError:
        raise
    except Exception as error:
        outcome.problem = f"The notebook could not be run: {type(error).__name__}: {error}"[:500]
        outcome.log = traceback.format_exc()
    outcome.seconds = time.monotonic() - begin
    return outcome


def is_halted(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return any(output.output_type == "error" and output.ename == "GradingHalted" for output in outputs)


def repair(parcel, task, notes):
    """The notebooks to execute, {name: notebook}, each rebuilt on its skeleton; adds to `notes`."""
    rebuilt = {}
    for name, file in choose(parcel, task, notes).items():
        cells, seen = read_notebook(parcel.files[file])
        notebook, found = rebuild(nbformat.from_dict(json.loads(task.skeletons[name])), cells)
        prefix = f"{name}: " if len(task.skeletons) > 1 else ""
        notes += [prefix + note for note in seen + found]
        rebuilt[name] = notebook
    return rebuilt


def choose(parcel, task, notes):
    """Which file is which notebook of the assignment: by its name, then by a name like it, then by what it holds.

    Raises Unreadable where there is no notebook, or none that is the assignment's.
    """
    if not parcel.notebooks:
        raise Unreadable(f"No notebook was handed in: {', '.join(f'{n}.ipynb' for n in task.skeletons)} is missing.")
    chosen, left = {}, sorted(parcel.notebooks, key=lambda file: (file.count("/"), file))
    for same in (lambda name, file: file == f"{name}.ipynb", lambda name, file: plain(file) == plain(name)):
        for name in task.skeletons:
            found = [file for file in left if name not in chosen and same(name, file)]
            if found:
                best = found[0] if len(found) == 1 else max(found, key=lambda f: held(parcel, task, name, f))
                chosen[name] = best
                left = [file for file in left if file != best]
    for name in task.skeletons:
        if name not in chosen and left:
            best = max(left, key=lambda file: held(parcel, task, name, file))
            alone = len(task.skeletons) == 1 and len(left) == 1  # whatever it is, its own message says most
            if alone or held(parcel, task, name, best):
                chosen[name] = best
                left.remove(best)
    if not chosen:
        files = ", ".join(parcel.notebooks)
        raise Unreadable(f"None of the notebooks handed in ({files}) is the assignment's {', '.join(task.skeletons)}.")
    for name, file in chosen.items():
        if file != f"{name}.ipynb":
            notes.append(f"{file} was taken for {name}.ipynb.")
    notes += [f"{name}.ipynb was not handed in: no points for it." for name in task.skeletons if name not in chosen]
    if left:
        notes.append(f"Not graded, because one notebook is enough: {', '.join(left)}.")
    return chosen


def held(parcel, task, name, file):
    """How many of a notebook's answers and tests a file holds."""
    with contextlib.suppress(Unreadable):
        return likeness(nbformat.from_dict(json.loads(task.skeletons[name])), read_notebook(parcel.files[file])[0])
    return 0


def plain(name):
    """A notebook's name without what copying and downloading add: "Copy of LAB (1).ipynb" is "lab"."""
    name = unicodedata.normalize("NFC", Path(name).name).casefold().removesuffix(".ipynb")
    name = re.sub(r"^(copy of|kopie von|copie de|copia de) ", "", name)
    return re.sub(r"[\s_-]", "", re.sub(r"([\s_-]*\(\d+\)|[\s_-]+copy\d*|-\d+)+$", "", name))


def write_files(folder, parcel, task):
    """The working folder: what was handed in beside the notebooks, and in its place the assignment's own files."""
    rest = {name: content for name, content in parcel.files.items() if name not in parcel.notebooks}
    for name, content in (rest | task.files).items():
        path = Path(folder, name)
        with contextlib.suppress(OSError):  # a file where the assignment has a folder
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
