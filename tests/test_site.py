"""The built website, as files and in a real browser. It looks at _build/html, which `make book` makes."""

import functools
import re
from pathlib import Path
from urllib.parse import unquote, urljoin, urlparse

import pytest
from bs4 import BeautifulSoup
from sphinx_external_toc.parsing import parse_toc_yaml

ROOT = Path(__file__).parents[1]
SITE = ROOT / "_build" / "html"
PAGES = sorted(parse_toc_yaml(ROOT / "book" / "_toc.yml"))  # "book/intro", without suffix
WIDTHS = (1280, 390)  # a laptop, a phone

pytestmark = pytest.mark.site


@functools.cache
def parsed(file):
    return BeautifulSoup(file.read_text("utf-8"), "html.parser")


@functools.cache
def anchors(file):
    return {tag.get("id") or tag.get("name") for tag in parsed(file).find_all(lambda t: t.get("id") or t.get("name"))}


@pytest.fixture(params=PAGES)
def page(request):
    """Each page of the table of contents, as the path of its file."""
    file = SITE / f"{request.param}.html"
    assert file.exists(), f"{request.param} stands in book/_toc.yml but was not built"
    return file


def test_the_start_page_is_found():
    assert "url=book/intro.html" in (SITE / "index.html").read_text()


def test_pictures_have_words(page):
    article = parsed(page).select_one("article")  # the logo beside the title is mere decoration
    words = {img["src"][:80]: img.get("alt", "").strip() for img in article.find_all("img")}
    words |= {tag.name: tag.get("aria-label", "").strip() for tag in article.find_all(attrs={"role": "img"})}
    # where a cell's picture has no text of its own, Sphinx writes the file's name
    silent = [picture for picture, text in words.items() if not text or re.search(r"\.(png|svg|jpg|webp)$", text)]
    assert not silent, f"give each picture a text that says what it shows: {silent}"


def test_nothing_comes_from_elsewhere(page):
    loaded = [tag["src"] for tag in parsed(page).find_all(["script", "img", "iframe", "source", "video"], src=True)]
    fetching = {"stylesheet", "icon", "preload", "prefetch", "modulepreload", "preconnect", "dns-prefetch"}
    loaded += [link["href"] for link in parsed(page).find_all("link", href=True) if fetching & set(link["rel"])]
    assert not [url for url in loaded if urlparse(url).netloc]


def test_no_style_comes_from_elsewhere():
    outside = re.compile(r"(?:@import\s+|url\()\s*[\"']?(?:https?:)?//")
    assert not [f.relative_to(SITE) for f in SITE.rglob("*.css") if outside.search(f.read_text("utf-8"))]


def test_links_lead_somewhere(page):
    broken = []
    for link in parsed(page).find_all("a", href=True):
        url = urlparse(link["href"])
        if url.scheme or url.netloc:
            continue
        target = (page.parent / unquote(url.path)).resolve() if url.path else page
        missing = not target.exists() or (
            url.fragment and target.suffix == ".html" and unquote(url.fragment) not in anchors(target)
        )
        if missing:
            broken.append(link["href"])
    assert not broken


def test_colab_button_opens_a_notebook_of_the_repository(page):
    for link in parsed(page).select('a[href^="https://colab.research.google.com/github/"]'):
        path = link["href"].split("/blob/")[1].split("/", 1)[1]
        assert path.endswith(".ipynb"), f"Colab opens notebooks only, not {path}"
        assert (ROOT / path).exists(), f"the Colab button leads to {path}, which is missing: run `make notebooks`"


def test_pages_with_cells_have_a_colab_button(page):
    if parsed(page).select("div.cell"):
        assert parsed(page).select('.article-header-buttons a[href*="colab"]')


def test_no_cell_failed(page):
    assert not parsed(page).select(".output.traceback")


def test_page_describes_itself(page):
    if page.parent.name == "book":
        description = parsed(page).find("meta", {"name": "description"})
        assert description and len(description["content"]) > 20, "add html_meta: description to the page's header"


# In a browser


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_page_in_a_browser(chromium, address, name, theme):
    """It loads without an error or a request elsewhere, shows its formulas, and fits a laptop and a phone."""
    context = chromium.new_context(color_scheme=theme, viewport={"width": WIDTHS[0], "height": 900})
    tab = context.new_page()
    errors, requests = [], []
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("response", lambda response: errors.append(response.url) if response.status >= 400 else None)
    tab.on("request", lambda request: requests.append(request.url))
    try:
        tab.goto(urljoin(address, f"{name}.html"), wait_until="load")
        assert tab.evaluate("document.documentElement.dataset.theme") == theme

        if parsed(SITE / f"{name}.html").select(".math"):
            tab.wait_for_function("window.MathJax?.startup?.promise")
            tab.evaluate("MathJax.startup.promise")
            formulas = tab.locator(".math").count()
            assert tab.locator(".math:has(mjx-container)").count() == formulas
            assert tab.locator("mjx-merror").count() == 0, "a formula has an error"

        for width in WIDTHS:
            tab.set_viewport_size({"width": width, "height": 900})
            too_wide = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert too_wide <= 0, f"at {width} pixels the page is {too_wide} pixels too wide"
    finally:
        context.close()
    elsewhere = [url for url in requests if not url.startswith((address, "data:", "blob:"))]
    assert not errors and not elsewhere


@pytest.mark.browser
def test_search_finds_a_word(chromium, address):
    tab = chromium.new_page()
    tab.goto(urljoin(address, "search.html?q=denoiser"))
    tab.locator("#search-results li").first.wait_for(timeout=10_000)
    tab.close()
