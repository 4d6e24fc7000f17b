"""The whole corpus through the grader, in one batch: nobody gains, and the honest get exactly what they deserve.

Then what the corpus can't show: processes and folders that are left behind, a browser on the attackers' feedback, and
messages made up by the student's side of the wire.
"""

import contextlib
import csv
import json
import os
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from grading_class import PROBLEMS, Draft, Place, judge, processes
from grading_corpus import CORPUS

from course_utils.grading import grade_course, wire
from course_utils.grading.sandbox import Limits, SandboxError, probe

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")]
LIMITS = Limits(cell_seconds=10, notebook_seconds=40, memory=1 << 30)
MOST_BYTES = 4 * LIMITS.total_output  # of an autograded notebook or a page
PROBLEM = {"empty_file": "The file is empty", "empty_folder": "No notebook was handed in"}


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """The place after the one batch; `place.rows` by student, `place.left` what was left on the machine."""
    try:
        probe()
    except SandboxError as error:
        pytest.skip(str(error))
    with Place(tmp_path_factory.mktemp("attacks") / "class") as place:
        for submission in CORPUS:
            draft = Draft(place, submission.name, submission.assignment)
            submission.edit(draft)
            draft.save()
        before = children()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TMPDIR", str(place.home))
            patch.setattr(tempfile, "tempdir", str(place.home))
            rows = grade_course(place.course, limits=LIMITS, workers=4)  # two wait while two work
        place.rows = {row["student"]: row for row in rows}
        time.sleep(1)
        place.left = children() - before, sorted(path.name for path in place.home.glob("grading-*"))
        yield place


def children():
    """Every process below this one, but for Python's own that waits for this one to end."""
    found, left = set(), [os.getpid()]
    while left:
        for task in Path(f"/proc/{left.pop()}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                new = set(map(int, task.read_text().split())) - found
                found |= new
                left += new
    return {pid for pid in found if b"resource_tracker" not in command_line(pid)}


def command_line(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@pytest.mark.parametrize("submission", CORPUS, ids=lambda s: f"{s.kind}-{s.name}")
def test_each_gets_what_it_deserves_and_does_no_harm(graded, submission):
    verdict = judge(graded, submission)
    assert verdict, verdict
    problem = graded.rows[submission.name]["problem"]
    assert PROBLEM[submission.name] in problem if submission.name in PROBLEM else not problem


def test_nothing_is_left_on_the_machine(graded):
    assert graded.left == (set(), [])
    assert not graded.signals
    assert not [token for s in CORPUS for token in processes(graded.token(s.name))]


def test_what_is_kept_is_small(graded):
    for step in ("autograded", "feedback", "logs"):
        for path in (graded.course / step).rglob("*"):
            if path.suffix in (".ipynb", ".html", ".log"):
                assert path.stat().st_size < MOST_BYTES, path.relative_to(graded.course)


def test_nobody_sees_hidden_tests(graded):
    for page in (graded.course / "feedback").rglob("*.html"):
        text = page.read_text("utf-8")
        for secret in (graded.canaries["source"], "fmean(values)", "0.7390851332151607", "== 1060"):
            assert secret not in text or secret in handed_in(graded, page), (page.parts[-3], secret)


def handed_in(place, page):
    """What the student of a page wrote."""
    path = place.course / "submitted" / page.parts[-3] / PROBLEMS / f"{PROBLEMS}.ipynb"
    return path.read_text("utf-8", "replace") if path.exists() else ""


def test_the_table_of_grades_is_whole(graded):
    with open(graded.course / "grades.csv", encoding="utf-8", newline="") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {submission.name for submission in CORPUS}
    assert rows["right"]["score"] == "16" and rows["right"]["written_pending"] == "0"


def test_a_browser_runs_nothing_of_the_feedback(graded, chromium):
    page = chromium.new_page()
    for submission in CORPUS:
        if submission.kind == "script":
            name = f"feedback/{submission.name}/{PROBLEMS}/{PROBLEMS}.html"
            page.goto((graded.course / name).as_uri(), wait_until="load")
            page.wait_for_timeout(300)
            assert graded.token(submission.name) not in page.title()
            assert page.evaluate("window.owned === undefined")
    page.close()


# ---- the wire --------------------------------------------------------------------------------------------------------


VALUES = [
    {"a": [1, 2.5, None, True, "x"], "b": (1, {2, 3}, frozenset([4])), "c": {1: b"ab", (1, 2): bytearray(b"c")}},
    [np.arange(6.0).reshape(2, 3), np.array(["ab", "c"]), np.float32(1.5), np.array(["2026-11-28"], "M8[D]"), 1 << 80],
    [complex(1, -2), range(3), slice(1, None), ..., np.dtype("float64"), np.array([[True]])],
]


def bent(header, chance):
    """A header in which something is another than it was."""
    plain = json.loads(header)
    strange = [None, -1, 1 << 62, 1e308, "", "\ud800", "__class__", [], {}, {"tag": "array"}, [[]] * 3, True, "float99"]

    def walk(value):
        if chance.random() < 0.05:
            return chance.choice(strange)
        if isinstance(value, list):
            return [walk(v) for v in value]
        if isinstance(value, dict):
            return {(k if chance.random() < 0.98 else "v"): walk(v) for k, v in value.items()}
        return value

    return json.dumps(walk(plain)).encode()


@pytest.mark.parametrize("value", VALUES, ids=["plain", "arrays", "others"])
def test_made_up_messages_are_refused_or_are_data(value):
    header, buffers = wire.dump(value)
    body, chance = b"".join(buffers), random.Random(0)
    for _ in range(1500):
        cut = bytearray(body[: chance.randrange(len(body) + 1)] if chance.random() < 0.3 else body)
        with contextlib.suppress(wire.WireError):
            wire.dump(wire.load(bent(header, chance), cut))


BOMBS = {
    "a fraction": {"tag": "Fraction", "v": "1e999999999"},
    "a decimal's digits": {"tag": "Decimal", "v": "1" * 10_000_000},
    "an array of nothing": {"tag": "array", "dtype": "<U0", "shape": [1 << 47, 1 << 47], "n": 0},
    "an array larger than memory": {"tag": "array", "dtype": "<f8", "shape": [1 << 40], "n": 1 << 43},
    "depth": "[" * 100_000 + "]" * 100_000,
    "an int's digits": "1" * 5_000_000,
    "a class": {"tag": "_Loader__init", "v": 1},
    "a python name": {"tag": "value", "v": [1]},
    "a namedtuple with code": {"tag": "named", "name": "x=print()", "fields": ["a"], "v": [1]},
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_at_once(name):
    bomb = BOMBS[name] if isinstance(BOMBS[name], str) else json.dumps(BOMBS[name])
    begin = time.process_time()
    with pytest.raises(wire.WireError):
        wire.load(bomb.encode(), b"")
    assert time.process_time() - begin < 1
