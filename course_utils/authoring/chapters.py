"""Chapters: a page of the website becomes a notebook that reads well and runs in Colab."""

import re
from pathlib import Path

from nbformat.v4 import new_code_cell, new_markdown_cell

from .errors import AuthoringError
from .myst import Book, Converter, Directive
from .notebook import assemble, badge_cell, setup_cell

HIDDEN = {"hide-input", "hide-cell", "remove-input", "remove-cell", "hide_input", "hide_cell"}
# Pages put measured values in their text with glue, which Colab doesn't have: there they are printed instead.
GLUE_IMPORT = re.compile(r"^from myst_nb import glue\s*$", re.M)
PRINTED_GLUE = '''\
def glue(name, value, display=True):
    """Print a value that the text refers to by its name."""
    print(f"{name} = {value}")'''


def chapters(root):
    """The names of the pages (`ddpm_2d`) that have code to run, in alphabetical order."""
    return [path.stem for path in sorted(Path(root, "book").glob("*.md")) if "{code-cell}" in path.read_text("utf-8")]


def chapter_notebook(root, name, book=None):
    """The notebook of the page `root`/book/`name`.md; `book` may be given to read the pages only once.

    Raises AuthoringError for what has no plain form in a notebook.
    """
    book = book or Book(root)
    page = book.pages[f"book/{name}"]
    converter = Converter(book, page)
    lines, cells, begin = page.text.split("\n"), [], 0
    for token in book.parser.parse(page.text):
        if token.level or not token.map:
            continue
        directive = Directive.from_token(token) if token.type in ("fence", "colon_fence") else None
        is_code = directive is not None and directive.name == "code-cell"
        if is_code or token.type in ("myst_block_break", "front_matter"):
            cells += _prose(converter, lines, begin, token.map[0])
            begin = token.map[1]
        if is_code:
            cells += _code(converter, directive, token.map[0])
    cells += _prose(converter, lines, begin, len(lines))
    if not cells or not cells[0].source.startswith("# "):
        raise AuthoringError(page.path, 1, "a page begins with its title: '# The title'")
    title, *rest = cells
    path = f"notebooks/chapters/{name}.ipynb"
    return assemble([badge_cell(book.address, path), title, setup_cell(book.address), *rest])


def _prose(converter, lines, begin, end):
    """A markdown cell of these lines of the page, or none where they say nothing."""
    text = converter.convert("\n".join(lines[begin:end]), begin)
    return [new_markdown_cell(text)] if text.strip() else []


def _code(converter, directive, line):
    """The code cell of a {code-cell}, and its caption where it draws a numbered figure."""
    if directive.argument and not directive.argument.startswith(("python", "ipython")):
        raise converter.error(line, f"a code-cell in {directive.argument!r}: notebooks run Python")
    tags = directive.options.get("tags") or []
    source = GLUE_IMPORT.sub(PRINTED_GLUE, directive.body)
    cell = new_code_cell(source)
    if HIDDEN.intersection(tags):
        cell.source = source if source.startswith("%%") else f"# @title Code\n{source}"
        cell.metadata = {"cellView": "form", "jupyter": {"source_hidden": True}}
    figure = (directive.options.get("mystnb") or {}).get("figure") or {}
    caption = converter.convert(figure.get("caption", ""), line)
    return [cell, new_markdown_cell(caption)] if caption else [cell]
