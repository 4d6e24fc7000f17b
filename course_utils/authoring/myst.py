"""MyST markdown becomes plain markdown that reads well in Colab and JupyterLab.

Blocks are found by the website's own parser (myst-parser); directives, targets, comments and labelled formulas are
rewritten, everything else stays as the author wrote it. Cross-references and citations become links to the website.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import yaml
from docutils.nodes import make_id
from markdown_it.renderer import RendererHTML
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser
from pybtex.backends.plaintext import Backend
from pybtex.database import parse_file

from .address import Address
from .errors import AuthoringError

# What stands inside a paragraph and must be seen: formulas (to be left alone), code spans and roles, links, attributes.
INLINE = re.compile(
    r"(?P<math>\$\$.+?\$\$|(?<![\\$])\$(?!\s)(?:\\.|[^$\\])+?\$)"
    r"|(?:\{(?P<role>[A-Za-z][\w:+-]*)\})?(?P<ticks>`+)(?P<code>.+?)(?<!`)(?P=ticks)(?!`)"
    r"|\[\]\((?P<bare>[^()\s]+)\)"
    r"|\]\((?P<target>[^()\s]+)"
    r"|(?<=[)\]`])\{(?=[.#]|\w+=)[^}]*\}",
    re.DOTALL,
)
PLAIN = Backend()  # made once: name.render_as("text") looks through all installed packages for it each time
VERBATIM = "fence colon_fence code_block html_block math_block amsmath".split()
UNKNOWN = (
    "is unknown to the chapters' notebooks: use another, or say in course_utils/authoring/myst.py how it reads there"
)
PICTURES = (".png", ".jpg", ".jpeg", ".svg", ".gif", ".webp")


@dataclass
class Directive:
    """A directive: ```{name} argument, :options: or a YAML head, and a body that begins at `line` (0-based)."""

    name: str
    argument: str
    options: dict
    body: str
    line: int

    @classmethod
    def from_token(cls, token):
        """The directive of a fence's token, or None where the fence is plain code."""
        found = re.match(r"\{([\w:-]+)\}\s*(.*)", token.info, re.DOTALL)
        if not found:
            return None
        lines = token.content.split("\n")
        if lines[0].strip() == "---":
            end = next((i for i, line in enumerate(lines[1:], 1) if line.strip() == "---"), len(lines))
            options, used = yaml.safe_load("\n".join(lines[1:end])) or {}, end + 1
        else:
            options, used = {}, 0
            while used < len(lines) and (option := re.match(r":([\w-]+):\s*(.*)", lines[used])):
                options[option[1]] = yaml.safe_load(option[2]) if option[1] == "tags" else option[2]
                used += 1
        return cls(found[1], found[2].strip(), options, "\n".join(lines[used:]).strip("\n"), token.map[0] + 1 + used)

    @property
    def label(self):
        mystnb = self.options.get("mystnb") or {}
        return self.options.get("name") or self.options.get("label") or (mystnb.get("figure") or {}).get("name")


@dataclass
class Page:
    """A page of the book: its text and what other pages may point at."""

    path: Path
    name: str  # book/ddpm_2d
    text: str
    title: str = ""
    labels: dict = field(default_factory=dict)  # label -> its title, or ""
    equations: dict = field(default_factory=dict)  # label -> number on the page


class Book:
    """The pages of `root`/book with their labels, titles, equations and the bibliography."""

    def __init__(self, root):
        self.root = Path(root)
        config = yaml.safe_load((self.root / "_config.yml").read_text("utf-8"))
        extensions = set(config["parse"]["myst_enable_extensions"])
        self.parser = create_md_parser(MdParserConfig(enable_extensions=extensions), RendererHTML)
        self.address = Address.read(root)
        self.works = {}
        for file in config.get("bibtex_bibfiles", []):
            if (self.root / file).exists():
                self.works |= parse_file(str(self.root / file)).entries
        self.pages = {}
        for path in sorted((self.root / "book").rglob("*.md")):
            name = path.relative_to(self.root).with_suffix("").as_posix()
            self.pages[name] = page = Page(path, name, path.read_text("utf-8"))
            self._index(page, page.text)

    def _index(self, page, text):
        """Note the labels, headings and equations of `text`."""
        waiting = []  # labels that stand before what they name
        tokens = self.parser.parse(text)
        for i, token in enumerate(tokens):
            if token.type == "myst_target":
                waiting.append(token.content)
                page.labels[token.content] = ""
            elif token.type == "heading_open":
                title = tokens[i + 1].content
                page.title = page.title or title
                page.labels |= dict.fromkeys([*waiting, _slug(title)], title)
                waiting = []
            elif token.type == "math_block_label":
                page.equations[token.info] = len(page.equations) + 1
            elif token.type in ("fence", "colon_fence"):
                waiting = []
                directive = Directive.from_token(token)
                if directive and directive.name == "math" and directive.label:
                    page.equations[directive.label] = len(page.equations) + 1
                elif directive:
                    if directive.label:
                        page.labels[directive.label] = directive.argument
                    if not directive.name.startswith("code"):
                        self._index(page, directive.body)

    def find(self, label, near):
        """The page that holds `label` (the page `near` first), or None."""
        pages = [near, *self.pages.values()]
        return next((page for page in pages if label in page.labels or label in page.equations), None)

    def title(self, page):
        """A page's title, its roles and links turned to plain markdown."""
        return Converter(self, page).inline(page.title, 0)


class Converter:
    """Turns the MyST text of one page to plain markdown; raises AuthoringError for what it doesn't know."""

    def __init__(self, book, page):
        self.book, self.page = book, page

    def error(self, line, message):
        return AuthoringError(self.page.path, line + 1, message)

    def convert(self, text, line=0):
        """The plain markdown of `text`, which begins at `line` of the page (0-based)."""
        lines, out, done, before = text.split("\n"), [], 0, ""
        for token in self.book.parser.parse(text):
            opened_by, before = before, token.type
            if not token.map or token.map[0] < done:
                continue
            start, end = token.map
            if token.type == "dt_open":
                lines[start] = f"- **{lines[start].strip()}**:"
            elif opened_by == "dd_open":
                lines[start] = re.sub(r"^(\s*):", r"\1 ", lines[start])
            replaced = self._block(token, line)
            if replaced is None:
                continue
            prose = "\n".join(lines[done:start])
            out.append(self.inline(prose, line + done))
            out.append(_indent_like(lines[start], token, lines[start:end] if replaced is KEEP else replaced))
            done = end
        out.append(self.inline("\n".join(lines[done:]), line + done))
        return _without_gaps("\n".join(out))

    def _block(self, token, line):
        """The markdown that stands for a block: KEEP for what stays as it is, None for what is no block of ours."""
        if token.type in ("myst_target", "myst_line_comment", "front_matter", "myst_block_break"):
            return ""
        if token.type == "math_block_label":
            return self._formula(token.content, token.info)
        if token.type in ("fence", "colon_fence"):
            directive = Directive.from_token(token)
            if directive:
                directive.line += line
                return self.directive(directive, line + token.map[0])
        return KEEP if token.type in VERBATIM else None

    def _formula(self, tex, label=None):
        tag = f"\n\\tag{{{self.page.equations[label]}}}" if label else ""
        return f"$$\n{tex.strip()}{tag}\n$$"

    def directive(self, directive, line):
        """The plain markdown of one directive; `line` is where it begins."""
        render = RENDER.get(directive.name)
        if directive.name.startswith("prf:"):
            render = Converter._statement
        if render is None:
            raise self.error(line, f"the directive {{{directive.name}}} {UNKNOWN}")
        return render(self, directive, line)

    def _content(self, directive):
        return self.convert(directive.body, directive.line)

    def _title(self, directive, line):
        return self.inline(directive.argument, line)

    def _nothing(self, directive, line):
        return ""

    def _only_content(self, directive, line):
        return self._content(directive)

    def _raw(self, directive, line):
        return directive.body if directive.argument == "html" else ""

    def _listing(self, directive, line):
        return f"```{directive.argument}\n{directive.body}\n```"

    def _included(self, directive, line):
        """A listing of a file of the repository, up to the line that the option end-before names."""
        text = self.page.path.parent.joinpath(directive.argument).read_text("utf-8")
        end = yaml.safe_load(directive.options.get("end-before", "null"))  # as Sphinx reads options, quotes and all
        kept = text.splitlines()[: next((i for i, row in enumerate(text.splitlines()) if end and end in row), None)]
        return "\n".join([f"````{directive.options.get('language', '')}", *kept, "````"])

    def _displayed(self, directive, line):
        return self._formula(f"{directive.argument}\n{directive.body}", directive.label)

    def _references(self, directive, line):
        return f"[The references]({self.book.address.page('book/references')})"

    def _glossary(self, directive, line):
        lines = [f"- **{text}**:" if text[:1].strip() else text for text in directive.body.split("\n")]
        return self.inline("\n".join(lines), directive.line)

    def _glued(self, directive, line):
        return f"*(`{directive.argument}` is printed above)*"

    def _nested_code(self, directive, line):
        raise self.error(line, "a code-cell inside another directive is never run: move it out")

    def _picture(self, directive, line):
        alt = directive.options.get("alt", "").replace("\n", " ")
        picture = f"![{alt}]({self._link(directive.argument, line)})"
        return f"{picture}\n\n{self._content(directive)}".strip()

    def _live(self, directive, line):
        """An element that lives on the website: its picture, its words and the way there."""
        name, options = directive.argument, directive.options
        if missing := [key for key in ("title", "alt") if not options.get(key)]:
            raise self.error(line, f"the live element {name} lacks :{missing[0]}:")
        picture = f"{self.book.address.website}_images/{options.get('still', name)}.webp"
        there = self.book.address.page(self.page.name, options.get("name", f"live-{name.replace('_', '-')}"))
        link = f"[Try it on the website: it runs in your browser.]({there})"
        return f"**{options['title']}**\n\n![{options['alt']}]({picture})\n\n{self._content(directive)}\n\n{link}"

    def _table(self, directive, line):
        return f"*{self._title(directive, line)}*\n\n{self._content(directive)}"

    def _tab(self, directive, line):
        return f"**{self._title(directive, line)}**\n\n{self._content(directive)}"

    def _admonition(self, directive, line):
        title = "See also" if directive.name == "seealso" else directive.name.capitalize()
        first = self._title(directive, line)  # text on the first line belongs to the body
        return self._boxed(directive, title, f"{first}\n{self._content(directive)}".strip())

    def _quote(self, directive, line):
        return self._boxed(directive, self._title(directive, line), self._content(directive))

    def _statement(self, directive, line):
        """A theorem, a proof, an exercise: its kind stands before its title."""
        kind, title = directive.name.removeprefix("prf:").capitalize(), self._title(directive, line)
        return self._boxed(directive, f"{kind}: {title}" if title else kind, self._content(directive))

    def _fold(self, directive, line):
        title = self._title(directive, line) or directive.name.capitalize()
        return _folded(title, self._content(directive), is_open="open" in directive.options)

    def _boxed(self, directive, title, content):
        if "dropdown" in str(directive.options.get("class", "")):
            return _folded(title, content)
        text = f"**{title}**\n\n{content}" if title else content
        return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))

    def _button(self, directive, line):
        is_address = directive.name == "button-link"
        link = directive.argument if is_address else self._option_link(directive, "ref", directive.argument)
        return f"[{self._content(directive) or self._title(directive, line)}]({link})"

    def _card(self, directive, line):
        title, link = self._title(directive, line), self._option_link(directive, "link")
        title = f"[{title}]({link})" if link and title else title
        content = self.convert(re.sub(r"^(\^\^\^|\+\+\+).*$", "", directive.body, flags=re.M), directive.line)
        return f"**{title}**\n\n{content}" if title else content

    def _option_link(self, directive, kind, target=None):
        """The address that a card's or a button's options give: a page, a label, or an address as it is."""
        target, how = target or directive.options.get(kind), directive.options.get(f"{kind}-type", "")
        if not target or how == "url":
            return target
        if target.startswith(("http:", "https:")):
            return target
        find = self._doc if how in ("doc", "any") else self._label
        return find(target, directive.line)[0]

    def inline(self, text, line):
        """`text` with its roles, relative links and attributes turned to plain markdown."""

        def replace(match):
            here = line + text.count("\n", 0, match.start())
            if match["math"] or (match["code"] and not match["role"]):
                return match[0]
            if match["role"]:
                return self._role(match["role"], match["code"].strip(), here)
            if match["bare"]:
                return "[{1}]({0})".format(*self._target(match["bare"], here))
            if match["target"]:
                return f"]({self._link(match['target'], here)}"
            return ""

        return INLINE.sub(replace, text)

    def _role(self, role, content, line):
        """The plain markdown of a role: {ref}`text <label>` and its kin."""
        given = re.fullmatch(r"(.*?)\s*<(.+)>", content, re.DOTALL)
        text, target = (given[1], given[2]) if given else (None, content)
        if role == "math":
            return f"${content}$"
        if role.startswith("cite"):
            return self._cite(role, content, line)
        if role == "eq":
            page = self._page_of(target, line)
            return f"[({page.equations.get(target, '?')})]({self._label(target, line)[0]})"
        if role in ("ref", "numref", "prf:ref", "std:ref"):
            url, title = self._label(target, line)
            return f"[{text if text and '%s' not in text and '{' not in text else title}]({url})"
        if role == "doc":
            url, title = self._doc(target, line)
            return f"[{text or title}]({url})"
        if role.split(":")[0] == "glue":
            return f"`{target.split(':')[0]}`"
        if role in ("term", "abbr"):
            return text or target
        if role in ("sub", "sup", "kbd"):
            return f"<{role}>{content}</{role}>"
        if role in ("code", "download", "file", "command", "program", "guilabel"):
            return f"`{text or target}`"
        raise self.error(line, f"the role {{{role}}} {UNKNOWN}")

    def _cite(self, role, keys, line):
        cited = []
        for key in (key.strip() for key in keys.split(",")):
            if key not in self.book.works:
                raise self.error(line, f"{key!r} is not in the bibliography")
            work = self.book.works[key]
            people = work.persons.get("author") or work.persons.get("editor") or []
            names = [" ".join(name.render(PLAIN) for name in person.rich_last_names) for person in people]
            who = f"{names[0]} et al." if len(names) > 2 else " & ".join(names)
            year = work.fields.get("year", "")
            cited.append(f"{who} ({year})" if role in ("cite:t", "cite:ts") else f"{who}, {year}")
        text = "; ".join(cited)
        link = f"[{text}]({self.book.address.page('book/references')})"
        return link if role in ("cite:t", "cite:ts") else f"({link})"

    def _page_of(self, label, line):
        page = self.book.find(label, near=self.page)
        if page is None:
            raise self.error(line, f"there is no label {label!r} in the book")
        return page

    def _label(self, label, line):
        """The website's address of a label, and a text for the link."""
        page = self._page_of(label, line)
        anchor = f"equation-{make_id(label)}" if label in page.equations else make_id(label)
        title = page.labels.get(label)
        title = Converter(self.book, page).inline(title, line) if title else f"here in “{self.book.title(page)}”"
        return self.book.address.page(page.name, anchor), title

    def _doc(self, target, line):
        """The website's address and the title of a page, given relative to this one or from the root (/book/intro)."""
        folder = PurePosixPath(self.page.name).parent
        file = target.removesuffix(".md").removesuffix(".ipynb")
        name = file[1:] if file.startswith("/") else _normal(folder / file)
        if name in self.book.pages:
            return self.book.address.page(name), self.book.title(self.book.pages[name])
        lab = PurePosixPath(name).name
        if name.startswith("notebooks/") and (self.book.root / "solutions" / lab).is_dir():
            return self.book.address.page(name), "the lab"
        raise self.error(line, f"there is no page {target!r}")

    def _target(self, target, line):
        """The address and the title of what a markdown link without text points at."""
        if target.startswith("#"):
            return self._label(target[1:], line)
        file, _, anchor = target.partition("#")
        url, title = self._doc(file, line)
        return (f"{url}#{make_id(anchor)}", title) if anchor else (url, title)

    def _link(self, target, line):
        """The absolute address of a markdown link's target: a page, a label, a picture or a file of the repository."""
        if re.match(r"[a-z][a-z+.-]*:", target):
            return target
        file, _, anchor = target.partition("#")
        if not file or file.endswith((".md", ".ipynb")):
            return self._target(target, line)[0]
        name = file[1:] if file.startswith("/") else _normal(PurePosixPath(self.page.name).parent / file)
        if not (self.book.root / name).exists():
            if f"{name}" in self.book.pages:
                return self._target(target, line)[0]
            raise self.error(line, f"there is no file {file!r}")
        if name.endswith(PICTURES):
            return f"{self.book.address.website}_images/{PurePosixPath(name).name}"
        return f"{self.book.address.repository}/blob/{self.book.address.branch}/{name}"


KEEP = object()
# How each directive reads in a notebook.
RENDER = {
    **dict.fromkeys(
        "attention caution danger error hint important note seealso tip warning".split(), Converter._admonition
    ),
    **dict.fromkeys("admonition topic sidebar margin epigraph pull-quote".split(), Converter._quote),
    **dict.fromkeys("dropdown solution".split(), Converter._fold),
    **dict.fromkeys("tab-set grid grid-item div container only".split(), Converter._only_content),
    **dict.fromkeys("toctree tableofcontents contents index".split(), Converter._nothing),
    **dict.fromkeys("figure image".split(), Converter._picture),
    **dict.fromkeys("card grid-item-card".split(), Converter._card),
    **dict.fromkeys("button-ref button-link".split(), Converter._button),
    **dict.fromkeys("code code-block".split(), Converter._listing),
    **dict.fromkeys("glue glue:any glue:figure".split(), Converter._glued),
    "literalinclude": Converter._included,
    "exercise": Converter._statement,
    "tab-item": Converter._tab,
    "live": Converter._live,
    "table": Converter._table,
    "math": Converter._displayed,
    "raw": Converter._raw,
    "glossary": Converter._glossary,
    "bibliography": Converter._references,
    "code-cell": Converter._nested_code,
}


def _without_gaps(text):
    """The text with at most one blank line at a stretch, but for code, whose lines stay as they are."""
    parts = re.split(r"(^(`{3,}|~{3,}).*?^\2$)", text, flags=re.MULTILINE | re.DOTALL)
    prose, code = parts[::3], parts[1::3]
    prose = [re.sub(r"\n{3,}", "\n\n", part) for part in prose]
    return "".join(a + b for a, b in zip(prose, [*code, ""], strict=True)).strip("\n")


def _folded(title, content, is_open=False):
    return f"<details{' open' if is_open else ''}>\n<summary>{title}</summary>\n\n{content}\n\n</details>"


def _indent_like(first_line, token, replaced):
    """The lines of a block that stood in a list or a quote, put back at its indentation."""
    if not isinstance(replaced, str):
        return "\n".join(replaced)  # kept as it was, indentation included
    if not token.level:
        return f"\n{replaced}\n" if replaced else ""
    fence = first_line.find(token.markup) if token.markup else 0
    prefix = first_line[: max(fence, 0)]
    follow = re.sub(r"[^>\s]", " ", prefix)
    lines = replaced.split("\n")
    return "\n".join([(prefix + lines[0]).rstrip(), *((follow + line).rstrip() for line in lines[1:])])


def _slug(title):
    """The anchor that myst-parser gives a heading (GitHub's)."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")


def _normal(path):
    """A path without `..`."""
    parts = []
    for part in path.parts:
        parts = parts[:-1] if part == ".." else [*parts, part]
    return "/".join(part for part in parts if part != ".")
