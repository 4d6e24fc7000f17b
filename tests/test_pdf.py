"""`make pdf` on a website of three small pages: order, contents, bookmarks, page numbers and links."""

import shutil

import pytest
import yaml
from pypdf import PdfReader

ROOT_PAGE = """<html><head><title>t</title></head><body><h1>The start<a class="headerlink" href="#x">#</a></h1>
<p><a href="chapter.html">to the chapter</a> <a href="notebooks/apart.html">not in the file</a></p></body></html>"""
SECTION = "<h2>Section {}</h2><p style='height: 700px'>words</p>"
CHAPTER = f"<html><body><h1>A chapter</h1>{SECTION}{SECTION}</body></html>"
LAB = "<html><body><h1>Its lab</h1><h2>Exercise 1</h2></body></html>"
TOC = {
    "format": "jb-book",
    "root": "start",
    "parts": [{"caption": "Part one", "chapters": [{"file": "chapter", "sections": [{"file": "lab"}]}]}],
}
CONFIG = {"title": "Small", "author": "Somebody", "copyright": "2026"}
CONFIG["html"] = {"baseurl": "https://example.org/site/", "extra_footer": "Free."}


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """The printed file of a small site."""
    if not (shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("no Chromium is installed: `make system` installs it on Debian")
    root = tmp_path_factory.mktemp("pdf")
    site = root / "_build" / "html"
    (site / "_static").mkdir(parents=True)
    (root / "book").mkdir()
    (root / "book" / "_toc.yml").write_text(yaml.safe_dump(TOC))
    (root / "_config.yml").write_text(yaml.safe_dump(CONFIG))
    for name, text in {"index": "", "start": ROOT_PAGE, "chapter": CHAPTER.format(1, 2), "lab": LAB}.items():
        (site / f"{name}.html").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        from lab_tools import ROOT

        patch.syspath_prepend(str(ROOT / "book"))
        shutil.copy(ROOT / "book" / "_static" / "preview.png", site / "_static")
        import pdf

        patch.setattr(pdf, "ROOT", root)
        patch.setattr(pdf, "SITE", site)
        pdf.main()
    return PdfReader(root / "_build" / "course.pdf")


pytestmark = pytest.mark.browser


def test_the_contents_give_the_sheets_that_the_titles_are_on(course):
    texts = [page.extract_text() for page in course.pages]
    contents = texts[1]
    for title in ("The start", "A chapter", "Its lab"):
        sheet = next(i for i, text in enumerate(texts) if i > 1 and text.startswith(title))
        assert texts[sheet].rstrip().endswith(str(sheet + 1)), "its number is at the foot"
        line = contents[contents.index(title) :].split("\n")
        assert str(sheet + 1) in "".join(line[:2])
    assert "Part one" in contents and "Small" in texts[0]


def test_bookmarks_follow_the_table_of_contents(course):
    def names(outline):
        return [names(item) if isinstance(item, list) else item.title for item in outline]

    expected = ["The start", "Part one", ["A chapter", ["Section 1", "Section 2", "Its lab", ["Exercise 1"]]]]
    assert names(course.outline) == expected


def test_links_stay_in_the_file_or_lead_to_the_public_site(course):
    links = [annotation.get_object() for page in course.pages for annotation in page.get("/Annots", [])]
    starts = [page.indirect_reference for page in course.pages if page.extract_text().startswith("A chapter")]
    assert [link.raw_get("/Dest")[0] for link in links if "/Dest" in link] == starts
    outside = [str(link["/A"]["/URI"]) for link in links if "/URI" in link.get("/A", {})]
    assert "https://example.org/site/notebooks/apart.html" in outside
    assert not [address for address in outside if "127.0.0.1" in address]
