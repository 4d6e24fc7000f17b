"""Say at the end of a build where the site is and how long each page's cells took."""

from pathlib import Path

from myst_nb.sphinx_ import NbMetadataCollector


def print_times(app, exception):
    """Print one line a page that has cells; a page taken from the cache shows the time of its last execution."""
    if exception or app.builder.name != "html":
        return
    data = {page: NbMetadataCollector.get_exec_data(app.env, page) for page in sorted(app.env.found_docs)}
    data = {page: result for page, result in data.items() if result}
    print("\nSeconds that the cells of each page took when they last ran:")
    for page, result in data.items():
        seconds = "failed" if result["runtime"] is None else f"{result['runtime']:.1f}"
        print(f"  {seconds:>7}  {page}")
    print(f"The website is at {Path(app.outdir).resolve() / 'index.html'} ('make serve' shows it).\n")


def setup(app):
    app.connect("build-finished", print_times)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
