"""The directive {live}: an element of the page that a reader can play with, where scripts run, and a picture elsewhere.

    ```{live} digits
    :title: Draw a digit
    :alt: what the picture shows
    :options: {"scale": 2}

    What there is to try.
    ```

The name says which module of book/_static/live makes it live (start.js lists them), `options` what it starts with;
`still` names the picture in book/_static/live/stills, by default the element's name. The picture is what print, readers
without scripts and the chapter's notebook get. The page's scripts are loaded only where it has such an element.
"""

import json
from html import escape
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

LIVE = Path(__file__).parents[1] / "_static" / "live"
NO_SCRIPTS = "This picture comes alive in a browser that runs scripts."


def options_of(text):
    """What an element starts with, as a dict; raises ValueError where it is no JSON object."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError('options are a JSON object, such as {"data": "moons"}')
    return found


class Live(SphinxDirective):
    required_arguments = 1
    has_content = True
    option_spec = {
        "title": directives.unchanged_required,
        "alt": directives.unchanged_required,
        "options": options_of,
        "still": directives.unchanged_required,
        "name": directives.unchanged_required,
    }

    def run(self):
        name = self.arguments[0]
        picture = LIVE / "stills" / f"{self.options.get('still', name)}.webp"
        missing = [f":{key}:" for key in ("title", "alt") if key not in self.options]
        if missing or not picture.exists():
            what = (
                f"it lacks {' and '.join(missing)}" if missing else f"there is no picture {picture.name} in live/stills"
            )
            raise self.error(f"the live element {name}: {what}")
        anchor, title = self.options.get("name", f"live-{name.replace('_', '-')}"), self.options["title"]
        data = escape(json.dumps(self.options.get("options", {})), quote=True)
        opening = (
            f'<figure class="live" id="{escape(anchor)}" data-live="{escape(name)}" data-options="{data}" '
            f'aria-labelledby="{escape(anchor)}-title">'
            f'<p class="live-title" id="{escape(anchor)}-title">{escape(title)}</p><div class="live-still">'
        )
        source = "/" + picture.relative_to(LIVE.parents[2]).as_posix()
        image = nodes.image(uri=source, alt=self.options["alt"], classes=["photo"])  # its colours are turned over here
        words = nodes.container(classes=["live-words"])
        self.state.nested_parse(self.content, self.content_offset, words)
        html = lambda text: nodes.raw("", text, format="html")  # noqa: E731
        return [
            html(opening),
            image,
            html(f"</div><noscript><p>{NO_SCRIPTS}</p></noscript>"),
            words,
            html("</figure>"),
        ]


def load_scripts(app, pagename, templatename, context, doctree):
    """Scripts and style on the pages with such an element, and on no others."""
    if doctree is None or not any('data-live="' in raw.astext() for raw in doctree.findall(nodes.raw)):
        return
    app.add_js_file("live/start.js", type="module")
    app.add_css_file("live/live.css")


def setup(app):
    app.add_directive("live", Live)
    app.connect("html-page-context", load_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
