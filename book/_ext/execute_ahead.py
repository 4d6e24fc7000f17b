"""Execute the pages that need it beside each other, one thread each, before the build reads them one by one.

Their networks are small: on two cores, two pages of one thread each are done far sooner than one page after the other
of two threads, and the figures don't depend on how many cores there are. What succeeds goes into the execution cache,
where the build finds it. A page that fails is not kept: the build runs it again and reports it in its own way.
"""

import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import single_nb_execution
from myst_nb.core.nb_to_tokens import nb_node_to_dict
from myst_nb.core.read import create_nb_reader
from sphinx.util import logging

logger = logging.getLogger(__name__)
MOST = 4  # pages at once, of up to 2 GB each


def to_execute(app, env, docname):
    """The notebook of a page and the settings it runs with, or None where the build would not execute it."""
    path = Path(env.doc2path(docname))
    text = path.read_text("utf-8")
    reader = create_nb_reader(str(path), env.myst_config, env.mystnb_config, text)
    if reader is None:
        return None
    notebook, config = reader.read(text), env.mystnb_config
    overrides = nb_node_to_dict(notebook.metadata.get(config.metadata_key, {}))
    overrides.pop("output_folder", None)
    config = config.copy(**overrides)
    excluded = any(path.match(pattern) for pattern in config.execution_excludepatterns)
    if excluded or config.execution_mode != "cache" or config.execution_in_temp:
        return None
    return notebook, config


def stale_pages(app, env, docnames, cache):
    """Dict docname -> (notebook, settings) of the pages to be read that the cache does not hold, longest first."""
    found = {}
    for docname in docnames:
        page = to_execute(app, env, docname)
        if page is None:
            continue
        try:
            cache.match_cache_notebook(page[0])
        except KeyError:
            found[docname] = page
    longest = list(app.config.execute_first)
    place = {name: longest.index(name) if name in longest else len(longest) for name in found}
    return dict(sorted(found.items(), key=lambda item: place[item[0]]))


@contextmanager
def one_thread():
    """Kernels that are started meanwhile compute with one thread."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def execute_ahead(app, env, docnames):
    """Fill the cache with the outputs of all pages that are about to be read, and say how it goes."""
    if env.mystnb_config.execution_mode != "cache":
        return
    cache = get_cache(env.mystnb_config.execution_cache_path)
    pages = stale_pages(app, env, docnames, cache)
    if not pages:
        return
    workers = min(MOST, len(pages), os.cpu_count() or 1)
    logger.info("executing %d pages, %d at a time", len(pages), workers)
    with one_thread(), ThreadPoolExecutor(workers) as pool:
        jobs = {pool.submit(execute, app, env, docname, *page): docname for docname, page in pages.items()}
        for done, job in enumerate(as_completed(jobs), 1):
            docname, result = jobs[job], job.result()
            failed = result is None or result.err is not None
            if not failed:
                data = {"execution_seconds": result.time}
                bundle = CacheBundleIn(result.nb, env.doc2path(docname), data=data)
                cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
            logger.info("  [%d/%d] %s %s", done, len(pages), docname, "FAILED" if failed else f"{result.time:.0f} s")


def execute(app, env, docname, notebook, config):
    """The ExecutionResult of a page in its own folder, or None where its kernel could not go on."""
    try:
        return single_nb_execution(
            notebook,
            cwd=str(Path(env.doc2path(docname)).resolve().parent),
            timeout=config.execution_timeout,
            allow_errors=config.execution_allow_errors,
        )
    except Exception:  # a dead kernel, say: the build meets it again and reports it
        return None


def setup(app):
    app.add_config_value("execute_first", [], "")  # the pages that take longest, by name
    app.connect("env-before-read-docs", execute_ahead)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
