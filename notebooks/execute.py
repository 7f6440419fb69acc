"""Run the notebooks and keep what they show: `python notebooks/execute.py`, or with `01 04` those two only."""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def executed(path: Path, *, then: str = "") -> nbformat.NotebookNode:
    """The notebook with fresh outputs; the code `then` is run in it right after the cell that finds the project.

    Raises CellExecutionError where a cell fails, and keeps nothing of this machine: no times, no versions.
    """
    notebook = nbformat.read(path, as_version=4)
    if then:
        first = next(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code")
        notebook.cells.insert(first + 1, nbformat.v4.new_code_cell(then))
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        coalesce_streams=True,
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def main(prefixes: list[str]) -> None:
    for path in sorted(HERE.glob("*.ipynb")):
        if not prefixes or path.name.startswith(tuple(prefixes)):
            nbformat.write(executed(path), path)
            print(path.name)


if __name__ == "__main__":
    main(sys.argv[1:])
