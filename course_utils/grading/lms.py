"""From and to a learning platform: the archives that Canvas and Moodle hand out, and the tables of grades they take.

Canvas names a file doe-jane_LATE_1234_5678_Copy of LAB-1 (2).ipynb (a sort name or "doejane", the student's number, the
submission's, the file's own name); Moodle a folder "Jane Doe_1234_assignsubmission_file_" with the files below it.
"""

import csv
import re
import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath

from .course import Course, GradingError
from .reading import LARGEST_NOTEBOOK, MOST_FILES
from .report import plain

CANVAS = re.compile(r"(?P<student>[^/_]+)_(?P<late>LATE_)?(?P<number>\d+)_(?P<submission>\d+)_(?P<file>[^/]+)")
MOODLE = re.compile(r"(?:[^/]+/)*(?P<student>[^/]+_\d+)_assignsubmission_[a-z]+(?:_/|/)(?P<file>.+)")
MOST_BYTES = 4 * 2**30
MOST_RATIO = 800  # what unpacks to more than this many times its size is no notebook, if it is large
PART = 2**20
NUMBER, TEXT = "n", "t"  # how a column says who it is


# ---- in --------------------------------------------------------------------------------------------------------------


def collect(folder, assignment, archive):
    """Sort a platform's archive into `folder`/submitted, and say in a text what was done and what was not understood.

    Of several notebooks of a student Canvas's newest submission counts. What is the same as before is left alone.
    Raises GradingError where the file is no archive or holds nothing that is understood.
    """
    course = Course(folder)
    if assignment not in course.assignments:
        raise GradingError(f"There is no assignment {assignment!r}. The course has: {', '.join(course.assignments)}.")
    try:
        with zipfile.ZipFile(archive) as file:
            found, late, odd = understood(file.infolist())
            if not found:
                raise GradingError(f"{archive} holds no submission as Canvas or Moodle name them: {_some(odd)}.")
            return _unpack(course, assignment, file, found, late, odd)
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise GradingError(f"{archive} can't be read as a zip archive: {error}") from None


def understood(entries):
    """({student: {file: entry}}, whom Canvas marks as late, names not understood), from an archive's list of entries.

    The entries' dates are not those of handing in, but of the download.
    """
    found, late, odd, newest = {}, set(), [], {}
    for entry in entries:
        name = entry.filename.replace("\\", "/")
        if entry.is_dir() or "__MACOSX/" in name or PurePosixPath(name).name.startswith("."):
            continue
        match = MOODLE.fullmatch(name) or CANVAS.fullmatch(name.rsplit("/", 1)[-1])
        file = match and (match["file"] if match.re is MOODLE else re.sub(r"-\d+(?=(\.\w+)?$)", "", match["file"]))
        if not file or not _is_safe(entry, file):
            odd.append(name)
            continue
        number = int(match.groupdict().get("submission") or 0)
        student = match["student"].strip()
        if match.re is CANVAS:
            student = f"{student}_{match['number']}"  # two students may have one name; the number is Canvas's own
            late |= {student} if match["late"] else set()
        if number >= newest.get((student, file), 0):
            newest[student, file] = number
            found.setdefault(student, {})[file] = entry
    return found, late, odd


def _is_safe(entry, file):
    """Is this a plain file, with a name that leads nowhere else and a size that can be?

    And not a timestamp.txt: when it was handed in is not a student's to say.
    """
    path = PurePosixPath(file)
    mode = entry.external_attr >> 16
    is_plain = not stat.S_IFMT(mode) or stat.S_ISREG(mode)
    is_date = str(path).casefold() == "timestamp.txt"
    leads_away = path.is_absolute() or ".." in path.parts or "\0" in file or re.match(r"[A-Za-z]:", file)
    is_bomb = entry.file_size > max(MOST_RATIO * entry.compress_size, 10 * PART) or entry.file_size > LARGEST_NOTEBOOK
    return is_plain and not (is_date or leads_away or is_bomb or entry.flag_bits & 1)  # nor with a password


def _unpack(course, assignment, file, found, late, odd):
    """Write what was understood; returns the report."""
    total, changed, same = sum(entry.file_size for files in found.values() for entry in files.values()), [], []
    if total > MOST_BYTES:
        raise GradingError(
            f"The archive would unpack to {total / 2**30:.1f} GB, and {MOST_BYTES / 2**30:.0f} is the most."
        )
    for student, files in sorted(found.items()):
        target = course.path("submitted", student, assignment)
        part = target.with_name(f".{assignment}.part")
        shutil.rmtree(part, ignore_errors=True)
        for name, entry in sorted(files.items())[:MOST_FILES]:
            try:
                _write(file, entry, part / name)
            except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
                odd.append(f"{entry.filename} ({error})")
        if not part.exists():
            continue
        if target.exists() and _contents(target) == _contents(part):
            same.append(student)
            shutil.rmtree(part)
            continue
        shutil.rmtree(target, ignore_errors=True)
        part.replace(target)
        changed.append(student)
    lines = [f"{len(changed)} submissions of {assignment} put into {course.path('submitted')}."]
    lines += [f"{len(same)} were there already, the same."] if same else []
    lines += [f"Canvas marks as late: {', '.join(sorted(late))}."] if late else []
    lines += ["Not understood, and left out:", *(f"  {name}" for name in odd)] if odd else []
    return "\n".join(lines)


def _write(file, entry, path):
    """Unpack one file in parts, and no more than its entry promised."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left = entry.file_size
    with file.open(entry) as source, open(path, "wb") as target:
        while chunk := source.read(PART):
            left -= len(chunk)
            if left < 0:
                raise zipfile.BadZipFile("it is larger than the archive says")
            target.write(chunk)


def _contents(folder):
    """The files of a folder; its timestamp is not part of what was handed in."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "timestamp.txt"]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def _some(names):
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "") if names else "it is empty"


# ---- out -------------------------------------------------------------------------------------------------------------


def export(folder, assignment, kind, table, to=None):
    """Fill in the table that a platform has exported, `kind` "canvas" or "moodle", and say in a text what was done.

    Only the assignment's grades change, and only where a submission was graded; every other cell stays as it is, and
    where the points of an answer are still a person's to give, nothing is filled in.
    """
    course = Course(folder)
    rows, dialect, encoding = _read(table)
    scores, most = _scores(course, assignment)
    column, known_by, theirs, is_odd = {"canvas": _canvas, "moodle": _moodle}[kind](rows, assignment, table)
    if theirs not in (None, most):
        raise GradingError(
            f"{assignment} has {most:g} points here and {theirs:g} in {table}: "
            f"set the assignment's points to {most:g} there, and export the table again."
        )
    report = _fill(rows, scores, column, known_by, is_odd)
    target = Path(to or course.folder / f"{assignment}.{kind}.csv")
    with open(target, "w", encoding=encoding, newline="") as file:
        csv.writer(file, dialect).writerows(rows)
    return "\n".join([f"Written: {target}", *report])


def _scores(course, assignment):
    """({student: (score, what a person has still to give)} of those graded, the assignment's points)."""
    path, rows = course.folder / "grades.csv", []
    if path.is_file():
        with open(path, encoding="utf-8", newline="") as file:
            rows = [r for r in csv.DictReader(file) if r["assignment"] == plain(assignment) and r["score"] != ""]
    if not rows:
        raise GradingError(f"Nothing of {assignment} is graded yet: run `make grade` first.")
    scores = {row["student"].removeprefix("'"): (row["score"], row["written_pending"]) for row in rows}
    return scores, max(float(row["max_score"]) for row in rows)


def _read(table):
    """The rows of a table, its dialect and encoding, so that it is written back as it was."""
    try:
        content = Path(table).read_bytes()
    except OSError as error:
        raise GradingError(f"{table} can't be read: {error.strerror}.") from None
    encoding = "utf-8-sig" if content.startswith(b"\xef\xbb\xbf") else "utf-8"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        encoding, text = "cp1252", content.decode("cp1252", "replace")
    first = text.split("\n")[0]

    class Dialect(csv.excel):
        delimiter = max(",;\t", key=first.count)
        lineterminator = "\r\n" if "\r\n" in text else "\n"

    rows = list(csv.reader(text.splitlines(keepends=True), Dialect))
    if len(rows) < 2:
        raise GradingError(f"{table} is empty: export the table from your platform, and give that file.")
    return rows, Dialect, encoding


# Of a platform's table: the column to fill in, those that say who a row is of, the assignment's points there, and what
# tells a row that is of nobody.


def _canvas(rows, assignment, table):
    """Canvas's gradebook: names, then a column an assignment, "LAB (1234)"; its odd rows at the top stay."""
    head = [name.strip() for name in rows[0]]
    column = _column(head, rf"{re.escape(assignment)}(\s*\(\d+\))?", assignment, table)
    known_by = {"ID": NUMBER, "SIS User ID": TEXT, "SIS Login ID": TEXT, "Student": TEXT}
    known_by = {i: known_by[name] for i, name in enumerate(head) if name in known_by}
    points = [row[column] for row in rows[1:] if row[0].strip() == "Points Possible" and column < len(row)]
    return column, known_by, _points(points), lambda row: row[0].strip() in ("", "Points Possible")


def _moodle(rows, assignment, table):
    """Moodle's grading worksheet: "Identifier" is "Participant 1234", the column to fill in is "Grade"."""
    head = [name.strip() for name in rows[0]]
    column = _column(head, "Grade", assignment, table)
    known_by = dict.fromkeys(("Full name", "Email address", "Username", "ID number"), TEXT) | {"Identifier": NUMBER}
    known_by = {i: known_by[name] for i, name in enumerate(head) if name in known_by}
    points = [text for row in rows[1:] for name, text in zip(head, row, strict=False) if name == "Maximum grade"]
    return column, known_by, _points(points), lambda row: False


def _points(texts):
    """The first of these texts as a number; None where it is none, or there is none."""
    try:
        return float(texts[0].replace(",", "."))
    except (IndexError, ValueError):
        return None


def _column(head, pattern, assignment, table):
    found = [i for i, name in enumerate(head) if re.fullmatch(pattern, name, re.IGNORECASE)]
    if len(found) != 1:
        raise GradingError(
            f"{table} has {'no column' if not found else 'several columns'} for {assignment}. "
            f"There are: {', '.join(filter(None, head))}."
        )
    return found[0]


def _fill(rows, scores, column, known_by, is_odd):
    """Fill in the column, and return what is to be said; `known_by`: the columns that say who it is."""
    left, waiting, unknown, ambiguous, done = dict(scores), [], [], set(), 0
    for row in rows[1:]:
        if is_odd(row) or len(row) <= column:
            continue
        keys = {key for i, kinds in known_by.items() if i < len(row) for key in _keys(row[i], kinds)}
        students = [student for student in left if keys & _keys(student, NUMBER + TEXT)]
        if len(students) > 1:
            unknown.append(f"{' '.join(row[i] for i in known_by)} could be any of {', '.join(students)}")
            ambiguous.update(students)
        elif students:
            score, pending = left.pop(students[0])
            if pending not in ("", "0"):
                waiting.append(students[0])
            else:
                row[column] = score
                done += 1
    report = [f"{done} grades filled in."]
    if waiting:
        report += [f"Not filled in, because a person has still to read an answer: {', '.join(waiting)}."]
    report += [f"Not filled in: {line}." for line in unknown]
    missing = [student for student in left if student not in ambiguous]
    report += [f"Graded, but not in this table: {', '.join(missing)}."] if missing else []
    return report


def _keys(text, kinds):
    """By what a student may be known: the platform's own number, or the text and its letters (Doe, Jane is doejane)."""
    text, keys = text.strip().casefold(), set()
    number = re.fullmatch(r"(?:participant )?(\d+)|.+_(\d+)", text)
    if number and NUMBER in kinds:
        keys.add(("number", number[1] or number[2]))
    if TEXT in kinds:
        keys |= {("text", text), ("text", re.sub(r"\W|_", "", text))} - {("text", "")}
    return keys


def pack_feedback(folder, assignment, to=None):
    """Pack the pages of feedback/ as Moodle takes feedback files in a zip, and say in a text what was done.

    Moodle knows students by its own number, which is part of their folder's name after `collect`: "Jane Doe_1234".
    Raises GradingError where nobody has both a page and such a name.
    """
    course = Course(folder)
    students = [student for student, theirs, _ in course.handed_in() if theirs == assignment]
    pages = {student: sorted(course.path("feedback", student, assignment).glob("*.html")) for student in students}
    known = {student: found for student, found in pages.items() if found and re.fullmatch(r"[^_]+_\d+", student)}
    if not known:
        raise GradingError(f"There is no page of {assignment} for a student with Moodle's number, as Jane Doe_1234.")
    target = Path(to or course.folder / f"{assignment}.feedback.zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
        for student, found in known.items():
            for page in found:
                file.write(page, f"{student}_assignfeedback_file_/{page.name}")
    lines = [f"Written: {target}", f"The pages of {len(known)} students are in it."]
    left = [student for student in students if student not in known]
    lines += [f"Left out, because there is no page or no number of Moodle's: {', '.join(left)}."] if left else []
    return "\n".join(lines)
