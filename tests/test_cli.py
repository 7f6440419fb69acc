"""The command line, as a user types it: what it writes, and the one sentence it says when something is wrong."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from igds import cli
from igds.bundle import load_bundle
from igds.commands import sample as sample_command
from igds.study import read_study

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments) -> int:
    return cli.main([str(argument) for argument in arguments])


def sample(bundle, out, *arguments) -> int:
    return run("sample", "--bundle", bundle, "--out", out, "--steps", 3, "--ipc", 2, *arguments)


def refused(capsys, status: int) -> str:
    """The sentence of a refused command, after checking that it is one and not a traceback."""
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert status == 2
    assert said.startswith("igds: ") and "Traceback" not in said
    return said


def test_sample_writes_images_settings_and_curves(tiny_bundle_path, tmp_path):
    assert sample(tiny_bundle_path, tmp_path / "out", "--label", "square/BOX", "--seed", 7) == 0
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")) == [
        "0001_square-box/0000.png",
        "0001_square-box/0001.png",
        "curves.csv",
        "run.json",
    ]
    assert Image.open(tmp_path / "out/0001_square-box/0000.png").size == (8, 8)
    settings = json.loads((tmp_path / "out/run.json").read_text())["settings"]
    assert (settings["label"], settings["seed"], settings["beta"]) == ("Square/box", 7, 0.5)
    assert len((tmp_path / "out/curves.csv").read_text().splitlines()) == 1 + 3


def test_paired_writes_a_folder_for_each_column(tiny_bundle_path, tmp_path):
    assert sample(tiny_bundle_path, tmp_path / "out", "--paired") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == [
        "contextual",
        "prototype",
        "unguided",
    ]


def test_unguided_differs_from_guided_and_says_so(tiny_bundle_path, tmp_path):
    assert sample(tiny_bundle_path, tmp_path / "a", "--unguided", "--eta", 5) == 0
    assert sample(tiny_bundle_path, tmp_path / "b", "--eta", 5) == 0
    image = "0000_circle/0000.png"
    assert (tmp_path / "a" / image).read_bytes() != (tmp_path / "b" / image).read_bytes()
    assert json.loads((tmp_path / "a/run.json").read_text())["settings"]["columns"] == ["unguided"]


def test_a_run_json_makes_the_same_files_again(tiny_bundle_path, tmp_path):
    assert sample(tiny_bundle_path, tmp_path / "a", "--paired", "--seed", 3) == 0
    assert run("sample", "--bundle", tiny_bundle_path, "--run", tmp_path / "a/run.json", "--out", tmp_path / "b") == 0
    first = {path.relative_to(tmp_path / "a"): path.read_bytes() for path in (tmp_path / "a").rglob("*.*")}
    again = {path.relative_to(tmp_path / "b"): path.read_bytes() for path in (tmp_path / "b").rglob("*.*")}
    assert first == again


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--label", "Circel"], "did you mean 'Circle'?"),
        (["--ipc", "0"], "between 1 and 1000, got 0"),
        (["--ipc", "10000"], "between 1 and 1000, got 10000"),
        (["--beta", "-1"], "beta must be"),
        (["--beta", "nan"], "beta must be"),
        (["--eta", "inf"], "eta must be"),
        (["--steps", "101"], "between 2 and 100"),
        (["--steps", "1"], "between 2 and 100"),
        (["--seed", "-1"], "seed must be"),
        (["--interval", "0.8", "0.2"], "low < high"),
    ],
)
def test_a_wrong_setting_is_told_in_one_sentence(tiny_bundle_path, tmp_path, capsys, arguments, expected):
    status = run("sample", "--bundle", tiny_bundle_path, "--out", tmp_path / "out", *arguments)
    assert expected in refused(capsys, status)


def test_an_unknown_bundle_is_told_with_those_there_are(tmp_path, capsys):
    assert "fashion-mnist" in refused(capsys, run("sample", "--bundle", "nope", "--out", tmp_path / "out"))


def test_a_folder_with_something_in_it_is_left_alone(tiny_bundle_path, tmp_path, capsys):
    (tmp_path / "precious.txt").write_text("mine")
    assert "is not empty" in refused(capsys, sample(tiny_bundle_path, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_a_file_in_the_way_is_told(tiny_bundle_path, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert "is a file" in refused(capsys, sample(tiny_bundle_path, tmp_path / "out"))


def test_a_place_that_cannot_be_made_is_told_before_anything_is_computed(tiny_bundle_path, capsys, monkeypatch):
    monkeypatch.setattr(sample_command, "load_bundle", lambda *_, **__: pytest.fail("the bundle was loaded"))
    assert "choose another place" in refused(capsys, sample(tiny_bundle_path, "/dev/null/out"))


def test_a_full_disk_keeps_no_half_of_a_result(tmp_path, monkeypatch, capsys, tiny_bundle_path):
    written = []
    real = Path.write_bytes

    def full_after_one(path, content):
        if written:
            raise OSError(28, "No space left on device", str(path))
        written.append(path)
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", full_after_one)
    assert "full disk" in refused(capsys, sample(tiny_bundle_path, tmp_path / "out"))
    assert written and list((tmp_path / "out").iterdir()) == []


def test_a_run_file_that_is_something_else_is_told(tiny_bundle_path, tmp_path, capsys):
    (tmp_path / "run.json").write_text("[1, 2")
    status = run("sample", "--bundle", tiny_bundle_path, "--run", tmp_path / "run.json", "--out", tmp_path / "out")
    assert "is not the run.json of a run" in refused(capsys, status)


def test_a_run_file_takes_no_setting_beside_it(tiny_bundle_path, tmp_path, capsys):
    status = run("sample", "--run", tmp_path / "run.json", "--beta", 1, "--out", tmp_path / "out")
    assert "no other setting" in refused(capsys, status)


def test_a_run_of_another_bundle_is_refused_instead_of_giving_other_images(tiny_bundle_path, tmp_path, capsys):
    assert sample(tiny_bundle_path, tmp_path / "a") == 0
    shutil.copytree(tiny_bundle_path, tmp_path / "other")
    card = json.loads((tmp_path / "other/card.json").read_text())
    card["estimator"]["tau"] = 0.5
    (tmp_path / "other/card.json").write_text(json.dumps(card))
    status = run("sample", "--bundle", tmp_path / "other", "--run", tmp_path / "a/run.json", "--out", tmp_path / "b")
    assert "made with another bundle" in refused(capsys, status)


@pytest.mark.parametrize(
    ("key", "value"), [("defaults", []), ("defaults", {"ipc": 4}), ("beta_range", 5), ("beta_range", [1.0, 2.0])]
)
def test_a_card_without_usable_defaults_is_told(tiny_bundle_path, tmp_path, capsys, key, value):
    shutil.copytree(tiny_bundle_path, tmp_path / "bundle")
    card = json.loads((tmp_path / "bundle/card.json").read_text())
    (tmp_path / "bundle/card.json").write_text(json.dumps({**card, key: value}))
    assert "get the bundle again" in refused(capsys, run("info", tmp_path / "bundle"))


def test_one_image_and_the_batch_reference_are_explained(tiny_bundle_path, tmp_path, capsys):
    assert run("sample", "--bundle", tiny_bundle_path, "--out", tmp_path / "out", "--ipc", 1, "--steps", 2) == 0
    assert "β has no effect" in capsys.readouterr().err


def test_a_damaged_bundle_is_told(tiny_bundle_path, tmp_path, capsys):
    shutil.copytree(tiny_bundle_path, tmp_path / "bundle")
    weights = tmp_path / "bundle" / "prior.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "prior.safetensors is damaged" in refused(capsys, sample(tmp_path / "bundle", tmp_path / "out"))


def test_info_lists_what_is_embedded_and_shows_a_card(tiny_bundle_path, capsys):
    assert run("info") == 0
    assert "fashion-mnist" in capsys.readouterr().out
    assert run("info", tiny_bundle_path) == 0
    assert "Square/box" in capsys.readouterr().out


def test_training_lengths_must_be_positive(capsys):
    assert "--minutes must be more than 0" in refused(capsys, run("train", "prior", "--minutes", 0))


def test_a_data_folder_without_the_files_is_told(tmp_path, capsys):
    assert "no train-images" in refused(capsys, run("train", "prior", "--data", tmp_path, "--work", tmp_path))


def test_a_bundle_of_untrained_parts_names_the_missing_one(tmp_path, capsys):
    status = run("train", "bundle", "--work", tmp_path, "--out", tmp_path / "out")
    assert "run `train prior` first" in refused(capsys, status)


def test_the_study_of_a_bundle_by_another_name_asks_whose_images_judge(tiny_bundle_path, tmp_path, capsys):
    status = run("study", "beta", "--bundle", tiny_bundle_path, "--work", tmp_path / "work", "--out", tmp_path / "out")
    said = refused(capsys, status)
    assert "real images" in said and "fashion-mnist" in said and "--recipe" in said
    assert list(tmp_path.iterdir()) == []


def study_of(bundle, tmp_path, *arguments) -> int:
    folders = ("--work", tmp_path / "work", "--out", tmp_path / "out")
    return run("study", "beta", "--bundle", bundle, "--recipe", "fashion-mnist", *folders, *arguments)


def test_the_study_of_a_bundle_without_a_held_out_estimator_is_refused(bare_bundle_path, tmp_path, capsys):
    assert "no held-out estimator" in refused(capsys, study_of(bare_bundle_path, tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--ipc", "0"], "between 1 and 1000, got 0"),
        (["--ipc", "5", "1001"], "between 1 and 1000, got 5, 1001"),
        (["--seeds", "0"], "at least one seed"),
        (["--seeds", "-2"], "at least one seed"),
        (["--betas", "-1"], "beta must be"),
        (["--betas", "0", "nan"], "beta must be"),
    ],
)
def test_a_wrong_setting_of_a_study_is_told_in_one_sentence(tiny_bundle_path, tmp_path, capsys, arguments, expected):
    assert expected in refused(capsys, study_of(tiny_bundle_path, tmp_path, *arguments))
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_folder_is_no_place_for_a_study(tiny_bundle_path, tmp_path, capsys):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "precious.txt").write_text("mine")
    assert "is not a study" in refused(capsys, study_of(tiny_bundle_path, tmp_path))
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["precious.txt"]


def test_sampling_takes_every_setting_that_a_run_has(tiny_bundle_path, tmp_path):
    given = ["--solver", "dpmpp_2m", "--scaling", "deviation", "--reference", "class", "--at", "x0"]
    assert sample(tiny_bundle_path, tmp_path / "out", *given, "--interval", "0.1", "0.9", "--eta", "0.2") == 0
    settings = json.loads((tmp_path / "out/run.json").read_text())["settings"]
    expected = {"solver": "dpmpp_2m", "scaling": "deviation", "reference": "class", "at": "x0", "interval": [0.1, 0.9]}
    assert {name: settings[name] for name in expected} == expected


def test_a_study_of_the_embedded_bundle_is_sampled_measured_and_drawn(tmp_path, capsys):
    sizes = ["--quick", "--ipc", "2", "--seeds", "1", "--betas", "2"]
    assert run("study", "beta", *sizes, "--work", tmp_path / "work", "--out", tmp_path / "out") == 0
    results = read_study(tmp_path / "out/fashion-mnist-beta-quick.json", load_bundle("fashion-mnist"))
    assert [row["arm"] for row in results["summary"]] == ["real", "unguided", "β = 2"]
    assert len(results["records"]) == 3 * 10
    real = results["summary"][0]["measures"]
    assert real["accuracy"]["mean"] > 0.8 and real["precision"]["mean"] > 0.6 and real["out_of_range"]["mean"] < 0.01
    with Image.open(tmp_path / "out/fashion-mnist-beta-quick.png") as picture:
        picture.load()
    assert "β = 2" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["sample"], ["info"], ["train"], ["study"]])
def test_help_is_there_for_every_command(arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "igds", *arguments, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "usage:" in done.stdout and done.stderr == ""
