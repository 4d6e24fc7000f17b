"""The pages of a small book, executed beside each other before the build reads them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAD = """---
jupytext: {text_representation: {extension: .md, format_name: myst}}
kernelspec: {display_name: Python 3, language: python, name: python3}
---

# Page

```{code-cell} ipython3
"""
CONF = f"""
import sys
sys.path.insert(0, {str(ROOT / "book" / "_ext")!r})
extensions = ["myst_nb", "execute_ahead"]
root_doc = "index"
nb_execution_mode = "cache"
nb_execution_cache_path = {{cache!r}}
nb_execution_excludepatterns = ["apart.md"]
nb_execution_timeout = 60
nb_execution_show_tb = True
execute_first = ["second"]
"""
# Each page waits until the other one runs as well: one after the other they would never end.
WAITS = """\
import os, time
from pathlib import Path
Path("{me}.began").touch()
while not Path("{other}.began").exists():
    time.sleep(0.02)
print("threads:", os.environ["OMP_NUM_THREADS"])
with open("runs.txt", "a") as file:
    print("{me}", file=file)
"""


def build(book):
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-b",
        "html",
        "-W",
        "--keep-going",
        str(book),
        str(book.parent / "out" / "html"),
    ]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    return result.returncode, result.stdout, result.stderr


def runs(book):
    return sorted((book / "runs.txt").read_text().split())


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor core runs one page at a time")
def test_pages_run_at_the_same_time_and_only_once(tmp_path):
    book = tmp_path / "book"
    book.mkdir()
    (book / "conf.py").write_text(CONF.replace("{cache!r}", repr(str(tmp_path / "cache"))))
    (book / "index.md").write_text("# Start\n\n```{toctree}\nfirst\nsecond\napart\n```\n")
    for me, other in (("first", "second"), ("second", "first")):
        (book / f"{me}.md").write_text(HEAD + WAITS.format(me=me, other=other) + "```\n")
    (book / "apart.md").write_text(HEAD + "raise SystemExit('never run')\n```\n")

    code, said, errors = build(book)
    assert code == 0, errors
    assert "executing 2 pages, 2 at a time" in said
    assert runs(book) == ["first", "second"]  # the build itself ran neither again
    assert "threads: 1" in (tmp_path / "out" / "html" / "first.html").read_text()

    # A changed text needs no run; changed code runs that page alone; a failing page is reported and fails the build.
    with open(book / "second.md", "a") as page:
        page.write("\nMore words.\n")
    page = book / "first.md"
    page.write_text(page.read_text().replace('print("threads', '1 / 0\nprint("threads'))
    code, said, errors = build(book)
    assert code != 0 and "executing 1 pages" in said and "[1/1] first FAILED" in said
    assert "ZeroDivisionError" in errors and "first.md" in errors
    assert runs(book) == ["first", "second"]
