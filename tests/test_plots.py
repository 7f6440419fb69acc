"""Figures of comparisons: a picture with a panel an IPC, whatever was compared."""

import json

import numpy as np
import pytest
from PIL import Image

from igds.compare import summary_of
from igds.plots import comparison_figure

BASELINES = {"random": {}, "herding": {}, "unguided": {}, "IGDS": {}}
BETAS = {"random": {}, "unguided": {}, "β = 0": {}, "β = 0.5": {}}
ALPHAS = {"α = 0": {}, "α = 1.5": {}}


def results_of(methods: dict, *, ipcs=(1, 10), sets: int = 3, best: float = 0.8) -> dict:
    """What `summarise` gives: each method better than the one before it, up to `best`, its sets a little apart."""
    records = [
        {"method": method, "ipc": ipc, "network": "convnet3", "seed": seed, "training_seed": 0}
        | {"accuracy": best * (place + 1) / len(methods) + 0.02 * seed, "contextual": 0.3 * place, "recognised": 1.0}
        for ipc in ipcs
        for place, method in enumerate(methods)
        for seed in range(sets)
    ]
    results = {
        "bundle": "tiny",
        "methods": methods,
        "protocol": "paper",
        "split": "test",
        "ipcs": list(ipcs),
        "epochs": {str(ipc): 2000 for ipc in ipcs},
        "networks": ["convnet3"],
        "generation_seeds": list(range(sets)),
        "training_seeds": [0],
        "summary": summary_of(records),
    }
    return json.loads(json.dumps(results, allow_nan=False))  # figures are also drawn of what is read from a file


def pixels_of(results: dict, path) -> np.ndarray:
    comparison_figure(results, path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("methods", [BASELINES, BETAS, ALPHAS])
def test_there_is_a_panel_for_each_ipc(methods, tmp_path):
    one, two = (pixels_of(results_of(methods, ipcs=ipcs), tmp_path / "deep" / "a.png") for ipcs in ((1,), (1, 10)))
    panels = 3 if methods is ALPHAS else 2  # subsets of several IPCs have one more, of the best of each
    assert one.shape[0] == two.shape[0] and two.shape[1] == pytest.approx(panels * one.shape[1], abs=2)


def test_the_best_of_a_sweep_is_ringed(tmp_path):
    for methods in (BETAS, ALPHAS):
        picture = pixels_of(results_of(methods, ipcs=(1,)), tmp_path / "a.png")
        above_the_legend = picture[: int(0.8 * len(picture))]
        assert (above_the_legend == [0xB9, 0x1C, 0x1C]).all(-1).sum() > 15


def test_the_last_panel_of_subsets_has_the_best_of_each_ipc(tmp_path):
    """Level where the same subset is best at every IPC, and not where another one is."""
    results = results_of(ALPHAS)
    other = json.loads(json.dumps(results))
    first, second = (row for row in other["summary"] if row["ipc"] == 10)
    first["accuracy"], second["accuracy"] = second["accuracy"], first["accuracy"]
    heights = []
    for found in (results, other):
        picture = pixels_of(found, tmp_path / "a.png")
        red = (picture[:, -picture.shape[1] // 3 :] == [0xB9, 0x1C, 0x1C]).all(-1)
        heights.append(np.ptp(red.any(1).nonzero()[0]))
    assert heights[0] < 30 and heights[1] > 100


@pytest.mark.parametrize("methods", [BASELINES, BETAS, ALPHAS])
def test_the_picture_is_of_the_figures_and_has_no_error_bar_of_a_single_network(methods, tmp_path):
    different = [{}, {"best": 0.5}, {"sets": 1}]
    pictures = [
        pixels_of(results_of(methods, ipcs=(1,), **one), tmp_path / f"{i}.png") for i, one in enumerate(different)
    ]
    assert all((pictures[0] != other).any() for other in pictures[1:])


@pytest.mark.parametrize("method", ["IGDS", "β = 1", "α = 0"])
def test_a_comparison_of_one_method_and_one_network_stands(method, tmp_path):
    picture = pixels_of(results_of({method: {}}, ipcs=(1,), sets=1), tmp_path / "a.png")
    assert (picture == [0xC2, 0x41, 0x0C]).all(-1).sum() > 10


def test_the_legend_names_what_the_sweep_is_held_against(tmp_path):
    """Its lines have the colours of the curve, of real and of unguided images."""
    picture = pixels_of(results_of(BETAS, ipcs=(1,)), tmp_path / "a.png").reshape(-1, 3)
    for colour in ([0xC2, 0x41, 0x0C], [0x5F, 0x66, 0x70], [0x0B, 0x7A, 0x55]):
        assert (picture == colour).all(1).sum() > 50
