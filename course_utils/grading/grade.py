"""Grade a class: prepare the labs, run each submission, write feedback and grades. One failure never stops the rest."""

import hashlib

from tqdm.auto import tqdm

from .course import Course, last_words
from .report import write_grades
from .submissions import find_submissions

WARNING = (
    "Students' code is now executed on this computer, with your rights and without any protection: "
    "it can read and change your files and use the network."
)


def grade_course(folder, lab=None, student=None, force=False, repository=None):
    """Grade what is in `folder`/submitted and not graded yet; returns the rows of grades.csv (see report.py).

    A submission is graded again where it or its lab is another than what was graded, or with `force`.
    Raises GradingError where nothing can be graded at all.
    """
    course = Course(folder, repository)
    submissions = find_submissions(course, lab, student)
    for name in sorted({submission.lab for submission in submissions} & set(course.labs)):
        course.prepare(name)
    print(WARNING, flush=True)
    progress = tqdm(submissions, desc="Grading", unit="submission")
    for submission in progress:
        progress.set_postfix_str(submission.student)
        if not submission.problem and (force or is_stale(course, submission)):
            submission.problem = execute(course, submission)
        if not submission.problem:
            submission.problem = give_feedback(course, submission)
    return write_grades(course, find_all(course, submissions))


def find_all(course, graded):
    """Every submission of the class, so that grades.csv is whole; those just graded keep what was found."""
    known = {(submission.student, submission.lab): submission for submission in graded}
    return [known.get((s.student, s.lab), s) for s in find_submissions(course)]


def is_stale(course, submission):
    """Is there no grade yet, or one of another notebook or another state of the lab?

    Told by content: a file that is copied or unpacked often keeps a date older than its grade.
    """
    graded = course.path("autograded", submission.student, submission.lab)
    stamp = course.stamp(submission.student, submission.lab)
    return not (graded.exists() and stamp.exists()) or stamp.read_text("utf-8") != fingerprint(course, submission)


def fingerprint(course, submission):
    """What a grade follows from, the submitted notebook and the lab's source, as a hash of their contents."""
    paths = course.path("submitted", submission.student, submission.lab), course.path("source", ".", submission.lab)
    return " ".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)


def execute(course, submission):
    """Run one submission's cells and score them: nbgrader's stock autograde. Returns what went wrong, or "".

    The stamp goes first and comes back last, so that grading which failed or was stopped is taken up by the next run.
    """
    stamp, content = course.stamp(submission.student, submission.lab), fingerprint(course, submission)
    stamp.unlink(missing_ok=True)
    course.feedback(submission.student, submission.lab).unlink(missing_ok=True)
    result = course.api.autograde(submission.lab, submission.student, force=True)
    if "KeyboardInterrupt" in result.get("error", ""):  # nbgrader's API takes it for a student's failure
        raise KeyboardInterrupt
    if not result["success"]:
        return f"The notebook could not be run: {_logged(course, submission, result)}"
    stamp.write_text(content, "utf-8")
    return ""


def give_feedback(course, submission):
    """Write the student's feedback page, with what graders have added by now. Returns what went wrong, or ""."""
    result = course.api.generate_feedback(submission.lab, submission.student, force=True)
    return "" if result["success"] else f"Feedback could not be written: {_logged(course, submission, result)}"


def _logged(course, submission, result):
    """Keep nbgrader's whole log for the instructor, and give back the sentence that matters."""
    file = course.folder / "logs" / f"{submission.student}_{submission.lab}.log"
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"{result.get('log', '')}\n{result.get('error', '')}", "utf-8")
    return f"{last_words(result)} (see logs/{file.name})"
