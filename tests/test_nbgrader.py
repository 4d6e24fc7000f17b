"""The round trip through nbgrader: every answer gets its points, every mistake costs exactly its own."""

import csv
import html
import itertools
import json
import os
import subprocess
import sys

import nbformat
import pytest
from lab_tools import ROOT, SMALL_LAB, grade_id, only_defines, only_graded, small_repository
from nbgrader.api import Gradebook

from course_utils.authoring import find_labs, source_notebook
from course_utils.authoring.notebook import to_text
from course_utils.exercises import EXERCISES
from course_utils.grading import Course, GradingError, SandboxError, grade_course
from course_utils.grading.demo import CLASS, exercise_ids, make_class, misconception, right_answers, submission
from course_utils.grading.execute import probe
from course_utils.grading.report import summary
from course_utils.grading.submissions import find_submissions

LABS = find_labs(ROOT)
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")


def grade(folder, **options):
    """The rows of grades.csv by student; on a machine that has no sandbox, graded without."""
    try:
        probe()
    except SandboxError:
        options["unsafe"] = True
    return {row["student"]: row for row in grade_course(folder, **options)}


def hand_in(folder, student, lab, text):
    path = folder / "submitted" / student / lab / f"{lab}.ipynb"
    path.parent.mkdir(parents=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# ---- every misconception, without nbgrader ---------------------------------------------------------------------------


def points(source, answers):
    """The automatic points of `answers`, counted as nbgrader counts them: a tests cell that raises gets none."""
    namespace, scores = {}, {}
    for cell in source.cells:
        name = grade_id(cell)
        if name is None and only_defines(cell):
            exec(cell.source, namespace)
        elif name in answers and cell.cell_type == "code":
            exec(answers[name], namespace)
        elif name and name.endswith("_test"):
            try:
                exec(
                    cell.source, namespace | {"check": lambda *_: None}
                )  # the verdicts for students cost time and no points
                scores[name.removesuffix("_test")] = cell.metadata.nbgrader.points
            except Exception:
                scores[name.removesuffix("_test")] = 0
    return scores


@pytest.mark.parametrize("lab", LABS, ids=lambda path: path.stem)
def test_each_misconception_loses_exactly_its_points(lab):
    right, source = right_answers(lab), source_notebook(lab)
    whole = points(source, right)
    graded_by = exercise_ids(lab)
    assert whole == {name: EXERCISES[exercise].points for name, exercise in graded_by.items()}
    left = {name: list(EXERCISES[exercise].misconceptions) for name, exercise in graded_by.items()}
    for keep in itertools.cycle(left):  # all wrong at once but one, another one each time
        wrong = {name: mistakes.pop() for name, mistakes in left.items() if mistakes and name != keep}
        answers = right | {name: misconception(graded_by[name], mistake) for name, mistake in wrong.items()}
        assert points(source, answers) == whole | dict.fromkeys(wrong, 0), wrong
        if not any(left.values()):
            break


# ---- through nbgrader ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("lab", LABS, ids=lambda path: path.stem)
def test_round_trip(lab, tmp_path):
    right, graded_by = right_answers(lab), exercise_ids(lab)
    half = list(graded_by)[: len(graded_by) // 2]  # of these every second one is mistaken; the rest is not written
    mistaken = {name: next(iter(EXERCISES[graded_by[name]].misconceptions)) for name in half[::2]}
    wrong = {name: misconception(graded_by[name], mistake) for name, mistake in mistaken.items()}
    answers = {"solved": right, "blank": {}, "partial": {name: right[name] for name in half} | wrong}
    for student, given in answers.items():
        hand_in(tmp_path, student, lab.stem, to_text(only_graded(submission(lab, given))))
    rows = grade(tmp_path)

    worth = {name: EXERCISES[exercise].points for name, exercise in graded_by.items()}
    written = sum(
        cell.metadata.nbgrader.points
        for cell in source_notebook(lab).cells
        if grade_id(cell) in right.keys() - graded_by.keys()
    )
    expected = {
        "solved": worth,
        "blank": dict.fromkeys(worth, 0),
        "partial": worth | dict.fromkeys(worth.keys() - half, 0) | dict.fromkeys(mistaken, 0),
    }
    for student, exercises in expected.items():
        row = rows[student]
        assert row["problem"] == ""
        assert {name: row[f"{lab.stem}/{name}"] for name in worth} == exercises
        assert row["score"] == sum(exercises.values())
        assert row["max_score"] == sum(worth.values()) + written
        assert row["written_pending"] == (written if student == "solved" else 0)
        assert (tmp_path / "feedback" / student / lab.stem / f"{lab.stem}.html").exists()


@pytest.fixture(scope="module")
def small_class(tmp_path_factory):
    """A graded class of the small lab: the made-up students, and everything that people hand in by mistake."""
    repository, folder = tmp_path_factory.mktemp("repository"), tmp_path_factory.mktemp("class")
    lab = small_repository(repository)
    make_class(folder, repository)
    hand_in(folder, "empty", "03_small", "")
    hand_in(folder, "latin", "03_small", "é".encode("latin-1"))
    hand_in(folder, "no_json", "03_small", "this is no notebook")
    hand_in(folder, "other_json", "03_small", json.dumps({"cells": "none"}))
    hand_in(folder, "other_notebook", "03_small", to_text(nbformat.v4.new_notebook()))
    hand_in(folder, "other_lab", "99_unknown", "")
    hand_in(folder, 'O"Neil, Pat', "03_small", to_text(only_graded(submission(lab, right_answers(lab)))))
    renamed = hand_in(folder, "renamed", "03_small", to_text(submission(lab, {})))
    renamed.rename(renamed.with_name("copy of 03_small.ipynb"))
    (folder / "submitted" / "nothing" / "03_small").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "PATH", "/usr/bin:/bin"
        )  # no environment is activated: nbgrader's alembic must be found all the same
        rows = grade(folder, repository=repository)
    return folder, repository, rows


@pytest.mark.slow
def test_the_made_up_class_gets_what_it_deserves(small_class):
    _, _, rows = small_class
    scores = {student: rows[student]["score"] for student in CLASS}
    assert scores == {
        "demo_ada": 3,
        "demo_blaise": 0,
        "demo_carl": 1,
        "demo_dorothy": 1,
        "demo_emmy": 1,
        "demo_felix": 1,
        "demo_grace": 3,
        "demo_mallory": 0,
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "student, words",
    [
        ("empty", "The file is empty"),
        ("latin", "damaged or cut off (at line 1)"),
        ("no_json", "damaged or cut off (at line 1)"),
        ("other_json", "not a Jupyter notebook"),
        ("other_notebook", "a notebook without cells"),
        ("other_lab", "There is no assignment '99_unknown' (the course has: 03_small)"),
        ("nothing", "No notebook was handed in"),
    ],
)
def test_what_cannot_be_graded_is_said(small_class, student, words):
    row = small_class[2][student]
    assert words in row["problem"] and row["score"] == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    "student, words", [("demo_felix", "damaged or cut off"), ("renamed", "copy of 03_small.ipynb was taken for")]
)
def test_what_was_put_right_is_said(small_class, student, words):
    row = small_class[2][student]
    assert words in row["notes"] and row["score"] != "" and not row["problem"]


@pytest.mark.slow
def test_grades_csv_reads_back(small_class):
    folder, _, rows = small_class
    with open(folder / "grades.csv", encoding="utf-8", newline="") as file:
        read = {row["student"]: row for row in csv.DictReader(file)}
    assert read.keys() == rows.keys()
    assert read['O"Neil, Pat']["score"] == "3" and read['O"Neil, Pat']["03_small/q_sample"] == "2"
    assert read["demo_ada"]["03_small/why"] == "" and read["demo_ada"]["written_pending"] == "3"
    assert read["demo_blaise"]["03_small/why"] == "0"
    assert "demo_ada" in summary(list(rows.values()))


@pytest.mark.slow
def test_a_second_run_keeps_grades_and_takes_in_what_graders_added(small_class):
    folder, repository, _ = small_class
    course = Course(folder, repository)
    graded = course.path("autograded", "demo_ada", "03_small") / "03_small.ipynb"
    before = graded.stat().st_mtime_ns
    with Gradebook(course.api.coursedir.db_url) as gradebook:
        why = gradebook.find_grade("why", "03_small", "03_small", "demo_ada")
        why.manual_score, why.needs_manual_grade = 2, False
        gradebook.db.commit()
    rows = grade(folder, student="demo_ada", repository=repository)
    assert graded.stat().st_mtime_ns == before
    assert len(rows) > 6  # grades.csv stays whole when one student is graded
    assert (rows["demo_ada"]["score"], rows["demo_ada"]["written_pending"]) == (5, 0)
    page = course.path("feedback", "demo_ada", "03_small") / "03_small.html"
    assert "5 of 6 points" in page.read_text("utf-8")


@pytest.mark.slow
def test_a_known_mistake_is_named_with_where_to_read_on(small_class):
    folder, repository, _ = small_class
    page = (Course(folder, repository).path("feedback", "demo_carl", "03_small") / "03_small.html").read_text("utf-8")
    mistake = next(iter(EXERCISES["ddpm_2d.q_sample"].misconceptions.values()))
    assert mistake.sentence in html.unescape(page)
    assert f'book/{mistake.read}">Read on</a>' in page


@pytest.mark.slow
def test_a_submission_handed_in_anew_is_graded_anew(small_class):
    folder, repository, rows = small_class
    path = folder / "submitted" / "demo_blaise" / "03_small" / "03_small.ipynb"
    lab = repository / "solutions" / "03_small" / "03_small.py"
    path.write_text(to_text(only_graded(submission(lab, right_answers(lab)))))
    os.utime(path, (0, 0))  # as from an archive: older than its grade
    assert rows["demo_blaise"]["score"] == 0
    again = grade(folder, student="demo_blaise", repository=repository)
    assert again["demo_blaise"]["score"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("step, student", [("submitted", "demo_carl"), ("source", ".")])
def test_what_was_graded_is_known_by_its_content(small_class, step, student):
    folder, repository, _ = small_class
    course = Course(folder, repository)

    def is_stale():
        (carl,) = find_submissions(course, "03_small", "demo_carl")
        carl.state = course.fingerprint(carl)
        return course.is_stale(carl)

    path = course.path(step, student, "03_small") / "03_small.ipynb"
    content = path.read_bytes()
    path.write_bytes(content + b"\n")
    os.utime(path, (0, 0))
    assert is_stale()
    path.write_bytes(content)  # the same again, of a newer date
    assert not is_stale()


# ---- what an instructor does wrong -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"assignment": "04_none"}, "There is no assignment '04_none'. The course has: 03_small."),
        ({"student": "nobody"}, "There is no submission of 'nobody'. There are: ada."),
    ],
)
def test_unknown_names_are_said(tmp_path, arguments, words):
    small_repository(tmp_path)
    hand_in(tmp_path, "ada", "03_small", "")
    with pytest.raises(GradingError) as caught:
        grade_course(tmp_path, repository=tmp_path, **arguments)
    assert str(caught.value) == words


def test_a_course_without_submissions_or_labs_or_folder(tmp_path):
    small_repository(tmp_path / "repository")
    (tmp_path / "empty").mkdir()
    with pytest.raises(GradingError, match="Nothing is handed in"):
        grade_course(tmp_path / "empty", repository=tmp_path / "repository")
    with pytest.raises(GradingError, match="There are no labs"):
        grade_course(tmp_path / "empty", repository=tmp_path / "empty")
    with pytest.raises(GradingError, match="There is no folder"):
        grade_course(tmp_path / "absent", repository=tmp_path / "repository")


def test_a_labs_source_follows_the_lab_unless_the_instructor_has_changed_it(tmp_path):
    lab = small_repository(tmp_path / "repository")
    (tmp_path / "class").mkdir()
    course = Course(tmp_path / "class", tmp_path / "repository")
    source = course.path("source", ".", "03_small") / "03_small.ipynb"
    course._write_lab("03_small")
    lab.write_text(SMALL_LAB.replace("Why does the chain end", "Why, once more, does it end"))
    course._write_lab("03_small")
    assert "Why, once more, does it end" in source.read_text("utf-8")
    own = source.read_text("utf-8").replace("once more", "after all")
    source.write_text(own, "utf-8")
    course._write_lab("03_small")
    assert source.read_text("utf-8") == own


def test_a_made_up_class_does_not_mix_with_a_real_one(tmp_path):
    lab = small_repository(tmp_path / "repository", SMALL_LAB)
    hand_in(tmp_path, "real_person", lab.stem, "")
    with pytest.raises(GradingError, match="holds submissions of real_person"):
        make_class(tmp_path, tmp_path / "repository")
    assert not (tmp_path / "submitted" / "demo_ada").exists()


def test_the_command_works_with_nothing_activated(tmp_path):
    environment = dict(os.environ, PATH="/usr/bin:/bin")
    ran = subprocess.run(
        [sys.executable, "-m", "course_utils.grading", "--course", tmp_path],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    assert "Nothing is handed in" in ran.stderr or "There are no labs" in ran.stderr
