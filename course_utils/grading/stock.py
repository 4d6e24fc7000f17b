"""What nbgrader's own autograde does (and formgrader's button) instead of running code unprotected."""

from pathlib import Path

import nbformat
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import NbGraderPreprocessor

from .course import limits_of
from .execute import execute
from .sanitising import clean_notebook


class SafeExecute(NbGraderPreprocessor):
    """Executes a notebook as `make grade` does: students' cells in a sandbox, tests outside. Fails without one."""

    def preprocess(self, nb, resources):
        directory, names = CourseDirectory(parent=self), resources["nbgrader"]
        folder = directory.format_path(directory.autograded_directory, names["student"], names["assignment"])
        source = directory.format_path(directory.source_directory, ".", names["assignment"])
        path = Path(source, f"{names['notebook']}.ipynb")
        instructors = nbformat.read(path, as_version=4) if path.exists() else None
        executed = execute(nb, files=folder, limits=limits_of(self.config), source=instructors)
        return nbformat.from_dict(clean_notebook(executed)), resources
