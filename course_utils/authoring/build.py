"""Write notebooks/ from its sources, or say what is out of step with them."""

import tempfile
from pathlib import Path

from .chapters import chapter_notebook, chapters
from .errors import AuthoringError
from .labs import find_labs, student_notebook
from .myst import Book
from .notebook import to_text


def build(root, out):
    """Write the notebooks of the repository at `root` into `out`, and remove those that have no source any more.

    Returns the mistakes found, a list of AuthoringError; what has none is written all the same.
    """
    out, book, made, mistakes = Path(out), Book(root), set(), []
    jobs = [(f"{path.stem}/{path.stem}.ipynb", student_notebook, (path,)) for path in find_labs(root)]
    jobs += [(f"chapters/{name}.ipynb", chapter_notebook, (root, name, book)) for name in chapters(root)]
    for name, make, arguments in jobs:
        made.add(out / name)
        try:
            text = to_text(make(*arguments))
        except AuthoringError as mistake:
            mistakes.append(mistake)
            continue
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text, "utf-8", newline="\n")
    for path in set(out.rglob("*.ipynb")) - made:
        if ".ipynb_checkpoints" not in path.parts:
            path.unlink()
    return mistakes


def out_of_step(root):
    """What in `root`/notebooks differs from its sources: a list of lines for people, empty where all is well."""
    committed = Path(root, "notebooks")
    with tempfile.TemporaryDirectory() as folder:
        lines = [str(mistake) for mistake in build(root, folder)]
        fresh = {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*.ipynb")}
    there = {
        path.relative_to(committed): path.read_bytes()
        for path in committed.rglob("*.ipynb")
        if ".ipynb_checkpoints" not in path.parts
    }
    for name in sorted(fresh.keys() | there.keys()):
        if name not in there:
            lines.append(f"notebooks/{name} is missing")
        elif name not in fresh:
            lines.append(f"notebooks/{name} has no source any more")
        elif fresh[name] != there[name]:
            lines.append(f"notebooks/{name} differs from its source")
    return lines
