"""Killed in the middle: the next run finishes the rest, changes no grade, and runs nothing twice; nothing is left.

With the real engine and the command. Two moments here; benchmarks/grading.py --kills 10 tries more.
"""

import random

import pytest
from grading_class import PROBLEMS, RIGHT, Draft, Place, command, finished, killed_at, nothing_left, points

from course_utils.grading.sandbox import SandboxError, probe

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")]
STUDENTS = {f"s{n}": list(RIGHT)[: n % 4] for n in range(8)}


@pytest.fixture
def places(tmp_path):
    """Two places with the same class."""
    try:
        probe()
    except SandboxError as error:
        pytest.skip(str(error))
    made = []
    for name in ("whole", "killed"):
        with Place(tmp_path / name) as place:
            made.append(place)
            for student, answers in STUDENTS.items():
                draft = Draft(place, student)
                draft.write(**{answer: RIGHT[answer] for answer in answers})
                draft.add("import time\n\ntime.sleep(0.3)")
                draft.save()
    return made


def grades(place):
    return {student: points(place.course, student, PROBLEMS) for student in STUDENTS}


def test_a_run_that_is_killed_is_finished_by_the_next(places):
    whole, killed = places
    assert command(whole).wait() == 0
    chance = random.Random(0)
    for _ in range(2):
        assert killed_at(killed, chance.randint(1, 3)), "what was finished was run again"
    done = finished(killed)
    assert 2 <= len(done) < len(STUDENTS)
    assert nothing_left(killed)
    assert command(killed).wait() == 0
    assert done.items() <= finished(killed).items() and len(finished(killed)) == len(STUDENTS)
    assert grades(killed) == grades(whole)
    assert (killed.course / "grades.csv").read_text() == (whole.course / "grades.csv").read_text()
    assert nothing_left(killed) and not list(killed.course.rglob("*.part"))
