"""Grading a class: nbgrader's workflow in one command, `python -m course_utils.grading --course FOLDER`.

Submissions run as stock nbgrader runs them: on this computer, with your rights, without any protection.
"""

from .course import Course, GradingError, nbgrader_config
from .grade import grade_course

__all__ = ["Course", "GradingError", "grade_course", "nbgrader_config"]
