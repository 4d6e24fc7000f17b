"""What the theme and its tools leave undone for readers who don't see the page, or don't use a mouse.

Each mend names what was found; tests/test_site.py looks at every page with axe-core.
"""

# The roles of digital publishing that docutils gives a bibliography were withdrawn from lists (ARIA 1.2).
ROLES = {' role="doc-biblioentry"': ' role="listitem"'}


def mend_roles(app, pagename, templatename, context, doctree):
    """Replace withdrawn roles in a page's body."""
    for old, new in ROLES.items():
        if "body" in context:
            context["body"] = context["body"].replace(old, new)


def setup(app):
    app.connect("html-page-context", mend_roles)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
