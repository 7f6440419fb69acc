"""From data to a bundle that loads: every training, the measuring and the card, on a data set of a few pixels."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from igds import bundle, cli, recipes
from igds.bundle import load_bundle
from igds.card import assemble
from igds.data import ImageSet
from igds.encoders import Encoder
from igds.recipes import RECIPES, Budget
from igds.runs import Record, Run
from igds.study import read_study
from tests.conftest import TINY_ENCODER, TINY_PRIOR

PARTS = ("prior", "estimator", "held_out", "classifier")


def stripes(split: str, folder: Path | None = None) -> ImageSet:
    """Three classes: bright above, bright to the left, bright all over; with noise. "train" 300, "test" 90."""
    generator = torch.Generator().manual_seed(len(split))
    n = 300 if split == "train" else 90
    labels = torch.arange(n) % 3
    images = torch.randint(0, 60, (n, 1, 8, 8), generator=generator)
    images[labels == 0, :, :4] += 180
    images[labels == 1, :, :, :4] += 180
    images[labels == 2] += 180
    return ImageSet(images.to(torch.uint8), labels, ("above", "left", "all"))


TINY = replace(
    RECIPES["fashion-mnist"],
    load=stripes,
    prior=TINY_PRIOR,
    encoder=TINY_ENCODER,
    classifier=TINY_ENCODER,
    budgets={part: Budget(6400, 64, 2e-3, 1.0) for part in PARTS},
    defaults={**RECIPES["fashion-mnist"].defaults, "steps": 5, "ipc": 3},
)


@pytest.fixture
def tiny_recipe(monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "tiny", TINY)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle trained by the command line, part by part."""
    folder = tmp_path_factory.mktemp("recipe")
    patch = pytest.MonkeyPatch()
    patch.setitem(recipes.RECIPES, "tiny", TINY)
    for part in PARTS:
        assert cli.main(["train", part, "--recipe", "tiny", "--work", str(folder / "work")]) == 0
    command = ["train", "bundle", "--recipe", "tiny", "--work", str(folder / "work"), "--out", str(folder / "tiny")]
    assert cli.main(command) == 0
    patch.undo()
    return folder / "tiny"


def test_a_trained_bundle_can_be_sampled(made):
    trained = load_bundle(made)
    record = Record(Run.of(trained, label="left"), trained)
    for step in record.run.start(trained):
        record.add(step)
    assert {column: len(images) for column, images in record.images.items()} == {
        "unguided": 3,
        "prototype": 3,
        "contextual": 3,
    }


def test_the_card_reports_what_was_measured(made):
    measured = load_bundle(made).card["measured"]
    assert measured["classifier"]["accuracy_on_test"] > 0.9
    for part in ("estimator", "held_out"):
        assert measured[part]["linear_accuracy_on_test"] > 0.5
        assert measured[part]["classifier_rank"] == 3
    assert measured["prior"]["unguided_samples"] == 90
    assert measured["prior"]["frechet_distance_samples_to_test"] >= 0


def test_the_estimator_of_a_bundle_finds_prototype_information(made):
    for part in ("estimator", "held_out"):
        measured = load_bundle(made).card["measured"][part]
        assert 0 < measured["prototype_information_on_test_nats"] <= torch.log(torch.tensor(3.0)).item()


def test_the_card_tells_how_each_part_was_trained(made):
    training = load_bundle(made).card["training"]
    assert {part: training[part]["images"] for part in PARTS} == dict.fromkeys(PARTS, 6400)
    assert training["estimator"]["label_weight"] == TINY.contrastive["estimator"].label_weight
    assert training["held_out"]["seed"] != training["estimator"]["seed"]


def test_the_held_out_estimator_starts_from_other_weights_and_sees_other_images(tmp_path):
    one, other = (TINY.training(part, stripes("train"), folder=tmp_path) for part in ("estimator", "held_out"))
    weights = zip(one.objective.network.parameters(), other.objective.network.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in weights)
    assert not torch.equal(one._generator.get_state(), other._generator.get_state())
    again = TINY.training("held_out", stripes("train"), folder=tmp_path)
    weights = zip(again.objective.network.parameters(), other.objective.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


def test_a_training_leaves_the_global_generator_alone(tmp_path):
    before = torch.get_rng_state()
    TINY.training("held_out", stripes("train"), folder=tmp_path)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("part", ["estimator", "held_out"])
def test_a_contrastive_recipe_reaches_its_objective(part):
    recipe = TINY.contrastive[part]
    objective = recipe.objective(Encoder(TINY_ENCODER), schedule=TINY.prior.schedule(), num_classes=3)
    for name in ("tau", "lambda_", "label_weight", "noise_share", "noise_limit"):
        assert getattr(objective, name) == getattr(recipe, name)
    assert objective.head.out_features == 3
    assert objective.augment.keywords == {"area": recipe.area, "strength": recipe.strength}


def test_every_recipe_can_train_every_part_of_its_bundle():
    for recipe in RECIPES.values():
        assert set(recipe.budgets) == {*bundle.PARTS, bundle.HELD_OUT}
        assert set(recipe.contrastive) == {"estimator", bundle.HELD_OUT}
        assert recipe.beta_range[0] <= recipe.defaults["beta"] <= recipe.beta_range[1]


def test_a_part_without_a_checkpoint_comes_from_the_base(made, tmp_path, tiny_recipe):
    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(made.parent / "work" / "estimator.pt", work)
    command = ["train", "bundle", "--recipe", "tiny", "--work", str(work), "--out", str(tmp_path / "tiny")]
    assert cli.main([*command, "--base", str(made)]) == 0
    again, base = load_bundle(tmp_path / "tiny"), load_bundle(made)
    for part in ("prior", "held_out", "classifier"):
        assert again.card["files"][f"{part}.safetensors"] == base.card["files"][f"{part}.safetensors"]
    assert again.card["training"] == base.card["training"]
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.estimator.encoder.parameters(), base.estimator.encoder.parameters(), strict=True)
    )


def test_a_base_without_the_part_does_not_help(bare_bundle, tmp_path):
    stripes_test = stripes("test")
    with pytest.raises(FileNotFoundError, match="run `train held_out` first") as raised:
        assemble(
            TINY, stripes_test, stripes_test, work=tmp_path, out=tmp_path, device=torch.device("cpu"), base=bare_bundle
        )
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["beta", "steps", "levers"])
def test_a_quick_study_by_the_command_line_leaves_its_figures_and_its_picture(
    made, tmp_path, tiny_recipe, capsys, name
):
    command = ["study", name, "--quick", "--bundle", str(made), "--ipc", "2", "--seeds", "2"]
    command += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    values = {"beta": ["--betas", "0", "2"], "steps": ["--steps", "6"], "levers": ["--betas", "0"]}[name]
    assert cli.main([*command, *values]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"tiny-{name}-quick.json",
        f"tiny-{name}-quick.png",
    ]
    results = read_study(tmp_path / "out" / f"tiny-{name}-quick.json", load_bundle(made))
    assert (results["ipcs"], results["seeds"]) == ([2], [0, 1])
    assert len(results["records"]) == (1 + len(results["arms"])) * 2 * 3
    said = capsys.readouterr().out
    assert all(arm in said for arm in ("real", *results["arms"]))
    assert Image.open(tmp_path / "out" / f"tiny-{name}-quick.png").size[0] > 500


def test_a_study_made_again_by_the_same_command_is_the_same(made, tmp_path, tiny_recipe):
    command = ["study", "beta", "--quick", "--bundle", str(made), "--ipc", "2", "--seeds", "1", "--betas", "0"]
    command += ["--work", str(tmp_path / "work"), "--out"]
    assert cli.main([*command, str(tmp_path / "a")]) == cli.main([*command, str(tmp_path / "b")]) == 0
    assert (tmp_path / "a/tiny-beta-quick.json").read_bytes() == (tmp_path / "b/tiny-beta-quick.json").read_bytes()


def test_a_full_disk_while_training_is_one_sentence_and_keeps_the_last_checkpoint(
    tmp_path, tiny_recipe, monkeypatch, capsys
):
    train = ["train", "prior", "--recipe", "tiny", "--work", str(tmp_path)]
    assert cli.main([*train, "--images", "128"]) == 0
    kept = (tmp_path / "prior.pt").read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert cli.main([*train, "--images", "256"]) == 2
    assert f"{tmp_path / 'prior.pt'} is on a full disk" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["prior.pt"]
    assert (tmp_path / "prior.pt").read_bytes() == kept


def test_a_bundle_needs_every_part_first(tmp_path):
    with pytest.raises(FileNotFoundError, match="run `train prior` first"):
        assemble(TINY, stripes("train"), stripes("test"), work=tmp_path, out=tmp_path, device=torch.device("cpu"))
