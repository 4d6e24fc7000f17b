"""The built website, as files and in a real browser. It looks at _build/html, which `make book` makes."""

import functools
import re
import sys
from pathlib import Path
from urllib.parse import unquote, urljoin, urlparse

import axe_playwright_python
import pytest
from bs4 import BeautifulSoup
from fontTools.ttLib import TTFont
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


def test_pictures_load_when_they_come_near(page):
    for image in parsed(page).select("article img"):
        assert image.get("loading") == "lazy" and len(image["src"]) < 10_000, f"{image['src'][:80]} holds up the page"


def test_nothing_comes_from_elsewhere(page):
    loaded = [tag["src"] for tag in parsed(page).find_all(["script", "img", "iframe", "source", "video"], src=True)]
    fetching = {"stylesheet", "icon", "preload", "prefetch", "modulepreload", "preconnect", "dns-prefetch"}
    loaded += [link["href"] for link in parsed(page).find_all("link", href=True) if fetching & set(link["rel"])]
    assert not [url for url in loaded if urlparse(url).netloc]


def test_no_style_comes_from_elsewhere():
    outside = re.compile(r"(?:@import\s+|url\()\s*[\"']?(?:https?:)?//")
    assert not [f.relative_to(SITE) for f in SITE.rglob("*.css") if outside.search(f.read_text("utf-8"))]


def test_icons_are_few_and_none_is_missing():
    """The fonts hold every icon that a page or style asks for, in a few kB, and no page loads them once more."""
    sys.path.insert(0, str(ROOT / "book" / "_ext"))
    from light_icons import used

    fonts = sorted((SITE / "_static" / "vendor" / "fontawesome" / "webfonts").glob("*.woff2"))
    assert fonts and sum(font.stat().st_size for font in fonts) < 20_000
    assert {*used(SITE)} <= {code for font in fonts for code in TTFont(font).getBestCmap()}
    assert not [page for page in PAGES if "fontawesome.js" in (SITE / f"{page}.html").read_text("utf-8")]
    icons = {name for link in parsed(SITE / "book" / "intro.html").select("[class*=fa-]") for name in link["class"]}
    assert {"fa-magnifying-glass", "fa-github"} <= icons and {0xF002, 0xF09B} <= {*used(SITE)}


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


@functools.cache
def axe_core():
    """axe-core as one script, which looks for what keeps readers out (WCAG 2.1 A and AA, and best practices)."""
    return (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text("utf-8")


# Contrast is slow to look at (nine tenths of axe-core's time go to the words of code cells), and depends on the look of
# a text alone: one text of each look is marked for it.
MARK_LOOKS = """() => {
  const looks = new Set(), clear = "rgba(0, 0, 0, 0)";
  for (const part of document.querySelectorAll("body *")) {
    part.removeAttribute("data-look");
    if (part.closest(".math") || ![...part.childNodes].some(node => node.nodeType == 3 && node.data.trim())) continue;
    const style = getComputedStyle(part);
    let behind = part;
    while (behind.parentElement && getComputedStyle(behind).backgroundColor == clear) behind = behind.parentElement;
    const look = [style.color, getComputedStyle(behind).backgroundColor, style.fontSize, style.fontWeight].join();
    if (part.checkVisibility({ visibilityProperty: true }) && !looks.has(look)) part.setAttribute("data-look", "");
    looks.add(look);
  }
}"""


def barriers(tab, context, **options):
    """What axe-core finds in a part of the page as it is now, a line each."""
    options = options | {"resultTypes": ["violations"], "preload": False}  # it would load the styles once more
    found = tab.evaluate("([context, options]) => axe.run(context, options)", [context, options])
    return [
        f"{rule['id']} ({rule['help']}): {node['target']} {node['html'][:120]}"
        for rule in found["violations"]
        for node in rule["nodes"][:3]
    ]


def faint_texts(tab):
    """Texts, one of each look, that stand out too little from what is behind them."""
    tab.evaluate(MARK_LOOKS)
    return barriers(tab, {"include": ["[data-look]"]}, runOnly=["color-contrast"])


@pytest.mark.browser
@pytest.mark.parametrize("name", PAGES)
def test_page_in_a_browser(chromium, address, name):
    """It loads without an error or a request elsewhere, shows its formulas, fits laptop and phone, shuts nobody out.

    One visit sees both themes: a page follows the system's while it is open. Only colours differ between them, so the
    second one is looked at for contrast alone. Formulas are one program's work, and looked at on one page.
    """
    view = {"width": WIDTHS[0], "height": 900}
    context = chromium.new_context(color_scheme="light", viewport=view, reduced_motion="reduce")  # colours at rest
    context.set_default_timeout(120_000)  # milliseconds: also where the processor is shared
    tab = context.new_page()
    errors, requests = [], []
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("response", lambda response: errors.append(response.url) if response.status >= 400 else None)
    tab.on("request", lambda request: requests.append(request.url))
    formulas = ["#nothing"] if name == "book/notation" else [".math"]
    try:
        tab.goto(urljoin(address, f"{name}.html"), wait_until="load")
        assert tab.evaluate("document.documentElement.dataset.theme") == "light"

        if parsed(SITE / f"{name}.html").select(".math"):
            tab.wait_for_function("window.MathJax?.startup?.promise")
            tab.evaluate("MathJax.startup.promise")
            shown = tab.locator(".math").count()
            assert tab.locator(".math:has(mjx-container)").count() == shown
            assert tab.locator(".math:has(mjx-assistive-mml math)").count() == shown, "a screen reader can't read them"
            assert tab.locator("mjx-merror").count() == 0, "a formula has an error"

        for width in WIDTHS:
            tab.set_viewport_size({"width": width, "height": 900})
            too_wide = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert too_wide <= 0, f"at {width} pixels the page is {too_wide} pixels too wide"

        # the theme lets the keyboard into code and tables that scroll a moment after the window has changed
        scrolls = "box => box.scrollWidth > box.clientWidth && box.tabIndex < 0"
        boxes = "pre, .pst-scrollable-table-container"
        tab.wait_for_function(f"![...document.querySelectorAll('{boxes}')].some({scrolls})")
        tab.evaluate(axe_core())
        rules = {"color-contrast": {"enabled": False}}
        found = barriers(tab, {"exclude": formulas}, rules=rules)  # on the phone, where tables and code scroll
        found += faint_texts(tab)
        tab.emulate_media(color_scheme="dark")
        tab.wait_for_function("document.documentElement.dataset.theme == 'dark'")
        found += [f"in the dark: {line}" for line in faint_texts(tab)]
        tab.set_viewport_size({"width": WIDTHS[0], "height": 900})
        found += barriers(tab, {"include": [".bd-sidebar-primary"]}, rules=rules)  # not on the phone
        assert not found, "\n".join(found)
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
