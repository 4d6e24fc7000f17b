"""A stand-in for Colab: a clean environment, the notebook alone in a folder, its own set-up cell installs the course.

The environment has the libraries of this one less the course itself and less what Colab doesn't ship. There is no
network: git finds the course's public address in a copy of this working tree, and pip looks at no index.
"""

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import nbformat
import pytest
from lab_tools import ROOT, shortened

from course_utils.authoring import find_labs, source_notebook
from course_utils.authoring.address import Address
from course_utils.authoring.chapters import chapters

COURSE = ("course_utils", "__editable__")
NOT_ON_COLAB = (
    "jupyter_book",
    "myst_nb",
    "myst_parser",
    "nbgrader",
    "jupytext",
    "nbmake",
    "sphinx",
    "ot",
    "playwright",
)
RUN = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[1])
"""


@pytest.fixture(scope="module")
def public_copy(tmp_path_factory):
    """The course as git would serve it at its public address: what pip needs of this working tree, committed."""
    copy = tmp_path_factory.mktemp("public")
    shutil.copytree(ROOT / "course_utils", copy / "course_utils", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (
        ["init", "-q", "-b", Address.read(ROOT).branch],
        ["add", "."],
        [*identity, "commit", "-qm", "copy"],
    ):
        subprocess.run(["git", *command], cwd=copy, check=True)
    return copy


@pytest.fixture(scope="module")
def colab(tmp_path_factory, public_copy):
    """A function that runs a notebook (its text) in a clean environment and gives back the executed notebook.

    The first notebook that is run installs the course, as all their set-up cells are the same.
    """
    tmp_path = tmp_path_factory.mktemp("colab")
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(COURSE) and path.name not in NOT_ON_COLAB and path.suffix != ".pth":
            (libraries / path.name).symlink_to(path)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    packages = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    Path(packages, "libraries.pth").write_text(f"{libraries}\n")
    folder = tmp_path / "content"
    folder.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "JUPYTER", "PIP_"))}
    environment |= {
        "HOME": str(tmp_path),
        "JUPYTER_PLATFORM_DIRS": "1",
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this one upside down: 0 means no isolation
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{public_copy.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": Address.read(ROOT).repository,
    }

    where = [python, "-c", "import course_utils; print(course_utils.__file__)"]
    assert subprocess.run(where, cwd=folder, capture_output=True).returncode != 0  # the course is not there yet

    def run(text):
        file = folder / "notebook.ipynb"
        file.write_text(text, "utf-8")
        ran = subprocess.run([python, "-c", RUN, file], cwd=folder, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr[-3000:]
        installed = subprocess.run(where, cwd=folder, capture_output=True, text=True, check=True).stdout
        assert installed.startswith(packages)
        return nbformat.read(file, as_version=4)

    return run


def test_all_set_up_cells_install_alike():
    paths = sorted((ROOT / "notebooks").rglob("*.ipynb"))
    cells = [cell for path in paths for cell in nbformat.read(path, as_version=4).cells]
    install = [cell.source.split("\n\n")[0] for cell in cells if cell.source.startswith("# Set-up.")]
    assert len(install) == len(paths) > 1  # one a notebook
    assert len(set(install)) == 1 and "%pip install" in install[0]


@pytest.mark.slow
@pytest.mark.parametrize("lab", find_labs(ROOT), ids=lambda path: path.stem)
def test_the_solved_lab_runs_in_colab(lab, colab):
    """Strictly: no cell raises, hidden tests included. Only trainings are cut short."""
    notebook = colab(nbformat.writes(shortened(source_notebook(lab))))
    said = "".join(str(cell.outputs) for cell in notebook.cells if cell.cell_type == "code")
    assert "✗" not in said and "not written yet" not in said


@pytest.mark.slow
@pytest.mark.parametrize("name", chapters(ROOT))
def test_a_chapter_has_what_it_imports_in_colab(name, colab):
    """Its set-up cell, and all that its cells import: `make book` runs the rest of the same cells."""
    notebook = nbformat.read(ROOT / "notebooks" / "chapters" / f"{name}.ipynb", as_version=4)
    set_up = [cell for cell in notebook.cells if cell.source.startswith("# Set-up.")]
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code" and cell not in set_up]
    imports = [line for source in code for line in import_statements(source)]
    assert len(set_up) == 1 and imports
    notebook.cells = [*set_up, nbformat.v4.new_code_cell("\n".join(imports))]
    colab(nbformat.writes(notebook))


def import_statements(source):
    """The imports of a cell, indented ones too, each on a line; notebook commands (%) are passed over."""
    lines = [line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))]
    nodes = ast.walk(ast.parse("\n".join(lines)))
    return [ast.unparse(node) for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))]
