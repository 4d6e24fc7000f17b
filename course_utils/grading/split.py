"""Split execution: the student's cells run in the sandbox, the tests out here, in a process of their own.

What a test calls by a name of the student's is a proxy (proxies.py). What the instructor's own cells import and define
is made anew out here, from the instructor's text. An answer to one of the course's exercises is judged in a second
sandbox, the exam, into which course_utils never came: an answer that hands back the course's finished function has
nothing there to hand back.
"""

import ast
import builtins
import contextlib
import copy
import json
import os
import signal
import sys
import time

from .grader import GRACE, WORDS, Ended, Grader, TimeLimit
from .peer import changed, snapshot
from .proxies import isinstance_proxy, vars_of
from .student import Stream
from .wire import WireError

RESTARTS = 8
MIMES = ("text/", "image/", "application/json", "application/vnd", "application/javascript")


class Notebook:
    """Runs one notebook's cells; `need(kind)` gets a new sandbox from the engine, `tell` tells it what is done."""

    def __init__(self, notebook, source, files, limits, shell, need, tell):
        self.notebook, self.files, self.limits, self.shell = notebook, files, limits, shell
        self.need, self.tell = need, tell
        self.instructor = Instructor(source, notebook)
        self.end = time.monotonic() + limits.notebook_seconds
        self.outputs, self.count, self.total, self.testing = None, 0, 0, False
        self.kernel, self.restarts, self.done, self.crashed = None, 0, [], set()
        self.exam, self.examined = None, 0
        self.given, self.tests_own, self.space = set(), set(), shell.user_ns
        self.course_exercises()

    # ---- the cells --------------------------------------------------------------------------------------------------

    def run(self):
        for place, cell in enumerate(self.notebook.cells):
            if cell.cell_type != "code":
                continue
            self.count += 1
            cell.execution_count, cell.outputs = self.count, []
            self.outputs, self.size = Outputs(cell.outputs, self), 0
            self.tell({"cell": place, "started": True})
            if cell.source.strip():
                self.run_cell(place, cell)
            self.tell({"cell": place, "outputs": cell.outputs, "count": self.count})

    def run_cell(self, place, cell):
        if time.monotonic() > self.end:
            words = f"all cells together may take {self.limits.notebook_seconds:g} seconds."
            return self.outputs.error("TimeLimit", f"The notebook's time is up: {words}")
        deadline = min(time.monotonic() + self.limits.cell_seconds, self.end)
        try:
            if is_test(cell):
                self.run_test(cell, deadline)
            else:
                self.run_students(place, cell, deadline)
        except Ended as error:
            self.outputs.error("Ended", str(error))
        except TimeLimit as error:
            self.outputs.error("TimeLimit", str(error))
        except Exception:  # a message that nothing here was made for: the process that sent it is not to be used again
            self.end_kernel()
            self.outputs.error("Ended", WORDS["nonsense"])

    def run_students(self, place, cell, deadline):
        kernel = self.student()
        kernel.begin(deadline)
        self.given -= names_bound(cell.source) - self.tests_own
        self.done.append((place, cell.source, is_answer(cell)))
        right = False
        try:
            right = kernel.ask("run", cell.source, self.count)
        except Ended:
            self.crashed.add(place)
            raise
        finally:
            if kernel.interrupted:
                self.crashed.add(place)
        if any(o.get("ename") == "MemoryError" for o in cell.outputs):  # what fills it may be there still
            self.crashed.add(place)
            with contextlib.suppress(Ended):
                kernel.kill("memory")
        if kernel.interrupted:
            self.outputs.error("TimeLimit", kernel.words("time"))
        elif right is not True and not any(o["output_type"] == "error" for o in cell.outputs):
            self.outputs.error("Error", "This cell was not run to its end.")

    def run_test(self, cell, deadline):
        """Run a test out here, with what it needs of the student's by name."""
        self.deadline = deadline
        self.instructor.reach(cell.metadata.nbgrader["grade_id"])
        shell = self.shell
        shell.execution_count = self.count
        code = shell.transform_cell(cell.source)
        self.instructor.define(names_in(code), self.space)
        self.fetch(names_in(code) | self.instructor.names, deadline)
        before = sys.stdout, sys.stderr
        self.testing = True
        sys.stdout = sys.stderr = Stream("stdout", self.outputs.add)  # a warning is no failure
        shell.show_to(self.outputs.add_own)
        try:
            with alarm(deadline + 2 * GRACE):
                result = shell.run_cell(cell.source, store_history=False)
        finally:
            sys.stdout.flush()
            sys.stdout, sys.stderr = before
            self.testing = False
        self.given |= names_bound(code)
        self.tests_own |= {n for s in statements(cell.source) if not isinstance(s, ast.Assign) for n in defined_by(s)}
        if not result.success and not any(o["output_type"] == "error" for o in cell.outputs):
            error = result.error_before_exec or result.error_in_exec
            self.outputs.error(type(error).__name__, str(error)[:1000])

    def fetch(self, names, deadline):
        """Bring what the test names and neither the instructor nor an earlier test has made."""
        names = sorted(n for n in names if n not in self.instructor.made and n not in self.given)
        for name in names:
            self.space.pop(name, None)
        wanted = [n for n in names if n not in ("In", "Out", "get_ipython", "exit", "quit", "_", "__", "___")]
        try:
            kernel = self.student()
            kernel.begin(deadline)
            there = kernel.ask("all names")  # what a test names and the answer does not have is not said in there
            wanted = [n for n in wanted if n in set(there)]
            found = kernel.ask("names", *wanted)
        except Ended:
            return
        if type(found) is not dict:
            return
        for name in wanted:
            if name in found and not (hasattr(builtins, name) and name not in self.instructor.bound):
                value = self.space[name] = found[name]
                if isinstance_proxy(value):
                    vars_of(value).update(root=name, origin=name)

    def end_kernel(self):
        for kernel in (self.kernel, self.exam):
            if kernel is not None and not kernel.ended:
                with contextlib.suppress(Ended):
                    kernel.kill("nonsense")

    # ---- the student's process --------------------------------------------------------------------------------------

    def student(self):
        """The process that runs the student's cells; a new one where the last has ended, brought as far as it was."""
        if self.kernel is not None and not self.kernel.ended and not self.kernel.has_died():
            return self.kernel
        if self.kernel is not None:
            self.kernel.how_it_ended()
            self.restarts += 1
            if self.restarts > RESTARTS:
                raise Ended("The process that runs your code has ended too often: this cell was not run.")
        old, self.kernel = self.kernel, self.start("student")
        if old is not None:
            self.rerun(self.kernel, self.done)
        return self.kernel

    def start(self, kind):
        socket, life = self.need(kind)
        kernel = Grader(socket, life, self.limits, self.hear, self.instructor)
        kernel.judging = kind == "exam"
        kernel.begin(time.monotonic() + self.limits.cell_seconds)
        if self.files:
            kernel.ask("files", args=[self.files])
        return kernel

    def rerun(self, kernel, cells):
        """Run answers again, and of the other cells what they define, in a process that has not seen them."""
        end = min(time.monotonic() + self.limits.cell_seconds, self.end)
        for place, text, answer in cells:
            if place not in self.crashed:
                kernel.begin(end)
                try:
                    kernel.ask("rehearse", text, answer)
                except Ended:
                    self.crashed.add(place)
                    raise
                if kernel.interrupted:
                    self.crashed.add(place)

    def hear(self, output):
        """An output of the student's process: a cell's own, or what an answer prints when a test calls it."""
        if not is_output(output):
            raise WireError("an output that makes no sense")
        if not self.testing:
            self.outputs.add(output)
        elif output["output_type"] == "stream":
            sys.stdout.write(output["text"])
        elif output["output_type"] in ("display_data", "execute_result"):  # the result of a test is the test's alone
            self.outputs.add(output | {"output_type": "display_data"})

    # ---- the exam ---------------------------------------------------------------------------------------------------

    def course_exercises(self):
        """Let the course's check and grade judge an answer in the exam, where the notebook is one of the course's."""
        if not any("course_utils" in cell.source for cell in self.instructor.cells):
            return
        from course_utils import exercises

        for name in ("check", "grade"):  # in this process, which ends with the notebook
            setattr(exercises, name, self.examining(getattr(exercises, name), exercises))
        self.space.setdefault("check", exercises.check)
        self.space.setdefault("grade", exercises.grade)
        self.instructor.made |= {"check", "grade"}

    def examining(self, judge, exercises):
        def judged(id, answer, *args, **kwargs):
            exercise = exercises.EXERCISES.get(id)
            if isinstance_proxy(answer) and exercise is not None and not exercise.allows:
                answer = self.in_exam(answer)
            if not isinstance_proxy(answer):
                return judge(id, answer, *args, **kwargs)
            grader = vars_of(answer)["grader"]
            before, grader.judging = grader.judging, True
            try:
                return judge(id, answer, *args, **kwargs)
            finally:
                grader.judging = before

        judged.__name__ = judge.__name__
        return judged

    def in_exam(self, answer):
        """The same answer in the second sandbox; None where it is not there."""
        root = vars_of(answer)["root"]
        if root is None:
            raise ValueError("an answer is judged by its own name, as in grade(id, name)")
        if self.exam is None or self.exam.ended or self.exam.has_died():
            self.exam, self.examined = self.start("exam"), 0
        self.rerun(self.exam, self.done[self.examined :])
        self.examined = len(self.done)
        self.exam.begin(self.deadline)
        return self.exam.ask("names", root).get(root)


# ---- the instructor's own --------------------------------------------------------------------------------------------


class Instructor:
    """What the instructor's own cells import, define and compute, made out here when a test needs it."""

    def __init__(self, source, notebook):
        cells = [c for c in (source or notebook).cells if c.cell_type == "code"]
        if source is None:
            cells = [c for c in cells if c.metadata.get("nbgrader", {}).get("locked") and not is_answer(c)]
        self.cells = cells
        self.order = [c.metadata.get("nbgrader", {}).get("grade_id") for c in cells]
        self.known, self.at = {}, 0  # name -> (cell, its statement) of the cells reached so far
        self.made, self.names, self.failed = set(), set(), set()
        trees = [(c, statements(c.source)) for c in cells]
        self.bound = {
            n for c, tree in trees if is_answer(c) for s in tree for n in bound_by(s)
        }  # for a student to bind
        self.texts, self.found = {}, {}  # name -> the statements that bind it; and the methods that it leads to
        for statement in (s for c, tree in trees if not is_test(c) for s in tree):
            for name in bound_by(statement):
                self.texts.setdefault(name, []).append(statement)
        self.mutated = {n for _, tree in trees for s in tree for n in mutated_by(s)}
        self.answers = [s for c, tree in trees if not is_test(c) for s in tree if is_definition(s)]
        self.solutions, self.changing = None, {}

    def reach(self, grade_id):
        """Take note of what the cells before a test define."""
        end = self.order.index(grade_id) if grade_id in self.order else len(self.cells)
        for cell in self.cells[self.at : end]:
            for statement in [] if is_test(cell) else statements(cell.source):
                imports = isinstance(statement, ast.Import | ast.ImportFrom)
                if imports or not is_answer(cell) and (is_definition(statement) or is_computed(statement)):
                    for name in defined_by(statement):
                        self.known[name] = (cell, statement)
                        self.made.discard(name)
        self.at = max(self.at, end)

    def define(self, names, space):
        """Make what of these names the instructor's cells alone determine, and what that needs in turn."""
        for name in sorted(names & self.known.keys() - self.made - self.failed):
            self.make(name, space)

    def make(self, name, space):
        """Run the statement that makes a name; false where something in it is the student's to give."""
        if name in self.made or hasattr(builtins, name) and name not in self.known:
            return True
        if name not in self.known or name in self.failed:
            return False
        cell, statement = self.known[name]
        self.failed.add(name)  # until it is made: a statement that needs itself can't be
        if is_definition(statement):
            inner = names_in(ast.unparse(statement))
            self.made |= set(defined_by(statement))
            self.names |= inner
            self.define(inner, space)  # what a function looks up when it is called: what is missing, the student has
            first = []
        else:
            if set(defined_by(statement)) & self.mutated or not all(self.make(n, space) for n in loads(statement)):
                return False
            first = [s for s in statements(cell.source) if is_seed(s) and s.lineno < statement.lineno]
        try:
            for part in (*first, statement):
                exec(compile(ast.Module([part], []), "<the instructor's>", "exec", dont_inherit=True), space)
        except Exception:  # not to be had out here: then it is the student's process that has it
            self.made -= set(defined_by(statement))
            return False
        self.made |= set(defined_by(statement))
        self.failed.discard(name)
        return True

    def methods(self, name):
        """The methods of the classes that the instructor's text of a name is about, directly or by what it calls."""
        if name not in self.found:
            methods, seen, left = set(), set(), [name]
            while left:
                one = left.pop()
                if one in seen:
                    continue
                seen.add(one)
                for statement in self.texts.get(one, []):
                    for node in ast.walk(statement):
                        if isinstance(node, ast.Name):
                            left.append(node.id)
                        elif isinstance(node, ast.ClassDef):
                            methods |= {n.name for n in node.body if isinstance(n, FUNCTIONS)}
                            is_data = any("dataclass" in ast.unparse(d) for d in node.decorator_list)
                            methods |= {"__eq__"} if is_data else set()
            self.found[name] = methods
        return self.found[name]

    def changes(self, name, args, kwargs):
        """Which of the arguments (their places among peer.mutables) the instructor's answer `name` changes in place."""
        if name not in self.changing:
            self.changing[name] = self._changes(name, args, kwargs)
        return self.changing[name]

    def _changes(self, name, args, kwargs):
        if self.solutions is None:
            self.solutions = {}
            for statement in self.answers:
                with contextlib.suppress(Exception):
                    exec(compile(ast.Module([statement], []), "<the instructor's>", "exec"), self.solutions)
        try:
            args, kwargs = copy.deepcopy((args, kwargs))
            before = snapshot(args, kwargs)
            self.solutions[name](*args, **kwargs)
            return {place for place, _ in changed(before, args, kwargs)}
        except TimeLimit:
            raise
        except Exception:
            return set()


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def statements(source):
    from IPython.core.inputtransformer2 import TransformerManager

    try:
        return ast.parse(TransformerManager().transform_cell(source)).body
    except SyntaxError:
        return []


def is_definition(statement):
    """An import, a function (no stub), a class, or a constant: a literal that nothing can change."""
    if isinstance(statement, ast.Import | ast.ImportFrom | ast.ClassDef):
        return True
    if isinstance(statement, FUNCTIONS):
        return not all(is_idle(s) for s in statement.body)
    if isinstance(statement, ast.Assign) and all(isinstance(t, ast.Name) for t in statement.targets):
        try:
            hash(ast.literal_eval(statement.value))
        except (ValueError, TypeError, SyntaxError, RecursionError):
            return False
        return True
    return False


def is_computed(statement):
    """An assignment of any value to plain names."""
    return (
        isinstance(statement, ast.Assign | ast.AnnAssign)
        and bool(defined_by(statement))
        and ({*bound_by(statement)} == {*defined_by(statement)})
    )


def is_seed(statement):
    """A call that sets a random generator."""
    return isinstance(statement, ast.Expr) and "seed(" in ast.unparse(statement)


def is_idle(statement):
    """A statement of a stub: a docstring, pass, ..., or raise."""
    constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return constant or isinstance(statement, ast.Pass | ast.Raise)


def defined_by(statement):
    """The names that an import, a definition or an assignment at the top of a cell binds."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [(a.asname or a.name).split(".")[0] for a in statement.names]
    if isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    flat = [e for t in targets for e in (t.elts if isinstance(t, ast.Tuple | ast.List) else [t])]
    return [t.id for t in flat if isinstance(t, ast.Name)]


def bound_by(statement):
    """Every name that a statement binds, however deep."""
    found = []
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.append(node.id)
        elif isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.Import, ast.ImportFrom)):
            found += defined_by(node)
    return found


def mutated_by(statement):
    """The names whose values a statement changes: x[i] = ..., x.a = ..., x += ..., x.append(...), del x[i]."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            target = node.value
        elif isinstance(node, ast.AugAssign):
            target = node.target
        elif (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Call)
            and isinstance(node.value.func, ast.Attribute)
        ):
            target = node.value.func.value
        else:
            continue
        while isinstance(target, ast.Subscript | ast.Attribute):
            target = target.value
        if isinstance(target, ast.Name):
            yield target.id


def loads(statement):
    """The names that a statement looks up and does not bind itself, as a comprehension does."""
    nodes = list(ast.walk(statement.value or statement))
    inside = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    inside |= {a.arg for n in nodes if isinstance(n, ast.arguments) for a in (*n.args, *n.kwonlyargs)}
    return {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)} - inside


def names_in(source):
    """Every name that a text might look up, where it looks into globals() also by a text."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return set()
    found = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    if found & {"globals", "locals", "vars", "dir"}:
        texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        found |= {t for t in texts if t.isidentifier() and len(t) < 80}
    return found


def names_bound(source):
    """The names that a cell's text binds anywhere."""
    return {name for statement in statements(source) for name in bound_by(statement)}


# ---- cells and outputs -----------------------------------------------------------------------------------------------


def is_test(cell):
    """A graded cell of code that is no answer."""
    data = cell.metadata.get("nbgrader", {})
    return cell.cell_type == "code" and bool(data.get("grade")) and not data.get("solution")


def is_answer(cell):
    return bool(cell.metadata.get("nbgrader", {}).get("solution"))


def is_output(output):
    """Whether what came from the student's process is an output as nbformat has them."""
    if type(output) is not dict:
        return False
    kind = output.get("output_type")
    if kind == "stream":
        return output.get("name") in ("stdout", "stderr") and type(output.get("text")) is str
    if kind == "error":
        lines = output.get("traceback")
        texts = [output.get("ename"), output.get("evalue"), *(lines if type(lines) is list else [None])]
        return all(type(t) is str for t in texts)
    if kind in ("display_data", "execute_result"):
        data, metadata = output.get("data"), output.get("metadata")
        return type(data) is dict and type(metadata) is dict and all(type(k) is str for k in (*data, *metadata))
    return kind == "clear"


class Outputs:
    """A cell's outputs, gathered within the limits."""

    def __init__(self, outputs, owner):
        self.outputs, self.owner, self.size, self.full = outputs, owner, 0, False

    def add_own(self, output):
        """An output of the test itself: a result or an error decides on its points, and is kept whatever there is."""
        sys.stdout.flush()
        if output["output_type"] in ("execute_result", "error"):
            self.outputs.append(nodes(self.tidy(output)))
        elif output["output_type"] != "clear":
            self.add(output)

    def add(self, output):
        if output["output_type"] == "clear":
            self.outputs.clear()
            return
        output = self.tidy(output)
        if output is None:
            return
        size = len(json.dumps(output))
        limits, picture = self.owner.limits, output["output_type"] != "stream"
        self.size += size // 4 if picture else size
        self.owner.total += size
        last = self.outputs[-1] if self.outputs else {}
        if self.size > limits.output or self.owner.total > limits.total_output:
            if output["output_type"] == "error":
                self.outputs.append(nodes(output | {"traceback": [], "evalue": output["evalue"][:1000]}))
            elif not self.full:
                self.full = True
                text = "\nThe rest of this cell's output is left out: it is too long.\n"
                self.outputs.append(nodes({"output_type": "stream", "name": "stdout", "text": text}))
            return
        if output["output_type"] == "stream" and last.get("name") == output["name"]:
            last["text"] += output["text"]
        else:
            self.outputs.append(nodes(output))

    def tidy(self, output):
        """The output with only the keys that it should have, of plain JSON; None where there is nothing to keep."""
        kind = output["output_type"]
        if kind == "stream":
            return {"output_type": kind, "name": output["name"], "text": output["text"][: self.owner.limits.output]}
        if kind == "error":
            lines = [line[:5000] for line in output["traceback"][:100]]
            return {
                "output_type": kind,
                "ename": output["ename"][:200],
                "evalue": output["evalue"][:5000],
                "traceback": lines,
            }
        data = {}
        for mime, content in output["data"].items():
            if mime.startswith(MIMES) and len(mime) < 100:
                if isinstance(content, bytes):
                    import base64

                    content = base64.b64encode(content).decode()
                try:
                    json.dumps(content, allow_nan=False)
                except (TypeError, ValueError, RecursionError):
                    continue
                data[mime] = content
        try:
            metadata = json.loads(json.dumps(output["metadata"], allow_nan=False))
        except (TypeError, ValueError, RecursionError):
            metadata = {}
        found = {"output_type": kind, "data": data, "metadata": metadata}
        return found | ({"execution_count": self.owner.count} if kind == "execute_result" else {})

    def error(self, name, sentence):
        lines = [f"{name}: {sentence}"]
        self.add_own({"output_type": "error", "ename": name, "evalue": sentence, "traceback": lines})


def nodes(output):
    import nbformat

    return nbformat.from_dict(output)


# ---- the process -----------------------------------------------------------------------------------------------------


def read_files(folder, most):
    """What a folder holds beside notebooks, name -> content: no link followed, nothing but plain files."""
    found, total = {}, 0
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(d for d in folders if not os.path.islink(os.path.join(where, d)))
        for name in sorted(names):
            path = os.path.join(where, name)
            if name.endswith(".ipynb") or os.path.islink(path) or not os.path.isfile(path):
                continue
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(fd, "rb") as file:
                content = file.read(most + 1)
            total += len(content)
            if total > most:
                return found
            found[os.path.relpath(path, folder)] = content
    return found


def write_files(files):
    """The files of `read_files` in the folder where this process works."""
    for name, content in files.items():
        os.makedirs(os.path.dirname(os.path.abspath(name)), exist_ok=True)
        with contextlib.suppress(OSError), open(name, "wb") as file:
            file.write(content)


@contextlib.contextmanager
def alarm(deadline):
    """Raise TimeLimit in what runs within, should it go on beyond the deadline by itself."""

    def ring(*_):
        raise TimeLimit("This took longer than it may, and was stopped.")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(0.1, deadline - time.monotonic()), 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def grade(notebook, source, files, limits, shell, need, tell):
    """Run a notebook in this process and the sandboxes that it gets; the last message is {"done": notebook}."""
    import nbformat

    notebook, source = (n and nbformat.from_dict(n) for n in (notebook, source))
    run = Notebook(copy.deepcopy(notebook), source, files, limits, shell, need, tell)
    run.run()
    tell({"done": run.notebook})
