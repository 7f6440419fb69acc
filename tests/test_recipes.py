"""From data to a bundle that loads: every training, the measuring and the card, on a data set of a few pixels."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from igds import cli, recipes
from igds.bundle import load_bundle
from igds.card import assemble
from igds.data import ImageSet
from igds.recipes import RECIPES, Budget
from igds.runs import Record, Run
from tests.conftest import TINY_ENCODER, TINY_PRIOR


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
    budgets={part: Budget(6400, 64, 2e-3, 1.0) for part in ("prior", "estimator", "classifier")},
    defaults={**RECIPES["fashion-mnist"].defaults, "steps": 5, "ipc": 3},
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle trained by the command line, part by part."""
    folder = tmp_path_factory.mktemp("recipe")
    patch = pytest.MonkeyPatch()
    patch.setitem(recipes.RECIPES, "tiny", TINY)
    for part in ("prior", "estimator", "classifier"):
        assert cli.main(["train", part, "--recipe", "tiny", "--work", str(folder / "work")]) == 0
    command = ["train", "bundle", "--recipe", "tiny", "--work", str(folder / "work"), "--out", str(folder / "tiny")]
    assert cli.main(command) == 0
    patch.undo()
    return folder / "tiny"


def test_a_trained_bundle_can_be_sampled(made):
    bundle = load_bundle(made)
    record = Record(Run.of(bundle, label="left"), bundle)
    for step in record.run.start(bundle):
        record.add(step)
    assert {column: len(images) for column, images in record.images.items()} == {
        "unguided": 3,
        "prototype": 3,
        "contextual": 3,
    }


def test_the_card_reports_what_was_measured(made):
    measured = load_bundle(made).card["measured"]
    assert measured["classifier"]["accuracy_on_test"] > 0.9
    assert measured["estimator"]["linear_accuracy_on_test"] > 0.5
    assert measured["estimator"]["classifier_rank"] == 3
    assert measured["prior"]["unguided_samples"] == 90
    assert measured["prior"]["frechet_distance_samples_to_test"] >= 0


def test_the_estimator_of_a_bundle_finds_prototype_information(made):
    measured = load_bundle(made).card["measured"]["estimator"]
    assert 0 < measured["prototype_information_on_test_nats"] <= torch.log(torch.tensor(3.0)).item()


def test_a_full_disk_while_training_is_one_sentence_and_keeps_the_last_checkpoint(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(recipes.RECIPES, "tiny", TINY)
    train = ["train", "prior", "--recipe", "tiny", "--work", str(tmp_path)]
    assert cli.main([*train, "--images", "128"]) == 0
    kept = (tmp_path / "prior.pt").read_bytes()

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert cli.main([*train, "--images", "256"]) == 2
    assert "full disk" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["prior.pt"]
    assert (tmp_path / "prior.pt").read_bytes() == kept


def test_a_bundle_needs_every_part_first(tmp_path):
    with pytest.raises(FileNotFoundError, match="run `train prior` first"):
        assemble(TINY, stripes("train"), stripes("test"), work=tmp_path, out=tmp_path, device=torch.device("cpu"))
