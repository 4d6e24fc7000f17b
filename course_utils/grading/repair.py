"""Rebuild a submission on the notebook that was handed out, so that lost, doubled and edited cells grade right.

A cell is known again by its grade_id, its id (or Colab's), a first line that stands nowhere else, its text, what it
defines, its likeness, and last by its place between two known neighbours. Answers are the student's; tests and
read-only cells the instructor's; the student's own cells stay where they were and are worth nothing. What is not found
is said.
"""

import collections
import copy
import difflib
import re

from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell

from .reading import Unreadable

ALIKE = 0.6  # the least likeness that counts, and by how much it must exceed the second best
MARGIN = 0.1
LONGEST = 2000  # characters compared: likeness takes the square of it
MOST_COMPARED = 2000  # pairs of cells
WORDS = 0.4  # the share of common words below which likeness is not even looked for
OWN = "own"  # the id of a student's own cell, until it has a number
SURE = ("grade_id", "id")


def claims(cell):
    """The nbgrader metadata of a cell of the skeleton, {} for a free cell."""
    return cell.metadata.get("nbgrader", {})


def is_answer(cell):
    return bool(claims(cell).get("solution"))


def is_locked(cell):
    """Does the instructor's text count, whatever was handed in?"""
    return not is_answer(cell) and any(claims(cell).get(name) for name in ("grade", "locked", "task"))


def label(cell):
    """What a cell is called in a note."""
    return claims(cell).get("grade_id") or _first_line(cell.source)[:60]


def rebuild(skeleton, cells):
    """The notebook to grade, and notes for student and instructor: the `skeleton` (a notebook) with what `cells` hold.

    Raises Unreadable where none of the assignment's answers or tests is among the cells.
    """
    match = Match(skeleton.cells, cells)
    if not any(claims(skeleton.cells[i]) for i, how in match.how.items() if how != "place"):
        raise Unreadable("The notebook holds none of the assignment's cells: hand in the notebook that was handed out.")
    extras, made = match.extras(), []
    for j in extras.pop(None, []):
        made.append(_own_cell(cells[j]))
    for i, original in enumerate(skeleton.cells):
        j = match.found.get(i)
        if j is None and not claims(original) and match.is_replaced(i):
            continue
        made.append(_filled(original, None if j is None else cells[j]))
        made += [_own_cell(cells[extra]) for extra in extras.get(i, [])]
    for number, cell in enumerate(cell for cell in made if cell.id == OWN):
        cell.id = f"{OWN}-{number}"
    notebook = new_notebook(cells=made, metadata=copy.deepcopy(skeleton.metadata))
    return notebook, match.notes()


def likeness(skeleton, cells):
    """How many of the skeleton's answers and tests a submitted notebook holds for sure."""
    match = Match(skeleton.cells, cells, levels=("grade_id", "id", "first line", "text", "definition"))
    return sum(bool(claims(skeleton.cells[i])) for i in match.found)


def _filled(original, submitted):
    """The skeleton's cell with the student's text where that counts."""
    cell = copy.deepcopy(original)
    cell.metadata.pop("released", None)
    if cell.cell_type == "code":
        cell.outputs, cell.execution_count = [], None
    if submitted is not None and not is_locked(original):
        cell.source = submitted.source
        if submitted.attachments and cell.cell_type == "markdown":
            cell.attachments = submitted.attachments
    return cell


def _own_cell(submitted):
    """A cell that the student added: it runs, and claims nothing."""
    make = {"code": new_code_cell, "markdown": new_markdown_cell, "raw": new_raw_cell}[submitted.kind]
    cell = make(submitted.source, id=OWN)
    if submitted.attachments and submitted.kind == "markdown":
        cell.attachments = submitted.attachments
    return cell


class Match:
    """Which submitted cell is which of the skeleton's: `found` and `how`, by the index in the skeleton."""

    def __init__(self, skeleton, cells, levels=None):
        self.skeleton, self.cells = skeleton, cells
        self.found, self.how, self.dropped, self.several = {}, {}, set(), []
        keys = {
            "grade_id": (lambda s: claims(s).get("grade_id"), lambda c: [c.grade_id]),
            "id": (lambda s: s.get("id"), lambda c: c.ids),
            "first line": (lambda s: _marker(s.source), lambda c: [_marker(c.source)]),
            "text": (lambda s: _plain(s.source), lambda c: [_plain(c.source)]),
            "definition": (lambda s: _defines(s.source), lambda c: [_defines(c.source)]),
        }
        for how, (ours, theirs) in keys.items():
            if levels is None or how in levels:
                self._by_key(how, ours, theirs)
        if levels is None:
            self._by_likeness()
            self._by_place()

    def _open(self):
        """The cells on both sides that are not known yet."""
        taken = set(self.found.values()) | self.dropped
        return (
            [i for i in range(len(self.skeleton)) if i not in self.found],
            [j for j in range(len(self.cells)) if j not in taken],
        )

    def _by_key(self, how, ours, theirs):
        """Match cells whose keys are the same, where the key stands once in the skeleton."""
        missing, left = self._open()
        keys = [ours(self.skeleton[i]) for i in missing]
        for i, key in zip(missing, keys, strict=True):
            if key and keys.count(key) == 1:
                same = [j for j in left if key in theirs(self.cells[j]) and self._fits(i, j, how)]
                if same:
                    self._take(i, self._choice(i, same, how), how)

    def _fits(self, i, j, how):
        """May the one be the other? Only a grade_id speaks for a cell whose type was changed."""
        return how == "grade_id" or self.skeleton[i].cell_type == self.cells[j].kind

    def _choice(self, i, same, how):
        """Which of several copies counts: the one that was written in, the last of those; the others never hide it."""
        original = _plain(self.skeleton[i].source)
        written = [j for j in same if _plain(self.cells[j].source) != original]
        chosen = (written or same)[-1]
        texts = {_plain(self.cells[j].source) for j in written}
        self.dropped |= {
            j for j in same if _plain(self.cells[j].source) in (original, _plain(self.cells[chosen].source))
        }
        self.dropped.discard(chosen)
        if is_answer(self.skeleton[i]) and len(texts) > 1:
            self.several.append(i)
        return chosen

    def _take(self, i, j, how):
        self.found[i], self.how[i] = j, how

    def _by_likeness(self):
        """Match what is most alike, best first, where nothing else comes near."""
        missing, left = self._open()
        pairs = [(i, j) for i in missing for j in left if self._fits(i, j, "likeness")]
        words = {i: _words(self.skeleton[i].source) for i in missing}, {j: _words(self.cells[j].source) for j in left}
        pairs = [(i, j) for i, j in pairs if _share(words[0][i], words[1][j]) >= WORDS][:MOST_COMPARED]
        score = {(i, j): alike(self.skeleton[i].source, self.cells[j].source) for i, j in pairs}
        for (i, j), best in sorted(score.items(), key=lambda item: -item[1]):
            if best < ALIKE or i in self.found or j in self.found.values():
                continue
            others = [v for (a, b), v in score.items() if (a == i) != (b == j) and a not in self.found]
            if best - max(others, default=0) >= MARGIN:
                self._take(i, j, "likeness")

    def _by_place(self):
        """Match an answer that is the only one missing between two known neighbours with the only cell found there."""
        for i in self._open()[0]:
            if is_answer(self.skeleton[i]):
                low, high = self._gap(i)
                alone = all(k in self.found for k in (i - 1, i + 1) if 0 <= k < len(self.skeleton))
                there = [j for j in self._open()[1] if low < j < high and self._fits(i, j, "place")]
                if alone and len(there) == 1 and self.cells[there[0]].source.strip():
                    self._take(i, there[0], "place")

    def _gap(self, i):
        """Between which submitted cells the skeleton's cell i would stand."""
        before = [self.found[k] for k in range(i) if k in self.found]
        after = [self.found[k] for k in range(i + 1, len(self.skeleton)) if k in self.found]
        return (before[-1] if before else -1), (after[0] if after else len(self.cells))

    def is_replaced(self, i):
        """Has the student put something in the place of a free cell that is missing? Then it stays away."""
        low, high = self._gap(i)
        return any(low < j < high and self.cells[j].kind == self.skeleton[i].cell_type for j in self._open()[1])

    def extras(self):
        """The student's own cells in order, by the index of the skeleton's cell that they follow (None: at the top)."""
        back, last, found = {j: i for i, j in self.found.items()}, None, {}
        left = set(self._open()[1])
        for j in range(len(self.cells)):
            last = back.get(j, last)
            if j in left and self.cells[j].source.strip():
                found.setdefault(last, []).append(j)
        return found

    def notes(self):
        """What was done and what is missing, a sentence each."""
        notes = []
        missing = [i for i, cell in enumerate(self.skeleton) if i not in self.found and is_answer(cell)]
        if missing:
            notes.append(f"No answer was found to {self._names(missing)}: not answered, then.")
        for i in self.several:
            notes.append(f"The answer to {label(self.skeleton[i])} was there more than once: the last one counts.")
        changed, lost = self._changed_tests(), [i for i in range(len(self.skeleton)) if self._is_lost_test(i)]
        if lost:
            notes.append(f"Put back, because they were missing: {self._names(lost)}.")
        if changed:
            notes.append(f"Changed tests or read-only cells were put back as they were: {self._names(changed)}.")
        known = [i for i, how in sorted(self.how.items()) if how not in SURE and claims(self.skeleton[i])]
        if known:
            how = ", ".join(dict.fromkeys(self.how[i] for i in known))
            notes.append(f"Cells had lost their marks and were known again by their {how}: {self._names(known)}.")
        order = [self.found[i] for i in sorted(self.found)]
        if order != sorted(order):
            notes.append("The cells were in another order: they ran in the order of the notebook that was handed out.")
        claiming = {j for j in self._open()[1] if self.cells[j].grade_id}
        if claiming:
            notes.append(f"{_count(len(claiming))} claimed to be graded and is none of the assignment's: no points.")
        return notes

    def _is_lost_test(self, i):
        return i not in self.found and is_locked(self.skeleton[i])

    def _changed_tests(self):
        """The locked cells whose text is not what was handed out."""
        return [
            i
            for i, j in sorted(self.found.items())
            if is_locked(self.skeleton[i])
            and _plain(self.cells[j].source) not in (_plain(self.skeleton[i].source), released(self.skeleton[i]))
        ]

    def _names(self, indices):
        return ", ".join(label(self.skeleton[i]) for i in indices)


def released(cell):
    """A locked cell's plain text as students got it: without its hidden lines."""
    return _plain(cell.metadata.get("released", cell.source))


def alike(text, other):
    """How alike two texts are, 0 to 1: their ratio, or how much of the first is in the second (a stub filled in)."""
    text, other = _plain(text)[:LONGEST], _plain(other)[:LONGEST]
    matcher = difflib.SequenceMatcher(None, text, other, autojunk=False)
    if not text or not other:
        return 0
    blocks = sum(block.size for block in matcher.get_matching_blocks() if block.size >= 8)
    return max(matcher.ratio(), blocks / len(text) if len(text) >= 40 else 0)


def _words(text):
    return collections.Counter(re.findall(r"\w+", _plain(text)[:LONGEST]))


def _share(words, others):
    """How many of the words are also among the others, 0 to 1."""
    return (words & others).total() / max(words.total(), 1)


def _plain(text):
    """A text without what an editor may change: trailing blanks, empty lines, Colab's form line."""
    lines = (line.rstrip() for line in text.split("\n"))
    return "\n".join(line for line in lines if line and not re.match(r"#\s*@title\b", line))


def _first_line(text):
    return (_plain(text).split("\n") or [""])[0].strip()


def _marker(text):
    """A first line that people can read: a comment, a heading, a bold title. None for any other."""
    line = _first_line(text)
    return line if re.match(r"(#+\s*\S|\*\*\S)", line) and len(line) > 6 else None


def _defines(text):
    """The names that a cell defines at its top level, or None."""
    return tuple(re.findall(r"^(?:async\s+def|def|class)\s+(\w+)", text, re.M)) or None


def _count(number):
    return "One cell" if number == 1 else f"{number} cells"
