"""distil, evaluate, compare and fetch, as a user types them: what they write, and the one sentence that says no."""

import hashlib
import io
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from igds.bundle import load_bundle
from igds.compare import SetOf, compare, training_path
from igds.compare import baselines as baselines_comparison
from igds.data import ImageSet
from igds.datasets import IMAGENETTE, load_images
from igds.distil import Distillation, distil
from igds.distilled import read_image_folder, to_parquet, write_class, write_index
from igds.evaluation import train_network
from igds.fetch import LARGE, SOURCES, File, Source
from tests.conftest import CLASSES, real_images
from tests.test_cli import refused, run

FOLDERS = ("0000_circle", "0001_square-box", "0002_tri-angle")


def usage(capsys, *arguments) -> str:
    """The sentence that argparse says of arguments it cannot read."""
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "Traceback" not in said
    return said.strip().splitlines()[-1]


def tree(folder) -> dict[str, bytes]:
    """Every file but what runs keep for themselves; of a card all but its times."""
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
    if "card.json" in files:
        files["card.json"] = {key: value for key, value in json.loads(files["card.json"]).items() if key != "times"}
    return files


def write_folder(folder: Path, images: ImageSet) -> Path:
    """A folder a class, as `distil` writes them."""
    for label, name in enumerate(images.classes):
        write_class(folder, label, name, images.of_class(label))
    write_index(folder, images.classes)
    return folder


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    """The bundle's real images: the training split in parquet, the test split in folders."""
    folder = tmp_path_factory.mktemp("data") / "real"
    write_folder(folder / "test", real_images(4, seed=2))
    to_parquet(write_folder(folder / "pictures", real_images(20, seed=1)), folder / "train.parquet")
    shutil.rmtree(folder / "pictures")
    return folder


@pytest.fixture(scope="module")
def distilled(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("sets") / "two-each", real_images(2, seed=5))


def test_the_real_images_are_what_the_tests_take_them_for(real):
    train, test = (load_images(real, split, size=8) for split in ("train", "test"))
    for found, expected in ((train, real_images(20, seed=1)), (test, real_images(4, seed=2))):
        assert torch.equal(found.images, expected.images) and torch.equal(found.labels, expected.labels)
        assert found.classes == CLASSES


# distil


def made(bundle, out, *arguments) -> int:
    return run("distil", "--bundle", bundle, "--out", out, "--ipc", 2, "--steps", 2, *arguments)


@pytest.fixture(scope="module")
def whole(tiny_bundle_path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("distil") / "whole"
    assert made(tiny_bundle_path, folder) == 0
    return folder


def test_distil_writes_a_folder_a_class_an_index_and_a_card(whole):
    images = {f"{folder}/{i:04d}.png" for folder in FOLDERS for i in range(2)}
    assert set(tree(whole)) == {*images, "classes.json", "card.json", "distil.json"}
    settings = json.loads((whole / "card.json").read_text())["settings"]
    assert (settings["ipc"], settings["beta"], settings["steps"], settings["seed"]) == (2, 0.5, 2, 0)
    assert read_image_folder(whole).classes == CLASSES


def test_distil_makes_the_images_that_sample_makes(tiny_bundle_path, whole, tmp_path):
    label = ("--label", "square/box", "--beta", 0.5, "--ipc", 2, "--steps", 2)
    assert run("sample", "--bundle", tiny_bundle_path, "--out", tmp_path / "one", *label) == 0
    for name in ("0000.png", "0001.png"):
        assert (tmp_path / "one" / FOLDERS[1] / name).read_bytes() == (whole / FOLDERS[1] / name).read_bytes()


def test_distil_says_which_beta_it_takes_and_where_the_images_are(tiny_bundle_path, tmp_path, capsys):
    assert made(tiny_bundle_path, tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert said.startswith("β = 0.5: tiny has no table of β by IPC") and said.endswith(f"{tmp_path / 'out'}\n")
    assert made(tiny_bundle_path, tmp_path / "given", "--beta", 1) == 0
    assert capsys.readouterr().out.startswith("β = 1: given")


def test_a_distillation_that_was_stopped_goes_on_with_the_same_command(tiny_bundle_path, whole, tmp_path):
    bundle = load_bundle(tiny_bundle_path)
    events = distil(bundle, tmp_path / "out", Distillation.of(bundle, ipc=2, steps=2, beta="auto"))
    for _ in range(3):
        next(events)
    events.close()
    assert (tmp_path / "out" / FOLDERS[0]).exists() and not (tmp_path / "out" / FOLDERS[1]).exists()
    assert made(tiny_bundle_path, tmp_path / "out") == 0
    assert tree(tmp_path / "out") == tree(whole)
    assert made(tiny_bundle_path, tmp_path / "out") == 0
    assert tree(tmp_path / "out") == tree(whole)


def test_the_processes_of_a_launcher_share_the_classes(tiny_bundle_path, whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert made(tiny_bundle_path, tmp_path / "out") == 0
    assert [path.name for path in (tmp_path / "out").glob("0*")] == [FOLDERS[1]]
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("RANK", "0")
    assert made(tiny_bundle_path, tmp_path / "out") == 0
    assert f"written to {tmp_path / 'out'}" in capsys.readouterr().out
    assert tree(tmp_path / "out") == tree(whole)


def test_parquet_stands_beside_the_folder_whatever_its_name(tiny_bundle_path, whole, tmp_path, capsys):
    assert made(tiny_bundle_path, tmp_path / "beta-0.5", "--parquet") == 0
    found = load_images(tmp_path / "beta-0.5.parquet", None, size=8)
    expected = read_image_folder(whole)
    assert torch.equal(found.images, expected.images) and found.classes == CLASSES
    before = tree(tmp_path)
    said = refused(capsys, made(tiny_bundle_path, tmp_path / "beta-0.5", "--parquet"))
    assert "beta-0.5.parquet is there already: take it away" in said and tree(tmp_path) == before


def test_a_composite_is_as_many_images_of_the_same_size(tiny_bundle_path, whole, tmp_path):
    assert made(tiny_bundle_path, tmp_path / "out", "--composite") == 0
    found, plain = read_image_folder(tmp_path / "out"), read_image_folder(whole)
    assert found.images.shape == plain.images.shape and not torch.equal(found.images, plain.images)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--ipc", 0], "between 1 and 1000, got 0"),
        (["--ipc", 1001], "between 1 and 1000, got 1001"),
        (["--ipc", 251, "--composite"], "1004 images of a class would be made together"),
        (["--candidates", 0], "candidates must be at least 1, got 0"),
        (["--candidates", 501], "1002 images of a class would be made together"),
        (["--beta", -1], "beta must be"),
        (["--beta", "nan"], "beta must be"),
        (["--eta", "inf"], "eta must be"),
        (["--steps", 1], "between 2 and 100"),
        (["--seed", -1], "seed must be"),
    ],
)
def test_a_wrong_setting_of_distil_is_told_and_nothing_is_left(tiny_bundle_path, tmp_path, capsys, arguments, expected):
    assert expected in refused(capsys, made(tiny_bundle_path, tmp_path / "out", *arguments))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--beta", "much"], "argument --beta: wants a number or auto, got 'much'"),
        (["--ipc", "ten"], "argument --ipc: invalid int value: 'ten'"),
        (["--solver", "newton"], "argument --solver: invalid choice: 'newton'"),
        (["--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
    ],
)
def test_what_distil_cannot_read_is_told(tmp_path, capsys, arguments, expected):
    assert expected in usage(capsys, "distil", "--out", tmp_path / "out", *arguments)


def test_distil_wants_a_place(capsys):
    assert "required: --out" in usage(capsys, "distil")


def test_an_unknown_bundle_is_told_with_those_there_are(tmp_path, capsys):
    assert "fashion-mnist" in refused(capsys, run("distil", "--bundle", "nope", "--out", tmp_path / "out"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--seed", 1], "begun with seed 0, not 1"),
        (["--beta", 1], "begun with beta 0.5, not 1.0"),
        (["--ipc", 3], "begun with ipc 2, not 3"),
        (["--composite"], "begun with composite False, not True"),
        (["--candidates", 2], "begun with candidates 1, not 2"),
        (["--bfloat16"], "begun without bfloat16"),
    ],
)
def test_other_settings_between_stop_and_resume_are_told(
    tiny_bundle_path, whole, tmp_path, capsys, arguments, expected
):
    shutil.copytree(whole, tmp_path / "out")
    assert expected in refused(capsys, made(tiny_bundle_path, tmp_path / "out", *arguments))
    assert tree(tmp_path / "out") == tree(whole)


def test_a_folder_with_something_else_in_it_is_left_alone(tiny_bundle_path, tmp_path, capsys):
    (tmp_path / "precious.txt").write_text("mine")
    assert "precious.txt, and no distillation" in refused(capsys, made(tiny_bundle_path, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_a_file_in_the_way_is_told(tiny_bundle_path, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert "is a file" in refused(capsys, made(tiny_bundle_path, tmp_path / "out"))
    assert "choose another place" in refused(capsys, made(tiny_bundle_path, "/dev/null/out"))


def stopped_when_it_writes(monkeypatch, name: str, operation: str) -> None:
    """As if Ctrl-C were pressed when a file or folder of that name is about to appear."""
    real = getattr(Path, operation)

    def stop(path, target):
        if Path(target).name == name:
            raise KeyboardInterrupt
        return real(path, target)

    monkeypatch.setattr(Path, operation, stop)


def test_stopping_distil_says_what_is_kept(tiny_bundle_path, tmp_path, capsys, monkeypatch):
    stopped_when_it_writes(monkeypatch, FOLDERS[1], "rename")
    assert made(tiny_bundle_path, tmp_path / "out") == 130
    said = capsys.readouterr().err
    assert said.endswith(f"igds: stopped; whole classes are kept in {tmp_path / 'out'}: the same command goes on\n")
    assert [path.name for path in (tmp_path / "out").glob("0*")] == [FOLDERS[0]]


# evaluate


def evaluated(distilled, *arguments) -> int:
    return run("evaluate", distilled, "--epochs", 2, "--repeats", 2, *arguments)


def test_evaluate_prints_the_table_and_writes_it_with_the_curves(distilled, real, tmp_path, capsys):
    stem = tmp_path / "deep" / "beta-0.5"
    assert evaluated(distilled, "--data", real, "--tests", 2, "--out", stem) == 0
    said = capsys.readouterr().out
    assert sorted(path.name for path in stem.parent.iterdir()) == [f"beta-0.5.{end}" for end in ("json", "md", "tex")]
    assert said == f"{(stem.parent / 'beta-0.5.md').read_text()}written to {stem}.json, .md and .tex\n"
    (result,) = json.loads((stem.parent / "beta-0.5.json").read_text())
    assert (result["images"], result["ipc"], result["resolution"], result["labels"]) == ("two-each", 2, 8, "hard")
    assert (result["network"], result["protocol"], result["split"]) == ("convnet3", "paper", f"{real} test")
    assert (result["repeats"], result["training_seeds"], result["epochs"]) == (2, [0, 1], 2)
    for seed, curve in enumerate(result["curves"]):
        images, test = real_images(2, seed=5), real_images(4, seed=2)
        events = train_network("convnet3", images, test, protocol="paper", seed=seed, epochs=2, tests=2)
        assert curve == [{"epoch": e.index + 1, "accuracy": round(e.accuracy, 5)} for e in events]


def test_networks_stand_below_each_other(real, tmp_path, capsys):
    images = real_images(1)
    enlarged = ImageSet(images.images.repeat_interleave(2, 2).repeat_interleave(2, 3), images.labels, CLASSES)
    networks = ("--network", "convnet3", "convnet4", "--protocol", "igd")
    assert evaluated(write_folder(tmp_path / "set", enlarged), "--data", real, *networks) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 4 and "| convnet3 | igd |" in rows[2] and "| convnet4 | igd |" in rows[3]


def test_a_set_in_the_folder_one_is_in_has_its_name_in_the_table(distilled, real, capsys, monkeypatch):
    monkeypatch.chdir(distilled)
    assert evaluated(".", "--data", real) == 0
    assert "| two-each | 2 |" in capsys.readouterr().out


def test_data_without_splits_is_tested_as_a_whole(distilled, real, tmp_path, capsys):
    assert evaluated(distilled, "--data", real / "test", "--split", "all") == 0
    assert f"| {real / 'test'} all |" in capsys.readouterr().out
    assert "has no test split" in refused(capsys, evaluated(distilled, "--data", real / "test"))
    assert "has splits: choose train or test" in refused(capsys, evaluated(distilled, "--data", real, "--split", "all"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--repeats", 0], "--repeats must be at least 1, got 0"),
        (["--repeats", -2], "--repeats must be at least 1, got -2"),
        (["--tests", 0], "--tests must be at least 1, got 0"),
        (["--tiles", 0], "--tiles must be at least 1, got 0"),
        (["--tiles", 2], "--tiles belongs to --protocol rded"),
        (["--iterations", 0], "--iterations must be at least 1, got 0"),
        (["--epochs", 0], "epochs must be at least 1, got 0"),
        (["--epochs", -1], "epochs must be at least 1, got -1"),
        (["--protocol", "rded"], "soft labels, which need a teacher"),
        (["--teacher", "nope"], "fashion-mnist"),
        (["--network", "convnet3", "convnet6"], "convnet6 needs images of at least 64 pixels a side, got 8"),
        (["--data", "nowhere"], "nowhere is no folder, no parquet file and no data set's name"),
        (["--data", ""], "--data, or with --transfer"),
        (["--transfer", "elsewhere"], "--data, or with --transfer"),
    ],
)
def test_a_wrong_setting_of_evaluate_is_told(distilled, real, tmp_path, capsys, arguments, expected):
    status = run("evaluate", distilled, "--data", real, "--epochs", 1, "--out", tmp_path / "out", *arguments)
    assert expected in refused(capsys, status)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--network", "--protocol", "--split"])
def test_what_evaluate_cannot_choose_is_told(distilled, capsys, option):
    assert f"argument {option}: invalid choice: 'best'" in usage(capsys, "evaluate", distilled, option, "best")


def test_soft_labels_are_those_of_the_bundle_that_is_named(distilled, real, learnt_bundle_path, capsys):
    teaching = ("--protocol", "rded", "--tiles", 2, "--teacher", learnt_bundle_path)
    assert evaluated(distilled, "--data", real, *teaching) == 0
    assert "| rded | soft |" in capsys.readouterr().out
    status = evaluated(distilled, "--data", real, "--teacher", learnt_bundle_path)
    assert "no use for a teacher" in refused(capsys, status)


def test_a_teacher_of_other_classes_or_another_size_is_refused(real, learnt_bundle_path, tmp_path, capsys):
    teaching = ("--protocol", "rded", "--data", real, "--teacher")
    turned = ImageSet(real_images(2).images, 2 - real_images(2).labels, CLASSES[::-1])
    said = refused(capsys, evaluated(write_folder(tmp_path / "turned", turned), *teaching, learnt_bundle_path))
    assert "the classifier of tiny is for other classes" in said and "turned" in said
    said = refused(capsys, evaluated(write_folder(tmp_path / "set", real_images(2)), *teaching, "fashion-mnist"))
    assert "or another size" in said and "name the bundle that made the images" in said


def test_class_names_that_do_not_match_are_told_with_the_closest(distilled, tmp_path, capsys):
    other = write_folder(tmp_path / "test", real_images(1, classes=("Circel", *CLASSES[1:])))
    said = refused(capsys, evaluated(distilled, "--data", other, "--split", "all"))
    assert "no class of the test set is named 'Circle': rename it, if it is 'Circel'" in said


def test_folders_that_are_no_sets_are_told(distilled, real, tmp_path, capsys):
    data = ("--data", real)
    assert "there is no folder" in refused(capsys, evaluated(tmp_path / "none", *data))
    assert "holds no folders" in refused(capsys, evaluated(tmp_path, *data))
    shutil.copytree(distilled, tmp_path / "set")
    shutil.rmtree(tmp_path / "set" / FOLDERS[1])
    assert "has no pictures of Square/box yet" in refused(capsys, evaluated(tmp_path / "set", *data))
    (tmp_path / "set" / FOLDERS[1]).mkdir()
    assert "holds no pictures" in refused(capsys, evaluated(tmp_path / "set", *data))
    (tmp_path / "set" / FOLDERS[1] / "0000.png").write_text("no picture")
    assert "cannot be read as a picture" in refused(capsys, evaluated(tmp_path / "set", *data))


def test_a_split_with_nothing_to_test_on_is_told(distilled, tmp_path, capsys):
    (tmp_path / "test").mkdir()
    assert "holds no folders" in refused(capsys, evaluated(distilled, "--data", tmp_path))


def test_a_place_that_cannot_be_made_is_told_before_a_network_learns(distilled, real, capsys):
    status = run("evaluate", distilled, "--data", real, "--epochs", 10**6, "--out", "/dev/null/out/stem")
    assert "choose another place" in refused(capsys, status)


def test_transfer_pretrains_on_the_set_and_tests_elsewhere(distilled, real, tmp_path, capsys):
    other = tmp_path / "other"
    for split, images in (("train", real_images(3, seed=7)), ("test", real_images(2, seed=8))):
        write_folder(other / split, ImageSet(images.images, images.labels, ("rose", "tulip", "iris")))
    fine_tuning = ("--transfer", other, "--iterations", 2, "--out", tmp_path / "out")
    assert run("evaluate", distilled, "--epochs", 1, "--repeats", 1, "--tests", 1, *fine_tuning) == 0
    (result,) = json.loads((tmp_path / "out.json").read_text())
    assert (result["protocol"], result["split"], result["epochs"]) == ("appendix G", f"{other} test", 2)
    assert "| appendix G |" in capsys.readouterr().out


def test_transfer_refuses_what_it_would_not_heed(distilled, real, capsys):
    for ignored in (("--protocol", "minimax"), ("--teacher", "fashion-mnist"), ("--split", "all")):
        status = run("evaluate", distilled, "--transfer", real, *ignored)
        assert "--transfer has a protocol and splits of its own" in refused(capsys, status)


def test_transfer_to_splits_of_different_classes_is_refused_before_pretraining(distilled, tmp_path, capsys):
    write_folder(tmp_path / "train", real_images(1, classes=("rose", "tulip", "iris")))
    write_folder(tmp_path / "test", real_images(1, classes=("rose", "tulips", "iris")))
    status = run("evaluate", distilled, "--epochs", 10**6, "--transfer", tmp_path)
    assert "is named 'tulip': rename it, if it is 'tulips'" in refused(capsys, status)


# compare


def compared(bundle, real, tmp_path, *arguments) -> int:
    size = ("--ipc", 1, "--epochs", 1, "--generation-seeds", 1, "--repeats", 1)
    folders = ("--work", tmp_path / "work", "--out", tmp_path / "out")
    return run("compare", "--bundle", bundle, "--data", real, *size, *folders, *arguments)


@pytest.fixture(scope="module")
def baselines(learnt_bundle_path, real, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("baselines")
    assert compared(learnt_bundle_path, real, folder) == 0
    return folder


def test_compare_writes_a_table_a_figure_and_everything_as_json(learnt_bundle_path, baselines, real, tmp_path, capsys):
    shutil.copytree(baselines, tmp_path / "again")
    before = tree(tmp_path / "again")
    assert compared(learnt_bundle_path, real, tmp_path / "again") == 0
    said = capsys.readouterr().out
    assert tree(tmp_path / "again") == before  # what was finished is not made again
    assert [path.name for path in sorted((baselines / "out").iterdir())] == [
        "tiny-baselines.json",
        "tiny-baselines.png",
    ]
    results = json.loads((baselines / "out/tiny-baselines.json").read_text())
    assert [row["method"] for row in results["summary"]] == list(results["methods"])
    assert {"random", "unguided", "IGDS"} < set(results["methods"])
    assert len(results["records"]) == len(results["methods"])
    assert (
        said.startswith("| method | network | IPC 1 (1 epochs) |")
        and said.count("\n") == 2 + len(results["methods"]) + 1
    )
    assert said.endswith(f"written to {tmp_path / 'again/out/tiny-baselines'}.json and .png\n")
    Image.open(baselines / "out/tiny-baselines.png").load()


def test_compare_goes_on_where_it_was_stopped(learnt_bundle_path, baselines, real, tmp_path):
    shutil.copytree(baselines, tmp_path, dirs_exist_ok=True)
    whole = tree(tmp_path / "work")
    lost = [training_path(tmp_path / "work", SetOf(m, 1, 0), "convnet3", 0) for m in ("IGDS", "unguided", "random")]
    for path in lost:
        path.unlink()
    bundle = load_bundle(learnt_bundle_path)
    train, test = (load_images(real, split, size=8) for split in ("train", "test"))
    size = {"ipcs": (1,), "generation_seeds": (0,), "training_seeds": (0,), "epochs": {1: 1}}
    events = compare(baselines_comparison(bundle, **size), bundle, tmp_path / "work", train, test)
    while not lost[-1].exists():
        next(events)
    events.close()
    assert [path.exists() for path in lost] == [False, False, True]
    assert compared(learnt_bundle_path, real, tmp_path) == 0
    without = {"seconds": None}
    for path in (tmp_path / "work").glob("*-t0.json"):
        assert {**json.loads(path.read_text()), **without} == {**json.loads(whole[path.name]), **without}


def test_stopping_compare_says_what_is_kept(learnt_bundle_path, real, tmp_path, capsys, monkeypatch):
    stopped_when_it_writes(monkeypatch, "herding-ipc0001-g0-convnet3-t0.json", "replace")
    assert compared(learnt_bundle_path, real, tmp_path) == 130
    said = capsys.readouterr().err
    assert said.endswith(f"igds: stopped; what is done is kept in {tmp_path / 'work'}: the same command goes on\n")
    assert [path.name for path in (tmp_path / "work").glob("*-t0.json")] == ["random-ipc0001-g0-convnet3-t0.json"]


def test_compare_beta_takes_the_betas_that_are_given(learnt_bundle_path, real, tmp_path, capsys):
    arguments = ("beta", "--betas", 0, 0.5, "--split", "test")
    assert compared(learnt_bundle_path, real, tmp_path, *arguments) == 0
    said = capsys.readouterr().out
    assert [row.split(" | ")[0] for row in said.splitlines()[2:-2]] == [
        "| random",
        "| unguided",
        "| β = 0",
        "| β = 0.5",
    ]
    assert said.splitlines()[-2].startswith("IPC 1, convnet3: best at β = 0")
    assert (tmp_path / "out/tiny-beta.png").exists() and (tmp_path / "out/tiny-beta.json").exists()


def test_compare_subsets_takes_the_alphas_that_are_given(learnt_bundle_path, real, tmp_path, capsys):
    arguments = ("subsets", "--alphas", 0, 2, "--split", "test")
    assert compared(learnt_bundle_path, real, tmp_path, *arguments) == 0
    assert [row.split(" | ")[0] for row in capsys.readouterr().out.splitlines()[2:-2]] == ["| α = 0", "| α = 2"]
    assert (tmp_path / "out/tiny-subsets.png").exists()


def test_the_processes_of_a_launcher_share_a_comparison(learnt_bundle_path, real, tmp_path, monkeypatch, capsys):
    arguments = ("subsets", "--alphas", 0, 2, "--split", "test")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, said in (("1", "the other processes are still at work\n"), ("0", "| method |")):
        monkeypatch.setenv("RANK", rank)
        assert compared(learnt_bundle_path, real, tmp_path, *arguments) == 0
        assert capsys.readouterr().out.startswith(said)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--epochs", 1, 2], "--epochs wants 1 numbers, one for each --ipc, got 2"),
        (["--ipc", 1, 2], "--epochs wants 2 numbers, one for each --ipc, got 1"),
        (["--epochs", 0], "epochs must be at least 1, got 0"),
        (["--ipc", 0], "each IPC must be at least 1, got 0"),
        (["--ipc", 21], "class Circle has 20 images to select from, too few for IPC 21"),
        (["--ipc", 1, 1, "--epochs", 1, 2], "give each IPC, network and seed once"),
        (["--generation-seeds", 0], "at least one IPC, network, generation seed and training seed"),
        (["--generation-seeds", -1], "at least one IPC, network, generation seed"),
        (["--repeats", 0], "generation seed and training seed"),
        (["--repeats", -1], "generation seed and training seed"),
        (["--networks", "convnet3", "resnet18"], "resnet18 needs images of at least 16 pixels a side, got 8"),
        (["--betas", 1], "--betas belongs to `compare beta`"),
        (["--alphas", 1], "--alphas belongs to `compare subsets`"),
        (["beta", "--betas", -1, "--split", "test"], "beta must be"),
        (["beta", "--betas", "nan", "--split", "test"], "beta must be"),
        (["subsets", "--alphas", "inf", "--split", "test"], "alpha must be a finite number"),
        (["--bundle", "nope"], "fashion-mnist"),
        (["--data", "nowhere"], "nowhere is no folder, no parquet file and no data set's name"),
    ],
)
def test_a_wrong_setting_of_compare_is_told_and_nothing_is_left(
    learnt_bundle_path, real, tmp_path, capsys, arguments, expected
):
    assert expected in refused(capsys, compared(learnt_bundle_path, real, tmp_path, *arguments))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["best"], "argument name: invalid choice: 'best'"),
        (["--networks", "vgg"], "argument --networks: invalid choice: 'vgg'"),
        (["--protocol", "mine"], "argument --protocol: invalid choice: 'mine'"),
        (["beta", "--betas", "much"], "argument --betas: invalid float value: 'much'"),
    ],
)
def test_what_compare_cannot_read_is_told(capsys, arguments, expected):
    assert expected in usage(capsys, "compare", *arguments)


def test_a_bundle_without_data_of_its_name_asks_for_it(learnt_bundle_path, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, run("compare", "--bundle", learnt_bundle_path))
    assert "tiny is no folder" in said and "fashion-mnist" in said and list(tmp_path.iterdir()) == []


def test_real_images_of_other_classes_are_told_with_the_closest(learnt_bundle_path, tmp_path, capsys):
    for split in ("train", "test"):
        write_folder(tmp_path / "real" / split, real_images(2, classes=("Circel", *CLASSES[1:])))
    said = refused(capsys, compared(learnt_bundle_path, tmp_path / "real", tmp_path))
    assert "tiny has no class 'Circel': did you mean 'Circle'?" in said
    assert [path.name for path in tmp_path.iterdir()] == ["real"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--protocol", "igd"], "by its protocol"),
        (["--bfloat16"], "by its bfloat16"),
        (["--epochs", 2], "has 1 epochs and 2 are asked for"),
        (["beta", "--split", "test"], "by its name"),
    ],
)
def test_other_settings_of_compare_between_stop_and_resume_are_told(
    learnt_bundle_path, baselines, real, tmp_path, capsys, arguments, expected
):
    shutil.copytree(baselines, tmp_path, dirs_exist_ok=True)
    assert expected in refused(capsys, compared(learnt_bundle_path, real, tmp_path, *arguments))
    assert tree(tmp_path) == tree(baselines)


def test_other_real_images_between_stop_and_resume_are_told(learnt_bundle_path, baselines, real, tmp_path, capsys):
    shutil.copytree(baselines, tmp_path, dirs_exist_ok=True)
    shutil.copytree(real, tmp_path / "real")
    next((tmp_path / "real/test" / FOLDERS[0]).glob("*.png")).unlink()
    assert "by its data" in refused(capsys, compared(learnt_bundle_path, tmp_path / "real", tmp_path))


def test_a_foreign_folder_is_no_place_for_a_comparison(learnt_bundle_path, real, tmp_path, capsys):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "precious.txt").write_text("mine")
    assert "is not a comparison" in refused(capsys, compared(learnt_bundle_path, real, tmp_path))
    assert [path.name for path in tmp_path.rglob("*")] == ["work", "precious.txt"]


def test_a_damaged_network_is_named(learnt_bundle_path, baselines, real, tmp_path, capsys):
    shutil.copytree(baselines, tmp_path, dirs_exist_ok=True)
    path = training_path(tmp_path / "work", SetOf("k-center", 1, 0), "convnet3", 0)
    path.write_text("{")
    assert f"{path} is damaged: delete it" in refused(capsys, compared(learnt_bundle_path, real, tmp_path))


def test_a_file_where_results_should_go_is_told_before_anything_is_made(learnt_bundle_path, real, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert "choose another place" in refused(capsys, compared(learnt_bundle_path, real, tmp_path))
    assert set(tree(tmp_path)) == {"out", "work/comparison.json"}


# fetch


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def box(tmp_path, monkeypatch) -> Source:
    """A data set of one small file, at an address that any machine has."""
    published = tmp_path / "published" / "box.bin"
    published.parent.mkdir()
    published.write_bytes(b"box" * 1000)
    file = File(published.as_uri(), 3000, hashlib.md5(published.read_bytes()).hexdigest())
    monkeypatch.setitem(SOURCES, "box", Source("Box", None, (file,)))
    return SOURCES["box"]


def fetched(tmp_path, *arguments) -> int:
    return run("fetch", "box", "--cache", tmp_path / "cache", *arguments)


def test_fetch_says_what_comes_from_where_and_where_it_is(box, tmp_path, capsys):
    assert fetched(tmp_path) == 0
    said = capsys.readouterr()
    assert said.err.startswith("Box: 0.0 MB from file:///") and f"to {tmp_path / 'cache/box'}" in said.err
    assert said.out == f"written to {tmp_path / 'cache/box'}\n"
    assert (tmp_path / "cache/box/box.bin").read_bytes() == b"box" * 1000
    assert fetched(tmp_path) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'cache/box'} is there already\n"


def large(monkeypatch, box: Source) -> None:
    monkeypatch.setitem(SOURCES, "box", replace(box, files=(replace(box.files[0], size=LARGE + 1),)))


@pytest.mark.parametrize(
    "stdin", [io.StringIO("y\n"), Terminal("n\n"), Terminal("\n"), Terminal(""), Terminal("yessir")]
)
def test_gigabytes_are_not_fetched_without_a_yes(box, tmp_path, capsys, monkeypatch, stdin):
    large(monkeypatch, box)
    monkeypatch.setattr(sys, "stdin", stdin)
    assert "nothing was downloaded: give --yes to go ahead" in refused_in_place(capsys, fetched(tmp_path))
    assert not (tmp_path / "cache").exists()


def refused_in_place(capsys, status: int) -> str:
    """As `refused`, of a sentence that may stand behind a question which nobody answered."""
    said = capsys.readouterr().err.splitlines()[-1]
    assert status == 2 and "igds: " in said
    return said


@pytest.mark.parametrize(("stdin", "arguments"), [(Terminal("Y\n"), []), (Terminal("yes"), []), (None, ["--yes"])])
def test_gigabytes_are_asked_for_with_a_yes(box, tmp_path, capsys, monkeypatch, stdin, arguments):
    large(monkeypatch, box)
    monkeypatch.setattr(sys, "stdin", stdin)
    said = refused_in_place(capsys, fetched(tmp_path, *arguments))
    assert "3,000 bytes instead of 1,000,000,001" in said  # so it was asked for


def test_a_download_that_fails_is_told(box, tmp_path, capsys, monkeypatch):
    gone = replace(box.files[0], url=box.files[0].url + ".gone")
    monkeypatch.setitem(SOURCES, "box", replace(box, files=(gone,)))
    said = refused(capsys, fetched(tmp_path))
    assert "could not be downloaded" in said and "box.bin.gone elsewhere and put it into" in said


def test_a_data_set_that_fetch_does_not_know_is_told_with_those_it_does(capsys):
    said = usage(capsys, "fetch", "imagenet")
    assert "argument NAME: invalid choice: 'imagenet'" in said and "imagenette" in said


def test_a_fetched_data_set_becomes_small_parquet_with_the_same_labels(tmp_path, capsys):
    cache = tmp_path / "cache"
    colours = torch.randint(40, 216, (10, 3), generator=torch.Generator().manual_seed(0))
    for split in ("train", "val"):
        for wnid, colour in zip(IMAGENETTE, colours.tolist()):
            folder = cache / "imagenette-160" / split / wnid
            folder.mkdir(parents=True)
            Image.new("RGB", (40, 30), tuple(colour)).save(folder / f"{wnid}_1.JPEG", quality=95)
    run("fetch", "imagenette-160", "--cache", cache, "--parquet", tmp_path / "small", "--size", 8)
    assert "10 images written to" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "small").iterdir()) == ["train.parquet", "validation.parquet"]
    for split in ("train", "test"):
        small = load_images(tmp_path / "small", split, size=8)
        assert small.classes == tuple(IMAGENETTE.values()) and small.labels.tolist() == list(range(10))
        assert (small.images.float() - colours[:, :, None, None]).abs().max() <= 4


def test_parquet_is_written_of_data_sets_and_in_pixels(capsys, tmp_path):
    assert "is a checkpoint" in refused(capsys, run("fetch", "adm-64", "--parquet", tmp_path))
    said = refused(capsys, run("fetch", "imagenette-160", "--parquet", tmp_path, "--size", 0))
    assert "at least 1 pixel" in said
