"""Killed in the middle: the next run finishes the rest, changes no grade, and runs nothing twice; nothing is left.

With the real engine and the command. Two moments here; benchmarks/grading.py --kills 10 tries more.
"""

import random

import pytest
from grading_class import (
    PROBLEMS,
    RIGHT,
    WORTH,
    Draft,
    Place,
    command,
    deserved,
    finished,
    killed_at,
    nothing_left,
    points,
)

from course_utils.grading.sandbox import SandboxError, probe

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")]
STUDENTS = {f"s{n}": list(RIGHT)[: n % 4] for n in range(8)}


@pytest.fixture
def place(tmp_path):
    try:
        probe()
    except SandboxError as error:
        pytest.skip(str(error))
    with Place(tmp_path / "place") as place:
        for student, answers in STUDENTS.items():
            draft = Draft(place, student)
            draft.write(**{answer: RIGHT[answer] for answer in answers})
            draft.add("import time\n\ntime.sleep(0.3)")
            draft.save()
        yield place


def test_a_run_that_is_killed_is_finished_by_the_next(place):
    chance = random.Random(0)
    for _ in range(2):
        assert killed_at(place, chance.randint(1, 3)), "what was finished was run again"
    done = finished(place)
    assert 2 <= len(done) < len(STUDENTS)
    assert nothing_left(place)
    assert command(place).wait() == 0
    assert done.items() <= finished(place).items() and len(finished(place)) == len(STUDENTS)
    for student, answers in STUDENTS.items():
        got = points(place.course, student, PROBLEMS)
        assert {name: got[name] for name in WORTH} == deserved(*answers)
    assert len((place.course / "grades.csv").read_text().splitlines()) == 1 + len(STUDENTS)
    assert nothing_left(place) and not list(place.course.rglob("*.part"))
