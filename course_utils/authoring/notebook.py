"""The frame that labs and chapters share: fixed ids and metadata, the Colab badge, the one set-up cell."""

import hashlib

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
SETUP = """\
# Set-up. On Colab this installs the course's package; where it is installed already, nothing happens.
try:
    import course_utils
except ImportError:
    %pip install -q git+{address.repository}@{address.branch}
    import course_utils"""


def badge_cell(address, path):
    """The link that opens the notebook in Colab; the website leaves it out, having a button of its own."""
    cell = new_markdown_cell(f"[![Open in Colab]({BADGE})]({address.colab(path)})")
    cell.metadata["tags"] = ["remove-cell"]
    return cell


def setup_cell(address):
    """The one set-up cell: installs course_utils from the repository only where it can't be imported."""
    return new_code_cell(SETUP.format(address=address))


def assemble(cells):
    """A notebook of these cells; their ids (a grade_id, or a hash of the source) are the same each time."""
    seen = {}
    for cell in cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id")
        if name is None:
            name = "cell-" + hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[name] = seen.get(name, 0) + 1
        cell.id = name if seen[name] == 1 else f"{name}-{seen[name]}"
    notebook = new_notebook(cells=cells)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
    }
    notebook = nbformat.from_dict(notebook)
    nbformat.validate(notebook)
    return notebook


def to_text(notebook):
    """The notebook as it stands in a file."""
    return nbformat.writes(notebook, version=4) + "\n"
