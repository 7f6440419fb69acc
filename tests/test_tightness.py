"""The study of tightness: its truth by quadrature and closed forms, its estimators on known cases, its command."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.feature_selection import mutual_info_classif

from igds import tightness
from igds.tightness import (
    CELLS,
    CROSS_ENTROPY,
    CROSS_ENTROPY_FREE,
    INFO_NCE,
    MINE,
    NEIGHBOURS,
    VE,
    VE_FREE,
    NearestOf,
    PairCritic,
    Tightness,
    cell_path,
    differential_entropy,
    donsker_varadhan,
    info_nce,
    knn_entropy,
    knn_information,
    measure_bound,
    measure_tightness,
    quick,
    read_cell,
    summarise_tightness,
    train_bound,
    triangle,
)
from tests.test_cli import refused, run

ENCODERS = (VE, CROSS_ENTROPY, VE_FREE, CROSS_ENTROPY_FREE, CELLS)
SMALL = {"samples": 2000, "held_out": 2000, "epochs": 3, "batch_size": 100, "hidden": 32, "queue": 128, "features": 16}


def small(**changes) -> Tightness:
    return Tightness(**{**SMALL, "deltas": (2.0,), "widths": (4, 64), "width_delta": 2.0, "seeds": (0,)} | changes)


@pytest.fixture(scope="module")
def study():
    return small()


@pytest.fixture(scope="module")
def folder(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tightness") / "work"
    for _ in measure_tightness(study, folder):
        pass
    return folder


@pytest.fixture(scope="module")
def results(study, folder):
    return summarise_tightness(study, folder)


def information_by_quadrature(delta: float) -> float:
    """I(X;Y) of the triangle on a grid of its plane; the other three dimensions say nothing of Y."""
    radius = delta / math.sqrt(3)
    angles = 2 * np.pi * np.arange(3) / 3
    axis = np.linspace(-radius - 8, radius + 8, 601)
    x, y = np.meshgrid(axis, axis)
    densities = [
        np.exp(-((x - radius * np.cos(a)) ** 2 + (y - radius * np.sin(a)) ** 2) / 2) / (2 * np.pi) for a in angles
    ]
    mixture = sum(densities) / 3
    integrand = sum(p / 3 * np.log(p / mixture, where=p > 0, out=np.zeros_like(p)) for p in densities)
    return float(integrand.sum() * (axis[1] - axis[0]) ** 2)


@pytest.mark.parametrize("delta", [0.5, 2.0, 4.0])
def test_the_true_information_is_the_integral_over_the_plane_of_the_triangle(delta):
    known = triangle(delta).information(samples=200_000)
    assert known.prototype == pytest.approx(information_by_quadrature(delta), abs=4 * known.prototype_error)
    assert known.contextual == pytest.approx(differential_entropy(), abs=4 * known.contextual_error)


def test_information_goes_from_nothing_to_log_3():
    assert triangle(1e-3).information(samples=20_000).prototype == pytest.approx(0, abs=1e-4)
    assert triangle(30.0).information(samples=20_000).prototype == pytest.approx(math.log(3), abs=1e-4)
    # For small δ, I is half the trace of the covariance of the means: the circumradius squared over 2.
    assert information_by_quadrature(0.1) == pytest.approx(0.1**2 / 3 / 2, rel=0.01)


def test_the_means_lie_at_delta_from_each_other_and_the_entropy_is_the_papers():
    x = triangle(2.5)._means[:, 0]
    assert torch.pdist(x) == pytest.approx([2.5] * 3, rel=1e-6)
    assert differential_entropy() == pytest.approx(7.0947, abs=1e-4)


def normal(n: int, dimension: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dimension))


@pytest.mark.parametrize(("dimension", "scale", "error"), [(1, 1.0, 0.05), (2, 0.1, 0.06), (5, 3.0, 0.12)])
def test_neighbours_find_the_entropy_of_a_gaussian_in_any_units(dimension, scale, error):
    true = dimension / 2 * math.log(2 * math.pi * math.e) + dimension * math.log(scale)
    assert knn_entropy(scale * normal(5000, dimension)) == pytest.approx(true, abs=error)


def test_neighbours_find_the_information_of_the_triangle():
    mixture, generator = triangle(3.0), torch.Generator().manual_seed(0)
    y = mixture.sample_labels(5000, generator)
    x = mixture.sample(y, generator)
    assert knn_information(x.double().numpy(), y.numpy()) == pytest.approx(information_by_quadrature(3.0), abs=0.04)


def test_neighbours_agree_with_scikit_learn_on_one_feature():
    y = np.arange(900) % 3
    x = normal(900, 1) + y[:, None]
    theirs = mutual_info_classif(x, y, n_neighbors=3, random_state=0)[0]
    assert knn_information(x, y) == pytest.approx(theirs, abs=0.005)


@pytest.mark.parametrize("find", [knn_entropy, lambda x: knn_information(x, np.zeros(len(x)))])
def test_too_few_points_for_the_neighbours_are_refused(find):
    with pytest.raises(ValueError, match="3 neighbours want at least 4 points.*got 3"):
        find(normal(3, 2))


def correlated(n: int, rho: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, noise = torch.from_numpy(normal(2 * n, 1, seed).reshape(2, n, 1)).float()
    return x, rho * x + math.sqrt(1 - rho**2) * noise


@pytest.mark.parametrize("bound", [info_nce, donsker_varadhan])
def test_the_bounds_find_the_information_of_correlated_gaussians(bound):
    """I = −½·log(1 − ρ²), which no bound passes by more than its error."""
    rho = 0.8
    true = -0.5 * math.log(1 - rho**2)
    study = small(samples=4000, epochs=12)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        critic = PairCritic(1, 1, hidden=32)
    for _ in train_bound(bound, critic, *correlated(4000, rho, 1), study, 0):
        pass
    found = measure_bound(bound, critic, *correlated(10_000, rho, 2), batch_size=100)
    assert true - 0.1 < found < true + 0.03


def test_info_nce_cannot_exceed_log_n_and_both_bounds_are_zero_of_a_blind_critic():
    certain = 1000 * torch.eye(50)
    assert float(info_nce(certain)) == pytest.approx(math.log(50))
    assert float(donsker_varadhan(certain)) == pytest.approx(1000)
    for bound in (info_nce, donsker_varadhan):
        assert float(bound(torch.full((50, 50), 3.0))) == pytest.approx(0, abs=1e-5)


def test_the_softmax_of_the_untrained_encoder_points_at_the_nearest_centre():
    generator = torch.Generator().manual_seed(0)
    centres, x = torch.randn(20, 5, generator=generator), torch.randn(300, 5, generator=generator)
    f = NearestOf(centres)(x)
    assert torch.equal(f.argmax(1), torch.cdist(x, centres).argmin(1))
    assert f.mean(1).abs().max() < 1e-4


def test_a_cell_has_every_arm_and_the_sweep_of_d_only_those_that_know_a_d(results):
    arms = {d: [row["arm"] for row in results["summary"] if row["features"] == d] for d in (4, 16, 64)}
    assert set(arms[16]) == {*ENCODERS, INFO_NCE, MINE, NEIGHBOURS}
    assert set(arms[4]) == set(arms[64]) == set(ENCODERS)


def test_no_estimate_of_context_exceeds_log_d_whatever_the_temperature(results):
    seen = 0
    for record in results["records"]:
        if record["arm"] in ENCODERS:
            highest = max(record["contextual"], *record["contextual_by_tau"].values())
            assert -1e-4 <= record["contextual"] and highest <= math.log(record["features"]) + 1e-4
            seen += 1
    assert seen == 3 * len(ENCODERS)


def test_no_bound_of_the_information_exceeds_the_truth_of_its_points_by_more_than_its_error(results):
    """MINE and the neighbours are estimates, not bounds, of a finite sample."""
    for record in results["records"]:
        if record["arm"] not in (MINE, NEIGHBOURS):
            assert record["gap"] < 0.02, record["arm"]


def test_an_untrained_linear_map_finds_the_information_and_nearly_log_d(results):
    """The classes' log ratios are linear in x, which f keeps whole from d = 6 on; and d cells tell where x lies."""
    found = [record for record in results["records"] if record["arm"] == CELLS and record["features"] > 5]
    assert len(found) == 2
    for record in found:
        assert abs(record["gap"]) < 0.01
        assert record["contextual"] > 0.7 * math.log(record["features"])


def test_the_estimate_passes_the_differential_entropy_once_d_allows_it():
    """So it is no lower bound of it: an untrained map of d = 4,096 exceeds 7.094 on unit Gaussians."""
    mixture, generator = triangle(0.5), torch.Generator().manual_seed(0)
    y = torch.arange(15_000) % 3
    x = mixture.sample(y, generator)
    encoder = NearestOf(mixture.sample(torch.arange(4096) % 3, generator))
    winners = torch.cat([encoder(part).argmax(1) for part in x.split(3000)])
    counts = torch.stack([torch.bincount(winners[y == label], minlength=4096) for label in range(3)])
    shares = counts / counts.sum(1, keepdim=True)
    assert differential_entropy() < float(torch.special.entr(shares).sum(1).mean()) <= math.log(4096)


def test_the_ve_tells_more_of_context_than_cross_entropy_and_no_more_of_the_class(results):
    by_arm = {row["arm"]: row for row in results["records"] if row["features"] == 16}
    assert by_arm[VE]["contextual"] > 1.3 * by_arm[CROSS_ENTROPY]["contextual"]
    assert by_arm[VE]["prototype"] < by_arm[CROSS_ENTROPY]["prototype"] + 0.02


def test_progress_goes_up_to_its_total_and_kept_cells_count(study, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "work")
    cell_path(tmp_path / "work", study.cells()[-1]).unlink()
    events = list(measure_tightness(study, tmp_path / "work"))
    done = [event.done for event in events]
    assert done == sorted(done) and events[-1].done == events[-1].total == study.steps * (4 + 4 + 6)


def test_a_study_that_was_stopped_goes_on_to_equal_bytes(study, folder, tmp_path):
    work = tmp_path / "work"
    events = measure_tightness(study, work)
    while not list(work.glob("delta*.json")):
        next(events)
    next(events)
    events.close()
    assert len(list(work.iterdir())) == 1
    for _ in measure_tightness(study, work):
        pass
    assert {path.name: path.read_bytes() for path in work.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }


def test_seeds_differ(tmp_path):
    study = small(seeds=(0, 1), widths=(4,), features=4, epochs=1)
    for _ in measure_tightness(study, tmp_path / "work"):
        pass
    one, two = (read_cell(study, cell_path(tmp_path / "work", cell)) for cell in study.cells())
    for a, b in zip(one["records"], two["records"]):
        assert a["arm"] == b["arm"] and a["prototype"] != b["prototype"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"settings": {}}', b"\xff"])
def test_a_damaged_cell_is_named(study, folder, tmp_path, content):
    shutil.copytree(folder, tmp_path / "work")
    path = cell_path(tmp_path / "work", study.cells()[1])
    path.write_bytes(content)
    for use in (measure_tightness, summarise_tightness):
        with pytest.raises(ValueError, match=rf"{path.name} is damaged: delete it"):
            use(study, tmp_path / "work")


def test_a_missing_cell_is_named(study, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "work")
    path = cell_path(tmp_path / "work", study.cells()[0])
    path.unlink()
    with pytest.raises(ValueError, match=rf"{path.name} is missing"):
        summarise_tightness(study, tmp_path / "work")


def test_cells_of_other_settings_and_foreign_folders_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="cells of other settings"):
        measure_tightness(small(epochs=4), folder)
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(ValueError, match="not this study"):
        measure_tightness(small(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"deltas": (1.0, -1.0)}, "deltas must be finite numbers above 0, got -1.0"),
        ({"deltas": (math.nan,)}, "deltas must be finite numbers above 0, got nan"),
        ({"widths": (2,)}, "widths must be at least 3, got 2"),
        ({"seeds": ()}, "seeds must name at least one"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"samples": 10}, "samples must be at least the batch size 100, got 10"),
        ({"batch_size": 1}, "batch_size must be at least 2, got 1"),
    ],
)
def test_wrong_sizes_are_told_in_one_sentence(changes, expected):
    with pytest.raises(ValueError, match=expected):
        small(**changes)


def study_of(tmp_path, *arguments) -> int:
    return run("study", "tightness", *arguments, "--work", tmp_path / "work", "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--bundle", "fashion-mnist"], "--bundle belongs to the studies of a bundle"),
        (["--ipc", "1"], "--ipc belongs to the studies of a bundle"),
        (["--bfloat16"], "--bfloat16 belongs to the studies of a bundle"),
        (["--deltas", "0"], "deltas must be finite numbers above 0, got 0.0"),
        (["--widths", "1"], "widths must be at least 3, got 1"),
        (["--seeds", "0"], "seeds must name at least one"),
        (["--epochs", "0"], "epochs must be at least 1"),
    ],
)
def test_a_wrong_option_is_told_in_one_sentence(tmp_path, capsys, arguments, expected):
    assert expected in refused(capsys, study_of(tmp_path, *arguments))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--deltas", "--widths", "--samples", "--epochs"])
def test_its_own_options_are_refused_by_the_studies_of_a_bundle(capsys, option):
    assert f"{option} belongs to `study tightness`" in refused(capsys, run("study", "beta", option, "0"))


def test_the_command_writes_figures_and_picture(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tightness, "TRUTH_SAMPLES", 20_000)
    assert study_of(tmp_path, "--quick", "--deltas", "4", "--widths", "64", "--samples", "1000") == 0
    results = json.loads((tmp_path / "out/tightness-quick.json").read_text())
    assert results["settings"] | {"deltas": [4.0], "widths": [64], "samples": 1000} == results["settings"]
    assert results["settings"]["epochs"] == quick().epochs
    assert {(record["delta"], record["features"], record["seed"]) for record in results["records"]} == {
        (delta, features, seed) for delta, features in ((4.0, 32), (1.0, 64)) for seed in (0, 1)
    }
    row = results["summary"][0]
    values = [r["prototype"] for r in results["records"] if (r["delta"], r["arm"]) == (row["delta"], row["arm"])]
    assert row["measures"]["prototype"]["mean"] == pytest.approx(np.mean(values))
    assert row["measures"]["prototype"]["standard_error"] == pytest.approx(np.std(values, ddof=1) / math.sqrt(2))
    with Image.open(tmp_path / "out/tightness-quick.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    for colour in ([0xC2, 0x41, 0x0C], [0x00, 0x72, 0xB2], [0x6B, 0x4F, 0xA0]):
        assert (pixels == colour).all(1).sum() > 50
    assert "truth" in capsys.readouterr().out
