"""Panels show what `sample` makes, and measure it over all their seeds."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from igds.cli import main
from igds.data import ImageSet, to_bytes
from igds.measures import border_entropy
from igds.panels import REAL, panels
from igds.plots import panels_figure
from igds.runs import Run
from igds.sampling import sample
from igds.verdict import judge

FEW = {"steps": 3, "ipc": 2}


@pytest.fixture(scope="module")
def real(tiny_bundle):
    images = torch.randint(256, (30, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet(images, torch.arange(30) % 3, tiny_bundle.classes)


def test_every_class_has_unguided_every_beta_and_natural_images(tiny_bundle, real):
    labels = ["Circle", "Square/box"]
    made = list(panels(tiny_bundle, labels, [0.0, 0.5], seeds=(0, 1), real=real, **FEW))
    ways = ["unguided", "β = 0", "β = 0.5", REAL]
    assert [(panel.label, panel.way) for panel in made] == [(label, way) for label in labels for way in ways]
    assert all(panel.images.shape == (2, 1, 8, 8) for panel in made)


def test_a_panel_shows_the_images_of_the_run_with_its_settings_and_means_over_its_seeds(tiny_bundle):
    made = list(panels(tiny_bundle, ["Square/box"], [0.5], seeds=(3, 4), **FEW))
    sets = []
    for seed in (3, 4):
        run = Run.of(tiny_bundle, label="Square/box", beta=0.5, seed=seed, columns=("contextual",), **FEW)
        images = sample(tiny_bundle.prior, tiny_bundle.estimator, run.batches(tiny_bundle), steps=3, solver=run.solver)
        sets.append(to_bytes(images[0]))
    assert (made[1].images.int() - sets[0].int()).abs().max() <= 1
    held = [judge(tiny_bundle, images, 1).held_out_contextual for images in sets]
    assert made[1].figures["held_out_contextual"]["mean"] == pytest.approx(sum(held) / 2, abs=1e-3)
    borders = [float(border_entropy(images).mean()) for images in sets]
    assert made[1].figures["border_entropy"]["mean"] == pytest.approx(sum(borders) / 2, abs=0.05)


def test_natural_images_are_of_the_class_and_no_image_is_used_twice(tiny_bundle, real):
    *_, natural = panels(tiny_bundle, ["Circle"], [0.0], seeds=(0, 1), real=real, **FEW)
    own = {image.numpy().tobytes() for image in real.of_class(0)}
    assert {image.numpy().tobytes() for image in natural.images} <= own
    with pytest.raises(ValueError, match="Circle has 10 natural images, fewer than 6 sets of 2"):
        panels(tiny_bundle, ["Circle"], [0.0], seeds=range(6), real=real, **FEW)


def test_border_entropy_is_zero_on_a_plain_ground_whatever_stands_on_it():
    images = torch.full((1, 3, 16, 16), 200, dtype=torch.uint8)
    images[:, :, 2:14, 2:14] = torch.randint(256, (1, 3, 12, 12), dtype=torch.uint8)
    assert float(border_entropy(images)) == 0.0


def test_border_entropy_of_two_equally_frequent_levels_is_log_2_and_never_above_log_bins():
    images = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    images[..., 8:] = 255
    assert float(border_entropy(images)) == pytest.approx(math.log(2))
    noise = torch.randint(256, (5, 1, 64, 64), dtype=torch.uint8)
    entropies = border_entropy(noise)
    assert ((entropies > 0.95 * math.log(32)) & (entropies <= math.log(32))).all()


@pytest.mark.parametrize("wrong", [{"labels": []}, {"betas": []}, {"seeds": ()}])
def test_nothing_to_draw_is_said(tiny_bundle, wrong):
    with pytest.raises(ValueError, match="at least one class, one β and one seed"):
        panels(tiny_bundle, **{"labels": ["Circle"], "betas": [0.0], "seeds": (0,), "ipc": 2, **wrong})


def test_the_picture_holds_every_panels_images(tiny_bundle, real, tmp_path):
    made = list(panels(tiny_bundle, ["Circle", "Square/box"], [0.0], seeds=(0,), real=real, **FEW))
    panels_figure(made, tmp_path / "deep" / "figure.png")
    with Image.open(tmp_path / "deep" / "figure.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    darkest = min(int(panel.images.min()) for panel in made)
    assert pixels.shape[1] > pixels.shape[0] and pixels.min() <= darkest + 1


def test_the_command_writes_the_picture_and_its_figures(tiny_bundle_path, tmp_path, capsys):
    arguments = ["figure", "--bundle", str(tiny_bundle_path), "--labels", "Circle", "--betas", "0", "1", "--ipc", "2"]
    out = tmp_path / "new" / "prototypes.png"
    assert main([*arguments, "--seeds", "2", "--without-real", "--out", str(out)]) == 0
    written = json.loads(out.with_suffix(".json").read_text())
    assert [panel["way"] for panel in written["panels"]] == ["unguided", "β = 0", "β = 1"]
    assert written["seeds"] == [0, 1] and written["panels"][0]["figures"]["accuracy"]["standard_error"] is not None
    assert out.exists() and "border entropy" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (["--out", "figure.jpg"], "--out must end in .png"),
        (["--out", "f.png"], "which natural images belong to tiny"),
        (["--out", "f.png", "--without-real", "--labels", "Cat"], "Cat"),
        (["--out", "f.png", "--without-real", "--seeds", "0"], "at least one class, one β and one seed"),
    ],
)
def test_the_command_says_in_one_sentence_what_is_wrong(
    tiny_bundle_path, capsys, monkeypatch, tmp_path, wrong, sentence
):
    monkeypatch.chdir(tmp_path)
    assert main(["figure", "--bundle", str(tiny_bundle_path), "--labels", "Circle", *wrong]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1
