"""The examples of book/contributing.md do what the page says, and `make serve` builds a page that is saved."""

import contextlib
import functools
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from conftest import QuietHandler
from lab_tools import ROOT, small_repository

import course_utils.exercises as exercises
from course_utils.authoring import chapter_notebook, student_notebook
from course_utils.exercises.__main__ import student

EXAMPLES = Path(__file__).parent / "examples"


@contextlib.contextmanager
def served(folder):
    """The address of a folder on localhost."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def loaded(path):
    """The example's module."""
    spec = importlib.util.spec_from_file_location("example", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["example"] = module  # inspect looks the source up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def exercise(monkeypatch):
    found = loaded(EXAMPLES / "standardise_exercise.py").standardise
    monkeypatch.setitem(exercises.EXERCISES, found.id, found)
    yield found
    del sys.modules["example"]


@pytest.fixture
def repository(tmp_path):
    """A repository of the example's page and lab alone, with the course's settings."""
    shutil.copytree(ROOT / "book", tmp_path / "book", ignore=shutil.ignore_patterns("*.md", "__pycache__", "live"))
    shutil.copy(EXAMPLES / "standardise_chapter.md", tmp_path / "book" / "standardise.md")
    small_repository(tmp_path, (EXAMPLES / "standardise_lab.py").read_text("utf-8"), "08_standardise")
    (tmp_path / "book" / "_toc.yml").write_text(yaml.safe_dump({"format": "jb-book", "root": "book/standardise"}))
    (tmp_path / "requirements.txt").write_text("")
    return tmp_path


def test_the_exercise_is_graded_as_the_page_says(exercise):
    assert len(exercise.misconceptions) >= 6 and len(exercise.equivalents) >= 3
    for name, mistake in exercise.misconceptions.items():
        result = exercise.grade(student(exercise, mistake))
        assert not result and result.misconception == name
    assert all(exercise.grade(student(exercise, right)) for right in exercise.equivalents.values())
    assert not exercise.grade(lambda x: 0 * x) and not exercise.grade(lambda x: -exercise.reference(x))


def test_the_lab_becomes_a_students_notebook(exercise, repository, capsys):
    path = repository / "solutions" / "08_standardise" / "08_standardise.py"
    notebook = student_notebook(path)
    text = "\n".join(cell.source for cell in notebook.cells)
    assert "centred" not in text and "HIDDEN" not in text and "prior does not match" not in text
    assert {"standardise", "standardise_test", "why_standardise"} <= {cell.id for cell in notebook.cells}
    namespace = {}
    exec(compile(path.read_text("utf-8"), str(path), "exec"), namespace)  # with its answers
    assert "is right" in capsys.readouterr().out


def test_the_page_leads_to_the_exercise_and_becomes_a_notebook(exercise, repository):
    page, anchor = exercise.section.split("#")
    assert f"({anchor})=" in (repository / "book" / page).with_suffix(".md").read_text("utf-8")
    cells = chapter_notebook(repository, "standardise").cells
    assert [cell.cell_type for cell in cells].count("code") == 2  # the set-up, and the page's own
    assert any(cell.source.startswith("# Points around zero") for cell in cells)


def test_the_page_shows_the_examples_whole():
    page = (ROOT / "book" / "contributing.md").read_text("utf-8")
    included = re.findall(r"\{literalinclude\} \.\./tests/examples/(\S+)", page)
    assert sorted(included) == sorted(path.name for path in EXAMPLES.iterdir() if path.is_file())


@pytest.mark.browser
def test_the_live_element_answers_the_keyboard(chromium, tmp_path):
    """It is entered into start.js as the page says, and comes alive on a page that has what the directive writes."""
    start = (ROOT / "book" / "_static" / "live" / "start.js").read_text("utf-8")
    entered = start.replace(
        "const MODULES = {", 'const MODULES = {\n  standardise: () => import("./standardise_live.js"),'
    )
    assert entered != start
    (tmp_path / "start.js").write_text(entered)
    shutil.copy(EXAMPLES / "standardise_live.js", tmp_path)
    (tmp_path / "index.html").write_text(
        """<figure class="live" data-live="standardise" data-options='{"shift": 3}'>
        <img class="live-still" alt=""></figure>
        <script type="module" src="start.js"></script>"""
    )
    with served(tmp_path) as address:
        tab = chromium.new_page()
        tab.goto(address)
        output = tab.locator("output")
        output.wait_for()
        before = output.inner_text()
        tab.locator("input").press("ArrowRight")
        after = output.inner_text()
        tab.close()
    assert "mean is 6.0" in before and "mean is 6.5" in after
    assert before.split(";")[1] == after.split(";")[1] == " standardised: -1.26, -0.63, 0.63, 1.26."


@pytest.mark.slow
def test_a_saved_page_is_built_and_served(repository):
    """`make serve`, on the example's page: a change of its text is on localhost without anybody's doing."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shutil.copy(ROOT / "book" / "serve.py", repository / "book")
    toc = ["--toc", "book/_toc.yml", "-W", "-n", "--keep-going"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    book = subprocess.run(
        ["jupyter-book", "build", ".", *toc], cwd=repository, env=environment, capture_output=True, text=True
    )
    assert book.returncode == 0, book.stderr[-2000:]
    page = repository / "book" / "standardise.md"

    def served():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/book/standardise.html", timeout=5) as answer:
            return answer.read().decode()

    def wait_for(words, seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                if words in served():
                    return
            except OSError:
                pass
            time.sleep(0.3)
        raise AssertionError(f"{words!r} is not served after {seconds} s")

    command = [sys.executable, str(repository / "book" / "serve.py"), "--port", str(port)]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for("variance 1", 60)
        assert "livereload" in served()  # the page will reload itself
        time.sleep(2.5)  # the server has taken stock of the files
        page.write_text(page.read_text("utf-8").replace("the variance 1.", "the variance one, whatever it had."))
        wait_for("whatever it had", 120)
    finally:
        server.terminate()
        said, complained = server.communicate(timeout=10)
    assert "no warnings" in said and not complained
