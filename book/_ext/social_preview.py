"""Give each page the tags that make a link to it show a title, a sentence and a picture elsewhere."""

from html import escape

from bs4 import BeautifulSoup


def add_preview(app, pagename, templatename, context, doctree):
    """Repeat a page's title and description in the Open Graph protocol's words."""
    described = BeautifulSoup(context.get("metatags", ""), "html.parser").find("meta", {"name": "description"})
    if doctree is None or described is None:
        return
    tags = {
        "og:type": "article",
        "og:site_name": app.config.html_title,
        "og:title": BeautifulSoup(context["title"], "html.parser").get_text(),
        "og:description": described["content"],
        "og:url": context["pageurl"],
        "og:image": f"{app.config.html_baseurl}_static/preview.png",
    }
    lines = (f'<meta property="{name}" content="{escape(value)}" />' for name, value in tags.items())
    context["metatags"] += "\n" + "\n".join(lines)


def setup(app):
    app.connect("html-page-context", add_preview)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
