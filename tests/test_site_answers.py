"""No answer, mark scheme or hidden test stands on the built website."""

import pytest
from bs4 import BeautifulSoup
from lab_tools import ROOT

from course_utils.authoring import find_labs
from course_utils.authoring.labs import secret_lines

PAGES = sorted((ROOT / "_build" / "html").rglob("*.html"))


@pytest.mark.site
@pytest.mark.parametrize("lab", find_labs(ROOT), ids=lambda path: path.stem)
def test_no_answer_leaks_into_the_site(lab):
    secret = secret_lines(lab)
    assert PAGES and secret
    for page in PAGES:
        text = BeautifulSoup(page.read_text("utf-8"), "html.parser").get_text()
        shown = {line.strip() for line in text.splitlines()}
        assert not secret & shown, page.relative_to(ROOT)
