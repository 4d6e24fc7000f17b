"""Odd notebooks graded right: what people, Colab, editors and mail programs do to a notebook costs nobody a point."""

import contextlib
import copy
import json
import os
import time
import tracemalloc

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell
from tiny_class import CUBES, RELEASED, SQUARES, WRONG, answers, cell, source

from course_utils.authoring.notebook import to_text
from course_utils.grading.course import Task
from course_utils.grading.reading import MOST_FILES, Parcel, Unreadable, pack, read_notebook
from course_utils.grading.repair import rebuild
from course_utils.grading.worker import choose, repair


def skeleton():
    """What was released, with the whole tests, as Course.task makes it."""
    whole = {c.metadata.nbgrader.grade_id: c.source for c in source().cells if "nbgrader" in c.metadata}
    made = copy.deepcopy(RELEASED)
    for c in made.cells:
        data = c.metadata.get("nbgrader", {})
        if data.get("locked"):
            c.metadata["released"], c.source = c.source, whole[data["grade_id"]]
    return made


TASK = Task("powers", {"powers": json.dumps(skeleton())}, {"powers": to_text(source())})


def repaired(content, name="powers.ipynb"):
    """(the notebook to grade, notes) of a file's bytes or a notebook."""
    content = to_text(content) if isinstance(content, nbformat.NotebookNode) else content
    notes = []
    found = repair(Parcel({name: content.encode() if isinstance(content, str) else content}, notes), TASK, notes)
    return found["powers"], " ".join(notes)


def texts(notebook):
    """The text of each marked cell, by grade_id."""
    return {c.metadata.nbgrader.grade_id: c.source for c in notebook.cells if "nbgrader" in c.metadata}


WHOLE = texts(skeleton()) | {"squares": SQUARES, "cubes": CUBES, "why": "Cubes."}


def is_whole(notebook):
    """Is everything there: the right answers, the instructor's tests, once each and in order?"""
    order = [c.metadata.nbgrader.grade_id for c in notebook.cells if "nbgrader" in c.metadata]
    return texts(notebook) == WHOLE and order == list(texts(skeleton()))


def test_an_untouched_notebook_needs_nothing():
    notebook, notes = repaired(answers())
    assert is_whole(notebook) and not notes
    assert [c.source for c in notebook.cells][:2] == ["# Powers", "import math"]
    nbformat.validate(notebook)


# ---- what happens to cells -------------------------------------------------------------------------------------------


def without_marks(notebook):
    for c in notebook.cells:
        c.metadata = {}
    return notebook


def without_ids(notebook):
    for number, c in enumerate(without_marks(notebook).cells):
        c.id = f"new-{number}"
    return notebook


def as_colab(notebook):
    """Colab's file: ids in the metadata, a form, format 4.0, and marks gone."""
    data = json.loads(to_text(without_marks(notebook)))
    for c in data["cells"]:
        c["metadata"] = {"id": c.pop("id"), "cellView": "form"}
        if c["cell_type"] == "code":
            c["source"] = ["# @title Answer\n", *c["source"]]
    return json.dumps(data | {"nbformat_minor": 0, "metadata": {"colab": {"provenance": []}}})


def doubled(notebook):
    return nbformat.from_dict(notebook | {"cells": [c for c in notebook.cells for _ in range(2)]})


def shuffled(notebook):
    return nbformat.from_dict(notebook | {"cells": notebook.cells[::-1]})


def without_tests(notebook):
    cells = [c for c in notebook.cells if not c.metadata.get("nbgrader", {}).get("locked")]
    return nbformat.from_dict(notebook | {"cells": cells})


def softened_tests(notebook):
    cell(notebook, "squares_test").source = "pass"
    cell(notebook, "cubes_test").source = ""
    return notebook


def old_format(notebook):
    """Format 3: worksheets, and a code cell's text is its input."""
    cells = json.loads(to_text(notebook))["cells"]
    for c in cells:
        del c["id"]
        if c["cell_type"] == "code":
            c |= {"input": c.pop("source"), "language": "python", "collapsed": False, "prompt_number": 1}
            c["outputs"] = [{"output_type": "stream", "stream": "stdout", "text": "old"}]
    return json.dumps({"metadata": {"name": ""}, "nbformat": 3, "nbformat_minor": 0, "worksheets": [{"cells": cells}]})


@pytest.mark.parametrize(
    "change, said",
    [
        (without_marks, ""),
        (without_ids, "known again by their"),
        (lambda n: as_colab(n).replace("# @title Answer\\n", ""), ""),
        (doubled, ""),
        (shuffled, "in another order"),
        (without_tests, "Put back, because they were missing: squares_test, cubes_test."),
        (softened_tests, "Changed tests or read-only cells were put back as they were: squares_test, cubes_test."),
        (old_format, ""),
        (lambda n: to_text(n).replace("\n", "\r\n"), ""),
        (lambda n: to_text(n).replace("\\n", "\\r\\n"), ""),
        (lambda n: to_text(n).encode("utf-8-sig"), ""),
        (lambda n: to_text(n).encode("utf-16"), ""),
        (lambda n: to_text(n).encode("utf-32-le"), ""),
    ],
)
def test_what_happens_to_a_notebook_costs_nothing(change, said):
    notebook, notes = repaired(change(answers()))
    assert is_whole(notebook)
    assert said in notes


def test_colabs_form_line_stays_in_the_answer_and_does_no_harm():
    notebook, _ = repaired(as_colab(answers()))
    assert texts(notebook)["squares"] == f"# @title Answer\n{SQUARES}"
    assert texts(notebook)["squares_test"] == WHOLE["squares_test"]


def test_letters_of_another_encoding_are_said():
    text = to_text(answers(why="Würfel.")).replace("\\u00fc", "ü")
    notebook, notes = repaired(text.encode("latin-1"))
    assert texts(notebook)["why"] == "Würfel." and "not text in UTF-8" in notes


def test_the_written_copy_of_a_doubled_answer_counts():
    notebook = answers(squares=None)
    notebook.cells.insert(3, copy.deepcopy(cell(notebook, "squares")))
    notebook.cells[2].source = SQUARES  # the first is written, the copy a stub
    rebuilt, notes = repaired(notebook)
    assert is_whole(rebuilt) and not notes
    assert sum(c.source.startswith("def squares") for c in rebuilt.cells) == 1


def test_of_two_different_copies_the_last_counts_and_it_is_said():
    notebook = answers(squares=WRONG)
    notebook.cells.insert(3, copy.deepcopy(cell(notebook, "squares")))
    notebook.cells[3].source = SQUARES
    rebuilt, notes = repaired(notebook)
    assert is_whole(rebuilt) and "squares was there more than once: the last one counts" in notes
    assert [c.source for c in rebuilt.cells if c.source.startswith("def squares")] == [WRONG, SQUARES]


def test_own_cells_stay_in_their_place_and_claim_nothing():
    notebook = answers(squares="def squares(n):\n    return [power(i) for i in range(n)]")
    helper = new_code_cell("def power(i):\n    return i**2")
    helper.metadata["nbgrader"] = dict(grade_id="mine", grade=True, solution=False, locked=True, points=100)
    notebook.cells.insert(2, helper)
    notebook.cells.append(new_markdown_cell("The end."))
    rebuilt, notes = repaired(notebook)
    sources = [c.source for c in rebuilt.cells]
    assert sources[2] == helper.source and "nbgrader" not in rebuilt.cells[2].metadata
    assert sources[-1] == "The end." and "One cell claimed to be graded" in notes


def test_answers_without_marks_or_likeness_are_known_by_what_they_define_or_by_their_place():
    long = SQUARES.replace("return [", "# one\n    # two\n    result = []\n    # three\n    return result + [")
    rebuilt, notes = repaired(without_ids(answers(squares=long)))
    assert texts(rebuilt)["squares"] == long and texts(rebuilt)["why"] == "Cubes."
    assert "definition" in notes and "place" in notes


def test_what_is_not_found_is_said_and_not_guessed():
    notebook = without_ids(answers())
    notebook.cells = [c for c in notebook.cells if c.source not in (CUBES, "Cubes.", "Which grows faster, and why?")]
    notebook.cells += [new_markdown_cell("One remark."), new_markdown_cell("Another one.")]
    rebuilt, notes = repaired(notebook)
    assert texts(rebuilt)["cubes"] == texts(skeleton())["cubes"] and "No answer was found to cubes, why" in notes
    assert texts(rebuilt)["why"] == texts(skeleton())["why"]
    assert {"One remark.", "Another one."} < {c.source for c in rebuilt.cells}


def test_a_cell_of_another_type_is_still_the_answer():
    notebook = answers()
    place = notebook.cells.index(cell(notebook, "squares"))
    notebook.cells[place] = new_markdown_cell(SQUARES, metadata=notebook.cells[place].metadata)
    rebuilt, _ = repaired(notebook)
    assert is_whole(rebuilt) and cell(rebuilt, "squares").cell_type == "code"


def test_a_free_cell_that_is_missing_is_put_back_unless_something_stands_in_its_place():
    gone = answers()
    del gone.cells[1]
    assert "import math" in [c.source for c in repaired(gone)[0].cells]
    replaced = answers()
    replaced.cells[1] = new_code_cell("import numpy as np, math", id="another")
    sources = [c.source for c in repaired(without_marks(replaced))[0].cells]
    assert "import numpy as np, math" in sources and "import math" not in sources


def test_pictures_in_a_written_answer_stay_and_nothing_else_does():
    notebook = answers()
    cell(notebook, "why").attachments = {"a.png": {"image/png": "aGk="}, "b.html": {"text/html": "<script>"}}
    assert cell(repaired(notebook)[0], "why").attachments == {"a.png": {"image/png": "aGk="}}


# ---- what happens to files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content, words",
    [
        ("", "The file is empty"),
        ("\0" * 500, "The file is empty"),
        ("this is no notebook", "damaged or cut off (at line 1)"),
        ('{"cells": "none"}', "not a Jupyter notebook"),
        ("[" * 100_000, "not a Jupyter notebook"),
        ("[1, 2]", "not a Jupyter notebook"),
        ('{"cells": [], "nbformat": 4}', "without cells"),
        ('{"cells": [1, null, {"cell_type": "x"}], "nbformat": 4}', "without cells"),
        ('{"nbformat": 3, "worksheets": [7]}', "old and can't be read"),
        ('{"cells": ' + "9" * 5000 + "}", "not a Jupyter notebook"),
        (to_text(nbformat.v4.new_notebook(cells=[new_code_cell("1")] * 2001)), "has 2001 cells"),
        (to_text(nbformat.v4.new_notebook(cells=[new_code_cell("another = 1")])), "none of the assignment's cells"),
    ],
)
def test_what_cannot_be_graded_is_said_in_words_for_the_student(content, words):
    with pytest.raises(Unreadable) as caught:
        repaired(content)
    assert words in str(caught.value)


def test_of_a_file_that_was_cut_off_the_complete_cells_are_graded():
    text = to_text(answers())
    rebuilt, notes = repaired(text[: text.index("def cubes")])
    assert texts(rebuilt)["squares"] == SQUARES
    assert "damaged or cut off" in notes and "No answer was found to cubes" in notes


def test_outputs_take_no_memory():
    notebook = answers()
    for code in (c for c in notebook.cells if c.cell_type == "code"):
        code.outputs = [nbformat.v4.new_output("stream", text="x" * 12_000_000)]
    content = to_text(notebook).encode()
    assert len(content) > 60e6
    tracemalloc.start()
    cells, _ = read_notebook(content)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(cells) == len(notebook.cells)
    assert kept < 1e6 and peak < 1.5 * len(content)


def test_files_are_packed_with_care(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "ada" / "powers"
    (folder / "data").mkdir(parents=True)
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / "powers.ipynb").write_text("{}")
    (folder / "data" / "ü b.csv").write_text("1")
    (folder / ".ipynb_checkpoints" / "powers.ipynb").write_text("old")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "folder").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    parcel = pack(folder)
    assert parcel.files == {"powers.ipynb": b"{}", "data/ü b.csv": b"1"}
    assert sorted(parcel.notes) == [
        "folder is a link and was left out.",
        "link.txt is a link and was left out.",
        "pipe is not a plain file and was left out.",
    ]
    assert pack(tmp_path / "absent").files == {}


def test_too_much_is_refused(tmp_path, monkeypatch):
    for number in range(MOST_FILES + 5):
        (tmp_path / f"{number}.txt").touch()
    assert len(pack(tmp_path).files) == MOST_FILES
    monkeypatch.setattr("course_utils.grading.reading.LARGEST_NOTEBOOK", 10)
    (tmp_path / "powers.ipynb").write_text("x" * 11)
    with pytest.raises(Unreadable, match="clear its outputs"):
        pack(tmp_path)


# ---- which file ------------------------------------------------------------------------------------------------------

RIGHT, OTHER = to_text(answers()).encode(), to_text(nbformat.v4.new_notebook(cells=[new_code_cell("1")])).encode()


@pytest.mark.parametrize(
    "files, chosen, said",
    [
        ({"powers.ipynb": RIGHT}, "powers.ipynb", ""),
        ({"Copy of Powers (2).ipynb": RIGHT}, "Copy of Powers (2).ipynb", "was taken for powers.ipynb"),
        ({"powers-1.ipynb": RIGHT, "notes.ipynb": OTHER}, "powers-1.ipynb", "Not graded, because one notebook"),
        ({"homework.ipynb": RIGHT, "notes.ipynb": OTHER}, "homework.ipynb", "was taken for powers.ipynb"),
        ({"powers.ipynb": RIGHT, "powers-1.ipynb": RIGHT}, "powers.ipynb", "Not graded, because one notebook"),
        ({"powers (1).ipynb": OTHER, "powers (2).ipynb": RIGHT}, "powers (2).ipynb", "was taken for"),
        ({"mine/powers.ipynb": RIGHT}, "mine/powers.ipynb", "was taken for"),
        ({"POWERS.IPYNB": RIGHT}, "POWERS.IPYNB", "was taken for"),
    ],
)
def test_the_right_one_of_several_notebooks(files, chosen, said):
    notes = []
    assert choose(Parcel(files, []), TASK, notes) == {"powers": chosen}
    assert said in " ".join(notes)


def test_none_of_the_notebooks():
    with pytest.raises(Unreadable, match=r"No notebook was handed in: powers.ipynb is missing"):
        choose(Parcel({"powers.pdf": b""}, []), TASK, [])
    with pytest.raises(Unreadable, match="None of the notebooks handed in"):
        choose(Parcel({"a.ipynb": OTHER, "b.ipynb": OTHER}, []), TASK, [])


def test_an_assignment_of_two_notebooks():
    task = Task("ps", TASK.skeletons | {"second": TASK.skeletons["powers"]}, TASK.sources)
    notes = []
    assert choose(Parcel({"second.ipynb": RIGHT}, []), task, notes) == {"second": "second.ipynb"}
    assert notes == ["powers.ipynb was not handed in: no points for it."]


def test_a_notebook_made_to_be_slow_is_not():
    like = [new_code_cell(c.source.replace("squares", f"power{n}") * 9) for n in range(100) for c in RELEASED.cells]
    cells = read_notebook(to_text(without_ids(nbformat.v4.new_notebook(cells=like))).encode())[0]
    begin = time.process_time()
    with contextlib.suppress(Unreadable):
        rebuild(skeleton(), cells)
    assert time.process_time() - begin < 30
