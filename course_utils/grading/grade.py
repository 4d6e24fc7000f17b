"""Grade a class: workers repair and execute, one process writes. One failure never stops the rest.

A submission's stamp goes first and comes back last: what was stopped half-way, at whatever moment, is done anew by the
next run, and what was finished is left alone.
"""

import contextlib
import traceback

from tqdm.auto import tqdm

from .course import Course, GradingError, limits_of
from .execute import probe
from .worker import Job

UNSAFE = (
    "UNSAFE: students' code is now executed on this computer with your rights, without a sandbox: "
    "it can read and change your files and use the network."
)


def grade_course(
    folder,
    assignment=None,
    student=None,
    force=False,
    repository=None,
    unsafe=False,
    workers=None,
    scheduler=None,
    limits=None,
):
    """Grade what is in `folder`/submitted and not graded yet; returns the rows of grades.csv (see report.py).

    A submission is graded again where it or its assignment is another than what was graded, or with `force`. `unsafe`
    runs students' code without a sandbox; `scheduler` is the address of a dask cluster, else there are `workers`
    processes (default: one a core). `limits` (Limits) takes the place of the class's own. Raises GradingError where
    nothing can be graded at all, and SandboxError where there can be no sandbox.
    """
    course = Course(folder, repository)
    if unsafe:
        print(UNSAFE, flush=True)
    elif not scheduler:
        probe()
    with _cluster(scheduler, unsafe) if scheduler else _pool(course, unsafe, workers) as runner:
        runner.begin()  # while nbgrader is imported and the assignments are looked after
        return _with(runner, course, assignment, student, force, limits)


def _with(runner, course, assignment, student, force, limits):
    """Have the runner, a pool of workers or a cluster, grade what is new."""
    from .feedback import Pages
    from .report import write_grades
    from .submissions import find_submissions, misplaced
    from .writer import Writer

    found = find_submissions(course, assignment, student)
    if remark := misplaced(course):
        print(remark, flush=True)
    tasks = _tasks(course, found)
    submissions = [s for s in found if s.problem or s.assignment in tasks]
    for submission in submissions:
        submission.state = "" if submission.problem else course.fingerprint(submission)
    todo = [s for s in submissions if not s.problem and (force or course.is_stale(s))]
    with Writer(course, tasks, tqdm.write) as writer:
        pages = Pages(course, writer)
        if todo:
            _grade(course, writer, pages, todo, runner.run(_jobs(todo), tasks, limits or limits_of(course.config)))
        graded = {id(submission) for submission in todo}
        for submission in submissions:
            if id(submission) not in graded:
                _contained(course, submission, _page, writer, pages, submission)
    return write_grades(course, _all(course, found))


def _tasks(course, submissions):
    """Each assignment that something was handed in of, brought up to date, as workers need it.

    Where one can't be, that is noted with its submissions, whose grades stay; where none can be, it is raised.
    """
    tasks, errors = {}, {}
    for name in sorted({submission.assignment for submission in submissions} & set(course.assignments)):
        try:
            course.prepare(name)
            tasks[name] = course.task(name)
        except GradingError as error:
            errors[name] = error
            print(error, flush=True)
    if errors and not tasks:
        raise next(iter(errors.values()))
    for submission in submissions:
        if submission.assignment in errors:
            submission.notes.append(f"Not graded in this run: {errors[submission.assignment]}")
    return tasks


def _jobs(submissions):
    return [Job(submission.student, submission.assignment, str(submission.folder)) for submission in submissions]


def _pool(course, unsafe, workers):
    from .pool import Pool

    return Pool(unsafe, workers, course.log("workers"))


def _cluster(scheduler, unsafe):
    from .cluster import Cluster

    return Cluster(scheduler, unsafe)


def _grade(course, writer, pages, todo, outcomes):
    """Write down the outcomes of these submissions as they come, with a bar."""
    of = {(submission.student, submission.assignment): submission for submission in todo}
    for submission in todo:
        course.stamp(submission).unlink(missing_ok=True)
    with tqdm(total=len(todo), desc="Grading", unit="submission") as bar, contextlib.closing(outcomes):
        for job, outcome in outcomes:
            submission = of[job.student, job.assignment]
            bar.set_postfix_str(submission.student, refresh=False)
            submission.seconds, submission.problem = outcome.seconds, outcome.problem
            submission.notes += outcome.notes
            _contained(course, submission, _keep, writer, pages, submission, outcome)
            if not submission.problem and not outcome.halted:
                course.stamp(submission).write_text(submission.state, "utf-8")
            bar.update()


def _keep(writer, pages, submission, outcome):
    """Write down what came of one submission: gradebook, autograded/, feedback. Returns what the log has to hold."""
    if not outcome.problem:
        writer.record(submission, outcome)
    _page(writer, pages, submission)
    return outcome.log


def _page(writer, pages, submission):
    """Write the page that the student gets back."""
    if submission.problem:
        pages.write_problem(submission)
    else:
        writer.patiently(pages.write, submission)


def _contained(course, submission, write, *arguments):
    """Do it, keep a log, and let no submission stop the batch, whatever is in it."""
    try:
        log = write(*arguments)
    except (KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:
        arguments[0].gradebook.db.rollback()
        submission.problem = f"It could not be written down: {type(error).__name__}: {error}"[:300]
        log = traceback.format_exc()
    file = course.log(f"{submission.student}_{submission.assignment}")
    if log or submission.seconds is not None:
        head = f"{submission.student}, {submission.assignment}: {submission.seconds or 0:.1f} s"
        lines = [head, submission.problem, *submission.notes, log or ""]
        file.write_text("\n".join(filter(None, lines)) + "\n", "utf-8", errors="replace")
    if log:
        submission.problem += f" (see logs/{file.name})"


def _all(course, graded):
    """Every submission of the class, so that grades.csv is whole; those just graded keep what was found."""
    from .submissions import find_submissions

    known = {(submission.student, submission.assignment): submission for submission in graded}
    return [known.get((s.student, s.assignment), s) for s in find_submissions(course)]
