"""nbgrader's settings for formgrader (`make lab COURSE=folder`): the same as `make grade` uses."""

import os

from course_utils.grading import nbgrader_config

c = get_config()  # noqa: F821  (nbgrader defines it)
c.merge(nbgrader_config(os.environ.get("COURSE", ".")))
