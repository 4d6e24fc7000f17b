"""Pages that are there at once: their pictures load when they come near the window.

Pictures and films that cells carry inside their HTML (a notebook needs no file beside it) become files on the website,
and all pictures are loaded lazily, with their size said beforehand so that no text jumps.
"""

import base64
import hashlib
import re
from pathlib import Path

from bs4 import BeautifulSoup
from PIL import Image

INSIDE = re.compile(r'(?P<before>src="|url\()data:image/(?P<form>png|webp);base64,(?P<data>[A-Za-z0-9+/=\s]+?)(?=[")])')
SMALL = 4_000  # characters: below, a file of its own is not worth a request
TAG = re.compile(r"<img\b[^>]*>")


def lighten(app, pagename, templatename, context, doctree):
    """Move a page's inner pictures into files, and let all its pictures load lazily."""
    if doctree is None or "body" not in context or app.builder.format != "html":
        return
    folder = Path(app.outdir, app.builder.imagedir)
    link = "../" * pagename.count("/") + app.builder.imagedir + "/"
    sizes = {name: Path(app.srcdir, source) for source, name in app.builder.images.items()}

    def outside(match):
        if len(match["data"]) < SMALL:
            return match[0]
        picture = base64.b64decode(match["data"])
        name = f"{hashlib.sha256(picture).hexdigest()[:20]}.{match['form']}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture)
        return match["before"] + link + name

    def lazy(match):
        image = BeautifulSoup(match[0], "html.parser").img
        image["loading"] = "lazy"
        source = sizes.get(Path(image["src"]).name)
        if source and source.suffix in (".png", ".webp", ".jpg") and not image.get("width") and not image.get("style"):
            with Image.open(source) as picture:
                image["width"], image["height"] = map(str, picture.size)
        return str(image)

    context["body"] = TAG.sub(lazy, INSIDE.sub(outside, context["body"]))


def setup(app):
    app.connect("html-page-context", lighten, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
