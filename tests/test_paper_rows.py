"""The scripts of docs/paper-rows: run by a real shell, their commands are ones that the command line takes."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from igds.cli import _parser
from igds.datasets import IMAGENETTE, IMAGEWOOF, _words
from igds.evaluation import epochs_of
from igds.imagenet import imagenet_classes, labels_of

ROOT = Path(__file__).resolve().parents[1]
ROWS = ROOT / "docs" / "paper-rows"

# Tables 1 to 4: IPCs, networks, pixels a side. ImageNet-1K has no row.
TABLES = {
    "imagewoof": ((1, 10, 20, 50, 100), ["convnet6", "resnetap10", "resnet18"], 256),
    "imagenette": ((1, 10, 20, 50), ["resnetap10", "resnet18"], 256),
    "tiny-imagenet": ((1, 10, 50), ["convnet4", "resnet18"], 64),
    "cifar10": ((10, 50), ["resnet18"], 32),
    "imagenet-1k": ((10, 50), ["resnet18"], 64),
}

# Stands in for python: notes what `python -m igds` was given; any other program it runs.
SHIM = """#!{python}
import json, os, sys
if sys.argv[1:3] != ["-m", "igds"]:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
with open({log!r}, "a") as log:
    log.write(json.dumps(sys.argv[3:]) + "\\n")
"""


@pytest.fixture
def shell(tmp_path):
    """Run a script in a root of its own, which knows igds and its list of classes; what it gave to igds."""
    log, cache = tmp_path / "log", tmp_path / "cache"
    tiny = cache / "igds" / "tiny-imagenet"
    tiny.mkdir(parents=True)
    own = list(imagenet_classes())[5:9]
    (tiny / "wnids.txt").write_text("\n".join(own[::-1]))
    (tiny / "words.txt").write_text("\n".join(f"{wnid}\t{word}, x" for wnid, word in zip(own, ["ray", "cock", "ray"])))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(SHIM.format(python=sys.executable, log=str(log)))
    (tmp_path / "bin" / "python").chmod(0o755)
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "imagenet-classes.txt").write_bytes((ROOT / "assets/imagenet-classes.txt").read_bytes())

    def run(name: str, **more: str) -> list[Namespace]:
        log.unlink(missing_ok=True)
        known = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(cache)}
        environment = {**os.environ, **known, "PYTHONPATH": str(ROOT), "IMAGENET": "imagenet", **more}
        script = ["sh", str(ROWS / f"{name}.sh")]
        done = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [_parser().parse_args(json.loads(line)) for line in log.read_text().splitlines()]

    return run


def commands(options: list[Namespace], name: str) -> list[Namespace]:
    return [one for one in options if one.command.__name__ == name]


def test_there_is_a_script_for_every_data_set_of_the_paper():
    assert {path.stem for path in ROWS.glob("*.sh")} == set(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_every_command_parses_and_the_settings_are_the_papers(shell, name):
    ipcs, networks, size = TABLES[name]
    options = shell(name)
    data = "imagenet" if name == "imagenet-1k" else name
    made, taught = commands(options, "_distil"), commands(options, "_evaluate")
    assert tuple(one.ipc for one in made) == ipcs and len(taught) == len(ipcs)
    for one in made:
        assert (one.steps, one.solver, one.at, one.reference, one.interval) == (250, "ddpm", "x_prev", "batch", [0, 1])
        assert one.composite and one.candidates == 1 and one.eta is None
    betas = [one.beta for one in made]
    assert betas == sorted(betas) and betas[-1] > 0, "higher IPC, larger β"
    for one, distilled in zip(taught, made):
        assert one.folder == distilled.out and one.network == networks and one.data == data
        assert (one.protocol, one.repeats, one.epochs, one.split) == ("paper", 3, None, "test")
    (chosen,) = commands(options, "_compare")
    assert (chosen.name, chosen.split, chosen.protocol, tuple(chosen.ipc)) == ("beta", "validation", "paper", ipcs)
    assert set(betas) <= set(chosen.betas) and set(chosen.networks) <= set(networks)
    completed = commands(options, "_complete")
    assert completed[0].tau == 0.07 and "moco" in completed[0].encoder and completed[0].data == data
    fetched = {one.name for one in commands(options, "_fetch")}
    (bundle,) = {*(str(one.bundle) for one in [*made, *completed, chosen])}
    assert bundle.endswith(f"-{size}")
    if name == "cifar10":
        (trained,) = commands(options, "_train_all")
        assert (trained.data, trained.size, str(trained.out)) == (name, 32, bundle)
    else:
        (imported,) = commands(options, "_import_adm")
        assert f"adm-{size}" in fetched and imported.path.name == f"{size}x{size}_diffusion.pt"
        assert str(imported.out) == bundle
    assert fetched >= ({"moco-v2-800"} if name == "imagenet-1k" else {"moco-v2-800", name})
    for one in commands(options, "_fetch"):
        assert one.yes or one.name not in ("imagewoof", "imagenette", "adm-64", "adm-256"), "nobody is asked"


def test_the_epochs_of_the_papers_protocol_are_those_of_table_8():
    assert [epochs_of("paper", ipc) for ipc in (1, 10, 20, 50, 100)] == [2000, 2000, 1500, 1500, 1000]


@pytest.mark.parametrize("name, wnids", [("imagewoof", IMAGEWOOF), ("imagenette", IMAGENETTE)])
def test_the_ten_classes_that_are_imported_are_those_of_the_data_set_by_name(shell, name, wnids):
    (imported,) = commands(shell(name), "_import_adm")
    assert imported.classes == list(wnids)
    names = tuple(imagenet_classes().values())
    kept = [names[label].casefold() for label in labels_of(imported.classes, names)]
    assert kept == [word.casefold() for word in wnids.values()]


def test_tiny_imagenet_keeps_its_own_classes_under_its_own_names(shell, tmp_path):
    (imported,) = commands(shell("tiny-imagenet"), "_import_adm")
    names = (tmp_path / imported.names).read_text().splitlines()
    own = (tmp_path / "cache/igds/tiny-imagenet/wnids.txt").read_text().split()
    kept = [names[label] for label in labels_of(imported.classes, names)]
    assert len(names) == 1000 and len(set(names)) == 1000
    assert tuple(kept) == _words(tmp_path / "cache/igds/tiny-imagenet", own)
    assert kept[1].startswith("ray (") and kept[2] == "cock"


def test_imagenet_is_named_by_the_ids_of_its_folders_and_must_be_somewhere(shell, tmp_path):
    (imported,) = commands(shell("imagenet-1k"), "_import_adm")
    assert (tmp_path / imported.names).read_text().split() == list(imagenet_classes())
    with pytest.raises(AssertionError, match="say where ImageNet is"):
        shell("imagenet-1k", IMAGENET="")


def test_a_beta_of_ones_own_reaches_the_command(shell, monkeypatch, tmp_path):
    script = (ROWS / "cifar10.sh").read_text().replace("beta_50=0.5", "beta_50=0.75")
    (tmp_path / "own.sh").write_text(script)
    monkeypatch.setattr("tests.test_paper_rows.ROWS", tmp_path)
    assert [one.beta for one in commands(shell("own"), "_distil")] == [0.1, 0.75]
