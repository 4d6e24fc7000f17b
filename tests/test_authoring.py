"""From one source to notebooks: the same each time, in step, refused with file and line where an author slips."""

import re
import subprocess
import sys

import nbformat
import pytest
from lab_tools import REPOSITORY, ROOT, SMALL_LAB, WEBSITE, small_repository

from course_utils.authoring import (
    AuthoringError,
    build,
    chapter_notebook,
    find_labs,
    out_of_step,
    source_notebook,
    student_notebook,
)
from course_utils.authoring.address import Address
from course_utils.authoring.chapters import chapters
from course_utils.authoring.labs import secret_lines
from course_utils.authoring.myst import Book, Converter
from course_utils.authoring.notebook import to_text

LABS = find_labs(ROOT)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return small_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def released(small):
    return student_notebook(small)


def cell(notebook, grade_id):
    return next(c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") == grade_id)


# ---- labs ------------------------------------------------------------------------------------------------------------


def test_cells_keep_their_order_and_are_marked(released):
    ids = [c.metadata.get("nbgrader", {}).get("grade_id") for c in released.cells]
    assert [i for i in ids if i] == ["setup", "alpha_bar", "alpha_bar_test", "q_sample", "q_sample_test", "why"]
    assert cell(released, "q_sample").source.startswith("# Exercise 3.2 (q_sample)\ndef q_sample(")
    assert cell(released, "q_sample_test").source.startswith("# Exercise 3.2 (q_sample_test)\ncheck(")
    assert cell(released, "why").source.startswith("**Exercise 3.3 (why)**")


def test_students_get_stubs(released):
    assert "raise NotImplementedError()" in cell(released, "q_sample").source
    assert '"""x0 (B, ...)' in cell(released, "q_sample").source  # what stands around the answer stays
    assert "grade(" not in cell(released, "q_sample_test").source
    assert "Write your answer here" in cell(released, "why").source


def test_the_instructor_keeps_answers(small):
    source = source_notebook(small)
    assert "secretly_kept" in cell(source, "alpha_bar").source
    assert "grade(" in cell(source, "alpha_bar_test").source
    assert "One point each" in cell(source, "why").source


def test_nbgrader_metadata(released):
    kinds = {
        c.metadata.nbgrader.grade_id: (
            c.metadata.nbgrader.grade,
            c.metadata.nbgrader.solution,
            c.metadata.nbgrader.locked,
        )
        for c in released.cells
        if "nbgrader" in c.metadata
    }
    assert kinds["setup"] == (False, False, True)
    assert kinds["q_sample"] == (False, True, False)
    assert kinds["q_sample_test"] == (True, False, True)
    assert kinds["why"] == (True, True, False)
    assert cell(released, "q_sample_test").metadata.nbgrader.points == 2
    assert all(c.metadata.get("editable") is False for c in released.cells[1:] if c.source.startswith("#") and
               c.cell_type == "markdown")  # fmt: skip


def test_no_lines_are_lost(small):
    text = to_text(source_notebook(small))
    cells = [c.source for c in nbformat.reads(text, as_version=4).cells]
    for line in SMALL_LAB.splitlines():
        if line.strip() and not line.startswith("# %%"):
            assert any(re.sub(r"^# ?", "", line) in c or line in c for c in cells), line


def test_the_same_each_time(tmp_path):
    texts = [to_text(student_notebook(small_repository(tmp_path / name))) for name in ("one", "two")]
    assert texts[0] == texts[1]
    nbformat.validate(nbformat.reads(texts[0], as_version=4))


def test_ids_are_unique(released):
    ids = [c.id for c in released.cells]
    assert len(ids) == len(set(ids))


def test_badge_and_setup_use_the_configured_address(released):
    text = to_text(released)
    assert "colab.research.google.com/github/someone/elsewhere/blob/main/notebooks/03_small/03_small.ipynb" in text
    assert f"git+{REPOSITORY}@main\\n" in text
    assert rf"os.environ[\"COURSE_SITE\"] = \"{WEBSITE}\"" in text
    assert Address.read(ROOT).repository not in text


SOLUTION, TESTS = '# %% solution="q_sample"', '# %% tests="q_sample_test" points=2'
HIDDEN = '### BEGIN HIDDEN TESTS\ngrade("ddpm_2d.q_sample", q_sample)\n### END HIDDEN TESTS\n'
SECRET = "    secretly_kept = 1 - beta\n    return secretly_kept.cumprod(0)\n"
ANSWER = f"    ### BEGIN SOLUTION\n{SECRET}    ### END SOLUTION\n"
TEXT = "# %% [markdown]\n# ## Exercise 3.3"

# name: what is replaced in the small lab, by what, the message, a piece of the line that the message must name
MISTAKES = {
    "dead link": ("Two square roots.", "See [it](../../book/no.md).", "no page '../../book/no.md'", "book/no.md"),
    "unknown option": (SOLUTION, '# %% solutoin="q"', "unknown cell option 'solutoin'", "solutoin"),
    "missing id": (SOLUTION, "# %% solution", "'solution' is no cell option", "# %% solution"),
    "odd id": (SOLUTION, '# %% solution="q sample"', "this solution cell needs an id", "q sample"),
    "two kinds": (SOLUTION, f'{SOLUTION} essay="x"', "can't be solution and essay at once", "essay="),
    "duplicate id": (SOLUTION, '# %% solution="alpha_bar"', "'alpha_bar' is taken already, in line 14", "alpha_bar"),
    "tests without solution": (TESTS, '# %% tests="x_test" points=2', "'x_test' have no solution", '"x_test"'),
    "solution without tests": (
        f'{TESTS}\ncheck("ddpm_2d.q_sample", q_sample)\n{HIDDEN}', "", "'q_sample' has no tests", "solution="
    ),
    "no end": (ANSWER, f"    ### BEGIN SOLUTION\n{SECRET}", "without a ### END SOLUTION", "BEGIN SOLUTION"),
    "no begin": (ANSWER, f"{SECRET}    ### END SOLUTION\n", "without a ### BEGIN SOLUTION", "END SOLUTION"),
    "no answer": (ANSWER, "", "needs its answer between ### BEGIN SOLUTION", 'solution="alpha_bar"'),
    "points missing": (TESTS, '# %% tests="q_sample_test"', "points of 'q_sample_test' must be a number", "tests="),
    "points in words": (" points=2", ' points="two"', "points of 'q_sample_test' must be a number", "two"),
    "points below zero": (" points=2", " points=-2", "points of 'q_sample_test' must be a number", "-2"),
    "other points": (" points=2", " points=5", "has points=5, but its exercise is worth 2", "points=5"),
    "points of a solution": (SOLUTION, f"{SOLUTION} points=2", "not in the solution", "solution="),
    "points of a text": (TEXT, TEXT.replace("]", "] points=1"), "in a tests or an essay cell only", "points=1"),
    "unknown exercise": (HIDDEN, HIDDEN.replace("d.q", "d.p"), "no exercise 'ddpm_2d.p_sample'", "d.p_sample"),
    "no hidden tests": (HIDDEN, "", "needs grade(...) between", "tests="),
    "hidden tests without grade": (HIDDEN, HIDDEN.replace("grade", "print"), "must call grade", "tests="),
    "nothing to see": ('check("ddpm_2d.q_sample", q_sample)', "pass", "must call check", "tests="),
    "not Python": ("def q_sample(x0", "def q_sample(x0,,", "'q_sample' is not Python", "x0,,"),
    "answer in a plain cell": ("print(torch", "### BEGIN SOLUTION\nprint(torch", "in a cell without option", "BEGIN"),
    "essay in code": ('[markdown] essay="why"', 'essay="why"', "'why' must be markdown", "essay="),
    "another number": ("3.2: the jump", "3.7: the jump", "but 'q_sample' is Exercise 3.2", "solution="),
    "no title": ("# # A small lab", "# A small lab", "the first cell must be markdown", "# %% [markdown]"),
    "before the first cell": ("# %% [markdown]\n# # A", "x = 1\n\n# %%\n# # A", "before the first", "x = 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_an_authors_mistake_is_said_with_file_and_line(tmp_path, name):
    before, after, message, where = MISTAKES[name]
    assert before in SMALL_LAB
    text = SMALL_LAB.replace(before, after)
    path = small_repository(tmp_path, text)
    with pytest.raises(AuthoringError) as caught:
        source_notebook(path)
    file, line, said = str(caught.value).split(":", 2)
    assert file == "03_small/03_small.py" and message in said
    assert where in text.splitlines()[int(line) - 1]


def test_a_lab_is_named_after_its_chapter(tmp_path):
    with pytest.raises(AuthoringError, match="begins with its chapter's number"):
        source_notebook(small_repository(tmp_path, name="small"))


def test_a_lab_is_named_after_its_folder(tmp_path):
    path = small_repository(tmp_path)
    assert not build(tmp_path, tmp_path / "notebooks")
    path.rename(path.with_name("03_other.py"))
    (mistake,) = build(tmp_path, tmp_path / "notebooks")
    assert (tmp_path / "notebooks" / "03_small" / "03_small.ipynb").exists()  # nothing is lost by a slip
    assert str(mistake) == "03_small/03_other.py:1: a lab is named after its folder: 03_small/03_small.py"


# ---- chapters --------------------------------------------------------------------------------------------------------

PAGE = """\
---
jupytext:
  text_representation: {extension: .md, format_name: myst}
---

(start)=
# A page

See {ref}`start`, {cite:t}`ho2020denoising` and {eq}`jump`; $a_{1}$ and `{ref}` stay. {doc}`other`

% a comment

$$
x_t = \\alpha x_0
$$ (jump)

```{note}
:class: dropdown
Folded, with {math}`x^2`.
```

````{warning} Careful
- a list

  ```{tip}
  within
  ```
````

::::{tab-set}
:::{tab-item} One
First.
:::
:::{tab-item} Two
Second.
:::
::::

:::{figure} _static/logo.svg
:alt: The logo
:name: the-logo

Its caption.
:::

```python
print("{ref}`stays` as it is")
```

```{code-cell} ipython3
---
mystnb:
  figure:
    caption: What is drawn
    name: drawn
  image:
    alt: a line
tags: [hide-input]
---
x = 1
```

```{math}
:label: second
y = x
```

[The other](other.md#section), [here](#start), [outside](https://example.org), {numref}`drawn`.

Term
: what it means

| a | b |
|---|---|
| {eq}`second` | 2 |
"""


@pytest.fixture
def book(tmp_path):
    small_repository(tmp_path)
    (tmp_path / "book" / "_static").mkdir()
    (tmp_path / "book" / "_static" / "logo.svg").write_text("<svg/>")
    (tmp_path / "book" / "page.md").write_text(PAGE)
    (tmp_path / "book" / "other.md").write_text("# The other page\n\n## Section\n")
    (tmp_path / "book" / "references.bib").write_text(
        "@misc{ho2020denoising, author={Ho, Jonathan and Jain, Ajay and Abbeel, Pieter}, year={2020}, title={D}}"
    )
    return tmp_path


def test_a_page_becomes_plain_markdown(book):
    notebook = chapter_notebook(book, "page")
    text = "\n".join(c.source for c in notebook.cells)
    site = f"{WEBSITE}book"
    for expected in (
        f"See [A page]({site}/page.html#start), [Ho et al. (2020)]({site}/references.html) and "
        f"[(1)]({site}/page.html#equation-jump); $a_{{1}}$ and `{{ref}}` stay. [The other page]({site}/other.html)",
        "$$\nx_t = \\alpha x_0\n\\tag{1}\n$$",
        "<details>\n<summary>Note</summary>\n\nFolded, with $x^2$.\n\n</details>",
        "> **Warning**\n>\n> Careful\n> - a list",
        ">   > **Tip**\n>   >\n>   > within",
        "**One**\n\nFirst.\n\n**Two**\n\nSecond.",
        f"![The logo]({WEBSITE}_images/logo.svg)\n\nIts caption.",
        'print("{ref}`stays` as it is")',
        "$$\ny = x\n\\tag{2}\n$$",
        f"[The other]({site}/other.html#section), [here]({site}/page.html#start), [outside](https://example.org)",
        "- **Term**:\n  what it means",
        f"| [(2)]({site}/page.html#equation-second) | 2 |",
        "What is drawn",
    ):
        assert expected in text
    assert "a comment" not in text and "(start)=" not in text and "jupytext" not in text and ":::" not in text


def test_hidden_code_is_folded_and_alt_texts_are_dropped(book):
    code = [c for c in chapter_notebook(book, "page").cells if c.cell_type == "code"]
    assert [c.source.splitlines()[-1] for c in code] == ["    import course_utils", "x = 1"]
    assert code[1].source == "# @title Code\nx = 1"
    assert code[1].metadata == {"cellView": "form", "jupyter": {"source_hidden": True}}


@pytest.mark.parametrize(
    "line, message",
    [
        ("```{mermaid}\nx\n```", "the directive {mermaid} is unknown"),
        ("Some {unheard}`of` role", "the role {unheard} is unknown"),
        ("{ref}`nowhere`", "there is no label 'nowhere'"),
        ("{cite}`nobody1900`", "'nobody1900' is not in the bibliography"),
        ("{doc}`absent`", "there is no page 'absent'"),
        ("![x](_static/absent.png)", "there is no file '_static/absent.png'"),
        ("```{note}\n:::{code-cell}\nx\n:::\n```", "a code-cell inside another directive"),
        ("```{code-cell} r\nx\n```", "a code-cell in 'r'"),
    ],
)
def test_what_a_notebook_cannot_say_is_refused_with_page_and_line(book, line, message):
    (book / "book" / "page.md").write_text(f"# A page\n\nText.\n\n{line}\n")
    with pytest.raises(AuthoringError) as caught:
        chapter_notebook(book, "page")
    assert message in str(caught.value)
    assert re.match(r"book/page\.md:[56]: ", str(caught.value))


def test_a_value_in_the_text_is_printed(book):
    (book / "book" / "page.md").write_text(
        "# A page\n\n```{code-cell}\nfrom myst_nb import glue\nglue('distance', 3)\n```\n\n"
        "It is {glue:text}`distance:.2f`.\n"
    )
    *_, code, prose = chapter_notebook(book, "page").cells
    assert "myst_nb" not in code.source and "def glue(name" in code.source
    assert prose.source == "It is `distance`."


def test_a_labs_links_lead_to_the_website(book):
    text = SMALL_LAB.replace(
        "Two square roots.", "See [the page](../../book/page.md#start) and {doc}`../../book/other`."
    )
    text = "\n".join(c.source for c in source_notebook(small_repository(book, text)).cells)
    site = f"{WEBSITE}book"
    assert f"See [the page]({site}/page.html#start) and [The other page]({site}/other.html)." in text


# ---- the repository --------------------------------------------------------------------------------------------------


def test_build_writes_and_clears_what_it_made(tmp_path, capsys):
    small_repository(tmp_path)
    assert out_of_step(tmp_path) == ["notebooks/03_small/03_small.ipynb is missing"]
    stray = tmp_path / "notebooks" / "old" / "old.ipynb"
    stray.parent.mkdir(parents=True)
    badge = '{"source": "[![Open in Colab](x)](https://colab/github/a/b/blob/main/notebooks/old/old.ipynb)"}'
    own = [tmp_path / "notebooks" / name for name in ("old/old-Copy1.ipynb", "chapters/mine.ipynb")]
    own[1].parent.mkdir()
    for path in (stray, *own):
        path.write_text(badge)
    assert out_of_step(tmp_path)[1:] == ["notebooks/old/old.ipynb has no source any more"]
    assert build(tmp_path, tmp_path / "notebooks") == []
    assert capsys.readouterr().out == "removed notebooks/old/old.ipynb, which has no source any more\n"
    assert not stray.exists() and out_of_step(tmp_path) == []
    assert all(path.read_text() == badge for path in own)  # a reader's copy, and what a reader wrote
    small_repository(tmp_path, SMALL_LAB.replace("A small lab", "Another lab"))
    assert out_of_step(tmp_path) == ["notebooks/03_small/03_small.ipynb differs from its source"]


@pytest.mark.parametrize(
    "file, before, after, where",
    [
        ("solutions/03_small/03_small.py", "points=2", "points=5", "03_small/03_small.py:45: "),
        ("_config.yml", REPOSITORY, f"{REPOSITORY}.git", "course/_config.yml:"),
    ],
)
def test_the_command_says_a_mistake_without_a_traceback(tmp_path, file, before, after, where):
    tmp_path = tmp_path / "course"
    small_repository(tmp_path)
    text = (tmp_path / file).read_text("utf-8").replace(before, after)
    (tmp_path / file).write_text(text, "utf-8")
    ran = subprocess.run(
        [sys.executable, "-m", "course_utils.authoring", "--root", tmp_path], capture_output=True, text=True
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith(where) and "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    "url", ["https://github.com/a/b.git", "git@github.com:a/b", "https://github.com/a", "https://x.org/a/b"]
)
def test_an_address_whose_links_would_be_dead_is_refused(tmp_path, url):
    small_repository(tmp_path)
    config = tmp_path / "_config.yml"
    text = config.read_text("utf-8").replace(REPOSITORY, url)
    config.write_text(text, "utf-8")
    with pytest.raises(AuthoringError, match="https://github.com/OWNER/NAME") as caught:
        Address.read(tmp_path)
    assert f"url: {url}" in text.splitlines()[caught.value.line - 1]


def test_notebooks_are_in_step():
    assert out_of_step(ROOT) == []


def test_every_page_of_the_book_can_be_converted():
    book = Book(ROOT)
    for page in book.pages.values():
        if page.path.stem not in chapters(ROOT):
            assert Converter(book, page).convert(page.text)


@pytest.mark.parametrize("lab", LABS, ids=lambda path: path.stem)
def test_no_answer_leaks_into_notebooks(lab):
    secret = secret_lines(lab)
    assert len(secret) > 10  # or the test sees nothing
    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        lines = {line.strip() for c in nbformat.read(path, as_version=4).cells for line in c.source.splitlines()}
        assert not secret & lines, path.name


def test_secret_lines_are_found(small, released):
    secret = secret_lines(small)
    assert "secretly_kept = 1 - beta" in secret
    assert 'grade("ddpm_2d.q_sample", q_sample)' in secret
    assert any(line.startswith("One point each") for line in secret)
    assert not any("def q_sample" in line for line in secret)
    assert not any(line in c.source for line in secret for c in released.cells)


def test_an_included_file_is_listed_up_to_a_line():
    book = Book(ROOT)
    page = book.pages["book/contributing"]
    whole = (ROOT / "tests" / "examples" / "standardise_exercise.py").read_text()
    start = "```{literalinclude} ../tests/examples/standardise_exercise.py\n:language: python\n"
    assert whole.strip() in Converter(book, page).convert(f"{start}```\n")
    listed = Converter(book, page).convert(f'{start}:end-before: "import"\n```\n')
    assert listed.startswith("````python") and "import" not in listed and whole.splitlines()[0] in listed
