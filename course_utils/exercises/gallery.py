"""The gallery of mistakes: what a wrong line looks like, beside what the right one gives.

An `Experiment` runs one exercise's answer, whatever it is, and draws what comes out. The gallery runs it with the right
answer and with some of the exercise's misconceptions: no picture is made up, and sentences and links are the grader's.
The experiments themselves stand in experiments.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from course_utils.exercises import EXERCISES

GRID = "display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: 1em"


@dataclass
class Experiment:
    """draw(answer, alt) -> a Picture; `shows` says what is done, `right` and `wrong` (name -> text) what one sees."""

    id: str
    draw: Callable
    shows: str
    right: str
    wrong: dict

    @property
    def exercise(self):
        return EXERCISES[self.id]

    def pictures(self):
        """(title, Picture, sentence, link) of the right answer, then of each mistake; the right one has no link."""
        exercise = self.exercise
        yield "Right", self.draw(exercise.reference, self.right), self.right, None
        for name, seen in self.wrong.items():
            mistake = exercise.misconceptions[name]
            yield seen, self.draw(mistake, seen), mistake.sentence, mistake.link

    def _repr_mimebundle_(self, include=None, exclude=None):
        shown = list(self.pictures())
        text = "\n".join(f"[picture: {picture.alt}]" for _, picture, _, _ in shown)
        return {"text/html": self.to_html(shown), "text/plain": text}

    def to_html(self, shown):
        figures = "".join(map(figure, *zip(*shown, strict=True)))
        exercise = self.exercise
        return (
            f'<section class="mistakes"><h3>{escape(exercise.title)}</h3>'
            f"<p>{escape(self.shows)} The exercise is <code>{escape(exercise.id)}</code>.</p>"
            f'<div style="{GRID}">{figures}</div></section>'
        )


def figure(title, picture, sentence, link):
    """One picture as HTML, with what went wrong and where to read on below it."""
    image = picture._repr_mimebundle_()["text/html"]
    if link is None:
        words, kind = f"<strong>Right.</strong> {escape(sentence)}", "right"
    else:
        words, kind = f'<strong>Wrong.</strong> {escape(sentence)} <a href="{escape(link)}">Read on</a>', "wrong"
    return f'<figure class="{kind}" style="margin: 0">{image}<figcaption>{words}</figcaption></figure>'


def show(chapter):
    """Display the gallery of one chapter ("energy", "ddpm_2d", ...) below a notebook's cell."""
    from IPython.display import display

    from course_utils.exercises.experiments import EXPERIMENTS

    for experiment in EXPERIMENTS:
        if experiment.exercise.chapter == chapter:
            display(experiment)
