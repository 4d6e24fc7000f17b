"""The gallery of mistakes and the graders' matrix: drawn from the exercises, and in step with them."""

import json

import numpy as np
import pytest

from course_utils.exercises import EXERCISES
from course_utils.exercises.__main__ import MEASURED, student, verdicts
from course_utils.exercises.experiments import EXPERIMENTS
from course_utils.exercises.report import matrix, sentences

CHEAP = ("energy.langevin", "score_matching.mixture_score", "ddpm_2d.q_sample", "ddpm_mnist.time_embedding")


def test_the_gallery_shows_each_chapters_mistakes():
    shown = sum(len(e.wrong) for e in EXPERIMENTS)
    assert 20 <= shown <= 40
    assert {e.exercise.chapter for e in EXPERIMENTS} == {e.chapter for e in EXERCISES.values()}
    assert len({e.id for e in EXPERIMENTS}) == len(EXPERIMENTS)


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.id)
def test_every_mistake_shown_is_one_of_its_exercise_and_has_words(experiment):
    assert not set(experiment.wrong) - set(experiment.exercise.misconceptions)
    words = [experiment.shows, experiment.right, *experiment.wrong.values()]
    assert all(len(text) > 15 and text.endswith(".") for text in words) and len(set(words)) == len(words)


@pytest.mark.parametrize("experiment", [e for e in EXPERIMENTS if e.id in CHEAP], ids=lambda e: e.id)
def test_a_mistake_looks_different_and_a_right_answer_the_same(experiment):
    exercise = experiment.exercise
    (_, right, _, nowhere), *wrong = experiment.pictures()
    assert nowhere is None and right.alt == experiment.right
    again = experiment.draw(student(exercise, next(iter(exercise.equivalents.values()))), "again")
    difference = lambda picture: np.abs(np.asarray(picture.image, float) - np.asarray(right.image, float)).mean()  # noqa: E731
    for _, picture, sentence, link in wrong:
        assert difference(picture) > 1 > 20 * difference(again)
        assert picture.alt in experiment.wrong.values() and link.startswith(f"{exercise.chapter}.html#")
        assert sentence in {m.sentence for m in exercise.misconceptions.values()}


def test_a_row_of_the_gallery_as_html():
    experiment = next(e for e in EXPERIMENTS if e.id == "ddpm_mnist.time_embedding")
    bundle = experiment._repr_mimebundle_()
    assert bundle["text/html"].count("<figure") == bundle["text/html"].count("<img") == 1 + len(experiment.wrong)
    assert all(text in bundle["text/plain"] for text in experiment.wrong.values())


def test_the_graders_table_is_in_step():
    """What was measured names every exercise, mistake and equivalent there is: each was judged as it should be."""
    measured = json.loads(MEASURED.read_text("utf-8"))["verdicts"]
    for id, exercise in EXERCISES.items():
        wrong, right = [*exercise.misconceptions], [*exercise.equivalents]
        expected = {"refused": wrong, "recognised": wrong, "accepted": right}
        assert measured.get(id) == expected, "run `python -m course_utils.exercises --write`"
    assert [*measured] == [*EXERCISES]
    text = matrix()._repr_mimebundle_()["text/html"]
    assert text.count("<tr>") == len(EXERCISES) + 2
    assert sentences()._repr_mimebundle_()["text/html"].count("<li>") == sum(
        len(e.misconceptions) for e in EXERCISES.values()
    )


def test_verdicts_count_what_happens_at_every_seed():
    exercise = EXERCISES["ddpm_2d.alpha_bar"]
    wrong = {
        n: [exercise.grade(student(exercise, f), seed) for seed in (0, 1)] for n, f in exercise.misconceptions.items()
    }
    right = {"the_reference": [exercise.grade(student(exercise, next(iter(exercise.equivalents.values()))), 0)]}
    good = verdicts(wrong, right)
    assert good["refused"] == good["recognised"] == [*exercise.misconceptions] and good["accepted"] == ["the_reference"]
    mixed = verdicts({"one_late": [wrong["one_late"][0], right["the_reference"][0]]}, {"no": wrong["one_late"]})
    assert mixed == {"refused": [], "recognised": [], "accepted": []}
