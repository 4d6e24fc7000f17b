"""From one source to notebooks: labs (solutions/) and chapters (book/) become what opens in Colab.

`python -m course_utils.authoring` writes notebooks/ anew, byte for byte the same each time;
with `--check` it only says what is out of step.
"""

from .build import build, out_of_step
from .chapters import chapter_notebook, chapters
from .errors import AuthoringError
from .labs import find_labs, source_notebook, student_notebook

__all__ = [
    "AuthoringError",
    "build",
    "chapter_notebook",
    "chapters",
    "find_labs",
    "out_of_step",
    "source_notebook",
    "student_notebook",
]
