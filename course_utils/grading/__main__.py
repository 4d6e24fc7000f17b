"""Grade a class: `python -m course_utils.grading --course FOLDER`, and the way from and to a learning platform.

... --course FOLDER [--assignment NAME] [--student ID] [--force]        grade submitted/
... collect --course FOLDER --assignment NAME ARCHIVE.zip               an LMS's archive, into submitted/
... export --course FOLDER --assignment NAME --canvas|--moodle CSV      grades into the file that it takes
... feedback --course FOLDER --assignment NAME                          feedback/, into a zip that Moodle takes
"""

import argparse
import logging
import os
import sys

from . import NEEDS_LINUX


def parser():
    made = argparse.ArgumentParser(
        prog="python -m course_utils.grading", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = made.add_subparsers(dest="command", metavar="")
    grade = commands.add_parser("grade", help="grade submitted/ (also without this word)")
    collect = commands.add_parser("collect", help="sort a learning platform's archive into submitted/")
    export = commands.add_parser("export", help="write grades as a learning platform takes them")
    feedback = commands.add_parser("feedback", help="pack the students' pages as Moodle takes them")
    for command in (grade, collect, export, feedback):
        command.add_argument("--course", required=True, metavar="FOLDER", help="the class's folder")
        command.add_argument("--assignment", metavar="NAME", required=command is not grade, help="this assignment only")
    grade.add_argument("--student", metavar="ID", help="grade this student only")
    grade.add_argument("--force", action="store_true", help="grade again what is graded already")
    grade.add_argument("--unsafe", action="store_true", help="run students' code WITHOUT a sandbox, with your rights")
    grade.add_argument("--workers", type=number, metavar="N", help="processes (default: one a core)")
    grade.add_argument("--scheduler", metavar="tcp://...", help="run the workers on this dask cluster")
    collect.add_argument("archive", metavar="ARCHIVE.zip", help="all submissions, as Canvas or Moodle hands them out")
    kind = export.add_mutually_exclusive_group(required=True)
    kind.add_argument("--canvas", metavar="GRADES.csv", help="Canvas's exported gradebook, to be filled in")
    kind.add_argument("--moodle", metavar="WORKSHEET.csv", help="Moodle's grading worksheet, to be filled in")
    for command in (export, feedback):
        command.add_argument("--to", metavar="FILE", help="where to write it (default: beside the class's grades.csv)")
    return made


def number(text):  # argparse calls what it refuses "invalid number value"
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least one worker is needed")
    return value


def main():
    if sys.platform != "linux":
        sys.exit(NEEDS_LINUX)
    words = sys.argv[1:]
    if words and words[0] not in (*COMMANDS, "-h", "--help"):
        words = ["grade", *words]
    arguments = parser().parse_args(words or ["--help"])
    logging.getLogger("traitlets").addHandler(logging.NullHandler())
    try:
        COMMANDS[arguments.command](arguments)
    except KeyboardInterrupt:
        sys.exit("\nStopped. What is graded is kept; run it again to go on.")
    except _for_people() as error:
        sys.exit(str(error))


def _for_people():
    """The errors whose message is all that is to be said."""
    from course_utils.authoring import AuthoringError

    from .course import GradingError
    from .execute import SandboxError

    return GradingError, AuthoringError, SandboxError


def _grade(arguments):
    from .grade import grade_course

    options = {name: value for name, value in vars(arguments).items() if name not in ("command", "course")}
    rows = grade_course(arguments.course, **options)
    from .report import summary

    print(f"\n{summary(rows)}\n\nWritten to {arguments.course}: grades.csv, feedback/ and the gradebook.")


def _collect(arguments):
    from .lms import collect

    print(collect(arguments.course, arguments.assignment, arguments.archive))


def _export(arguments):
    from .lms import export

    kind = "canvas" if arguments.canvas else "moodle"
    print(export(arguments.course, arguments.assignment, kind, arguments.canvas or arguments.moodle, arguments.to))


def _feedback(arguments):
    from .lms import pack_feedback

    print(pack_feedback(arguments.course, arguments.assignment, arguments.to))


COMMANDS = {"grade": _grade, "collect": _collect, "export": _export, "feedback": _feedback}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
