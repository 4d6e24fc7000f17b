"""The graders' matrix as tables for a page: how many answers are refused, recognised and accepted, and which."""

import json
from html import escape

from course_utils.exercises import EXERCISES
from course_utils.exercises.__main__ import MEASURED, totals


class Html:
    """HTML as a cell's result."""

    def __init__(self, html, text):
        self.html, self.text = html, text

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/html": self.html, "text/plain": self.text}


def measured():
    """Dict id -> what was refused, recognised and accepted, by name."""
    return json.loads(MEASURED.read_text("utf-8"))["verdicts"]


def matrix():
    """A row for each exercise: its points, and how many answers are judged as they should be, of how many."""
    verdicts, rows, sums = measured(), [], dict.fromkeys(("points", "refused", "recognised", "accepted"), 0)
    for exercise in EXERCISES.values():
        counts = {what: len(names) for what, names in verdicts[exercise.id].items()}
        cells = "".join(f"<td>{counts[what]} of {n}</td>" for what, n in totals(exercise).items())
        title = f'<a href="{escape(exercise.section)}">{escape(exercise.title)}</a>'
        rows.append(
            f"<tr><th scope=row>{title}</th><td><code>{exercise.id}</code></td><td>{exercise.points}</td>{cells}"
        )
        for what, n in (counts | {"points": exercise.points}).items():
            sums[what] += n
    names = ("Exercise", "Its name", "Points", "Refused", "Recognised", "Accepted")
    head = "".join(f"<th scope=col>{name}</th>" for name in names)
    foot = (
        f"<tr><th scope=row>All {len(rows)}</th><td></td>" + "".join(f"<td>{n}</td>" for n in sums.values()) + "</tr>"
    )
    table = f"<table class=graders><thead><tr>{head}</thead><tbody>{''.join(rows)}{foot}</tbody></table>"
    return Html(
        f"<div class=wide tabindex=0 role=region aria-label=Matrix>{table}</div>", f"{len(rows)} exercises, {sums}"
    )


def sentences():
    """Each exercise's mistakes with their sentences, folded."""
    folds = []
    for exercise in EXERCISES.values():
        items = "".join(
            f"<li><code>{name}</code>: {escape(m.sentence)} <a href='{escape(m.link)}'>Read on</a></li>"
            for name, m in exercise.misconceptions.items()
        )
        summary = f"{escape(exercise.title)} <code>{exercise.id}</code>"
        folds.append(f"<details class=mistakes-of><summary>{summary}</summary><ul>{items}</ul></details>")
    return Html("".join(folds), f"{len(folds)} exercises")
