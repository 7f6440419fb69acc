"""A folder of pictures becomes a bundle by one command, whatever stops it on the way."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from igds import cli, own_recipe, train_all, training
from igds.bundle import load_bundle, read_card
from igds.commands.train_all import announced
from igds.data import ImageSet, png
from igds.locks import hold_place
from igds.own_images import OwnImages
from igds.own_recipe import SIZES, check_size, most_images, prospects, start_from
from igds.priors.empirical import EmpiricalPrior
from igds.priors.unet import UNetConfig, UNetPrior
from igds.recipes import RECIPES
from igds.runs import Record, Run
from igds.train_all import Plan, Speeds, plan, read_plan, replan, write_plan
from tests.conftest import TINY_PRIOR

NAMES = ("above", "all over", "left")
PARTS = ("estimator", "held_out", "classifier", "prior")


def tiny_prior(size: int, channels: int) -> UNetConfig:
    return replace(TINY_PRIOR, image_size=size, channels=channels)


def make_tiny(patch) -> None:
    """Networks and budgets of seconds, in place of those for photographs."""
    patch(own_recipe, "_prior", tiny_prior)
    patch(own_recipe, "_IMAGES", {part: 1280 for part in PARTS})
    patch(own_recipe, "_EPOCHS", dict.fromkeys(PARTS, 0))
    patch(own_recipe, "_MOST_EPOCHS", dict.fromkeys(PARTS, 0))
    patch(train_all, "SPEED_SECONDS", 0.02)
    defaults = {**RECIPES["imagenette-32"].defaults, "steps": 4}
    patch(own_recipe, "RECIPES", {"imagenette-32": replace(RECIPES["imagenette-32"], defaults=defaults)})


@pytest.fixture
def tiny(monkeypatch):
    make_tiny(monkeypatch.setattr)


def stripes(count: int, *, channels: int = 3, side: int = 16, seed: int = 0) -> ImageSet:
    """Like CIFAR-10: small, coloured, a few classes; bright above, all over, to the left."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat_interleave(count)
    images = torch.randint(0, 60, (3 * count, channels, side, side), generator=generator)
    images[labels == 0, :, : side // 2] += 180
    images[labels == 1] += 180
    images[labels == 2, :, :, : side // 2] += 180
    return ImageSet(images.to(torch.uint8), labels, NAMES)


def write_pictures(path: Path, data: ImageSet, names=NAMES) -> Path:
    for i, (image, label) in enumerate(zip(data.images, data.labels.tolist())):
        own = path / names[label]
        own.mkdir(parents=True, exist_ok=True)
        (own / f"{i:05d}.png").write_bytes(png(image))
    return path


def own(count: int = 300, **options) -> OwnImages:
    return OwnImages(stripes(count, **options), stripes(count // 10, **options, seed=1), "for a test")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures") / "my folder", stripes(200))


def arguments(data, out, *more) -> list[str]:
    return ["train", "all", "--data", str(data), "--out", str(out), "--size", "16", "--device", "cpu", *map(str, more)]


def refused(capsys, *command) -> str:
    assert cli.main(list(map(str, command))) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("igds: ")
    return said


def tree(path: Path) -> list[str]:
    return sorted(found.name for found in path.iterdir())


def alone(data, out, first: str = "", **options) -> subprocess.Popen:
    """The command line in a process of its own, after the statements `first`: no other test has left it any state."""
    code = f"from tests.test_train_all import make_tiny; make_tiny(setattr); {first}import sys; from igds import cli; "
    command = [sys.executable, "-c", code + f"sys.exit(cli.main({arguments(data, out)!r}))"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1], **options)


@pytest.fixture(scope="module")
def made(pictures, tmp_path_factory):
    """A bundle of the pictures, made by the command line; beside it, what the command said."""
    out = tmp_path_factory.mktemp("made") / "bundle"
    process = alone(pictures, out, stderr=subprocess.PIPE)
    said, shown = process.communicate()
    assert process.returncode == 0, shown
    return out, said, shown


def test_the_bundle_has_all_its_parts_and_draws(made):
    bundle = load_bundle(made[0])
    assert tree(made[0]) == [
        "card.json",
        "classifier.safetensors",
        "estimator.safetensors",
        "gallery.png",
        "held_out.safetensors",
        "prior.safetensors",
        "samples.png",
    ]
    assert bundle.classes == NAMES
    assert bundle.held_out is not None and bundle.gallery.shape == (3, 20, 3, 16, 16)
    assert not torch.equal(bundle.estimator.class_means[0], bundle.estimator.class_means[1])
    record = Record(Run.of(bundle, label="left", ipc=2, steps=3), bundle)
    for step in record.run.start(bundle):
        record.add(step)
    assert {len(images) for images in record.images.values()} == {2}


def test_the_card_says_what_was_learnt_from_and_what_was_measured(made):
    card = read_card(made[0])
    assert card["data"]["images"] == 540 and card["data"]["test_images"] == 60
    assert card["data"]["images_by_class"] == [180, 180, 180] and "drawn with seed 0" in card["data"]["division"]
    assert card["title"] == "my folder, 16×16 colour"
    assert card["training"]["command"] == "python -m igds train all --size 16"
    assert {card["training"][part]["images"] for part in PARTS} == {1280}
    assert card["measured"]["classifier"]["accuracy_on_test"] > 0.9
    assert card["measured"]["prior"]["unguided_samples"] == 60
    assert "/" not in card["license"] + card["source"]


def test_what_the_time_buys_is_said_before_it_begins_and_what_is_left_while_it_runs(made):
    _, said, shown = made
    assert "540 images to learn from and 60 to measure on" in said
    before, after = said.split("together", 1)
    assert all(f"{part} " in before for part in (*PARTS, "measuring")) and "linear accuracy" not in before
    assert "linear accuracy on the test set" in after + shown
    assert "left" in shown and "prior: " in shown and "1,280 of 1,280 images" in shown
    assert "Traceback" not in shown and "Warning" not in shown


def test_the_same_command_again_says_that_all_is_done(made, pictures, capsys):
    before = {path: path.stat().st_mtime_ns for path in made[0].iterdir()}
    assert cli.main(arguments(pictures, made[0])) == 0
    assert "is complete already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in made[0].iterdir()} == before
    assert "was made otherwise" in refused(capsys, *arguments(pictures, made[0], "--no-flip"))


def test_killed_at_any_time_it_goes_on_to_the_same_bundle(made, pictures, tmp_path):
    """By SIGKILL in the middle of the prior, of which every step is kept here; and once more while it is written."""
    out, work = tmp_path / "bundle", tmp_path / "bundle" / ".training"
    process = alone(pictures, out, "import igds.training; igds.training.CHECKPOINT_SECONDS = 0; ")
    while process.poll() is None and not (work / "prior.pt").exists():
        time.sleep(0.005)
    process.kill()
    process.communicate()
    seen = torch.load(work / "prior.pt", weights_only=True)["seen"]
    assert 0 < seen < 1280 and not (out / "card.json").exists()
    (out / ".card.json.partial").write_text('{"format"')  # what a kill during the writing leaves
    process = alone(pictures, out)
    said, _ = process.communicate()
    assert process.returncode == 0 and "going on" in said
    assert read_card(out)["files"] == read_card(made[0])["files"]
    assert not work.exists()


def test_stopped_by_the_keyboard_it_says_how_to_go_on(pictures, tmp_path, tiny, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training.Training, "_step", stop)
    monkeypatch.setattr(train_all, "_training_speed", lambda *_: 1000.0)
    assert cli.main(arguments(pictures, tmp_path / "bundle")) == 130
    assert "the same command goes on from there" in capsys.readouterr().err
    assert tree(tmp_path / "bundle" / ".training") == ["estimator.pt", "plan.json", "rank-0-of-1"]


def test_other_images_or_options_than_it_was_begun_with_are_refused(pictures, tmp_path, tiny, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training.Training, "_step", stop)
    monkeypatch.setattr(train_all, "_training_speed", lambda *_: 1000.0)
    out = tmp_path / "bundle"
    cli.main(arguments(pictures, out))
    assert "begun with other options" in refused(capsys, *arguments(pictures, out, "--minutes", 3))
    others = write_pictures(tmp_path / "others", stripes(200, seed=3))
    assert "begun with other images" in refused(capsys, *arguments(others, out))
    (out / ".training" / "plan.json").write_text("[]")
    assert "is not the plan of a training" in refused(capsys, *arguments(pictures, out))


def test_several_processes_are_told_that_one_is_enough(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "the work of one process" in refused(capsys, *arguments(pictures, tmp_path / "bundle"))


def test_two_commands_do_not_work_on_one_bundle(pictures, tmp_path, tiny, monkeypatch, capsys):
    monkeypatch.setattr(train_all, "_training_speed", lambda *_: 1000.0)
    work = tmp_path / "bundle" / ".training"
    work.mkdir(parents=True)
    with hold_place(tmp_path / "bundle", work, 0, 1):
        assert "is in use by another run" in refused(capsys, *arguments(pictures, tmp_path / "bundle"))


def test_few_images_are_offered_the_training_free_prior_and_get_it(tmp_path, tiny, capsys):
    few = write_pictures(tmp_path / "few", stripes(30, channels=1))
    out = tmp_path / "bundle"
    said = refused(capsys, *arguments(few, out))
    assert "has 30 images a class" in said and "--training-free" in said and not out.exists()
    assert cli.main(arguments(few, out, "--training-free")) == 0
    said = capsys.readouterr().out
    assert "prior" not in said.split("together")[0].split("present speed")[1].replace("of the prior", "")
    bundle = load_bundle(out)
    assert isinstance(bundle.prior, EmpiricalPrior) and bundle.prior.shape == (1, 16, 16)
    assert bundle.prior.config.counts == (24, 24, 24) and bundle.prior.config.flip
    assert "prior" not in bundle.card["training"]
    assert bundle.gallery.shape == (3, 6, 1, 16, 16)


def test_a_file_that_cannot_be_read_is_left_out_by_name_on_request(tmp_path, tiny, capsys):
    broken = write_pictures(tmp_path / "broken", stripes(30))
    (broken / "left" / "x.jpg").write_bytes(b"no picture")
    out = tmp_path / "bundle"
    assert "--skip-unreadable" in refused(capsys, *arguments(broken, out, "--training-free"))
    assert cli.main(arguments(broken, out, "--training-free", "--skip-unreadable")) == 0
    assert "left out, 1 files" in (said := capsys.readouterr().out) and "x.jpg" in said
    assert read_card(out)["data"]["unreadable_files_left_out"] == 1


def test_a_bundle_is_fine_tuned_on_other_classes(made, tmp_path, tiny, capsys):
    others = write_pictures(tmp_path / "others", stripes(60, seed=4), names=("a", "b", "c"))
    out = tmp_path / "bundle"
    assert cli.main(arguments(others, out, "--from", made[0], "--no-gallery")) == 0
    assert "to learn from: a (54)" in capsys.readouterr().out
    tuned = load_bundle(out)
    assert tuned.classes == ("a", "b", "c") and tuned.gallery is None
    assert tuned.card["training"]["command"].endswith("--size 16 --from bundle --no-gallery")
    grey = write_pictures(tmp_path / "grey", stripes(60, channels=1))
    said = refused(capsys, *arguments(grey, tmp_path / "b", "--from", made[0]))
    assert "makes images of 16×16 pixels in colour and these are of 16×16 pixels in grey" in said
    larger = arguments(others, tmp_path / "b", "--from", made[0])
    larger[larger.index("16")] = "32"
    assert "these are of 32×32 pixels in colour" in refused(capsys, *larger)


@pytest.mark.parametrize("names", [NAMES, ("a", "b", "c")])
def test_fine_tuning_starts_from_the_weights_and_keeps_the_classes_only_where_they_are_the_same(made, names, tiny):
    base = load_bundle(made[0])
    images = own()
    recipe = own_recipe.own_recipe(images, name="x", base=base)
    assert recipe.budgets["prior"].learning_rate < RECIPES["imagenette-32"].budgets["prior"].learning_rate
    objective = recipe.training("prior", images.train, folder=Path("nowhere")).objective
    fresh = objective.network.network.label_emb.weight.clone()
    start_from(objective, base, names)
    theirs = base.prior.state_dict()
    for network in (objective.network, objective.result):
        for name, value in network.state_dict().items():
            expected = fresh if ".label_emb." in name and names != NAMES else theirs[name]
            assert torch.equal(value, expected), name


def test_a_prior_that_was_not_trained_here_cannot_be_fine_tuned(made, tiny):
    base = load_bundle(made[0])
    for prior in (EmpiricalPrior.of(stripes(20)), UNetPrior(replace(base.prior.config, learn_sigma=True))):
        with pytest.raises(ValueError, match="cannot be fine-tuned"):
            own_recipe.own_recipe(own(), name="x", base=replace(base, prior=prior))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_networks_of_every_size_can_be_built_and_run(size, channels):
    images = OwnImages(*(stripes(2, channels=channels, side=size) for _ in range(2)), "")
    recipe = own_recipe.own_recipe(images, name="x")
    config = replace(recipe.prior, num_channels=32, num_head_channels=32)
    x = torch.zeros(1, channels, size, size)
    assert UNetPrior(config)(x, torch.zeros(1), torch.zeros(1, dtype=torch.long)).shape == x.shape
    assert recipe._objective("classifier").network(x).shape == (1, 3)
    assert recipe._objective("estimator").network(x).shape == (1, recipe.encoder.features)


@pytest.mark.parametrize("size", [0, -16, 8, 28, 33, 144])
def test_a_size_that_no_network_has_is_told_with_those_there_are(size):
    with pytest.raises(ValueError, match=f"16, 32, .* got {size}"):
        check_size(size)


SPEEDS = Speeds({"prior": 100.0, "estimator": 400.0, "held_out": 500.0, "classifier": 300.0}, sampling=1000.0)


@pytest.mark.parametrize("minutes", [5, 60, 600])
def test_a_budget_is_spent_whole_and_the_prior_gets_the_most_of_it(minutes):
    images = own(2000, side=8)
    recipe = own_recipe.own_recipe(own(2000), name="x")
    made = plan(recipe, images, SPEEDS, minutes=minutes)
    assert made.total == pytest.approx(minutes * 60, rel=0.02)
    assert max(PARTS, key=made.seconds) == "prior"
    assert all(made.images[part] % recipe.budgets[part].batch_size == 0 for part in PARTS)
    assert made.measuring_seconds < 0.4 * minutes * 60


def test_no_part_learns_the_images_by_heart_however_long_the_budget():
    images = own(300)
    made = plan(own_recipe.own_recipe(images, name="x"), images, SPEEDS, minutes=10**6)
    for part in PARTS:
        assert made.images[part] == pytest.approx(most_images(part, len(images.train)), rel=0.01)


def test_a_budget_of_a_second_still_trains_every_part():
    images = own(300)
    recipe = own_recipe.own_recipe(images, name="x")
    made = plan(recipe, images, SPEEDS, minutes=1 / 60)
    assert all(made.images[part] >= recipe.budgets[part].batch_size for part in PARTS)
    assert made.samples_per_class == 6


def test_without_a_budget_the_recipes_own_is_planned_and_never_changed():
    images = own(300)
    recipe = own_recipe.own_recipe(images, name="x")
    made = plan(recipe, images, SPEEDS)
    assert made.images == {part: budget.images for part, budget in recipe.budgets.items()}
    late = replace(made, spent=10**6)
    assert replan(late, recipe, ["prior"], 900) == late


@pytest.mark.parametrize(("spent", "factor"), [(0.0, 4.0), (2000.0, 0.8), (10**6, 0.25)])
def test_parts_that_wait_get_what_is_left_of_the_budget(spent, factor):
    images = own(3000)
    recipe = own_recipe.own_recipe(images, name="x")
    begun = {"prior": 200_000, "estimator": 51_200, "held_out": 51_200, "classifier": 51_200}
    made = Plan(begun, 100, 100.0, SPEEDS, minutes=(100 + 2000 + 0.8 * 2000) / 60, spent=spent)
    again = replan(made, recipe, ["prior"], 9000)
    assert again.images["prior"] == pytest.approx(min(factor, 1.8 if spent == 0 else factor) * 200_000, rel=0.01)
    assert {part: again.images[part] for part in PARTS[:3]} == {part: begun[part] for part in PARTS[:3]}


@pytest.mark.parametrize(("minutes", "is_told"), [(1 / 60, True), (60, False), (None, False)])
def test_a_budget_that_is_too_short_is_told_before_it_is_overrun(minutes, is_told):
    images = own(300)
    recipe = own_recipe.own_recipe(images, name="x")
    said = announced(plan(recipe, images, SPEEDS, minutes=minutes), recipe, images)
    assert ("more than was given" in said) == is_told


def test_a_plan_is_read_back_as_it_was_written(tmp_path):
    made = Plan({"prior": 64}, 10, 2.0, Speeds({"prior": 3.0}, 4.0), minutes=None, spent=1.5)
    assert read_plan(tmp_path, key={"images": "a"}) is None
    write_plan(made, tmp_path, key={"images": "a"})
    assert read_plan(tmp_path, key={"images": "a"}) == made


@pytest.mark.parametrize("images", [1000, 50_000, 300_000, 1_000_000, 10_000_000])
def test_prospects_are_words_and_no_promise(images):
    assert prospects(images, side=32).endswith(".") and "\n" not in prospects(images, side=32)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--minutes", 0], "--minutes must be more than 0"),
        (["--minutes", "inf"], "--minutes must be more than 0"),
        (["--minutes", "nan"], "--minutes must be more than 0"),
        (["--training-free", "--from", "fashion-mnist"], "give one of them"),
        (["--training-free", "--no-gallery"], "leave --no-gallery out"),
        (["--from", "nowhere"], "no bundle 'nowhere'"),
        (["--size", 20], "size must be one of 16, 32"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(pictures, tmp_path, capsys, more, said):
    assert said in refused(capsys, *arguments(pictures, tmp_path / "bundle", *more))
    assert not (tmp_path / "bundle").exists()


def test_a_place_that_holds_something_else_is_left_alone(pictures, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    assert "holds something else (thesis.txt)" in refused(capsys, *arguments(pictures, tmp_path / "full"))
    assert "is a file" in refused(capsys, *arguments(pictures, tmp_path / "full" / "thesis.txt"))
    assert tree(tmp_path / "full") == ["thesis.txt"]
    assert "lies within" in refused(capsys, *arguments(pictures, pictures / "bundle"))
    assert not (pictures / "bundle").exists()


def test_an_embedded_bundle_is_not_written_over(tiny_bundle_path, pictures, capsys):
    before = json.loads((tiny_bundle_path / "card.json").read_text())
    assert "was made otherwise" in refused(capsys, *arguments(pictures, tiny_bundle_path))
    assert json.loads((tiny_bundle_path / "card.json").read_text()) == before


def test_the_contact_sheet_of_many_classes_can_be_opened(made):
    with Image.open(made[0] / "samples.png") as sheet:
        assert sheet.size == (12 * 16, 3 * 2 * 16)
