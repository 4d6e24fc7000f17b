"""Links into the website itself stay on the site that is being read.

A lab is opened in Colab too, where only full addresses lead anywhere. On the website the same links go to the page
beside it, so that they work offline and in a preview.
"""

from docutils import nodes


def make_local(app, doctree, docname):
    """Replace full addresses of this website by relative ones."""
    site = app.config.html_baseurl
    if not site or app.builder.format != "html":
        return
    for link in doctree.findall(nodes.reference):
        if link.get("refuri", "").startswith(site):
            link["refuri"] = "../" * docname.count("/") + link["refuri"].removeprefix(site)


def setup(app):
    app.connect("doctree-resolved", make_local)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
