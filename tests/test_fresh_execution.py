"""Pages are executed anew after a change of the package, and only then."""

import sys
from types import SimpleNamespace

import pytest
from lab_tools import ROOT

sys.path.insert(0, str(ROOT / "book" / "_ext"))
from fresh_execution import drop_stale_outputs, fingerprint  # noqa: E402


@pytest.fixture
def app(tmp_path):
    (tmp_path / "course_utils" / "grading").mkdir(parents=True)
    (tmp_path / "course_utils" / "samplers.py").write_text("steps = 20")
    (tmp_path / "course_utils" / "grading" / "pool.py").write_text("")
    (tmp_path / "requirements.txt").write_text("torch")
    return SimpleNamespace(srcdir=tmp_path, config=SimpleNamespace(nb_execution_cache_path="cache"))


def new_env():
    return SimpleNamespace(found_docs={"b", "a", "gone"})


def outdated(app, env):
    return drop_stale_outputs(app, env, set(), set(), {"gone"})


def executed(app):
    (app.srcdir / "cache" / "output").write_text("executed")


def test_a_second_build_reads_no_page_again(app):
    env = new_env()
    assert outdated(app, env) == ["a", "b"]
    executed(app)
    assert outdated(app, env) == [] and (app.srcdir / "cache" / "output").exists()


def test_a_build_that_failed_reads_all_pages_and_executes_none_again(app):
    outdated(app, new_env())
    executed(app)
    assert outdated(app, new_env()) == ["a", "b"] and (app.srcdir / "cache" / "output").exists()


@pytest.mark.parametrize("changed", ["course_utils/samplers.py", "requirements.txt", "course_utils/w.safetensors"])
def test_a_change_executes_all_again(app, changed):
    env = new_env()
    outdated(app, env)
    executed(app)
    (app.srcdir / changed).write_text("another")
    assert outdated(app, env) == ["a", "b"] and not (app.srcdir / "cache" / "output").exists()


def test_what_no_page_imports_changes_nothing(app):
    before = fingerprint(app.srcdir)
    (app.srcdir / "course_utils" / "grading" / "pool.py").write_text("workers = 2")
    assert fingerprint(app.srcdir) == before


def test_an_author_keeps_the_outputs(app, monkeypatch):
    monkeypatch.setenv("COURSE_KEEP_OUTPUTS", "1")
    assert outdated(app, new_env()) == []
