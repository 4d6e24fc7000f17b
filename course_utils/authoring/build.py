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
    labs = {path: path.parent.name for path in find_labs(root)}
    jobs = [(f"{name}/{name}.ipynb", student_notebook, (path,)) for path, name in labs.items()]
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
    for path in without_source(out, made):
        path.unlink()
        print(f"removed notebooks/{path.relative_to(out)}, which has no source any more")
    return mistakes


def without_source(out, made):
    """The builder's notebooks below `out` that are not in `made`; anybody else's are none of its business.

    The badge of a notebook that it made opens this very notebook; a copy's opens the original.
    """
    others = {path: f"/notebooks/{path.relative_to(out).as_posix()})" for path in set(out.rglob("*.ipynb")) - made}
    return sorted(path for path, badge in others.items() if badge.encode() in path.read_bytes())


def out_of_step(root):
    """What in `root`/notebooks differs from its sources: a list of lines for people, empty where all is well."""
    committed = Path(root, "notebooks")
    with tempfile.TemporaryDirectory() as folder:
        lines = [str(mistake) for mistake in build(root, folder)]
        fresh = {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*.ipynb")}
    for name, content in sorted(fresh.items()):
        if not (committed / name).exists():
            lines.append(f"notebooks/{name} is missing")
        elif (committed / name).read_bytes() != content:
            lines.append(f"notebooks/{name} differs from its source")
    for path in without_source(committed, {committed / name for name in fresh}):
        lines.append(f"notebooks/{path.relative_to(committed)} has no source any more")
    return lines
