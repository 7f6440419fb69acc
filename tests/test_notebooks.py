"""The notebooks: they run, what they print is true, and what is committed of them could be anybody's."""

import ast
import base64
import io
import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from PIL import Image

from notebooks.execute import METADATA, executed

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_BYTES = 600_000
MACHINE = re.compile(r"(?<![\w.:/])(/(home|root|Users|tmp|work|mnt|opt|srv|usr|var|private|content)/|[A-Za-z]:\\+\w)")
WITHOUT_DATA = """
import igds.data

igds.data._FASHION_MNIST_DEBIAN = Path("nowhere")


def fetch(name):
    raise FileNotFoundError("this machine has no network")


igds.data.fetch = fetch
"""


def read(path: Path):
    return nbformat.read(path, as_version=4)


def sources(notebook, kind: str) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


def texts(notebook) -> list[str]:
    """Everything that its outputs say in words."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [json.dumps({k: v for k, v in output.items() if k != "data"}, ensure_ascii=False) for output in outputs] + [
        str(value) for output in outputs for kind, value in output.get("data", {}).items() if kind.startswith("text/")
    ]


def names_defined(source: str) -> set[str]:
    """Of functions and classes."""
    return {node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The notebooks at their small size, with nothing in the user's cache."""
    monkeypatch.setenv("IGDS_QUICK", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))


def test_there_are_five_notebooks_in_order():
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom_without_data_network_or_warnings(path, small):
    notebook = executed(path, then=WITHOUT_DATA)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"] == []


@pytest.mark.parametrize(
    "name, mistake",
    [
        ("01", "import igds.priors.mixture as m; m.MixturePrior.score = lambda self, x, t, y: 2 * x"),
        ("02", "import igds.sampling as m; kl = m.contextual_kl; m.contextual_kl = lambda p, q: 9 * kl(p, q) + 1"),
        ("03", "import igds.estimator as m; kl = m.contextual_kl; m.contextual_kl = lambda p, q: -kl(p, q)"),
        ("04", "import igds.sampling as m; kl = m.contextual_kl; m.contextual_kl = lambda p, q: -kl(p, q)"),
        ("05", "import igds.runs as m, time; m.image_seeds = lambda *_: (time.time_ns() % 10**9,)"),
    ],
)
def test_a_notebook_stops_where_the_library_is_wrong(name, mistake, small):
    (path,) = [path for path in NOTEBOOKS if path.name.startswith(name)]
    with pytest.raises(CellExecutionError, match="AssertionError"):
        executed(path, then=WITHOUT_DATA + mistake)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_defines_nothing_that_the_library_has(path):
    library = set().union(*(names_defined(file.read_text(encoding="utf-8")) for file in (ROOT / "igds").rglob("*.py")))
    assert {"sample_progressive", "VariationalEstimator", "contextual_kl"} <= library
    defined = set().union(*map(names_defined, sources(read(path), "code")))
    assert defined & library == set()
    assert defined <= {"draw_rows", "shaken"}  # a picture, and the way to shake a point


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_was_run_in_order_and_without_an_error(path):
    notebook = read(path)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(output.output_type != "error" for cell in cells for output in cell.outputs)
    assert all(output.get("name") != "stderr" for cell in cells for output in cell.outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_is_small_and_of_no_machine(path):
    notebook = read(path)
    assert path.stat().st_size <= MOST_BYTES
    assert notebook.metadata == METADATA
    assert all(cell.metadata == {} for cell in notebook.cells)
    for text in [*texts(notebook), *sources(notebook, "code"), *sources(notebook, "markdown")]:
        assert MACHINE.search(text) is None, text


def test_the_pattern_of_machines_finds_their_paths_and_no_links():
    folders = ("home", "root", "Users", "tmp", "work", "mnt", "opt", "srv", "usr", "var", "private", "content")
    for path in (r"C:\Users", *(start + f"/{folder}/x" for folder in folders for start in ("", "in ", "'", "("))):
        assert MACHINE.search(path), path
    for text in ("http://127.0.0.1:7860/#distil", "../docs/method.md", "p / q", "https://example.org/home/x"):
        assert MACHINE.search(text) is None, text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_pictures_of_a_notebook_fit_a_page(path):
    outputs = [output for cell in read(path).cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert pictures
    for picture in pictures:
        content = base64.b64decode(picture)
        assert len(content) < 150_000
        assert Image.open(io.BytesIO(content)).width <= 1000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_asks_its_reader_and_folds_the_answers_away(path):
    words = "\n".join(sources(read(path), "markdown"))
    questions = words.count("**Question.**")
    assert questions >= 2
    assert words.count("<details><summary>Answer</summary>") == words.count("</details>") == questions
    assert "eq. " in words and "http://127.0.0.1:7860/" in words


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_file_that_a_notebook_links_is_there(path):
    links = re.findall(r"\]\(([^)#]+)\)", "\n".join(sources(read(path), "markdown")))
    files = [link for link in links if "://" not in link]
    assert files
    assert [link for link in files if not (path.parent / link).exists()] == []


def test_all_notebooks_begin_with_the_same_search_for_the_project():
    assert len({sources(read(path), "code")[0] for path in NOTEBOOKS}) == 1
