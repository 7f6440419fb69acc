"""Who may import whom, and what the library keeps out of a program that imports it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import igds

PACKAGE = Path(igds.__file__).resolve().parent
FORBIDDEN = ("app", "tests", "benchmarks", "gradio", "prdc", "mpi4py", "pickle", "pickletools")
ONLY = {
    "matplotlib": {"plots"},
    "scipy": {"statistics", "tightness"},
    "diffusers": {"priors.hf"},
    "huggingface_hub": {"hub"},
    "timm": {"backbones"},
    "torchvision": {"backbones", "networks"},
}

BASE = {"schedule", "information", "rng"}
PRIORS = {"priors.base", "priors.mixture", "priors.unet"}
MAY_IMPORT = {
    "schedule": set(),
    "information": set(),
    "rng": set(),
    "device": set(),
    "statistics": set(),
    "fetch": set(),
    "files": set(),
    "locks": set(),
    "data": {"fetch"},
    "pictures": set(),
    "augmentation": set(),
    "priors": set(),
    "priors.base": {"schedule"},
    "priors.empirical": {"data", "priors.base", "schedule"},
    "priors.mixture": {"priors.base", "schedule"},
    "priors.unet": {"priors.base", "schedule"},
    "priors.adm": {"checkpoints", "priors.unet"},
    "priors.hf": {"checkpoints", "imagenet", "priors.base", "schedule"},
    "checkpoints": set(),
    "imagenet": set(),
    "backbones": {"checkpoints", "encoders"},
    "encoders": BASE,
    "classifiers": BASE | {"encoders"},
    "measures": {"classifiers", "data", "information"},
    "estimator": {"information", "encoders", "data"},
    "sampling": BASE | {"priors.base", "device", "estimator"},
    "processes": set(),
    "training": BASE
    | PRIORS
    | {"augmentation", "classifiers", "data", "device", "encoders", "estimator", "files", "processes"},
    "bundle": PRIORS
    | {"backbones", "checkpoints", "classifiers", "device", "encoders", "estimator", "files"}
    | {"priors.empirical", "priors.hf"},
    "hub": {"bundle", "checkpoints"},
    "completion": {"augmentation", "bundle", "classifiers", "data", "encoders", "estimator", "measures", "training"},
    "verdict": {"bundle", "data", "estimator", "information", "measures"},
    "runs": {"bundle", "data", "rng", "sampling", "verdict", ""},
    "study": {"bundle", "data", "files", "measures", "runs", "sampling", "statistics", "verdict", ""},
    "tightness": {
        "data",
        "encoders",
        "estimator",
        "files",
        "information",
        "priors.mixture",
        "statistics",
        "training",
        "",
    },
    "expectation": {"runs", "study"},
    "distilled": {"data", "files", "pictures", "runs"},
    "distil": {"bundle", "data", "distilled", "files", "locks", "rng", "runs", "sampling", "selection", "verdict", ""},
    "datasets": {"data", "distilled", "fetch", "pictures"},
    "own_images": {"data", "datasets"},
    "own_recipe": {"bundle", "encoders", "own_images", "priors.unet", "recipes", "training"},
    "networks": set(),
    "views": {"augmentation"},
    "evaluation": {"augmentation", "data", "networks", "views"},
    "selection": {"data", "estimator", "information"},
    "compare": {
        "bundle",
        "data",
        "distil",
        "distilled",
        "evaluation",
        "files",
        "locks",
        "networks",
        "selection",
        "statistics",
        "verdict",
        "",
    },
    "panels": {"bundle", "data", "measures", "runs", "sampling", "statistics", "verdict"},
    "laboratory": {"data", "encoders", "estimator", "information", "priors.mixture", "processes", "rng"}
    | {"sampling", "training"},
    "plots": {"compare", "panels", "study", "tightness"},
}
# These put the parts together and may import any of them.
TOP = {"", "__main__", "cli", "commands", "card", "recipes", "train_all"}


def modules() -> dict[str, Path]:
    names = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name} imports relatively"
            found.add(node.module)
    return found


MODULES = modules()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_module_imports_what_is_above_the_library_or_reads_pickles(name):
    for imported in imports(MODULES[name]):
        assert imported.split(".")[0] not in FORBIDDEN
        assert imported != "guided_diffusion.dist_util"
        assert name in ONLY.get(imported.split(".")[0], {name})


@pytest.mark.parametrize("name", sorted(MODULES))
def test_modules_import_in_the_directions_of_the_house(name):
    inside = {
        imported.removeprefix("igds").removeprefix(".")
        for imported in imports(MODULES[name])
        if imported.split(".")[0] == "igds"
    }
    if name.split(".")[0] in TOP:
        assert "cli" not in inside or name == "__main__"
        return
    assert name in MAY_IMPORT, f"say in MAY_IMPORT what igds.{name} may import"
    assert inside <= MAY_IMPORT[name]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_torch_load_reads_weights_only(name):
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}["weights_only"] == "True"


def python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_the_library_brings_in_no_page_no_plots_and_no_mpi():
    optional = ("diffusers", "huggingface_hub", "timm", "torchvision", "matplotlib")
    heavy = ("gradio", "mpi4py", "guided_diffusion.dist_util", "app", *optional)
    code = (
        "import sys, igds, igds.runs, igds.bundle, igds.training, igds.recipes, igds.card, igds.cli\n"
        "import igds.study, igds.expectation\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    assert python(code) == "[]"


def test_importing_the_library_leaves_torchs_global_state_alone():
    code = (
        "import torch; torch.manual_seed(3); before = torch.get_rng_state(); threads = torch.get_num_threads()\n"
        "import igds.cli\n"
        "print(torch.equal(before, torch.get_rng_state()), torch.is_grad_enabled(), torch.get_default_dtype(), "
        "threads == torch.get_num_threads())"
    )
    assert python(code) == "True True torch.float32 True"


def test_importing_the_library_says_nothing():
    result = subprocess.run(
        [sys.executable, "-c", "import igds.cli"], cwd=PACKAGE.parent, capture_output=True, text=True
    )
    assert (result.stdout, result.stderr) == ("", "")
