"""Labs: a text notebook with answers becomes the instructor's notebook, and that the student's.

A lab is py:percent text, solutions/03_topic/03_topic.py. Its first cell is markdown and holds the title. Cell options:

    # %% solution="q_sample"                    code; ### BEGIN SOLUTION ... ### END SOLUTION marks what students write
    # %% tests="q_sample_test" points=2         code; check(...) for all to see, grade(...) between
                                                ### BEGIN HIDDEN TESTS ... ### END HIDDEN TESTS
    # %% [markdown] essay="why" points=3        the model answer and mark scheme of a written question; never released

Texts may link to pages of the book (../../book/page.md#section) and use its roles; they become links to the website.
A solution is followed by its tests, whose id is the solution's with _test added. Graded cells are numbered in order
(Exercise 3.1, 3.2, ...) and bear that number and their id in a first line that people and programs can read.
"""

import ast
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import jupytext
import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell
from nbgrader.converters import GenerateAssignment
from nbgrader.coursedir import CourseDirectory
from traitlets.config import Config

from .address import Address
from .errors import AuthoringError
from .myst import Book, Converter, Page
from .notebook import assemble, badge_cell, setup_cell

READ_ON = """

import os

os.environ["COURSE_SITE"] = "{website}"  # where a check says to read on"""
KINDS = ("solution", "tests", "essay")
REGIONS = {"solution": "SOLUTION", "tests": "HIDDEN TESTS", "essay": None, None: None}
ANSWER_HERE = "*Write your answer here (double-click).*"


@dataclass
class Cell:
    """One cell of a lab's source: `kind` is "solution", "tests", "essay" or None; `line` is where it begins."""

    cell_type: str
    source: str
    line: int
    kind: str | None = None
    id: str | None = None
    points: float | None = None
    number: str | None = None  # "3.2"

    @property
    def marker(self):
        return f"Exercise {self.number} ({self.id})"


def find_labs(root):
    """The labs' sources below `root`/solutions, in order."""
    return sorted(Path(root, "solutions").glob("*/*.py"))


def release_config():
    """nbgrader's settings for what students get: shared by the builder and by grading, so that both agree."""
    config = Config()
    config.ClearSolutions.text_stub = ANSWER_HERE
    return config


def source_notebook(path, exercises=None):
    """The instructor's notebook of the lab at `path`: with answers, hidden tests and nbgrader's metadata.

    `exercises` maps exercise ids to objects with .points (default: course_utils.exercises.EXERCISES).
    Raises AuthoringError where the source breaks a rule.
    """
    path = Path(path)
    if exercises is None:
        from course_utils.exercises import EXERCISES as exercises
    cells = read_cells(path)
    check_lab(path, cells, exercises)
    root, lab = path.parents[2], path.stem
    address = Address.read(root)
    _link_to_website(cells, root, path)
    title, *rest = [_notebook_cell(cell) for cell in cells]
    badge, setup = badge_cell(address, f"notebooks/{lab}/{lab}.ipynb"), setup_cell(address)
    setup.source += READ_ON.format(website=address.website)
    setup.metadata["nbgrader"] = _metadata("setup", locked=True)
    return assemble([badge, title, setup, *rest])


def student_notebook(path, exercises=None):
    """The notebook that students get: nbgrader's own release of `source_notebook(path)`."""
    return release(source_notebook(path, exercises), Path(path).stem)


def release(source, lab):
    """What nbgrader's generate_assignment makes of the instructor's notebook, without a gradebook."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "source", lab, f"{lab}.ipynb")
        file.parent.mkdir(parents=True)
        nbformat.write(source, file)
        config = release_config()
        config.CourseDirectory.root = folder
        config.CourseDirectory.assignment_id = lab
        config.GenerateAssignment.no_database = True
        config.SaveCells.enabled = False
        GenerateAssignment(coursedir=CourseDirectory(config=config), config=config).start()
        return nbformat.read(Path(folder, "release", lab, f"{lab}.ipynb"), as_version=4)


def read_cells(path):
    """Read a lab's cells, their options expanded; raises AuthoringError for options that make no sense."""
    path = Path(path)
    text = path.read_text("utf-8")
    lines = [number for number, line in enumerate(text.splitlines(), 1) if re.match(r"# %%(\s|$)", line)]
    notebook = jupytext.reads(text, fmt="py:percent")
    if len(notebook.cells) != len(lines):
        raise AuthoringError(path, 1, "each cell must begin with a line '# %%'; something stands before the first")
    chapter = re.match(r"\d+", path.stem)
    if not chapter:
        raise AuthoringError(path, 1, "a lab's name begins with its chapter's number, as in 03_topic.py")
    if path.stem != path.parent.name:
        raise AuthoringError(path, 1, f"a lab is named after its folder: {path.parent.name}/{path.parent.name}.py")
    cells, numbers = [], {}
    for raw, line in zip(notebook.cells, lines, strict=True):
        cell = _read_options(path, raw, line)
        if cell.kind in ("solution", "essay"):
            numbers[cell.id] = f"{int(chapter[0])}.{len(numbers) + 1}"
        if cell.kind:
            cell.number = numbers.get(_solution_of(cell))
        cells.append(cell)
    return cells


def regions(source, name):
    """The lines between ### BEGIN `name` and ### END `name`, and the other lines: two lists of (offset, line).

    Raises ValueError, with the offset of the line, where the markers don't pair up.
    """
    inside, outside, begun = [], [], None
    for offset, line in enumerate(source.splitlines()):
        begins, ends = f"BEGIN {name}" in line, f"END {name}" in line
        if begins and begun is not None:
            raise ValueError(offset, f"### BEGIN {name} inside a region that has begun already")
        if ends and begun is None:
            raise ValueError(offset, f"### END {name} without a ### BEGIN {name} above it")
        if begins:
            begun = offset
        elif ends:
            begun = None
        else:
            (outside if begun is None else inside).append((offset, line))
    if begun is not None:
        raise ValueError(begun, f"### BEGIN {name} without a ### END {name} below it")
    return inside, outside


def secret_lines(path):
    """The lines of a lab's source that students must not see: those found only in answers, mark schemes, hidden tests.

    Lines are stripped; those of a single word or sign (`else:`, `)`) say nothing and are left out.
    """
    secret, public = set(), set()
    for cell in read_cells(path):
        if cell.kind == "essay":
            inside, outside = list(enumerate(cell.source.splitlines())), []
        elif cell.kind:
            inside, outside = regions(cell.source, REGIONS[cell.kind])
        else:
            inside, outside = [], list(enumerate(cell.source.splitlines()))
        secret |= {line.strip() for _, line in inside}
        public |= {line.strip() for _, line in outside}
    return {line for line in secret - public if len(re.findall(r"\w+", line)) > 1}


def _read_options(path, raw, line):
    """A Cell from jupytext's: which kind it is, its id and points."""
    options = {key: value for key, value in raw.metadata.items() if key != "lines_to_next_cell"}
    if "title" in options:  # what jupytext calls bare words
        bare = options["title"]
        raise AuthoringError(path, line, f'{bare!r} is no cell option; options are written solution="name", points=2')
    unknown = sorted(set(options) - {*KINDS, "points"})
    if unknown:
        known = ", ".join((*KINDS, "points"))
        raise AuthoringError(path, line, f"unknown cell option {unknown[0]!r}; a lab knows {known}")
    if raw.cell_type not in ("code", "markdown"):
        raise AuthoringError(path, line, f"a cell of type {raw.cell_type!r}; a lab has code and markdown cells")
    kinds = [kind for kind in KINDS if kind in options]
    if len(kinds) > 1:
        raise AuthoringError(path, line, f"a cell can't be {' and '.join(kinds)} at once; make two cells of it")
    cell = Cell(raw.cell_type, raw.source, line, kinds[0] if kinds else None)
    if cell.kind is None:
        if "points" in options:
            raise AuthoringError(path, line, "points stand in a tests or an essay cell only")
        return cell
    cell.id, cell.points = options[cell.kind], options.get("points")
    if not isinstance(cell.id, str) or not re.fullmatch(r"[A-Za-z]\w*", cell.id):
        raise AuthoringError(path, line, f'this {cell.kind} cell needs an id: # %% {cell.kind}="name"')
    if (cell.kind == "essay") != (cell.cell_type == "markdown"):
        wanted = "markdown: # %% [markdown] essay=..." if cell.kind == "essay" else "code"
        raise AuthoringError(path, line, f"the {cell.kind} cell {cell.id!r} must be {wanted}")
    if cell.kind == "solution" and "points" in options:
        raise AuthoringError(path, line, f"points stand in the tests of {cell.id!r}, not in the solution")
    is_number = isinstance(cell.points, int | float) and not isinstance(cell.points, bool)
    if cell.kind != "solution" and not (is_number and cell.points >= 0):
        raise AuthoringError(path, line, f"points of {cell.id!r} must be a number, 0 or more, as in points=2")
    return cell


def _solution_of(cell):
    return re.sub(r"_test$", "", cell.id) if cell.kind == "tests" else cell.id


def check_lab(path, cells, exercises):
    """Raise AuthoringError for the first rule of a lab that its cells break."""
    if not cells or cells[0].cell_type != "markdown" or not cells[0].source.startswith("# "):
        raise AuthoringError(path, cells[0].line if cells else 1, "the first cell must be markdown: '# The title'")
    lines, solutions, tested, heading = {}, {}, set(), None
    for cell in cells:
        if cell.kind is None:
            heading = _heading_number(cell) or heading
            _check_no_regions(path, cell)
            continue
        if cell.id in lines:
            raise AuthoringError(path, cell.line, f"the id {cell.id!r} is taken already, in line {lines[cell.id]}")
        lines[cell.id] = cell.line
        if cell.kind == "tests":
            _check_tests(path, cell, solutions, exercises)
            tested.add(_solution_of(cell))
            continue
        if heading and heading != cell.number:
            message = f"the heading above says Exercise {heading}, but {cell.id!r} is Exercise {cell.number}"
            raise AuthoringError(path, cell.line, message)
        if cell.kind == "solution":
            _check_solution(path, cell)
            solutions[cell.id] = cell.line
    for name, line in solutions.items():
        if name not in tested:
            raise AuthoringError(path, line, f'the solution {name!r} has no tests: add a cell tests="{name}_test"')


def _link_to_website(cells, root, path):
    """Turn the links of the lab's texts to pages of the book, which lead nowhere in Colab, to the website's."""
    book = Book(root)
    page = Page(path, path.relative_to(root).with_suffix("").as_posix(), "")
    for cell in cells:
        if cell.kind is None and cell.cell_type == "markdown":
            cell.source = Converter(book, page).convert(cell.source, cell.line)


def _heading_number(cell):
    found = re.findall(r"^#+ .*\bExercise (\d+\.\d+)", cell.source, re.M) if cell.cell_type == "markdown" else []
    return found[-1] if found else None


def _check_no_regions(path, cell):
    for offset, line in enumerate(cell.source.splitlines()):
        if re.search(r"(BEGIN|END) (SOLUTION|HIDDEN TESTS|MARK SCHEME)", line):
            message = f"{line.strip()!r} in a cell without option: students would get what follows"
            raise AuthoringError(path, cell.line + 1 + offset, message)


def _check_regions(path, cell):
    """The cell's hidden lines and the visible ones, its markers paired."""
    try:
        return regions(cell.source, REGIONS[cell.kind])
    except ValueError as error:
        offset, message = error.args
        raise AuthoringError(path, cell.line + 1 + offset, f"{message} in {cell.id!r}") from None


def _check_solution(path, cell):
    _parse(path, cell)
    if not _check_regions(path, cell)[0]:
        message = f"the solution {cell.id!r} needs its answer between ### BEGIN SOLUTION and ### END SOLUTION"
        raise AuthoringError(path, cell.line, message)


def _check_tests(path, cell, solutions, exercises):
    solution = _solution_of(cell)
    if not cell.id.endswith("_test") or solution not in solutions:
        message = f"the tests {cell.id!r} have no solution above them: the tests of x are called x_test"
        raise AuthoringError(path, cell.line, message)
    hidden, visible = _check_regions(path, cell)
    if not hidden:
        message = f"{cell.id!r} needs grade(...) between ### BEGIN HIDDEN TESTS and ### END HIDDEN TESTS"
        raise AuthoringError(path, cell.line, message)
    calls = [(*call, node.lineno - 1) for node in ast.walk(_parse(path, cell)) if (call := _exercise_call(node))]
    for _, exercise, offset in calls:
        if exercise not in exercises:
            raise AuthoringError(path, cell.line + 1 + offset, f"there is no exercise {exercise!r} in EXERCISES")
    for function, lines in (("check", visible), ("grade", hidden)):
        offsets = {offset for offset, _ in lines}
        if not any(called == function and offset in offsets for called, _, offset in calls):
            where = "visible part" if function == "check" else "hidden tests"
            raise AuthoringError(path, cell.line, f"the {where} of {cell.id!r} must call {function}(...)")
    points = sum(exercises[name].points for name in {exercise for _, exercise, _ in calls})
    if points != cell.points:
        message = f"{cell.id!r} has points={cell.points:g}, but its exercise is worth {points:g}"
        raise AuthoringError(path, cell.line, message)


def _exercise_call(node):
    """("check" or "grade", exercise id) where the node is such a call with a literal id."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("check", "grade"):
        if node.args and isinstance(node.args[0], ast.Constant):
            return node.func.id, node.args[0].value
    return None


def _parse(path, cell):
    try:
        return ast.parse(cell.source)
    except SyntaxError as error:
        message = f"{cell.id!r} is not Python: {error.msg}"
        raise AuthoringError(path, cell.line + (error.lineno or 0), message) from None


def _notebook_cell(cell):
    """The cell as nbformat has it, nbgrader's metadata and the marker line included."""
    new = new_code_cell if cell.cell_type == "code" else new_markdown_cell
    if cell.kind is None:
        # Texts are read-only, but unknown to nbgrader: it would refuse a corrected typo once there are submissions.
        read_only = {"editable": False, "deletable": False} if cell.cell_type == "markdown" else {}
        return new(cell.source, metadata=read_only)
    if cell.kind == "essay":
        source = f"**{cell.marker}**\n\n### BEGIN SOLUTION\n{cell.source}\n### END SOLUTION"
    else:
        source = f"# {cell.marker}\n{cell.source}"
    graded = cell.kind != "solution"
    metadata = _metadata(cell.id, grade=graded, solution=cell.kind != "tests", locked=cell.kind == "tests")
    if graded:
        metadata["points"] = cell.points
    return new(source, metadata={"nbgrader": metadata})


def _metadata(grade_id, grade=False, solution=False, locked=False):
    return {
        "schema_version": 3,
        "grade_id": grade_id,
        "grade": grade,
        "solution": solution,
        "locked": locked,
        "task": False,
    }
