"""What a student gets back: what came of each question, no hidden test, and nothing that could harm who looks at it."""

import html.parser
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from tiny_class import SQUARES, WRONG, QuickEngine, answers, hand_in, make_course

from course_utils.grading import Course, grade_course, pool, stock
from course_utils.grading.feedback import Report
from course_utils.grading.sanitising import rendered, safe_html, tame_markdown

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::sqlalchemy.exc.SAWarning")
WEBSITE = "https://someone.github.io/elsewhere/"

# Each would set `hurt` to true, or send a request, where it came to life.
ATTACKS = [
    "<script>hurt = true</script>",
    "<scr<script>ipt>hurt = true</script>",
    "<img src=x onerror='hurt = true'>",
    "<img src='https://elsewhere.example/seen.png'>",
    "<svg onload='hurt = true'><a xlink:href='javascript:hurt=true'>x</a></svg>",
    "<a href='javascript:hurt = true'>press</a>",
    "[press](javascript:hurt=true)",
    "[press](java&#115;cript:hurt=true)",
    "<iframe srcdoc='<script>parent.hurt = true</script>'></iframe>",
    "<object data='javascript:hurt=true'></object><embed src='https://elsewhere.example/x'>",
    "<form action='https://elsewhere.example'><button>Log in</button></form>",
    "<div style='position:fixed;inset:0;background:white'>5 of 5</div>",
    "<style>.state { display: none }</style>",
    "<link rel=stylesheet href='https://elsewhere.example/x.css'><base href='https://elsewhere.example'>",
    "<meta http-equiv=refresh content='0;url=https://elsewhere.example'>",
    "<details open ontoggle='hurt = true'>x</details>",
    "<!--><script>hurt = true</script>-->",
    "<math><mtext><table><mglyph><style><img src=x onerror=hurt=true>",
    "![](data:text/html;base64,PHNjcmlwdD4=)",
    "$\\href{javascript:hurt=true}{x}$",
    "`<script>hurt = true</script>`",
    "```\n<script>hurt = true</script>\n```",
]


KINDS = [f"text/{kind}" for kind in ("html", "markdown", "latex")]
KINDS += ["image/svg+xml", "image/png", "application/javascript"]


class Alive(html.parser.HTMLParser):
    """Lists what is live below the report's head: tags and attributes that a plain text has no need of."""

    TAGS = set("script style iframe object embed form button input base link meta svg math frame video audio".split())

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found += [tag] if tag in self.TAGS else []
        for name, value in attributes:
            value = (value or "").strip()
            is_link = tag == "a" and name == "href" and re.match(r"#|https?://|mailto:", value)
            fetched = name in ("src", "href", "data", "action") and not is_link and not value.startswith("data:image/")
            self.found += [f"{name}={value}"] if name.startswith("on") or name == "style" or fetched else []


def alive(page):
    return Alive(page.partition("<body>")[2]).found


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """A graded class: one right, one wrong, one who attacks in every way a notebook has."""
    folder = make_course(tmp_path_factory.mktemp("class"))
    hand_in(folder, "right", answers())
    hand_in(folder, "wrong", answers(squares=WRONG, cubes="def cubes(n):\n    return 7"))
    bad = answers(squares=WRONG, why="\n\n".join(ATTACKS))
    bad.cells.append(new_markdown_cell("\n\n".join(ATTACKS)))
    for text in ATTACKS:
        for kind in (
            "text/html",
            "text/markdown",
            "text/latex",
            "image/svg+xml",
            "application/javascript",
            "image/png",
        ):
            output = {"output_type": "display_data", "data": {kind: text}, "metadata": {kind: {"alt": text}}}
            bad.cells.append(new_code_cell(f"show({output!r})"))
        tagged = {"tags": [text.replace(",", "")]}
        bad.cells.append(new_code_cell(f"print({text!r})\nraise ValueError({text!r})", metadata=tagged))
    hand_in(folder, "bad", bad)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "METHOD", "fork")
        patch.setattr(pool, "Engine", QuickEngine)
        grade_course(folder, unsafe=True, workers=1)
    return folder


def page(folder, student):
    return (folder / "feedback" / student / "powers" / "powers.html").read_text("utf-8")


def test_the_report_says_what_came_of_each_question(graded):
    right, wrong = page(graded, "right"), page(graded, "wrong")
    assert "3 of 6 points so far: 1 answer is still to be read by a person" in right
    assert right.count("Right.") == 2 and "A person still reads this." in right
    assert "0 of 6 points so far" in wrong
    assert "A test failed that is not shown (AssertionError)." in wrong
    assert "assert cubes(3) == [0, 1, 8]" in wrong


@pytest.mark.parametrize("student", ["right", "wrong", "bad"])
def test_hidden_tests_are_neither_in_the_source_nor_in_the_outputs(graded, student):
    text = page(graded, student)
    for secret in ("HIDDEN", "the hidden list", "9, 16", 'squares</span><span class="p">(</span><span class="mi">5'):
        assert secret not in text
    autograded = (graded / "autograded" / student / "powers" / "powers.ipynb").read_text("utf-8")
    assert "the hidden list" in autograded  # for formgrader they are there


def test_nothing_of_a_students_is_live(graded):
    assert alive(page(graded, "bad")) == []
    assert "Content-Security-Policy" in page(graded, "bad").partition("<body>")[0]


def test_nor_in_the_notebook_that_formgrader_shows(graded):
    notebook = nbformat.read(graded / "autograded" / "bad" / "powers" / "powers.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            assert not re.search(r"<(script|iframe|style|img|svg|object)|javascript:", cell.source)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            assert alive(f"<body>{data.get('text/html', '')}") == [] and "application/javascript" not in data
            assert re.fullmatch(r"[A-Za-z0-9+/=\s]*", data.get("image/png", ""))
            assert not output.get("metadata")


@pytest.mark.browser
def test_a_browser_runs_nothing_of_it(graded, chromium):
    opened = chromium.new_page()
    asked = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto((graded / "feedback" / "bad" / "powers" / "powers.html").as_uri())
    assert opened.evaluate("typeof hurt") == "undefined"
    assert [
        a for a in asked if not a.startswith(("file:", "data:", "https://cdn.jsdelivr.net/npm/mathjax@3.2.2/"))
    ] == []
    opened.close()


@pytest.mark.parametrize("attack", ATTACKS)
def test_each_attack_alone(attack):
    for text in (safe_html(attack), rendered(attack), rendered(tame_markdown(attack))):
        assert alive(f"<body>{text}") == []


def test_what_people_write_stays():
    text = "**bold** $a<b$ and `x<y`\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n"
    text += "<details><summary>More</summary>\n\ntext\n\n</details>"
    made = rendered(tame_markdown(text))
    for part in ("<strong>bold</strong>", "\\(a&lt; b\\)", "<td>1</td>", "<summary>More</summary>"):
        assert part in made
    assert safe_html('<table class="dataframe"><tr><td colspan="2">1</td></tr></table>').count("td") == 2


def report(cell, hidden=True, **grades):
    """The report's question of one graded cell."""
    data = {"grade_id": "q_sample_test", "grade": True, "solution": False, "locked": True, "points": 2, "score": 0}
    cell.metadata["nbgrader"] = data | grades
    cell.source = "check(1)\n### BEGIN HIDDEN TESTS\ngrade(a, b)\n### END HIDDEN TESTS" if hidden else "check(1)"
    names = {"notebook": "lab", "assignment": "lab", "student": "ada", "score": 0, "max_score": 2}
    made = Report(website=WEBSITE)
    notebook, resources = made.preprocess(new_notebook(cells=[cell]), {"nbgrader": names})
    return resources["report"]["questions"][0], notebook.cells[0]


def failed(message, **more):
    return new_output("error", ename="AssertionError", evalue=message, traceback=["grade(a, b)", message], **more)


@pytest.mark.parametrize(
    "target, link",
    [
        ("ddpm_2d.html#jump", f"{WEBSITE}book/ddpm_2d.html#jump"),
        (f"{WEBSITE}book/ddpm_2d.html#jump", f"{WEBSITE}book/ddpm_2d.html#jump"),
        ("https://elsewhere.example/ddpm_2d.html", ""),
        ("javascript:alert(1)", ""),
    ],
)
def test_the_checks_sentence_and_where_to_read_on(target, link):
    reason, mistake = "q_sample: wrong [in the case: one; seed 7].", "alpha_bar multiplies x0 without its square root."
    cell = new_code_cell(outputs=[failed(f"No points yet. {reason} {mistake} Read on: {target}")])
    question, _ = report(cell)
    assert (question["said"], question["link"]) == (f"{mistake}\n{reason}", link)


def test_of_a_hidden_tests_cell_only_the_checks_verdict_is_shown():
    verdict = "✗ q_sample: wrong.\n  The case: one\n  Read on: ddpm_2d.html#jump"
    printed = new_output("stream", text=f"hidden input: 7\n{verdict}\n  \nsecret\n  set in\n✓ mean is right.\n")
    shown = new_output("display_data", {"text/plain": "secret"})
    _, cell = report(new_code_cell(outputs=[printed, shown, failed("secret")]))
    assert cell.outputs[0].text == f"{verdict}\n  \n✓ mean is right."
    assert "secret" not in str(cell) and "grade(a, b)" not in str(cell)


def test_partly_right_waiting_and_commented():
    assert report(new_code_cell(), score=1)[0]["state"] == "partly"
    assert report(new_code_cell(), score=2)[0]["verdict"] == "Right."
    waiting, _ = report(new_markdown_cell(), hidden=False, solution=True, waiting=True, comment="Good.")
    assert (waiting["points"], waiting["state"], waiting["comment"]) == ("- of 2", "waiting", "Good.")


def test_nbgraders_own_commands_write_the_same_page_and_run_nothing_unprotected(graded, monkeypatch):
    (graded / "nbgrader_config.py").write_text("c = get_config()\nc.Limits.processes = 7\n")
    course = Course(graded)
    before = page(graded, "wrong")
    assert course.api.generate_feedback("powers", "wrong")["success"]
    assert page(graded, "wrong") == before
    called = []

    def execute(notebook, **arguments):
        called.append(arguments["source"].cells[2].source)
        assert arguments["limits"].processes == 7
        return QuickEngine().execute(notebook)

    monkeypatch.setattr(stock, "execute", execute)
    hand_in(graded, "wrong", answers(squares=SQUARES))
    assert course.api.autograde("powers", "wrong")["success"]
    assert "BEGIN SOLUTION" in called[0]
    with course.api.gradebook as gradebook:
        assert gradebook.find_submission("powers", "wrong").score == 3
