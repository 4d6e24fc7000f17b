"""What the theme and its tools leave undone for readers who don't see the page, or don't use a mouse.

Each mend says what was found; tests/test_site.py looks at every page with axe-core.
"""

from bs4 import BeautifulSoup

# docutils gives a bibliography roles that have been withdrawn (ARIA 1.3: list and listitem are what is left).
ROLES = {' role="doc-biblioentry"': ' role="listitem"'}


def mend_page(app, pagename, templatename, context, doctree):
    """Mend a page's body, and the tree of pages beside it."""
    for old, new in ROLES.items():
        if "body" in context:
            context["body"] = context["body"].replace(old, new)
    make_tree = context.get("generate_toctree_html")
    if make_tree:
        context["generate_toctree_html"] = lambda *args, **kwargs: name_arrows(make_tree(*args, **kwargs))


def name_arrows(tree):
    """The tree of pages with a name for each arrow that unfolds a chapter, which has none."""
    tree = BeautifulSoup(str(tree), "html.parser")
    for arrow in tree.select("li > details > summary"):
        link = arrow.find_parent("li").find("a")
        arrow["aria-label"] = f"More of {link.get_text(strip=True)}" if link else "More"
    return str(tree)


def setup(app):
    app.connect("html-page-context", mend_page, priority=900)  # after the theme has made its functions
    return {"parallel_read_safe": True, "parallel_write_safe": True}
