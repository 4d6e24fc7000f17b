"""What the website weighs: for each page, the kilobytes that a first visit transfers, and those it loads by the end.

A browser opens each page of the built website as somebody does who has never been there, and scrolls to its end. Bytes
are counted as a server that compresses (gzip) would send them. "first" is what arrives before anybody scrolls; "own"
leaves out of it what every page shares (styles, scripts, fonts): what a second page costs.
"""

import functools
import gzip
import shutil
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

from sphinx_external_toc.parsing import parse_toc_yaml

ROOT = Path(__file__).parents[1]
SITE = ROOT / "_build" / "html"
TEXTS = {".html", ".css", ".js", ".mjs", ".svg", ".json", ".wasm", ".txt", ".map"}  # the rest is compressed already
SCROLL = """async () => { for (let y = 0; y < document.body.scrollHeight; y += 600) {
  scrollTo(0, y); await new Promise(go => setTimeout(go, 30)); } }"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@functools.cache
def weight(path):
    """The bytes that a compressing server sends for a file of the website."""
    file = SITE / unquote(path).lstrip("/")
    if not file.is_file():
        return 0
    data = file.read_bytes()
    return len(gzip.compress(data, 6)) if file.suffix in TEXTS else len(data)


def visit(browser, address, page):
    """The paths that a page asks for before it is scrolled, and all of them."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    asked = []
    tab.on("request", lambda request: asked.append(urlparse(request.url).path) if request.url[:4] == "http" else None)
    tab.goto(f"{address}/{page}.html", wait_until="load", timeout=120_000)
    tab.wait_for_timeout(500)
    first = set(asked)
    tab.evaluate(SCROLL)
    tab.wait_for_load_state("networkidle")
    tab.close()
    return first, set(asked)


def main():
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if not (SITE / "index.html").exists() or not program:
        sys.exit("This needs the built website (`make book`) and a Chromium (`make system`).")
    from playwright.sync_api import sync_playwright

    pages = sorted(parse_toc_yaml(ROOT / "book" / "_toc.yml"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        visits = {page: visit(browser, f"http://127.0.0.1:{server.server_port}", page) for page in pages}
        browser.close()
    server.shutdown()

    shared = set.intersection(*(first for first, _ in visits.values()))
    total = lambda paths: sum(map(weight, paths)) / 1000  # noqa: E731
    print(f"{'kB, as gzip sends them':44}{'first':>8}{'own':>8}{'all':>8}")
    for page, (first, everything) in visits.items():
        print(f"{page:44}{total(first):8.0f}{total(first - shared):8.0f}{total(everything):8.0f}")
    whole = sum(file.stat().st_size for file in SITE.rglob("*") if file.is_file()) / 1e6
    print(f"Shared by all pages: {total(shared):.0f} kB. The whole website on disk: {whole:.1f} MB.")


if __name__ == "__main__":
    main()
