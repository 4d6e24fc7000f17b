"""The button that opens a page in Colab: one click, and on a notebook that Colab can open.

The theme points a page written as text at that text file. The course keeps every such page as a notebook too,
in notebooks/chapters/, and the button leads there.
"""

from pathlib import PurePosixPath


def open_chapter_notebook(app, pagename, templatename, context, doctree):
    """Replace the theme's menu of launch buttons by a single link to the page's notebook."""
    buttons = context.get("header_buttons", [])
    for position, group in enumerate(buttons):
        if group.get("label") != "launch-buttons":
            continue
        colab = group["buttons"][0]
        page = PurePosixPath(pagename)
        if not str(app.env.doc2path(pagename)).endswith(".ipynb"):
            colab["url"] = colab["url"].replace(f"/{page}.md", f"/notebooks/chapters/{page.name}.ipynb")
        buttons[position] = colab | {"text": "Open in Colab", "tooltip": "Open this page as a notebook in Colab"}


def setup(app):
    app.connect("html-page-context", open_chapter_notebook, priority=900)  # after the theme has made its buttons
    return {"parallel_read_safe": True, "parallel_write_safe": True}
