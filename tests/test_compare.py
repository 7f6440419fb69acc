"""A comparison makes each set once, goes on where it stood, and sums up what its networks learnt."""

import copy
import json
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch
from scipy import stats

from igds.bundle import load_bundle
from igds.cli import main
from igds.compare import (
    COMPARISONS,
    Comparison,
    SetOf,
    _claim,
    _distillation,
    _Pool,
    best_of_sweep,
    beta_curve,
    compare,
    figures_of_set,
    hold_out,
    only,
    read_results,
    subsets,
    summarise,
    summary_of,
    sweep_sentences,
    table_markdown,
    training_path,
)
from igds.data import ImageSet
from igds.distilled import read_image_folder
from igds.evaluation import train_network
from igds.selection import contextual_scores, random_subset
from tests.conftest import CLASSES, real_images

RESULTS = Path(__file__).resolve().parents[1] / "assets" / "comparisons"
METHODS = {
    "random": {"select": "random"},
    "herding": {"select": "herding"},
    "unguided": {"eta": 0.0, "steps": 2},
    "IGDS": {"beta": "auto", "steps": 2},
}
COMPARISON = Comparison(
    "trial", "tiny", METHODS, ipcs=(1, 3), generation_seeds=(0, 1), training_seeds=(0, 1), epochs={1: 1, 3: 2}
)
SMALL = replace(COMPARISON, ipcs=(1,), generation_seeds=(0,), epochs={1: 1})
NETWORKS = 2 * 2 * (2 * 3 + 1)  # training seeds, IPCs, and sets: two of each method but herding
TRAIN, TEST = real_images(12, seed=1), real_images(5, seed=2)


def run(comparison: Comparison, bundle, folder, train=TRAIN, test=TEST, **place) -> list:
    return list(compare(comparison, bundle, folder, train, test, **place))


def refusal(comparison: Comparison, bundle, folder, train=TRAIN, test=TEST, **place) -> str:
    with pytest.raises(ValueError) as raised:
        compare(comparison, bundle, folder, train, test, **place)
    message = str(raised.value)
    assert "\n" not in message and len(message) < 400
    return message


def without_seconds(results: dict) -> dict:
    results = json.loads(json.dumps(results, allow_nan=False))
    for record in results["records"]:
        assert record.pop("seconds") >= 0
    return results


def contents(folder) -> dict[str, tuple[bytes, int]]:
    """Every file but locks and the like, with the time at which it was written."""
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and ".places" not in path.parts and not path.name.startswith(".")
    }


def permuted(images: ImageSet, names: tuple[str, ...] = CLASSES[::-1]) -> ImageSet:
    """The same images of the same classes, which are in another order."""
    return ImageSet(images.images, len(CLASSES) - 1 - images.labels, names)


@pytest.fixture(scope="module")
def whole(learnt_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "work"
    run(COMPARISON, learnt_bundle, folder)
    return folder


@pytest.fixture(scope="module")
def results(learnt_bundle, whole):
    return summarise(COMPARISON, learnt_bundle, whole)


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of the finished comparison that a test may damage."""
    return shutil.copytree(whole, tmp_path / "work")


def test_there_is_a_file_for_every_network_and_a_folder_for_every_set_that_is_made(whole, results):
    trainings = list(COMPARISON.trainings())
    assert len(trainings) == len(set(trainings)) == NETWORKS == len(results["records"])
    files = {training_path(whole, *training).name for training in trainings}
    assert {path.name for path in whole.iterdir()} == {".lock", ".places", "comparison.json", "sets", *files}
    made = {chosen.stem for chosen in COMPARISON.sets() if chosen.method in ("unguided", "IGDS")}
    assert {path.name for path in (whole / "sets").iterdir()} == made and len(made) == 2 * 2 * 2


def test_herding_draws_nothing_and_has_one_set_for_all_generation_seeds():
    seeds = {method: {s.seed for s in COMPARISON.sets() if s.method == method} for method in METHODS}
    assert seeds == {"random": {0, 1}, "herding": {0}, "unguided": {0, 1}, "IGDS": {0, 1}}


def test_progress_counts_networks_up_to_the_total(learnt_bundle, tmp_path):
    events = run(SMALL, learnt_bundle, tmp_path / "work")
    done = [event.done for event in events]
    assert {event.total for event in events} == {8}
    assert done == sorted(done) and set(done) == set(range(9)) and events[-1].done == 8
    shares = [event.share for event in events if event.what == "IGDS, IPC 1: the set"]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1
    assert all(0 <= event.share <= 1 for event in events if event.what == "random, IPC 1: convnet3")


def images_of(chosen: SetOf, bundle, folder) -> ImageSet:
    if chosen.method == "random":
        rows = random_subset(TRAIN.labels, chosen.ipc, seed=chosen.seed)
        return ImageSet(TRAIN.images[rows], TRAIN.labels[rows], TRAIN.classes)
    return read_image_folder(folder / "sets" / chosen.stem)


@pytest.mark.parametrize("method", ["random", "IGDS"])
def test_a_record_says_what_its_network_learns_from_its_set(learnt_bundle, whole, results, method):
    chosen = SetOf(method, 3, 1)
    images = images_of(chosen, learnt_bundle, whole)
    assert torch.bincount(images.labels).tolist() == [3, 3, 3]
    *_, last = train_network("convnet3", images, TEST, protocol="paper", seed=1, epochs=2, tests=1)
    (record,) = [
        record
        for record in results["records"]
        if (record["method"], record["ipc"], record["seed"], record["training_seed"]) == (method, 3, 1, 1)
    ]
    assert record["accuracy"] == last.accuracy and record["epochs"] == 2 and record["network"] == "convnet3"
    assert {name: record[name] for name in ("contextual", "recognised")} == figures_of_set(learnt_bundle, images)


def test_the_figures_of_a_set_are_means_over_its_classes(learnt_bundle):
    images = real_images(4, seed=5)
    kl, _ = contextual_scores(learnt_bundle.estimator, images)
    logits = learnt_bundle.classifier(images.images / 127.5 - 1)
    right = (logits.argmax(1) == images.labels).float().mean()
    expected = {"contextual": float(kl.mean()), "recognised": float(right)}
    assert figures_of_set(learnt_bundle, images) == pytest.approx(expected, abs=1e-5)


def test_the_networks_of_a_comparison_learn(learnt_bundle, tmp_path):
    trial = replace(SMALL, methods={"random": METHODS["random"]}, ipcs=(10,), epochs={10: 12}, training_seeds=(0,))
    run(trial, learnt_bundle, tmp_path / "work")
    assert summarise(trial, learnt_bundle, tmp_path / "work")["records"][0]["accuracy"] > 0.6


def test_soft_labels_are_those_of_the_bundles_classifier(learnt_bundle, tmp_path):
    soft = replace(SMALL, methods={"random": METHODS["random"]}, protocol="rded", training_seeds=(0,))
    run(soft, learnt_bundle, tmp_path / "work")
    found = summarise(soft, learnt_bundle, tmp_path / "work")
    images = images_of(SetOf("random", 1, 0), learnt_bundle, tmp_path / "work")
    teaching = {"protocol": "rded", "seed": 0, "epochs": 1, "teacher": learnt_bundle.classifier}
    *_, last = train_network("convnet3", images, TEST, **teaching)
    assert found["labels"] == "soft" and found["records"][0]["accuracy"] == last.accuracy


@pytest.mark.parametrize("how", [{"select": "random"}, {"select": "k-center"}, {"select": "weighted", "alpha": 1.0}])
def test_real_images_are_the_same_for_the_same_seed_and_others_for_another(learnt_bundle, how):
    first, again, other = (_Pool(learnt_bundle, TRAIN).select(how, 2, seed) for seed in (0, 0, 1))
    assert torch.equal(first.images, again.images) and not torch.equal(first.images, other.images)
    assert first.labels.tolist() == [0, 0, 1, 1, 2, 2] and first.classes == CLASSES
    own = {image.numpy().tobytes() for image in TRAIN.images}
    assert len({image.numpy().tobytes() for image in first.images} & own) == 6


def test_made_images_are_the_same_for_the_same_seed_and_others_for_another(learnt_bundle, whole, tmp_path):
    again = replace(COMPARISON, methods={"IGDS": METHODS["IGDS"]}, ipcs=(3,), training_seeds=(0,))
    run(again, learnt_bundle, tmp_path / "work")
    first, second = (images_of(SetOf("IGDS", 3, 0), learnt_bundle, where) for where in (whole, tmp_path / "work"))
    other = images_of(SetOf("IGDS", 3, 1), learnt_bundle, whole)
    assert torch.equal(first.images, second.images) and not torch.equal(first.images, other.images)


def test_images_chosen_of_more_are_as_many_and_others(learnt_bundle, tmp_path):
    methods = {"IGDS": METHODS["IGDS"], "chosen": {**METHODS["IGDS"], "chosen_of": 4}}
    trial = replace(SMALL, methods=methods, training_seeds=(0,))
    run(trial, learnt_bundle, tmp_path / "work")
    one, other = (images_of(chosen, learnt_bundle, tmp_path / "work").images for chosen in trial.sets())
    assert one.shape == other.shape and not torch.equal(one, other)


def test_the_bundles_beta_for_each_ipc_guides_the_sets(learnt_bundle, tmp_path):
    table = {"table": [[1, 0.0], [3, 0.75]], "how": "by hand"}
    bundle = replace(learnt_bundle, card={**learnt_bundle.card, "auto_beta": table})
    trial = replace(SMALL, methods={"IGDS": METHODS["IGDS"]}, ipcs=(1, 3), epochs={1: 1, 3: 1}, training_seeds=(0,))
    run(trial, bundle, tmp_path / "work")
    cards = (json.loads((tmp_path / "work/sets" / s.stem / "card.json").read_text()) for s in trial.sets())
    assert [card["settings"]["beta"] for card in cards] == [0.0, 0.75]
    assert summarise(trial, bundle, tmp_path / "work")["auto_beta"] == {"1": 0.0, "3": 0.75}


def test_a_finished_comparison_is_not_made_again(learnt_bundle, folder):
    before = contents(folder)
    events = run(COMPARISON, learnt_bundle, folder)
    assert [event.done for event in events] == list(range(1, NETWORKS + 1))
    assert contents(folder) == before


@pytest.mark.parametrize("stop", [1, 8, 17])
def test_stopped_and_started_again_it_makes_no_network_twice_and_ends_the_same(learnt_bundle, results, tmp_path, stop):
    work = tmp_path / "work"
    events = compare(SMALL, learnt_bundle, work, TRAIN, TEST)
    for _ in range(stop):
        next(events)
    events.close()
    assert summarise(SMALL, learnt_bundle, work) is None
    before = {name: file for name, file in contents(work).items() if "/" not in name}
    run(SMALL, learnt_bundle, work)
    assert {name: contents(work)[name] for name in before} == before
    records = without_seconds(summarise(SMALL, learnt_bundle, work))["records"]
    whole = without_seconds(results)["records"]
    assert records == [record for record in whole if (record["ipc"], record["seed"]) == (1, 0)]


def test_a_lost_network_is_trained_again_and_no_other(learnt_bundle, folder, results):
    path = training_path(folder, SetOf("random", 3, 1), "convnet3", 1)
    before = contents(folder)
    path.unlink()
    run(COMPARISON, learnt_bundle, folder)
    after = contents(folder)
    assert {name for name in after if after[name] != before[name]} == {path.name}
    assert without_seconds(summarise(COMPARISON, learnt_bundle, folder)) == without_seconds(results)


def test_two_processes_make_what_one_does(learnt_bundle, results, tmp_path):
    part, events = replace(COMPARISON, ipcs=(1,), epochs={1: 1}), []
    for rank in (0, 1):
        assert summarise(part, learnt_bundle, tmp_path / "work") is None
        events += run(part, learnt_bundle, tmp_path / "work", rank=rank, world=2)[-1:]
    assert [(event.done, event.total) for event in events] == [(8, 8), (6, 6)]
    records = without_seconds(summarise(part, learnt_bundle, tmp_path / "work"))["records"]
    assert records == [record for record in without_seconds(results)["records"] if record["ipc"] == 1]


def test_more_processes_than_sets_have_nothing_to_do(learnt_bundle, tmp_path):
    assert run(SMALL, learnt_bundle, tmp_path / "work", rank=4, world=5) == []


def test_processes_that_start_at_the_same_moment_share_a_folder(learnt_bundle, tmp_path):
    together = Barrier(6, timeout=10)

    def start(_) -> None:
        for i in range(20):
            together.wait()
            _claim(tmp_path / f"{i}", SMALL, learnt_bundle, TRAIN, TEST)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(start, range(6)))


def test_more_seeds_and_ipcs_go_on_in_the_same_folder(learnt_bundle, folder):
    before = contents(folder)
    more = replace(COMPARISON, ipcs=(1, 2), epochs={1: 1, 2: 1}, generation_seeds=(1, 2))
    run(more, learnt_bundle, folder)
    after = contents(folder)
    assert {name: after[name] for name in before} == before and len(after) > len(before)
    assert {record["ipc"] for record in summarise(more, learnt_bundle, folder)["records"]} == {1, 2}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"split": "train"}, "split must be one of test, validation, got 'train'"),
        ({"protocol": "mine"}, "protocol must be one of paper"),
        ({"networks": ()}, "at least one IPC, network"),
        ({"networks": ("convnet3", "vgg")}, "there is no network 'vgg'"),
        ({"networks": ("convnet3", "convnet4")}, "convnet4 needs images of at least 16 pixels a side, got 8"),
        ({"ipcs": ()}, "at least one IPC"),
        ({"generation_seeds": ()}, "generation seed and"),
        ({"training_seeds": ()}, "and training seed"),
        ({"ipcs": (0, 1), "epochs": None}, "each IPC must be at least 1, got 0"),
        ({"ipcs": (-3,), "epochs": None, "methods": {"random": {"select": "random"}}}, "at least 1, got -3"),
        ({"ipcs": (1001,), "epochs": None, "methods": {"made": {}}}, "between 1 and 1000, got 1001"),
        ({"ipcs": (1, 13), "epochs": None}, "class Circle has 12 images to select from, too few for IPC 13"),
        ({"ipcs": (1, 2)}, "those of IPC 2 are missing"),
        ({"epochs": {1: 0}}, "epochs must be at least 1, got 0"),
        ({"ipcs": (1, 1)}, "random-ipc0001-g0-convnet3-t0.json: give each IPC, network and seed once"),
        ({"networks": ("convnet3", "convnet3")}, "give each IPC, network and seed once"),
        ({"training_seeds": (2, 2)}, "convnet3-t2.json"),
        ({"methods": {"α = 1": {"select": "random"}, "α = -1": {"select": "random"}}}, "each method letters or digits"),
        ({"methods": {"a": {"select": "best"}}}, "select must be one of random, herding, k-center, weighted"),
        ({"methods": {"a": {"select": "weighted"}}}, "alpha must be a finite number of nats, got None"),
        (
            {"methods": {"a": {"select": "weighted", "alpha": math.nan}}},
            "alpha must be a finite number of nats, got na",
        ),
        ({"methods": {"a": {"beta": -1.0}}}, "beta must be"),
        ({"methods": {"a": {"steps": 101}}}, "steps must be between 2 and 100"),
        ({"methods": {"a": {"colour": "blue"}}}, "no setting 'colour'"),
        ({"generation_seeds": (0, -1), "methods": {"a": {}}}, "seed must be between"),
    ],
)
def test_an_impossible_comparison_is_refused_at_the_call_and_leaves_nothing(learnt_bundle, tmp_path, change, said):
    assert said in refusal(replace(SMALL, **change), learnt_bundle, tmp_path / "work")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", [{"rank": 2, "world": 2}, {"rank": -1, "world": 2}, {"rank": 0, "world": 0}])
def test_a_rank_that_cannot_be_is_refused_at_the_call(learnt_bundle, tmp_path, place):
    assert "rank must be between 0" in refusal(SMALL, learnt_bundle, tmp_path / "work", **place)


def wider(images: ImageSet) -> ImageSet:
    return ImageSet(images.images.repeat(1, 3, 1, 1), images.labels, images.classes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda images: replace_classes(images, ("Circel", *CLASSES[1:])), "'Circel': did you mean 'Circle'?"),
        (lambda images: replace_classes(images, ("Circle", "Square/box", "circle")), "no class 'Tri <angle>'"),
        (wider, "the real images are 3×8×8 and those of tiny are 1×8×8"),
    ],
)
@pytest.mark.parametrize("which", ["train", "test"])
def test_real_images_that_are_not_the_bundles_are_refused(learnt_bundle, tmp_path, change, said, which):
    changed = {which: change({"train": TRAIN, "test": TEST}[which])}
    assert said in refusal(SMALL, learnt_bundle, tmp_path / "work", **changed)
    assert list(tmp_path.iterdir()) == []


def replace_classes(images: ImageSet, names: tuple[str, ...]) -> ImageSet:
    return ImageSet(images.images, images.labels, names)


def test_nothing_to_test_on_is_refused(learnt_bundle, tmp_path):
    nothing = ImageSet(TEST.images[:0], TEST.labels[:0], CLASSES)
    assert "no images to test on" in refusal(SMALL, learnt_bundle, tmp_path / "work", test=nothing)


def test_the_order_of_the_real_classes_does_not_matter(learnt_bundle, folder, results):
    names = tuple(name.upper() for name in CLASSES[::-1])
    training_path(folder, SetOf("random", 3, 1), "convnet3", 0).unlink()
    run(COMPARISON, learnt_bundle, folder, permuted(TRAIN), permuted(TEST, names))
    assert without_seconds(summarise(COMPARISON, learnt_bundle, folder)) == without_seconds(results)


def test_some_methods_alone_give_the_records_that_all_give(learnt_bundle, folder, results, tmp_path):
    few = only(COMPARISON, ["random", "IGDS"])
    assert list(few.methods) == [name for name in COMPARISON.methods if name in ("random", "IGDS")]
    before = contents(folder)
    run(few, learnt_bundle, folder)
    assert contents(folder) == before, "the others are kept, and nothing is made again"
    records = without_seconds(summarise(few, learnt_bundle, folder))["records"]
    assert records == [r for r in without_seconds(results)["records"] if r["method"] in few.methods]
    run(only(COMPARISON, ["random"]), learnt_bundle, tmp_path / "one")
    run(few, learnt_bundle, tmp_path / "one")
    assert claimed(tmp_path / "one") == few.methods
    assert without_seconds(summarise(few, learnt_bundle, tmp_path / "one"))["records"] == records


def test_a_method_whose_files_are_another_ones_is_refused(learnt_bundle, folder):
    twin = replace(COMPARISON, methods={"igds!": {"beta": "auto", "steps": 2}})
    assert "by its methods" in refusal(twin, learnt_bundle, folder)


def claimed(folder) -> dict:
    return json.loads((folder / "comparison.json").read_text())["methods"]


def test_a_method_that_the_comparison_lacks_is_named():
    with pytest.raises(ValueError, match="there is no method 'IGSD': choose from 'random'"):
        only(COMPARISON, ["random", "IGSD"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "other"}, "by its name"),
        ({"methods": {**METHODS, "IGDS": {"beta": 1.0, "steps": 2}}}, "by its methods"),
        ({"protocol": "igd"}, "by its protocol"),
    ],
)
def test_the_folder_of_another_comparison_is_left_alone(learnt_bundle, folder, change, said):
    before = contents(folder)
    message = refusal(replace(COMPARISON, **change), learnt_bundle, folder)
    assert "holds another comparison" in message and said in message and "choose another --work" in message
    assert contents(folder) == before


def test_other_real_images_are_another_comparison(learnt_bundle, folder):
    before, other = contents(folder), real_images(12, seed=3)
    assert "by its data" in refusal(COMPARISON, learnt_bundle, folder, train=other)
    assert "by its data" in refusal(COMPARISON, learnt_bundle, folder, test=other)
    assert contents(folder) == before


def test_another_bundle_is_another_comparison(learnt_bundle, learnt_bundle_path, folder, tmp_path):
    before = contents(folder)
    shutil.copytree(learnt_bundle_path, tmp_path / "other")
    card = json.loads((tmp_path / "other/card.json").read_text())
    card["estimator"]["tau"] = 0.5
    (tmp_path / "other/card.json").write_text(json.dumps(card))
    halved = replace(learnt_bundle, prior=copy.deepcopy(learnt_bundle.prior))
    halved.prior.bfloat16 = True
    table = {"table": [[1, 0.0]], "how": "by hand"}
    others = {
        "bundle": load_bundle(tmp_path / "other"),
        "bfloat16": halved,
        "defaults": replace(learnt_bundle, card={**learnt_bundle.card, "defaults": {"ipc": 1}}),
    }
    only_real = replace(COMPARISON, methods={"random": METHODS["random"]})
    run(only_real, learnt_bundle, tmp_path / "real")
    for part, bundle in others.items():
        assert f"by its {part}" in refusal(only_real, bundle, tmp_path / "real")
    retuned = replace(learnt_bundle, card={**learnt_bundle.card, "auto_beta": table})
    run(only_real, retuned, tmp_path / "real")
    by_table = replace(COMPARISON, methods={"IGDS": {"beta": "auto", "steps": 2}})
    run(by_table, learnt_bundle, tmp_path / "auto")
    assert "by its auto_beta" in refusal(by_table, retuned, tmp_path / "auto")
    assert contents(folder) == before


def test_a_foreign_folder_is_left_alone(learnt_bundle, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    assert "is not a comparison" in refusal(SMALL, learnt_bundle, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"3", b"null"])
def test_a_damaged_claim_is_named_and_left_alone(learnt_bundle, folder, content):
    (folder / "comparison.json").write_bytes(content)
    before = contents(folder)
    message = refusal(COMPARISON, learnt_bundle, folder)
    assert str(folder / "comparison.json") in message and "is damaged" in message
    assert contents(folder) == before


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b"null", b'{"accuracy": 0.5', b"\xff", "an other", "no number"])
def test_a_damaged_network_is_named_before_anything_is_made_and_made_again_without_it(
    learnt_bundle, folder, results, damage
):
    path = training_path(folder, SetOf("herding", 1, 0), "convnet3", 1)
    record = json.loads(path.read_text())
    if damage == "an other":
        damage = json.dumps({**record, "method": "random"}).encode()
    if damage == "no number":
        damage = json.dumps({**record, "accuracy": None}).encode()
    path.write_bytes(damage)
    assert f"{path} is damaged" in refusal(COMPARISON, learnt_bundle, folder)
    with pytest.raises(ValueError, match="is damaged"):
        summarise(COMPARISON, learnt_bundle, folder)
    path.unlink()
    run(COMPARISON, learnt_bundle, folder)
    assert without_seconds(summarise(COMPARISON, learnt_bundle, folder)) == without_seconds(results)


def test_other_epochs_are_refused_before_anything_is_made(learnt_bundle, folder):
    before = contents(folder)
    message = refusal(replace(COMPARISON, epochs={1: 1, 3: 5}), learnt_bundle, folder)
    assert "has 2 epochs and 5 are asked for" in message and "ipc0003" in message
    assert contents(folder) == before


def test_a_full_disk_leaves_whole_files_and_the_comparison_goes_on(learnt_bundle, tmp_path, monkeypatch):
    real, work = Path.replace, tmp_path / "work"

    def full_after_two(path, target):
        if len(list(work.glob("*-t*.json"))) == 2:
            raise OSError(28, "No space left on device", str(path))
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full_after_two)
        with pytest.raises(OSError, match="No space left"):
            run(SMALL, learnt_bundle, work)
    assert len(list(work.glob("*-t*.json"))) == 2 and not list(work.glob(".*.partial"))
    run(SMALL, learnt_bundle, work)
    assert summarise(SMALL, learnt_bundle, work) is not None


def test_the_images_held_out_are_as_many_of_each_class_always_the_same_and_no_others():
    data = real_images(30, seed=4)
    shuffled = torch.randperm(90, generator=torch.Generator().manual_seed(1))
    data = ImageSet(data.images[shuffled], data.labels[shuffled], data.classes)
    rest, held = hold_out(data, 7)
    assert torch.bincount(held.labels).tolist() == [7] * 3 and torch.bincount(rest.labels).tolist() == [23] * 3
    pixels = [{image.numpy().tobytes() for image in images.images} for images in (rest, held, data)]
    assert not pixels[0] & pixels[1] and pixels[0] | pixels[1] == pixels[2] and len(pixels[2]) == 90
    labels = {image.numpy().tobytes(): label for image, label in zip(data.images, data.labels.tolist())}
    assert [labels[image.numpy().tobytes()] for image in held.images] == held.labels.tolist()
    again = hold_out(data, 7)
    assert torch.equal(again[0].images, rest.images) and torch.equal(again[1].images, held.images)


def test_a_class_with_too_few_to_hold_out_is_named():
    with pytest.raises(ValueError, match=r"class Circle has 7 images, too few to hold out 7"):
        hold_out(real_images(7), 7)


def test_networks_of_the_validation_split_see_the_test_images_in_no_way(learnt_bundle, tmp_path):
    data = real_images(10, seed=6)
    trial = replace(SMALL, methods={"random": METHODS["random"]}, training_seeds=(0,), split="validation")
    run(trial, learnt_bundle, tmp_path / "work", train=data)
    run(trial, learnt_bundle, tmp_path / "work", train=data, test=real_images(3, seed=8))
    found = summarise(trial, learnt_bundle, tmp_path / "work")
    rest, held = hold_out(data, 2)
    rows = random_subset(rest.labels, 1, seed=0)
    images = ImageSet(rest.images[rows], rest.labels[rows], rest.classes)
    *_, last = train_network("convnet3", images, held, protocol="paper", seed=0, epochs=1)
    assert found["split"] == "validation" and found["records"][0]["accuracy"] == last.accuracy
    larger = replace(trial, ipcs=(9,), epochs=None)
    assert "has 8 images to select from" in refusal(larger, learnt_bundle, tmp_path / "work", data)


def records(values: dict[str, list[list[float]]], **fixed) -> list[dict]:
    """Of each method a list of sets, and of each set the accuracies of its networks."""
    return [
        {"method": method, "ipc": 1, "network": "convnet3", "seed": seed, "training_seed": i, "accuracy": accuracy}
        | {"contextual": 0.5 + seed, "recognised": 0.25 * seed}
        | fixed
        for method, sets in values.items()
        for seed, own in enumerate(sets)
        for i, accuracy in enumerate(own)
    ]


SETS = [[0.50, 0.54], [0.60, 0.58], [0.55, 0.49]]
ONE_SET = [[0.40, 0.44, 0.36]]


def test_the_summary_by_hand():
    row, single = summary_of(records({"many": SETS, "one": ONE_SET}))
    error, single_error = stats.sem([0.52, 0.59, 0.52]), stats.sem(ONE_SET[0])
    assert row["accuracy"] == pytest.approx(
        {"mean": np.mean(SETS), "standard_error": error, "deviation": np.std(SETS, ddof=1)}
    )
    assert row["contextual"] == pytest.approx({"mean": 1.5, "standard_error": stats.sem([0.5, 1.5, 2.5])})
    assert row["recognised"] == pytest.approx({"mean": 0.25, "standard_error": stats.sem([0, 0.25, 0.5])})
    assert (row["sets"], row["trainings"]) == (3, 6) and (single["sets"], single["trainings"]) == (1, 3)
    assert single["accuracy"] == pytest.approx({"mean": 0.4, "standard_error": single_error, "deviation": 0.04})
    assert single["contextual"] == {"mean": 0.5, "standard_error": None}
    p = stats.ttest_ind([0.52, 0.59, 0.52], ONE_SET[0], equal_var=False).pvalue
    gap = {"mean": np.mean(SETS) - 0.4, "standard_error": math.hypot(error, single_error), "p": p}
    assert row["against"] == {"one": pytest.approx(gap)}
    assert single["against"] == {"many": pytest.approx({**gap, "mean": -gap["mean"]})}


def test_networks_and_ipcs_are_summed_up_apart():
    every = [
        record
        for ipc, network, accuracy in [(1, "convnet3", 0.1), (1, "convnet4", 0.2), (10, "convnet3", 0.3)]
        for record in records({"a": [[accuracy]], "b": [[accuracy + 0.1]]}, ipc=ipc, network=network)
    ]
    rows = summary_of(every)
    assert [(row["ipc"], row["network"], row["method"]) for row in rows] == [
        (ipc, network, method)
        for ipc, network in ((1, "convnet3"), (1, "convnet4"), (10, "convnet3"))
        for method in "ab"
    ]
    assert all(set(row["against"]) == {"a", "b"} - {row["method"]} for row in rows)
    assert rows[2]["against"]["b"]["mean"] == pytest.approx(-0.1)


def test_a_single_network_has_no_error_and_its_summary_is_json():
    rows = summary_of(records({"a": [[0.5]], "b": SETS}))
    assert rows[0]["accuracy"] == {"mean": 0.5, "standard_error": None, "deviation": None}
    assert rows[0]["against"]["b"]["standard_error"] is rows[1]["against"]["a"]["standard_error"] is None
    json.dumps(rows, allow_nan=False)


def test_the_results_say_how_they_came_about_and_read_the_same_from_json(learnt_bundle, results):
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    assert (results["comparison"], results["bundle"], results["protocol"]) == ("trial", "tiny", "paper")
    assert (results["labels"], results["split"], results["resolution"]) == ("hard", "test", 8)
    assert results["epochs"] == {"1": 1, "3": 2} and results["auto_beta"] == {"1": 0.5, "3": 0.5}
    assert results["methods"] == METHODS and results["bundle_sha256"] == learnt_bundle.checksum()
    assert {row["method"]: row["sets"] for row in results["summary"]} == {**dict.fromkeys(METHODS, 2), "herding": 1}
    assert all(row["trainings"] == 2 * row["sets"] for row in results["summary"])


def test_the_table_has_a_row_a_method_and_a_column_an_ipc():
    rows = summary_of(records({"many": SETS, "single": [[0.5]]}) + records({"many": [[1]], "single": [[0]]}, ipc=10))
    found = {"ipcs": [1, 10], "networks": ["convnet3"], "methods": {"single": {}, "many": {}}, "summary": rows}
    assert table_markdown({**found, "epochs": {"1": 2000, "10": 30}}).splitlines() == [
        "| method | network | IPC 1 (2000 epochs) | IPC 10 (30 epochs) |",
        "| --- | --- | --- | --- |",
        "| single | convnet3 | 50.0 | 0.0 |",
        "| many | convnet3 | 54.3 ± 2.3 | 100.0 |",
    ]


@pytest.mark.parametrize("name", COMPARISONS)
def test_the_comparisons_there_are_can_be_made_with_an_embedded_bundle(name):
    bundle = load_bundle("fashion-mnist")
    comparison = COMPARISONS[name](bundle)
    assert (comparison.name, comparison.bundle) == (name, bundle.name)
    assert comparison.split == ("test" if name == "baselines" else "validation")
    assert [comparison.epochs_for(ipc) for ipc in comparison.ipcs] == [2000, 2000, 1500]
    assert len({chosen.stem for chosen in comparison.sets()}) == len(comparison.sets())
    for chosen in comparison.sets():
        assert "select" in comparison.methods[chosen.method] or _distillation(chosen, comparison, bundle)


def test_curves_have_the_points_that_are_asked_for(learnt_bundle):
    betas = beta_curve(learnt_bundle, [0.0, 0.25], ipcs=(1,), split="test")
    assert list(betas.methods) == ["random", "unguided", "β = 0", "β = 0.25"]
    assert betas.methods["β = 0.25"] == {"beta": 0.25} and (betas.ipcs, betas.split) == ((1,), "test")
    assert subsets(learnt_bundle, [1.5]).methods == {"α = 1.5": {"select": "weighted", "alpha": 1.5}}


def test_a_folder_in_use_is_refused_and_its_other_processes_are_not(learnt_bundle, tmp_path):
    work = tmp_path / "work"
    first = compare(SMALL, learnt_bundle, work, TRAIN, TEST, rank=0, world=2)
    beside = compare(SMALL, learnt_bundle, work, TRAIN, TEST, rank=1, world=2)
    for place in ({}, {"rank": 0, "world": 2}, {"rank": 2, "world": 3}):
        assert f"{work} is in use by another run" in refusal(SMALL, learnt_bundle, work, **place)
    first.close(), beside.close()
    run(SMALL, learnt_bundle, work)


def test_too_few_recognised_images_for_a_weighted_set_are_told_before_any_network_learns(learnt_bundle, tmp_path):
    wrong = ImageSet(TRAIN.images, (TRAIN.labels + 1) % 3, CLASSES)
    methods = {"random": METHODS["random"], "α = 1": {"select": "weighted", "alpha": 1.0}}
    events = compare(replace(SMALL, methods=methods), learnt_bundle, tmp_path / "work", wrong, TEST)
    with pytest.raises(ValueError, match="images that the estimator recognises, an IPC of 1 needs more"):
        next(events)
    assert not list((tmp_path / "work").glob("*-t*.json"))


def sweep(values: dict[str, list[float]], *, methods=(), ipcs=(1,)) -> dict:
    """What `summarise` gives of a sweep: of each method the accuracies of its sets."""
    every = [
        one for ipc in ipcs for one in records({name: [[v] for v in own] for name, own in values.items()}, ipc=ipc)
    ]
    names = dict.fromkeys([*methods, *values], {})
    return {
        **{"bundle": "tiny", "protocol": "paper", "split": "test", "generation_seeds": [0], "training_seeds": [0]},
        **{"ipcs": list(ipcs), "networks": ["convnet3"], "methods": names, "summary": summary_of(every)},
        "epochs": {str(ipc): 30 for ipc in ipcs},
    }


def test_the_best_of_a_sweep_is_a_peak_only_where_it_beats_both_ends_clearly():
    peak = {"random": [0.95, 0.97], "α = -4": [0.50, 0.52], "α = 0": [0.60, 0.62], "α = 6": [0.40, 0.42]}
    (found,) = best_of_sweep(sweep(peak))
    assert found["best"] == "α = 0" and found["is_peak"] and set(found["above"]) == {"α = -4", "α = 6"}
    assert found["above"]["α = 6"]["mean"] == pytest.approx(0.2)
    assert found["above"]["α = 6"]["standard_error"] == pytest.approx(math.sqrt(2) * 0.01)
    noisy = {**peak, "α = -4": [0.40, 0.72]}
    end = {**peak, "α = -4": [0.70, 0.72]}
    single = {name: own[:1] for name, own in peak.items()}
    assert [best_of_sweep(sweep(other))[0]["is_peak"] for other in (noisy, end, single)] == [False] * 3
    assert set(best_of_sweep(sweep(end))[0]["above"]) == {"α = 6"}


def test_what_a_sweep_found_is_a_sentence_an_ipc():
    values = {"β = 0": [0.50, 0.52], "β = 0.5": [0.60, 0.62], "β = 1": [0.40, 0.42]}
    first, second = sweep_sentences(sweep(values, ipcs=(1, 10)))
    assert first == (
        "IPC 1, convnet3: best at β = 0.5, where H(X|Y) is 1.00 nats; 10.0 ± 1.4 points above β = 0; "
        "20.0 ± 1.4 points above β = 1: a peak beyond two standard errors"
    )
    assert second.startswith("IPC 10, convnet3: best at β = 0.5")
    assert sweep_sentences(sweep({"random": [0.5], "IGDS": [0.6]})) == []


def test_results_are_read_back_and_what_are_none_is_a_sentence(results, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(results))
    assert read_results(path) == results
    halves = [{**results, "summary": results["summary"][:1]}, {k: v for k, v in results.items() if k != "protocol"}]
    for content in (b"", b"{}", b"[1]", b"null", b"\xff", *(json.dumps(half).encode() for half in halves)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="a.json is not the result of a comparison"):
            read_results(path)
    for missing in (tmp_path / "b.json", tmp_path):
        with pytest.raises(FileNotFoundError, match="there is no file"):
            read_results(missing)


def test_the_sweeps_of_the_embedded_bundle_reach_from_prototypes_to_the_rarest_images():
    """α below and above every image's KL, or the inverted U of figure 2 could not be seen."""
    alphas = [how["alpha"] for how in subsets(load_bundle("fashion-mnist")).methods.values()]
    assert min(alphas) < 0 and max(alphas) > 4


def test_a_finished_comparison_is_drawn_again_by_a_command(results, tmp_path, capsys):
    path = tmp_path / "again.json"
    path.write_text(json.dumps(results))
    assert main(["compare", "--draw", str(path)]) == 0
    assert (tmp_path / "again.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.startswith(table_markdown(results))
    assert main(["compare", "--draw", str(tmp_path / "none.json")]) == 2
    assert (
        capsys.readouterr().err
        == f"igds: there is no file {tmp_path / 'none.json'}: give the JSON that `compare` has written\n"
    )


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_the_committed_results_are_read_and_add_up(path):
    found = read_results(path)
    assert found["summary"] == json.loads(json.dumps(summary_of(found["records"])))
