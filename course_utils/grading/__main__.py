"""`python -m course_utils.grading --course FOLDER [--assignment NAME] [--student ID] [--force]`: grade a class."""

import argparse
import logging
import sys

from course_utils.authoring import AuthoringError

from .course import GradingError
from .grade import grade_course
from .report import summary


def main():
    parser = argparse.ArgumentParser(prog="python -m course_utils.grading", description=__doc__)
    parser.add_argument("--course", required=True, metavar="FOLDER", help="the class's folder, which holds submitted/")
    parser.add_argument("--assignment", metavar="NAME", help="grade this assignment only")
    parser.add_argument("--student", metavar="ID", help="grade this student only")
    parser.add_argument("--force", action="store_true", help="grade again what is graded already")
    arguments = parser.parse_args()
    logging.getLogger("traitlets").addHandler(logging.NullHandler())
    try:
        rows = grade_course(arguments.course, arguments.assignment, arguments.student, arguments.force)
    except (GradingError, AuthoringError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("\nStopped. What is graded is kept; run it again to go on.")
    print(f"\n{summary(rows)}\n\nWritten to {arguments.course}: grades.csv, feedback/ and the gradebook.")


if __name__ == "__main__":
    main()
