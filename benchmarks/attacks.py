"""What hostile submissions do to stock nbgrader, and to `python -m course_utils.grading`.

Every submission of tests/grading_corpus.py is graded by both, with the same limits, and what it got is compared with
what it deserves. Prints a table and writes course_utils/measured/attacks.json, which the site shows.

    python benchmarks/attacks.py [--only NAME NAME ...] [--system stock|ours]     (both: about seven minutes)

Stock grades each submission in a process of its own, which is killed after two minutes: otherwise the first that stops
or kills its parent would end this benchmark too. The attacks are harmless: see the corpus.
"""

import argparse
import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from grading_class import Draft, Place, judge, processes  # noqa: E402
from grading_corpus import CORPUS  # noqa: E402
from nbgrader.apps import NbGraderAPI  # noqa: E402
from traitlets.config import Config  # noqa: E402

MEASURED = ROOT / "course_utils" / "measured" / "attacks.json"
SECONDS_A_CELL, SECONDS_A_SUBMISSION, MOST_MEMORY = 10, 120, 8 << 30


def stock(place, submissions):
    """Grade with nbgrader as it comes; {name: Verdict}."""
    config = Config()
    config.CourseDirectory.root = str(place.course)
    config.Execute.timeout = SECONDS_A_CELL
    config.NbGraderAPI.log_level = 50
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where alembic is
    api = NbGraderAPI(config=config)
    for assignment in place.released:
        result = api.generate_assignment(assignment)
        assert result["success"], result
    verdicts = {}
    for submission in submissions:
        start = time.monotonic()
        ended = in_a_child(lambda one=submission: grade_with(config, one))
        verdicts[submission.name] = judge(place, submission)
        if not ended:
            verdicts[submission.name].damage.append("stopped the grader")
        clean_up(place, submission)
        print(f"{time.monotonic() - start:6.1f} s  {submission.name:32}{verdicts[submission.name]}", flush=True)
    return verdicts


def grade_with(config, submission):
    sys.stdout = sys.stderr = open(os.devnull, "w")
    os.dup2(sys.stdout.fileno(), 1)
    os.dup2(sys.stdout.fileno(), 2)
    api = NbGraderAPI(config=config)
    graded = api.autograde(submission.assignment, submission.name, force=True)
    if graded["success"] and submission.kind in ("feedback", "script"):
        api.generate_feedback(submission.assignment, submission.name, force=True)


def in_a_child(work):
    """Run work() in a forked process; false where it did not end by itself within its time."""
    child = os.fork()
    if child == 0:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))  # for the machine's sake
        with contextlib.suppress(BaseException):
            work()
            os._exit(0)
        os._exit(1)
    end = time.monotonic() + SECONDS_A_SUBMISSION
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.WIFEXITED(status)
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def clean_up(place, submission):
    """End what the submission left: its own processes, and kernels that nobody stopped."""
    for mark in (place.token(submission.name), str(place.home)):
        for pid, command in processes(mark):
            if b"ipykernel" in command or b"time.sleep" in command:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    shutil.rmtree(place.home / ".ipython", ignore_errors=True)


def ours(place, submissions):
    """Grade with the course's grader, in one batch; {name: Verdict}."""
    from course_utils.grading import grade_course
    from course_utils.grading.execute import Limits

    limits = Limits(cell_seconds=SECONDS_A_CELL, notebook_seconds=SECONDS_A_SUBMISSION)
    grade_course(place.course, limits=limits, workers=4)  # two wait while two work
    return {submission.name: judge(place, submission) for submission in submissions}


def measure(system, names):
    """Make a class of the corpus in a temporary folder and grade it; {name: Verdict}."""
    chosen = [s for s in CORPUS if not names or s.name in names or s.name == "right"]
    with tempfile.TemporaryDirectory(prefix="attacks-") as folder, Place(Path(folder) / "class") as place:
        for submission in chosen:
            draft = Draft(place, submission.name, submission.assignment)
            submission.edit(draft)
            draft.save()
        return system(place, chosen)


def table(rows):
    """The rows as text: kind, what was tried, what it got."""
    lines = [f"{'':12}{'what it does':84}{'stock':>32}{'ours':>32}"]
    for row in rows:
        cells = [in_words(row[name]) if name in row else "-" for name in ("stock", "ours")]
        lines.append(f"{row['kind']:12}{row['what'][:82]:84}{cells[0][:30]:>32}{cells[1][:30]:>32}")
    return "\n".join(lines)


def in_words(got):
    words = [f"+{got['more']:g}"] if got["more"] else []
    words += [f"-{got['fewer']:g}"] if got["fewer"] else []
    return ", ".join(words + got["damage"]) or "as deserved"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="these submissions only")
    parser.add_argument("--system", choices=("stock", "ours"), help="one of the two only")
    arguments = parser.parse_args()
    systems = [system for system in (stock, ours) if arguments.system in (None, system.__name__)]
    found = {system.__name__: measure(system, arguments.only) for system in systems}
    known = {row["name"]: row for row in json.loads(MEASURED.read_text())} if MEASURED.exists() else {}
    for system, verdicts in found.items():
        for name, verdict in verdicts.items():
            known.setdefault(name, {})[system] = vars(verdict)
    rows = []
    for submission in CORPUS:
        told = {"name": submission.name, "kind": submission.kind, "what": submission.what}
        rows.append(told | {k: v for k, v in known.get(submission.name, {}).items() if k in ("stock", "ours")})
    MEASURED.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
