"""The students' notebooks, run as they are handed out: nothing stops but what is not written yet."""

import subprocess
import sys

import nbformat
import pytest
from lab_tools import ROOT, grade_id, only_graded, shortened
from nbclient import NotebookClient

from course_utils.authoring import find_labs, source_notebook

LABS = find_labs(ROOT)


@pytest.mark.slow
@pytest.mark.parametrize("lab", LABS, ids=lambda path: path.stem)
def test_the_students_notebook_stops_only_at_unwritten_answers(lab, tmp_path):
    notebook = shortened(nbformat.read(ROOT / "notebooks" / lab.stem / f"{lab.stem}.ipynb", as_version=4))
    NotebookClient(notebook, timeout=300, allow_errors=True, resources={"metadata": {"path": tmp_path}}).execute()
    graded = {grade_id(cell) for cell in source_notebook(lab).cells if cell.metadata.get("nbgrader", {}).get("grade")}
    unwritten = 0
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                assert grade_id(cell) in graded or output.ename == "NotImplementedError", cell.source
            assert not (output.output_type == "stream" and output.name == "stderr" and grade_id(cell)), output.text
        unwritten += grade_id(cell) in graded and "not written yet" in str(cell.get("outputs"))
    assert unwritten == len([cell for cell in notebook.cells if grade_id(cell) in graded and cell.cell_type == "code"])


@pytest.mark.slow
@pytest.mark.parametrize("lab", LABS, ids=lambda path: path.stem)
def test_the_solved_lab_passes_nbmake(lab, tmp_path):
    """Its answers and tests; the stand-in for Colab runs it whole, pictures and all, with shorter trainings."""
    file = tmp_path / f"{lab.stem}.ipynb"
    nbformat.write(only_graded(source_notebook(lab)), file)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "--nbmake", "--nbmake-timeout=300", file]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0 and "1 passed" in ran.stdout, ran.stdout[-3000:]


@pytest.mark.parametrize("lab", LABS, ids=lambda path: path.stem)
def test_every_answer_has_three_hints(lab):
    """Three folded hints stand beside each answer cell of code: below it, before the next one."""
    hints, name = {}, None
    for cell in source_notebook(lab).cells:
        if cell.cell_type == "code" and cell.metadata.get("nbgrader", {}).get("solution"):
            name = grade_id(cell)
            hints[name] = 0
        elif name and cell.cell_type == "markdown":
            hints[name] += cell.source.count("<summary>Hint")
    assert hints == dict.fromkeys(hints, 3)
