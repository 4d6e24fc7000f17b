"""Nothing that a student writes or prints is live where others look at it: not in formgrader, not in feedback.

Twice: once when a submission is graded (the autograded notebook holds nothing harmful), once when a page is made of it.
"""

import contextlib
import functools
import re

import bleach
from jinja2 import pass_context
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from course_utils.time_limit import time_limit

TAGS = frozenset(
    "a abbr b blockquote br caption code col colgroup dd del details div dl dt em h1 h2 h3 h4 h5 h6 hr i img ins kbd "
    "li ol p pre q s samp small span strong sub summary sup table tbody td tfoot th thead tr u ul var".split()
)
PLAIN = "b|blockquote|br|code|del|details|em|i|li|ol|p|pre|s|strong|sub|summary|sup|table|tbody|td|th|thead|tr|u|ul"
PICTURE = re.compile(r"data:image/(png|jpeg|gif);base64,[A-Za-z0-9+/=\s]*")
# What a cell may show. Widgets, scripts and whatever else has no place here.
SHOWN = {
    "text/plain",
    "text/html",
    "text/markdown",
    "text/latex",
    "image/png",
    "image/jpeg",
    "image/gif",
    "image/svg+xml",
}
MOST_PICTURES = 30 * 2**20
MOST_HTML, MOST_TEXT = 2**20, 100_000
SECONDS = 3  # to make a page of one text; what takes longer is shown as it stands
# A `<` that begins anything but a plain tag, as in <script, <b onclick=...>, <!--; with a space behind it, it is text.
TAG = re.compile(rf"<(?!/?({PLAIN})\s*/?>)(?=[a-zA-Z/!?])", re.IGNORECASE)
HARMFUL_LINK = re.compile(r"\b(javascript|vbscript|data)(\s*:)", re.IGNORECASE)


def _allowed(tag, name, value):
    """May this attribute stay? Links to the web, pictures in the page itself, and what gives a table its form."""
    if name == "href":
        return tag == "a" and bool(re.match(r"(https?://|mailto:|#)", value.strip(), re.IGNORECASE))
    if name == "src":
        return tag == "img" and bool(PICTURE.fullmatch(value))
    if name in ("alt", "title", "colspan", "rowspan", "width", "height", "align", "lang", "dir"):
        return True
    return name == "class" and tag in ("span", "div", "pre", "code", "table")  # highlighted code, a data frame's border


@functools.cache
def _cleaner():
    return bleach.Cleaner(tags=TAGS, attributes=_allowed, protocols={"http", "https", "mailto", "data"}, strip=True)


def safe_html(text):
    """HTML with plain tags only: no script, no handler, no frame, no form, no style, nothing that is fetched."""
    if len(text) > MOST_HTML:
        return "(too long to be shown)"
    text = re.sub(r"<(script|style)\b.*?(</\1\s*>|$)", "", text, flags=re.IGNORECASE | re.DOTALL)
    return _cleaner().clean(text)


@pass_context
def safe_markdown(context, text):
    """Markdown as safe HTML; takes the place of nbconvert's filter in formgrader and in feedback. Formulas stay."""
    return rendered(text, context.get("cell", {}).get("attachments", {}))


def rendered(text, attachments=None):
    renderer = Renderer(escape=False, attachments=attachments or {}, exclude_anchor_links=True)
    return safe_html(MarkdownWithMath(renderer=renderer).render(text))


class Renderer(IPythonRenderer):
    """Formulas within a line between signs that MathJax knows without being told."""

    def inline_math(self, body):
        return rf"\({self.escape_html(body)}\)"


def tame_markdown(text):
    """Markdown in which no HTML but plain tags is left, for whoever renders it: `<script>` becomes `< script>`."""
    return HARMFUL_LINK.sub(r"\1 \2", TAG.sub("< ", text))


def readable(text):
    """Markdown that can be made a page of: a text that takes too long or fails (deep nesting) is shown as it stands."""
    try:
        if len(text) > MOST_TEXT:
            raise ValueError
        with time_limit(SECONDS, TimeoutError):
            rendered(text)
        return text
    except Exception:
        lines = (text[:MOST_TEXT] + ("\n(cut short)" if len(text) > MOST_TEXT else "")).split("\n")
        return "\n".join(f"    {line}" for line in lines)  # indented: no markdown at all


def clean_notebook(notebook, skeleton=None):
    """The executed notebook with safe texts and outputs; what stands so in the `skeleton` is the instructor's own."""
    own = {cell["source"] for cell in (skeleton or {}).get("cells", [])}
    for cell in notebook["cells"]:
        cell["metadata"] = {k: v for k, v in cell["metadata"].items() if k in ("nbgrader", "editable", "deletable")}
        if cell["cell_type"] != "code":
            cell["source"] = cell["source"] if cell["source"] in own else readable(tame_markdown(cell["source"]))
        else:
            cell["outputs"] = [made for output in cell.get("outputs", []) if (made := _clean_output(output))]
    return notebook


def _clean_output(output):
    """An output with nothing in it that could be live, or None where nothing is left."""
    kind = output.get("output_type")
    if kind == "stream":
        name = "stderr" if output.get("name") == "stderr" else "stdout"
        return {"output_type": "stream", "name": name, "text": _text(output.get("text", ""))}
    if kind == "error":
        lines = [_text(line) for line in output.get("traceback", [])]
        return {
            "output_type": "error",
            "ename": _text(output.get("ename", "")),
            "evalue": _text(output.get("evalue", "")),
            "traceback": lines,
        }
    if kind not in ("display_data", "execute_result"):
        return None
    data = {name: _clean_data(name, value) for name, value in output.get("data", {}).items() if name in SHOWN}
    data = {name: value for name, value in data.items() if value}
    made = {"output_type": kind, "data": data, "metadata": {}}
    if kind == "execute_result":
        count = output.get("execution_count")
        made["execution_count"] = count if isinstance(count, int) else None
    return made if data or kind == "execute_result" else None


def _clean_data(name, value):
    value = _text(value)
    if name == "text/html":
        with contextlib.suppress(Exception), time_limit(SECONDS, TimeoutError):
            return safe_html(value)
        return ""
    if name == "text/markdown":
        return readable(tame_markdown(value))
    if name.startswith("image/") and name != "image/svg+xml":  # a drawing is shown as a picture, in which nothing runs
        return value if len(value) < MOST_PICTURES and re.fullmatch(r"[A-Za-z0-9+/=\s]*", value) else ""
    return value


def _text(value):
    text = "".join(map(str, value)) if isinstance(value, list) else str(value)
    return text.encode("utf-8", "replace").decode("utf-8")  # half a letter (a lone surrogate) can't be written
