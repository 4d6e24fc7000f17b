"""`make pdf`: the whole course as one file, _build/course.pdf, from the built website.

Chromium prints each page as a reader would, pypdf joins them: a title page, the contents, bookmarks, page numbers, and
links from page to page that stay in the file. Needs `make book` before, and no network.
"""

import html
import io
import shutil
import sys
import threading
from contextlib import contextmanager
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urldefrag

import yaml
from bs4 import BeautifulSoup
from playwright.sync_api import sync_playwright
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, NameObject, TextStringObject
from sphinx_external_toc.parsing import parse_toc_yaml

ROOT = Path(__file__).parents[1]
SITE = ROOT / "_build" / "html"
PAPER = {"format": "A4", "print_background": True, "margin": dict.fromkeys(("top", "bottom"), "20mm")}
PAPER["margin"] |= dict.fromkeys(("left", "right"), "18mm")
FRONT = """<!doctype html><html lang="en"><meta charset="utf-8"><style>
body {{ font: 11pt/1.5 sans-serif; color: #222; }} h1 {{ font-size: 34pt; line-height: 1.15; margin: 45mm 0 6mm; }}
img.logo {{ width: 40mm; }} img.wide {{ width: 100%; margin: 15mm 0; }} .contents {{ break-before: page; }}
.contents p {{ display: flex; margin: 1mm 0; }} .contents p.part {{ font-weight: bold; margin-top: 5mm; }}
.contents p.lab {{ padding-left: 8mm; }} .dots {{ flex: 1; border-bottom: 1px dotted #999; margin: 0 2mm 1.5mm; }}
</style><h1>{title}</h1><p>{author}, {year}</p>
<img class="wide" src="/_static/preview.png" alt="">
<p>The course lives at {address}: there its pictures move and its notebooks open. {licence}</p>
<div class="contents"><h2>Contents</h2>{contents}</div></html>"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextmanager
def served(folder):
    """The address of a server of that folder on localhost."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def order(toc):
    """(page, part, is it a section of the page before?) of each page, as in the table of contents."""
    site = parse_toc_yaml(toc)
    yield site.root.docname, None, False
    for tree in site.root.subtrees:
        for page in tree.files():
            yield page, tree.caption, False
            for below in site[page].subtrees:
                yield from ((section, tree.caption, True) for section in below.files())


@cache
def titles_of(page):
    """The title of a page and those of its sections."""
    article = BeautifulSoup((SITE / f"{page}.html").read_text("utf-8"), "html.parser")
    article = article.select_one("article") or article
    for link in article.select("a.headerlink"):
        link.decompose()
    return article.h1.get_text().strip(), [heading.get_text().strip() for heading in article.find_all("h2")]


def printed(tab, address):
    """A page of the website on paper, as a pypdf reader."""
    tab.goto(address, wait_until="load")
    tab.add_style_tag(content="#jb-print-toc { display: none }")  # the file has its own contents
    tab.evaluate("window.MathJax?.startup?.promise")
    tab.evaluate("document.querySelectorAll('img[loading]').forEach(image => image.loading = 'eager')")
    tab.wait_for_function("[...document.images].every(image => image.complete)")
    return PdfReader(io.BytesIO(tab.pdf(**PAPER, outline=True, tagged=True)))


def front(tab, address, config, entries):
    """The title page and the contents; entries are (kind, title, page number or None)."""
    lines = "".join(
        f'<p class="{kind}">{html.escape(title)}' + (f'<span class="dots"></span>{number}</p>' if number else "</p>")
        for kind, title, number in entries
    )
    values = {"title": config["title"], "author": config["author"], "year": config["copyright"]}
    values = {name: html.escape(str(value)) for name, value in values.items()}
    licence = html.escape(config["html"]["extra_footer"])
    values |= {"address": html.escape(config["html"]["baseurl"]), "licence": licence, "contents": lines}
    tab.goto(f"{address}/404-front", wait_until="commit")  # an empty page of the same origin, for the picture
    tab.set_content(FRONT.format(**values), wait_until="load")
    return PdfReader(io.BytesIO(tab.pdf(**PAPER)))


def numbers(tab, count):
    """As many empty sheets, each with its number at the foot: laid over the pages."""
    tab.set_content("<style>div { break-after: page; height: 1px }</style>" + "<div></div>" * (count - 1) + "<p></p>")
    foot = '<div style="font: 9px sans-serif; width: 100%; text-align: center" class="pageNumber"></div>'
    sheets = tab.pdf(
        **PAPER | {"print_background": False},
        display_header_footer=True,
        header_template="<p></p>",
        footer_template=foot,
    )
    return PdfReader(io.BytesIO(sheets))


def keep_links_inside(writer, address, website, first):
    """Links to pages of the website lead to their sheets in the file, others of it to the public website."""
    for sheet in writer.pages:
        for annotation in sheet.get("/Annots", []):
            annotation = annotation.get_object()
            action = annotation.get("/A", {})
            uri = str(action.get("/URI", ""))
            if not uri.startswith(address):
                continue
            page = urldefrag(uri)[0].removeprefix(f"{address}/").removesuffix(".html")
            if page in first:
                target = writer.pages[first[page]].indirect_reference
                annotation[NameObject("/Dest")] = ArrayObject([target, NameObject("/Fit")])
                del annotation["/A"]
            else:
                action[NameObject("/URI")] = TextStringObject(uri.replace(f"{address}/", website))


def main():
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        sys.exit("No Chromium is installed, which prints the pages: `make system` installs it on Debian.")
    if not (SITE / "index.html").exists():
        sys.exit("There is no website yet: run `make book` first.")
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    pages = list(order(ROOT / "book" / "_toc.yml"))
    out = ROOT / "_build" / "course.pdf"
    with served(SITE) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(color_scheme="light", reduced_motion="reduce")  # films show the frame made for print
        tab.set_default_timeout(300_000)  # milliseconds: a chapter has hundreds of formulas
        readers = {}
        for i, (page, _, _) in enumerate(pages, 1):
            readers[page] = printed(tab, f"{address}/{page}.html")
            print(f"[{i}/{len(pages)}] {page}: {len(readers[page].pages)} sheets", flush=True)

        def entries(first):
            shown = None
            for page, part, is_section in pages:
                if part != shown:
                    shown = part
                    yield "part", part, None
                yield "lab" if is_section else "page", titles_of(page)[0], first[page] + 1

        first, at = {}, len(front(tab, address, config, list(entries(dict.fromkeys(readers, 0)))).pages)
        for page, reader in readers.items():
            first[page], at = at, at + len(reader.pages)
        writer = PdfWriter()
        writer.append(front(tab, address, config, list(entries(first))), import_outline=False)
        parents = {}
        for page, part, is_section in pages:
            writer.append(readers[page], import_outline=False)
            if part and part not in parents:
                parents[part] = writer.add_outline_item(title=part, page_number=first[page])
            above = parents["the chapter"] if is_section else parents.get(part)
            mark = writer.add_outline_item(title=titles_of(page)[0], page_number=first[page], parent=above)
            if not is_section:
                parents["the chapter"] = mark
            for heading, sheet in headings(readers[page], titles_of(page)[1]):
                writer.add_outline_item(title=heading, page_number=first[page] + sheet, parent=mark)
        for sheet, number in zip(writer.pages[1:], numbers(tab, at).pages[1:], strict=True):
            sheet.merge_page(number)
        browser.close()
    keep_links_inside(writer, address, config["html"]["baseurl"], first)
    writer.add_metadata({"/Title": config["title"], "/Author": config["author"]})
    writer.root_object[NameObject("/Lang")] = TextStringObject("en")
    writer.compress_identical_objects()
    writer.write(out)
    print(f"{out.relative_to(ROOT)}: {at} pages, {out.stat().st_size / 1e6:.1f} MB")


def headings(reader, titles):
    """(title, sheet) of a printed page's sections: Chromium knows the sheets, but writes some titles twice."""
    outline = reader.outline
    inner = next((item for item in outline if isinstance(item, list)), [])
    found = [item for item in inner if not isinstance(item, list)]
    names = titles if len(titles) == len(found) else [item.title for item in found]
    return [(name, reader.get_destination_page_number(item)) for name, item in zip(names, found, strict=True)]


if __name__ == "__main__":
    main()
