"""A batch always ends, writes down what was deserved, and can be stopped at any moment.

The mechanics, with an engine that takes no time (tiny_class.py); for the same reason workers are forked from here.
"""

import csv
import os
import random
import signal
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell
from nbgrader.api import Gradebook
from tiny_class import CUBES, SQUARES, WRONG, QuickEngine, answers, hand_in, make_course

from course_utils.authoring.notebook import to_text
from course_utils.grading import Course, GradingError, SandboxError, grade_course, pool
from course_utils.grading import course as courses
from course_utils.grading import grade as grading
from course_utils.grading.course import limits_of
from course_utils.grading.report import summary
from course_utils.grading.writer import Writer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::sqlalchemy.exc.SAWarning")
DIE = "die()  # the kernel's process goes, and the worker with it"


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "METHOD", "fork")
        patch.setattr(pool, "Engine", QuickEngine)
        patch.setattr(
            "nbgrader.api.get_alembic_version", lambda: "here"
        )  # a program of its own, for each new gradebook
        yield patch


def grade(folder, **options):
    """The rows of grades.csv by student."""
    return {row["student"]: row for row in grade_course(folder, unsafe=True, workers=2, **options)}


def table(folder):
    with open(folder / "grades.csv", encoding="utf-8", newline="") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


def named(notebook, student):
    """The notebook, which tells the diary whose it is."""
    notebook.cells.insert(0, new_code_cell(f"me = {student!r}"))
    return notebook


def diary(folder):
    path = folder / "diary"
    return path.read_text().split() if path.exists() else []


HANDED_IN = {
    "right": answers(),
    "partly": answers(squares=WRONG),
    "blank": answers(None, None, None),
    "crash": answers(cubes=f"1 / 0\n{CUBES}"),
    "half a letter": answers(cubes=f"print('\\ud800')\n{CUBES}"),
    "markup": answers(why="<script>alert(1)</script> " + "> " * 5000),
    "deadly": answers(squares=f"{SQUARES}\n{DIE}"),
    "cut off": to_text(answers())[:-400],
    "no notebook": "",
    'O"Neil, Pat': answers(),
    "=cmd()": answers(),
    "ünï cödé": answers(),
    "[x]*": answers(),
    ".dot": answers(),
}


@pytest.fixture(scope="module")
def class_folder(tmp_path_factory):
    folder = make_course(tmp_path_factory.mktemp("class"))
    for student, content in HANDED_IN.items():
        hand_in(folder, student, content)
    (folder / "submitted" / "nothing" / "powers").mkdir(parents=True)
    (folder / "submitted" / "elsewhere").symlink_to(folder / "submitted" / "right")
    hand_in(folder, "right", "old", name=".ipynb_checkpoints/powers-checkpoint.ipynb")
    return folder, grade(folder)


@pytest.mark.parametrize(
    "student, score, pending, said",
    [
        ("right", 3, 3, ""),
        ("partly", 1, 3, ""),
        ("blank", 0, 0, ""),
        ("crash", 2, 3, ""),
        ("half a letter", 3, 3, ""),
        ("markup", 3, 3, ""),
        ("deadly", "", "", "died twice"),
        ("cut off", 3, 0, "damaged or cut off"),
        ("no notebook", "", "", "The file is empty"),
        ("nothing", "", "", "No notebook was handed in: powers.ipynb is missing"),
        ("elsewhere", "", "", "links are not followed"),
        *[(name, 3, 3, "") for name in ('O"Neil, Pat', "=cmd()", "ünï cödé", "[x]*", ".dot")],
    ],
)
def test_everybody_gets_what_they_deserve(class_folder, student, score, pending, said):
    folder, rows = class_folder
    row = rows[student]
    assert (row["score"], row["written_pending"]) == (score, pending)
    assert said in row["problem"] + row["notes"]
    assert (folder / "feedback" / student / "powers" / "powers.html").exists()
    assert (folder / "autograded" / student / "powers" / "powers.ipynb").exists() == (score != "")


def test_grades_csv_reads_back_and_runs_nothing(class_folder):
    folder, rows = class_folder
    read = table(folder)
    assert len(read) == len(rows)
    assert read['O"Neil, Pat']["score"] == "3" and read['O"Neil, Pat']["powers/squares"] == "2"
    assert read["'=cmd()"]["score"] == "3" and "=cmd()" not in read
    assert read["nothing"]["score"] == "" and read["deadly"]["powers/squares"] == ""
    assert (read["right"]["powers/why"], read["blank"]["powers/why"]) == ("", "0")
    assert list(read["right"])[-3:] == ["powers/squares", "powers/cubes", "powers/why"]


NAMES = [
    "=1+1",
    "-rf",
    "名前 ü",
    "a b",
    "..x",
    "'; DROP TABLE student; --",
    "<b>x<script>1",
    "CON",
    "%s%n",
    "{{7*7}}",
    "$HOME",
]
NO_NAMES = ["a" * 250, "x\ny", "a\udcffb"]  # too long, not to be printed, no text at all


def test_students_of_any_name(tmp_path):
    folder = make_course(tmp_path)
    for name in NAMES + NO_NAMES:
        hand_in(folder, name, answers())
    rows = grade(folder)
    summary(rows.values()).encode()  # can be printed
    assert [rows[name]["score"] for name in NAMES] == [3] * len(NAMES)
    assert all("no name of a student" in rows[name]["problem"] and rows[name]["score"] == "" for name in NO_NAMES)
    with open(folder / "grades.csv", encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert len(read) == len(NAMES + NO_NAMES) and not any(row["student"].startswith(("=", "-")) for row in read)
    for name in NAMES:
        page = (folder / "feedback" / name / "powers" / "powers.html").read_text("utf-8")
        assert "<b>x<script>" not in page and ("{{7*7}}" in page or name != "{{7*7}}")
    assert {path.name for path in (folder / "feedback").iterdir()} >= {*NAMES}


def test_a_second_run_executes_nobody_and_a_change_one(class_folder, quick):
    folder, _ = class_folder
    quick.setattr(QuickEngine, "diary", folder / "diary")
    before = (folder / "grades.csv").read_bytes()
    deadly = folder / "submitted" / "deadly"
    deadly.rename(folder / "deadly")  # it would be tried again
    for name in ("no notebook", "nothing"):
        (folder / "submitted" / name).rename(folder / name)
    grade(folder)
    assert diary(folder) == []
    path = hand_in(folder, "partly", named(answers(), "partly"))
    os.utime(path, (0, 0))  # as from an archive: older than its grade
    assert grade(folder)["partly"]["score"] == 3
    assert diary(folder) == ["partly"]
    hand_in(folder, "partly", HANDED_IN["partly"])
    for name in ("deadly", "no notebook", "nothing"):
        (folder / name).rename(folder / "submitted" / name)
    grade(folder, student="partly")
    assert (folder / "grades.csv").read_bytes() != before  # who is not graded again is said in other words
    quick.setattr(QuickEngine, "diary", None)


def test_a_manual_grade_between_two_runs_is_kept(tmp_path):
    folder = make_course(tmp_path)
    hand_in(folder, "ada", answers())
    grade(folder)
    course = Course(folder)
    page = folder / "feedback" / "ada" / "powers" / "powers.html"
    assert "A person still reads this" in page.read_text()
    with Gradebook(course.api.coursedir.db_url) as gradebook:
        why = gradebook.find_grade("why", "powers", "powers", "ada")
        why.manual_score, why.needs_manual_grade = 2, False
        gradebook.find_comment("why", "powers", "powers", "ada").manual_comment = "By what **factor**?"
        gradebook.db.commit()
    row = grade(folder)["ada"]
    assert (row["score"], row["written_pending"], row["powers/why"]) == (5, 0, 2)
    assert "5 of 6 points" in page.read_text() and "<strong>factor</strong>" in page.read_text()
    hand_in(folder, "ada", answers(squares=WRONG, why="Cubes, by the factor n."))
    row = grade(folder)["ada"]  # nbgrader's rule: the grade stays, and waits for a second look
    assert (row["score"], row["written_pending"]) == (3, 3)
    with Gradebook(course.api.coursedir.db_url) as gradebook:
        why = gradebook.find_grade("why", "powers", "powers", "ada")
        assert why.manual_score == 2 and why.needs_manual_grade
        assert gradebook.find_comment("why", "powers", "powers", "ada").manual_comment == "By what **factor**?"


def test_late_submissions_and_the_courses_own_settings(tmp_path):
    folder = make_course(tmp_path)
    (folder / "nbgrader_config.py").write_text(
        "c = get_config()\n"
        f"c.CourseDirectory.db_url = 'sqlite:///{folder / 'other.db'}'\n"
        "c.LateSubmissionPlugin.penalty_method = 'zero'\nc.Limits.cell_seconds = 7\n"
    )
    for student, when in {"early": "2026-05-01 10:00:00 UTC", "late": "2026-05-03 10:00:00 UTC", "odd": "soon"}.items():
        hand_in(folder, student, answers())
        hand_in(folder, student, when, name="timestamp.txt")
    course = Course(folder)
    assert limits_of(course.config).cell_seconds == 7
    course.prepare("powers")
    with course.api.gradebook as gradebook:
        gradebook.update_or_create_assignment("powers", duedate="2026-05-02 10:00:00 UTC")
    rows = grade(folder)
    assert [(rows[s]["score"], rows[s]["late_penalty"]) for s in rows] == [(3, ""), (0, 3), (3, "")]
    assert "timestamp.txt holds no date" in rows["odd"]["notes"]
    assert "Handed in late: 3 points" in (folder / "feedback" / "late" / "powers" / "powers.html").read_text()
    assert (folder / "other.db").exists() and not (folder / "gradebook.db").exists()
    (folder / "submitted" / "late" / "powers" / "timestamp.txt").unlink()  # as where a newer attempt is collected
    assert grade(folder)["late"]["score"] == 3


def test_settings_are_read_where_the_package_is_installed_without_the_repository(tmp_path, monkeypatch):
    monkeypatch.setattr(courses, "REPOSITORY", tmp_path / "site-packages")
    (tmp_path / "nbgrader_config.py").write_text("c = get_config()\nc.Limits.processes = 7\n")
    assert limits_of(Course(tmp_path).config).processes == 7


def test_an_assignment_of_two_notebooks(tmp_path):
    folder = make_course(tmp_path, ("first", "second"), "ps")
    hand_in(folder, "both", answers(), "first.ipynb", "ps")
    hand_in(folder, "both", answers(squares=WRONG), "second.ipynb", "ps")
    hand_in(folder, "one", answers(), "second.ipynb", "ps")
    rows = grade(folder)
    assert (rows["both"]["score"], rows["one"]["score"]) == (4, 3)
    assert rows["both"]["ps/first/squares"] == 2 and rows["both"]["ps/second/squares"] == 0
    assert rows["one"]["written_pending"] == 3 and "first.ipynb was not handed in" in rows["one"]["notes"]


def test_a_new_version_of_the_tests_grades_everybody_anew(tmp_path):
    folder = make_course(tmp_path)
    hand_in(folder, "ada", answers())
    assert grade(folder)["ada"]["score"] == 3
    path = folder / "source" / "powers" / "powers.ipynb"
    path.write_text(path.read_text().replace("assert cubes(3) == [0, 1, 8]", "assert cubes(3) == [0, 1, 9]"))
    assert grade(folder)["ada"]["score"] == 2


def test_a_problems_page_goes_with_the_problem(tmp_path):
    one, two = make_course(tmp_path / "one"), make_course(tmp_path / "two", ("first", "second"), "ps")
    places = {
        one / "feedback" / "ada" / "powers" / "powers.html": (one, "powers.ipynb", "powers"),
        two / "feedback" / "ada" / "ps" / "ps.html": (two, "first.ipynb", "ps"),
    }
    for page, (folder, name, assignment) in places.items():
        for content in (answers(), "", answers()):
            hand_in(folder, "ada", content, name, assignment)
            grade(folder)
            assert ("The file is empty" in page.read_text() if page.exists() else False) == (content == "")


# ---- trouble ---------------------------------------------------------------------------------------------------------


def started(folder):
    """A process that grades the class, and does nothing else."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.dup2(os.open(folder / "out", os.O_CREAT | os.O_WRONLY | os.O_APPEND), 1)
        os.dup2(1, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the shell may run these tests with Ctrl-C ignored
        grade_course(folder, unsafe=True, workers=2)
    except KeyboardInterrupt:
        os._exit(130)
    finally:
        os._exit(0)


@pytest.mark.slow
def test_killed_at_any_moment_the_next_run_gives_the_same_grades(tmp_path, quick):
    scores = {f"s{n}": n % 3 for n in range(12)}
    for name in ("whole", "killed"):
        for student, kind in scores.items():
            notebook = answers(squares=WRONG if kind else SQUARES, cubes=None if kind == 2 else CUBES)
            hand_in(make_course(tmp_path / name), student, named(notebook, student))
    grade(tmp_path / "whole")
    folder, random_seconds = tmp_path / "killed", random.Random(0).uniform
    quick.setattr(QuickEngine, "diary", folder / "diary")
    quick.setattr(QuickEngine, "seconds", 0.1)
    finished, seen = set(), 0
    for _ in range(10):
        pid = started(folder)
        time.sleep(random_seconds(0.1, 1.5))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        time.sleep(0.3)  # the workers leave
        again = set(diary(folder)[seen:])
        assert not again & finished, "finished ones were run again"
        finished, seen = {p.stem for p in (folder / ".grading" / "powers").glob("*.graded")}, len(diary(folder))
    grade(folder)
    quick.setattr(QuickEngine, "diary", None)
    quick.setattr(QuickEngine, "seconds", 0)
    assert table(folder) == table(tmp_path / "whole")
    assert not list(folder.rglob("*.part"))


def test_ctrl_c_stops_cleanly(tmp_path, quick):
    folder = make_course(tmp_path)
    for number in range(30):
        hand_in(folder, f"s{number}", named(answers(), f"s{number}"))
    quick.setattr(QuickEngine, "seconds", 0.2)
    pid = started(folder)
    deadline = time.time() + 60
    while not list(folder.rglob("*.graded")) and time.time() < deadline:
        time.sleep(0.05)
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(pid, signal.SIGINT)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    quick.setattr(QuickEngine, "seconds", 0)
    assert len(children) == 2 and not [child for child in children if Path(f"/proc/{child}").exists()]
    assert 0 < len(list(folder.rglob("*.graded"))) < 30


@pytest.mark.slow
def test_a_locked_gradebook_is_waited_for(tmp_path, capsys, monkeypatch):
    folder = make_course(tmp_path)
    hand_in(folder, "ada", answers())
    Course(folder).prepare("powers")
    lock = sqlite3.connect(folder / "gradebook.db", isolation_level=None, check_same_thread=False)
    begun = threading.Event()

    def hold():
        begun.wait(60)
        time.sleep(6)  # longer than SQLite waits by itself
        lock.execute("COMMIT")

    def run(self, *arguments):
        lock.execute("BEGIN EXCLUSIVE")
        begun.set()
        yield from execute(self, *arguments)

    execute = pool.Pool.run
    monkeypatch.setattr(pool.Pool, "run", run)
    holder = threading.Thread(target=hold)
    holder.start()
    assert grade(folder)["ada"]["score"] == 3
    holder.join()
    assert "The gradebook is locked by another program" in capsys.readouterr().out


def test_what_cannot_be_written_down_stops_nobody(tmp_path, monkeypatch):
    folder = make_course(tmp_path)
    for student in ("ada", "bad", "carl"):
        hand_in(folder, student, answers())
    record = Writer.record

    def fails(self, submission, outcome):
        if submission.student == "bad":
            raise RuntimeError("something unheard of")
        record(self, submission, outcome)

    monkeypatch.setattr(Writer, "record", fails)
    rows = grade(folder)
    assert [rows[s]["score"] for s in ("ada", "bad", "carl")] == [3, "", 3]
    assert "something unheard of" in rows["bad"]["problem"] and "see logs/bad_powers.log" in rows["bad"]["problem"]
    monkeypatch.undo()
    assert grade(folder)["bad"]["score"] == 3  # taken up by the next run


def test_what_the_grader_itself_could_not_finish_is_tried_again(tmp_path):
    folder = make_course(tmp_path)
    halted = {"output_type": "error", "ename": "GradingHalted", "evalue": "", "traceback": []}
    once = f"import pathlib\nif not pathlib.Path({str(tmp_path / 'twice')!r}).exists():\n    show({halted!r})"
    hand_in(folder, "ada", answers(squares=f"{once}\n{SQUARES}"))
    row = grade(folder)["ada"]
    assert "its points are not final" in row["notes"] and row["score"] == 3
    (tmp_path / "twice").touch()
    assert "not final" not in grade(folder)["ada"]["notes"]


def test_workers_that_never_begin_end_the_batch(tmp_path, quick):
    folder = make_course(tmp_path)
    hand_in(folder, "ada", answers())
    quick.setattr(QuickEngine, "__enter__", lambda self: os.write(1, b"no room") and os._exit(1))
    with pytest.raises(SandboxError, match="(?s)end before they begin.*workers.log.*no room"):
        grade(folder)
    quick.setattr(QuickEngine, "__enter__", lambda self: self)
    assert grade(folder)["ada"]["score"] == 3


def test_without_a_sandbox_nothing_runs(tmp_path, monkeypatch, capsys):
    folder = make_course(tmp_path)
    hand_in(folder, "ada", answers())

    def none():
        raise SandboxError("There is no sandbox here.")

    monkeypatch.setattr(grading, "probe", none)
    with pytest.raises(SandboxError):
        grade_course(folder)
    assert not (folder / "autograded").exists()
    assert "UNSAFE" not in capsys.readouterr().out
    assert grade(folder)["ada"]["score"] == 3
    assert "UNSAFE" in capsys.readouterr().out


def test_an_assignment_that_cannot_be_released_is_said(tmp_path):
    folder = make_course(tmp_path)
    hand_in(folder, "ada", answers())
    path = folder / "source" / "powers" / "powers.ipynb"
    path.write_text(path.read_text().replace("### END SOLUTION", ""))
    with pytest.raises(GradingError, match="powers could not be released"):
        grade_course(folder, unsafe=True)


def test_a_question_added_after_grading_stops_only_its_assignment(tmp_path, capsys):
    folder = make_course(make_course(tmp_path), ("roots",), "roots")
    hand_in(folder, "ada", answers())
    grade(folder)
    hand_in(folder, "bob", answers(), "roots.ipynb", "roots")
    path = folder / "source" / "powers" / "powers.ipynb"
    old = path.read_text()
    path.write_text(old.replace('"grade_id": "cubes_test"', '"grade_id": "cubic_test"'))
    rows = grade(folder)
    assert (rows["ada"]["score"], rows["bob"]["score"]) == (3, 3)
    assert "Questions can't be added or removed once somebody is graded" in rows["ada"]["notes"]
    assert "powers could not be released" in capsys.readouterr().out
    path.write_text(old)
    assert "released" not in grade(folder)["ada"]["notes"]


def test_a_notebook_too_high_up_is_said(tmp_path, capsys):
    folder = make_course(tmp_path)
    for path in ("powers.ipynb", "bob/powers.ipynb"):
        (folder / "submitted" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "submitted" / path).write_text(to_text(answers()))
    with pytest.raises(GradingError, match="Nothing is handed in.*bob/powers.ipynb, powers.ipynb. Put notebooks at"):
        grade(folder)
    hand_in(folder, "ada", answers())
    assert list(grade(folder)) == ["ada"]
    assert capsys.readouterr().out.count("so not graded: bob/powers.ipynb, powers.ipynb.") == 1
