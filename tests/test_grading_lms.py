"""From Canvas's and Moodle's archives to their tables of grades; archives and tables as these platforms write them."""

import csv
import io
import stat
import sys
import zipfile

import pytest
from tiny_class import hand_in, make_course

from course_utils.grading import GradingError
from course_utils.grading.__main__ import main
from course_utils.grading.lms import collect, export, pack_feedback
from course_utils.grading.report import plain

CANVAS = {
    "doejane_1234_90001_powers.ipynb": "jane",
    "roedick_LATE_1235_90002_Copy of powers-1 (2).ipynb": "dick",
    "neilpato_1236_90003_powers.ipynb": "pat, first",
    "neilpato_1236_90007_powers-1.ipynb": "pat, second",
    "neilpato_1236_90003_data.csv": "1,2",
    "doejane_1240_90009_powers.ipynb": "another jane",
}
MOODLE = {
    "Jane Doe_1234_assignsubmission_file_/powers.ipynb": "jane",
    "Dick Roe_1235_assignsubmission_file_/data/x.csv": "1,2",
    "Dick Roe_1235_assignsubmission_file_/powers (1).ipynb": "dick",
    "Zoë O'Neil_1236_assignsubmission_file/powers.ipynb": "zoë",
    "Zoë O'Neil_1236_assignsubmission_onlinetext_/onlinetext.html": "a remark",
}


def archive(path, files):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, (2026, 5, 3, 10, 0, 0)) if isinstance(name, str) else name
            entry.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(entry, content)
    return path


def submitted(folder):
    """What lies in submitted/, {"ada/powers/powers.ipynb": text}."""
    top = folder / "submitted"
    return {path.relative_to(top).as_posix(): path.read_text() for path in top.rglob("*") if path.is_file()}


def test_canvas_archive(tmp_path):
    folder = make_course(tmp_path / "class")
    said = collect(folder, "powers", archive(tmp_path / "a.zip", CANVAS | {"notes.txt": "", "__MACOSX/._x": ""}))
    assert submitted(folder) == {
        "doejane_1234/powers/powers.ipynb": "jane",
        "roedick_1235/powers/Copy of powers-1 (2).ipynb": "dick",
        "neilpato_1236/powers/powers.ipynb": "pat, second",
        "neilpato_1236/powers/data.csv": "1,2",
        "doejane_1240/powers/powers.ipynb": "another jane",
    }
    assert "4 submissions of powers" in said and "notes.txt" in said and "MACOSX" not in said
    assert "Canvas marks as late: roedick_1235." in said  # the entries' dates are those of the download


def test_when_it_was_handed_in_is_neither_the_archives_nor_a_students_to_say(tmp_path):
    folder = make_course(tmp_path / "class")
    undated = zipfile.ZipInfo("doejane_1234_90001_powers.ipynb", (1980, 0, 0, 0, 0, 0))
    files = {
        undated: "jane",
        "doejane_1234_90002_timestamp-1.txt": "2026-05-01",
        "Dick Roe_1235_assignsubmission_file_/./Timestamp.txt": "2026-05-01",
        "Dick Roe_1235_assignsubmission_file_/powers.ipynb": "dick",
    }
    said = collect(folder, "powers", archive(tmp_path / "a.zip", files))
    assert submitted(folder) == {
        "doejane_1234/powers/powers.ipynb": "jane",
        "Dick Roe_1235/powers/powers.ipynb": "dick",
    }
    assert "timestamp-1.txt" in said and "Timestamp.txt" in said


def test_moodle_archive(tmp_path):
    folder = make_course(tmp_path / "class")
    collect(folder, "powers", archive(tmp_path / "a.zip", MOODLE))
    assert submitted(folder) == {
        "Jane Doe_1234/powers/powers.ipynb": "jane",
        "Dick Roe_1235/powers/data/x.csv": "1,2",
        "Dick Roe_1235/powers/powers (1).ipynb": "dick",
        "Zoë O'Neil_1236/powers/powers.ipynb": "zoë",
        "Zoë O'Neil_1236/powers/onlinetext.html": "a remark",
    }


def test_collected_again_only_what_changed_is_touched(tmp_path):
    folder = make_course(tmp_path / "class")
    collect(folder, "powers", archive(tmp_path / "a.zip", CANVAS))
    stamp = folder / "submitted/doejane_1234/powers/powers.ipynb"
    before = stamp.stat().st_mtime_ns
    for student in ("doejane_1234", "roedick_1235"):  # the instructor's own, of these attempts
        hand_in(folder, student, "2026-05-03 10:00:00 UTC", name="timestamp.txt")
    changed = CANVAS | {"roedick_1235_90020_powers-2.ipynb": "dick, later"}
    del changed["roedick_LATE_1235_90002_Copy of powers-1 (2).ipynb"]
    said = collect(folder, "powers", archive(tmp_path / "b.zip", changed))
    assert "1 submissions" in said and "3 were there already" in said
    assert stamp.stat().st_mtime_ns == before
    assert submitted(folder)["roedick_1235/powers/powers.ipynb"] == "dick, later"
    assert [path.parts[-3] for path in folder.rglob("timestamp.txt")] == ["doejane_1234"]


def test_archives_that_are_made_to_harm(tmp_path):
    folder = make_course(tmp_path / "class")
    link = zipfile.ZipInfo("evil_9_9_link.ipynb")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    harmful = {
        "Eve_9_assignsubmission_file_/../../../../outside.ipynb": "x",
        "Eve_9_assignsubmission_file_//etc/outside.ipynb": "x",
        "Eve_9_assignsubmission_file_/C:/outside.ipynb": "x",
        "..\\..\\evil_9_9_outside.ipynb/../x": "x",
        "evil_9_9_bomb.ipynb": "0" * 15_000_000,
        link: "/etc/passwd",
        "doejane_1234_90001_powers.ipynb": "jane",
    }
    said = collect(folder, "powers", archive(tmp_path / "a.zip", harmful))
    assert submitted(folder) == {"doejane_1234/powers/powers.ipynb": "jane"}
    assert not list(tmp_path.rglob("*outside*")) and said.count("\n") == len(harmful)
    with pytest.raises(GradingError, match="can't be read as a zip"):
        (tmp_path / "b.zip").write_bytes(b"no archive")
        collect(folder, "powers", tmp_path / "b.zip")
    with pytest.raises(GradingError, match="holds no submission as Canvas or Moodle name them"):
        collect(folder, "powers", archive(tmp_path / "c.zip", {"a.txt": ""}))
    with pytest.raises(GradingError, match="no assignment 'other'"):
        collect(folder, "other", tmp_path / "a.zip")


# ---- out -------------------------------------------------------------------------------------------------------------

GRADES = """\
student,assignment,score,max_score,late_penalty,written_pending,problem,notes
doejane_1234,powers,5,6,,0,,
roedick_1235,powers,0,6,,0,,
neilpato_1236,powers,3,6,,3,,
doejane_1240,powers,,,,,The file is empty,
gone_1299,powers,2,6,,0,,
doejane_1234,other,1,1,,0,,
"""
CANVAS_TABLE = """\
\ufeffStudent,ID,SIS User ID,SIS Login ID,Section,powers (77),other (78),Final Score
,,,,,Manual Posting,,
    Points Possible,,,,,6,1,(read only)
"Doe, Jane",1234,S1,jane,A,,1,50
"Roe, Dick",1235,S2,dick,A,4,,
"O'Neil, Pat",1236,S3,pat,A,,,
"Doe, Jane",1240,S4,jane2,A,,,
"Student, Test",1250,,x,A,,,
"""
MOODLE_TABLE = """\
Identifier,Full name,Email address,Status,Grade,Maximum grade,Grade can be changed,Feedback comments
Participant 1234,Jane Doe,jane@elsewhere.example,Submitted for grading,,6.00,Yes,
Participant 1235,Dick Roe,dick@elsewhere.example,Submitted for grading,,6.00,Yes,
Participant 1299,Gone Away,gone@elsewhere.example,No submission,,6.00,Yes,
"""


@pytest.fixture
def class_folder(tmp_path):
    folder = make_course(tmp_path / "class")
    hand_in(folder, "doejane_1234", "")
    (folder / "grades.csv").write_text(GRADES)
    return folder


def test_canvas_table_is_filled_in_and_else_untouched(class_folder, tmp_path):
    (tmp_path / "canvas.csv").write_text(CANVAS_TABLE, "utf-8", newline="")
    said = export(class_folder, "powers", "canvas", tmp_path / "canvas.csv")
    written = (class_folder / "powers.canvas.csv").read_text("utf-8")
    expected = CANVAS_TABLE.replace("jane,A,,1,50", "jane,A,5,1,50").replace("dick,A,4,", "dick,A,0,")
    assert list(csv.reader(io.StringIO(written))) == list(csv.reader(io.StringIO(expected)))
    assert written.startswith("\ufeff") and "\r" not in written
    assert "2 grades filled in" in said
    assert "a person has still to read an answer: neilpato_1236" in said
    assert "Graded, but not in this table: gone_1299" in said


def test_moodle_table_is_filled_in(class_folder, tmp_path):
    (tmp_path / "moodle.csv").write_text(MOODLE_TABLE.replace("\n", "\r\n"), "utf-8", newline="")
    export(class_folder, "powers", "moodle", tmp_path / "moodle.csv", tmp_path / "out.csv")
    with open(tmp_path / "out.csv", encoding="utf-8", newline="") as file:
        text = file.read()
    assert [row["Grade"] for row in csv.DictReader(io.StringIO(text))] == ["5", "0", "2"]
    assert text.count("\r\n") == 4


@pytest.mark.parametrize("delimiter", ";\t")
def test_tables_of_other_countries(class_folder, tmp_path, delimiter):
    (tmp_path / "canvas.csv").write_text(
        CANVAS_TABLE.replace('"', "").replace(", ", "").replace(",", delimiter), "utf-8"
    )
    export(class_folder, "powers", "canvas", tmp_path / "canvas.csv", tmp_path / "out.csv")
    assert f"jane{delimiter}A{delimiter}5{delimiter}1" in (tmp_path / "out.csv").read_text("utf-8")


@pytest.mark.parametrize(
    "table, words",
    [
        ("", "is empty"),
        ("Student,ID\nx,1\n", "has no column for powers. There are: Student, ID."),
        ("Student,powers (1),powers (2)\nx,1,2\n", "has several columns for powers"),
    ],
)
def test_tables_that_do_not_fit_are_said(class_folder, tmp_path, table, words):
    (tmp_path / "t.csv").write_text(table)
    with pytest.raises(GradingError) as caught:
        export(class_folder, "powers", "canvas", tmp_path / "t.csv")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "kind, table, theirs",
    [
        ("canvas", CANVAS_TABLE.replace(",6,1,(read only)", ",100,1,(read only)"), "100"),
        ("moodle", MOODLE_TABLE.replace("6.00", '"7,50"'), "7.5"),
    ],
)
def test_points_of_another_scale_are_not_written(class_folder, tmp_path, kind, table, theirs):
    (tmp_path / "t.csv").write_text(table, "utf-8")
    with pytest.raises(GradingError, match=f"powers has 6 points here and {theirs} in .* points to 6 there"):
        export(class_folder, "powers", kind, tmp_path / "t.csv", tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_a_name_that_could_be_of_two_hides_nobody_else(class_folder, tmp_path):
    with open(class_folder / "grades.csv", "a") as file:
        file.write("jane,powers,1,6,,0,,\n")
    (tmp_path / "t.csv").write_text(CANVAS_TABLE, "utf-8")
    said = export(class_folder, "powers", "canvas", tmp_path / "t.csv")
    assert "could be any of doejane_1234, jane" in said
    assert "Graded, but not in this table: gone_1299." in said


def test_before_grading_there_is_nothing_to_export(tmp_path):
    (tmp_path / "t.csv").write_text(CANVAS_TABLE, "utf-8")
    with pytest.raises(GradingError, match="Nothing of powers is graded yet"):
        export(make_course(tmp_path / "class"), "powers", "canvas", tmp_path / "t.csv")


def test_pages_are_packed_under_the_names_that_moodle_takes(class_folder, tmp_path):
    for student in ("Jane Doe_1234", "Zoë O'Neil_1236", "ada"):
        hand_in(class_folder, student, "")
        page = class_folder / "feedback" / student / "powers" / "powers.html"
        page.parent.mkdir(parents=True)
        page.write_text(student)
    hand_in(class_folder, "Dick Roe_1235", "")  # no page
    said = pack_feedback(class_folder, "powers")
    with zipfile.ZipFile(class_folder / "powers.feedback.zip") as file:
        # Moodle splits each name at underscores: the student's name and number, the plugin's kind and name, the rest
        pages = {tuple(name.split("_", 4)[1:]): file.read(name).decode() for name in file.namelist()}
    rest = ("assignfeedback", "file", "/powers.html")
    assert pages == {("1234", *rest): "Jane Doe_1234", ("1236", *rest): "Zoë O'Neil_1236"}
    assert "Dick Roe_1235, ada" in said
    with pytest.raises(GradingError, match="no page of powers for a student with Moodle's number"):
        pack_feedback(make_course(tmp_path / "other"), "powers")


@pytest.mark.parametrize(
    "platform, words, said",
    [
        ("darwin", ["--unsafe"], "Grading needs Linux"),
        ("win32", ["collect"], "Grading needs Linux"),
        ("linux", ["--workers", "x"], "invalid number value: 'x'"),
        ("linux", ["--workers", "0"], "at least one worker"),
    ],
)
def test_the_command_says_what_it_needs(tmp_path, monkeypatch, capsys, platform, words, said):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(sys, "argv", ["grading", *words, "--course", str(tmp_path)])
    with pytest.raises(SystemExit) as left:
        main()
    assert said in f"{left.value.code} {capsys.readouterr().err}"


def test_students_known_by_their_login_or_name(class_folder, tmp_path):
    (class_folder / "grades.csv").write_text(GRADES.replace("doejane_1234,powers", "jane,powers"))
    (tmp_path / "canvas.csv").write_text(CANVAS_TABLE, "utf-8")
    export(class_folder, "powers", "canvas", tmp_path / "canvas.csv", tmp_path / "out.csv")
    assert "jane,A,5,1" in (tmp_path / "out.csv").read_text("utf-8")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\r=x"])
def test_no_text_is_a_formula(text):
    assert plain(text) == f"'{text}" and plain(2.0) == "2" and plain(-1.5) == "-1.5" and plain("a=1") == "a=1"
