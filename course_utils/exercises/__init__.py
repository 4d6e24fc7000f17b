"""The course's graded exercises: EXERCISES maps an id to an Exercise, `check` and `grade` judge an answer.

`check` is what a student runs: an instant verdict, as often as one likes. `grade` is what counts: it runs the same
exercise on fresh inputs and raises where the answer is wrong. `working` lets a lab go on with or without an answer.
"""

import difflib
import secrets

from course_utils.exercises import (
    ddpm_2d,
    ddpm_mnist,
    ddpm_mnist_bugs,
    ddpm_mnist_networks,
    editing,
    energy,
    epipolar,
    epipolar_matches,
    guidance,
    guidance_networks,
    score_matching,
)
from course_utils.exercises.exercise import Exercise, Misconception, Result

__all__ = ["EXERCISES", "Exercise", "Misconception", "Result", "check", "grade", "working"]

CHAPTERS = (
    energy,
    score_matching,
    ddpm_2d,
    ddpm_mnist_networks,
    ddpm_mnist,
    ddpm_mnist_bugs,
    guidance_networks,
    guidance,
    editing,
    epipolar,
    epipolar_matches,
)
EXERCISES = {e.id: e for chapter in CHAPTERS for e in vars(chapter).values() if isinstance(e, Exercise)}


def check(id, answer):
    """Print the verdict on an answer: right, or the first wrong case in numbers and the known mistake it looks like.

    Raises ValueError where there is no exercise of that id.
    """
    result = verdict(id, answer, seeds=(0, 1))
    if result.printed:
        print(f"(your function printed: {result.printed.strip()[:500]})")
    print(result.message)


def grade(id, answer, seed=None):
    """Raise AssertionError where an answer is wrong; its message names the case but no expected number.

    Three fresh draws of all cases, or the one of `seed`. Raises ValueError where there is no exercise of that id.
    """
    seeds = [secrets.randbelow(2**31) for _ in range(3)] if seed is None else [seed]
    result = verdict(id, answer, seeds)
    if not result:
        raise plain(AssertionError(f"No points yet. {result.reason}"))


def working(id, namespace):
    """A right answer to go on with: the student's where it is right, else (said in a line) the course's own.

    `namespace` is where the student's function is looked up by the exercise's name, if it is there: a notebook's
    globals(). Raises ValueError where there is no exercise of that id.
    """
    exercise = find(id)
    answer = namespace.get(exercise.name)
    if exercise.grade(answer):
        return answer
    print(f"({exercise.name}: yours is not ready, so the course's stands in)")
    return exercise.reference


def verdict(id, answer, seeds):
    """The first wrong Result among several seeds, or the last right one."""
    exercise = find(id)
    for seed in seeds:
        result = exercise.grade(answer, seed)
        if not result:
            break
    return result


def find(id):
    """The exercise of that id; raises ValueError, which names the nearest, where there is none."""
    if id not in EXERCISES:
        near = difflib.get_close_matches(id, EXERCISES, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(EXERCISES)}"
        raise plain(ValueError(f"there is no exercise {id!r}: {hint}"))
    return EXERCISES[id]


def plain(error):
    """The error, shown in a notebook as its message alone: no line of ours, and none of a test cell's."""
    error._render_traceback_ = lambda: [f"{type(error).__name__}: {error}"]
    return error
