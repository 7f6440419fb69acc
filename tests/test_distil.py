"""A distillation ends with the same bytes, whoever stops it and however many share it; and never harms a folder."""

import itertools
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from igds.bundle import load_bundle
from igds.cli import main
from igds.data import to_bytes, to_unit
from igds.distil import Distillation, Progress, auto_beta, best_of, distil, tiled
from igds.distilled import read_image_folder
from igds.files import write_json
from igds.rng import image_seeds
from igds.runs import MAX_IPC, Run, figures_of
from igds.sampling import sample
from igds.verdict import judge

SHORT = {"ipc": 2, "steps": 3, "eta": 0.2, "beta": 1.0, "seed": 7}
FOLDERS = ("0000_circle", "0001_square-box", "0002_tri-angle")
PROCESSES = multiprocessing.get_context("forkserver")  # a fresh process within milliseconds, without pytest's state
PROCESSES.set_forkserver_preload([__name__])


def contents(folder) -> dict:
    """The bytes of every file that is part of the result; of the card all but its times."""
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".distil" not in path.parts
    }
    if "card.json" in files:
        files["card.json"] = {key: value for key, value in json.loads(files["card.json"]).items() if key != "times"}
    return files


def finish(bundle, folder, *, settings=None, **place) -> list[Progress]:
    return list(distil(bundle, folder, settings or Distillation.of(bundle, **SHORT), **place))


@pytest.fixture(scope="module")
def whole(tiny_bundle, tmp_path_factory):
    """What an uninterrupted process makes."""
    folder = tmp_path_factory.mktemp("distil") / "whole"
    finish(tiny_bundle, folder)
    return folder


def work(bundle_path, folder, rank: int = 0, world: int = 1, dies_at: int | None = None) -> None:
    """A process that distils, and kills itself right before the file operation number `dies_at`."""
    torch.set_num_threads(1)
    bundle = load_bundle(bundle_path)
    count = itertools.count()

    def hook(event: str, arguments: tuple) -> None:
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "fcntl.flock"):
            if (event == "fcntl.flock" or str(folder) in str(arguments[0])) and next(count) == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)

    if dies_at is not None:
        sys.addaudithook(hook)
    finish(bundle, folder, rank=rank, world=world)


def test_every_class_has_the_images_of_its_run(tiny_bundle, whole):
    data = read_image_folder(whole)
    assert data.classes == tiny_bundle.classes and data.labels.tolist() == [0, 0, 1, 1, 2, 2]
    for label, name in enumerate(tiny_bundle.classes):
        run = Run.of(tiny_bundle, **SHORT, label=name, columns=["contextual"])
        *_, last = run.start(tiny_bundle)
        assert torch.equal(data.of_class(label), to_bytes(last.batches[0].x))


def test_the_folder_holds_what_it_should_and_no_more(whole):
    pictures = [f"{folder}/000{i}.png" for folder in FOLDERS for i in range(2)]
    assert sorted(contents(whole)) == [*pictures, "card.json", "classes.json", "distil.json"]


def test_the_card_tells_settings_seeds_bundle_times_and_verdicts(tiny_bundle, whole):
    card = json.loads((whole / "card.json").read_text())
    assert Distillation.of(tiny_bundle, **{k: v for k, v in card["settings"].items() if k in SHORT}).ipc == 2
    assert {name: card["settings"][name] for name in SHORT} == SHORT
    assert card["bundle_sha256"] == tiny_bundle.checksum() and card["threads"] == 1
    assert len(card["times"]["seconds_by_class"]) == 3 and card["times"]["seconds"] > 0
    data = read_image_folder(whole)
    for label, entry in enumerate(card["classes"]):
        assert (entry["folder"], entry["name"]) == (FOLDERS[label], tiny_bundle.classes[label])
        assert entry["image_seeds"] == list(image_seeds(7, label, 2))
        verdict = figures_of(judge(tiny_bundle, data.of_class(label), label))
        assert {name: entry[name] for name in verdict} == verdict


def test_progress_counts_classes_and_steps(tiny_bundle, tmp_path):
    events = finish(tiny_bundle, tmp_path)
    assert [(e.classes_done, e.step) for e in events] == [(0, 1), (0, 2), (1, 3), (1, 1), (1, 2), (2, 3)] + [
        (2, 1),
        (2, 2),
        (3, 3),
    ]
    assert {(e.classes, e.steps) for e in events} == {(3, 3)}
    assert [e.label for e in events[::3]] == list(tiny_bundle.classes)
    again = finish(tiny_bundle, tmp_path)
    assert again == [e for e in events if e.step == e.steps]


def test_a_class_is_there_at_its_last_step_and_not_before(tiny_bundle, tmp_path):
    for event in distil(tiny_bundle, tmp_path, Distillation.of(tiny_bundle, **SHORT)):
        assert len(list(tmp_path.glob("0*"))) == event.classes_done
    assert (tmp_path / "card.json").exists()


@pytest.mark.parametrize("events", range(1, 9))
def test_stopped_after_any_event_it_goes_on_to_the_same_bytes(tiny_bundle, whole, tmp_path, events):
    run = distil(tiny_bundle, tmp_path, Distillation.of(tiny_bundle, **SHORT))
    for _ in range(events):
        next(run)
    run.close()
    finish(tiny_bundle, tmp_path)
    assert contents(tmp_path) == contents(whole)


def test_killed_at_random_moments_it_ends_with_the_same_bytes(tiny_bundle_path, whole, tmp_path):
    moments = random.Random(0)
    for _ in range(6):
        process = PROCESSES.Process(target=work, args=(tiny_bundle_path, tmp_path))
        process.start()
        process.join(timeout=moments.uniform(0, 0.4))
        process.kill()
        process.join()
    work(tiny_bundle_path, tmp_path)
    assert contents(tmp_path) == contents(whole)


def test_killed_before_later_and_later_file_operations_it_ends_with_the_same_bytes(tiny_bundle_path, whole, tmp_path):
    exits = []
    for dies_at in range(100):
        process = PROCESSES.Process(target=work, args=(tiny_bundle_path, tmp_path, 0, 1, dies_at))
        process.start()
        process.join()
        exits.append(process.exitcode)
        if exits[-1] == 0:
            break
    assert exits.count(-signal.SIGKILL) == len(exits) - 1 > 10
    assert contents(tmp_path) == contents(whole)


def test_two_processes_make_what_one_does(tiny_bundle_path, whole, tmp_path):
    folder = tmp_path / "set"
    processes = [PROCESSES.Process(target=work, args=(tiny_bundle_path, folder, rank, 2)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert contents(folder) == contents(whole)


def test_two_processes_of_accelerate_make_what_one_does(tiny_bundle_path, whole, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\nfrom tests.test_distil import work\n"
        "work(sys.argv[1], sys.argv[2], int(os.environ['RANK']), int(os.environ['WORLD_SIZE']))\n"
    )
    # With --cpu accelerate asks for MPI to have more than one process; with --multi_gpu torch starts them, GPU or none.
    way = "--multi_gpu --num_processes 2 --num_machines 1 --main_process_port 0"
    subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *way.split(), script, tiny_bundle_path, tmp_path / "set"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "set" / ".distil" / "rank-1-of-2").exists()
    assert contents(tmp_path / "set") == contents(whole)


def test_who_finishes_last_writes_the_card(tiny_bundle, whole, tmp_path):
    assert [e.label for e in finish(tiny_bundle, tmp_path, rank=1, world=2)][-1] == "Square/box"
    assert not (tmp_path / "card.json").exists()
    assert [e.classes for e in finish(tiny_bundle, tmp_path, rank=0, world=2)] == [2] * 6
    assert contents(tmp_path) == contents(whole)


def test_more_processes_than_classes_have_nothing_to_do(tiny_bundle, tmp_path):
    assert finish(tiny_bundle, tmp_path, rank=3, world=4) == []


def test_another_number_of_processes_may_go_on(tiny_bundle, whole, tmp_path):
    finish(tiny_bundle, tmp_path, rank=1, world=2)
    finish(tiny_bundle, tmp_path)
    assert contents(tmp_path) == contents(whole)


@pytest.mark.parametrize("rank, world", [(0, 2), (0, 1), (2, 3)])
def test_a_folder_in_use_is_refused(tiny_bundle, tmp_path, rank, world):
    settings = Distillation.of(tiny_bundle, **SHORT)
    first = distil(tiny_bundle, tmp_path, settings, rank=0, world=2)
    next(first)
    with pytest.raises(ValueError, match="in use by another run"):
        distil(tiny_bundle, tmp_path, settings, rank=rank, world=world)
    first.close()
    distil(tiny_bundle, tmp_path, settings, rank=rank, world=world).close()


def test_the_other_processes_of_a_run_may_work_beside_it(tiny_bundle, whole, tmp_path):
    settings = Distillation.of(tiny_bundle, **SHORT)
    both = [distil(tiny_bundle, tmp_path, settings, rank=rank, world=2) for rank in range(2)]
    for _ in itertools.zip_longest(*both):
        pass
    assert contents(tmp_path) == contents(whole)


def snapshot(folder) -> dict:
    return {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"ipc": 3}, "begun with ipc 2, not 3"),
        ({"beta": 0.5}, "begun with beta 1.0, not 0.5"),
        ({"seed": 8}, "begun with seed 7, not 8"),
        ({"interval": (0.1, 1)}, "begun with interval"),
    ],
)
def test_other_settings_are_refused_and_nothing_is_touched(tiny_bundle, whole, change, words):
    before = snapshot(whole)
    with pytest.raises(ValueError, match=words) as raised:
        finish(tiny_bundle, whole, settings=Distillation.of(tiny_bundle, **{**SHORT, **change}))
    assert "\n" not in str(raised.value) and snapshot(whole) == before


def test_a_composite_is_another_setting(tiny_bundle, whole):
    with pytest.raises(ValueError, match="begun with composite False, not True"):
        finish(tiny_bundle, whole, composite=True)


def test_a_bundle_changed_between_stop_and_resume_is_refused(tiny_bundle, bare_bundle, tmp_path):
    next(distil(tiny_bundle, tmp_path, Distillation.of(tiny_bundle, **SHORT)))
    other = replace(tiny_bundle, card={**tiny_bundle.card, "files": {"prior.safetensors": "another"}})
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match="begun with another bundle than tiny"):
        finish(other, tmp_path)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("part, value", [("software", {"torch": "1.0"}), ("bfloat16", True)])
def test_what_would_round_otherwise_is_refused(tiny_bundle, whole, tmp_path, part, value):
    claim = json.loads((whole / "distil.json").read_text())
    write_json(tmp_path / "distil.json", {**claim, part: {**claim[part], **value} if part == "software" else value})
    with pytest.raises(ValueError, match="begun with (torch 1.0|bfloat16)"):
        finish(tiny_bundle, tmp_path)


def test_a_folder_that_holds_something_else_is_refused_and_not_touched(tiny_bundle, tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"precious")
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match="holds holiday.jpg, and no distillation"):
        finish(tiny_bundle, tmp_path)
    assert snapshot(tmp_path) == before
    with pytest.raises(ValueError, match="is a file"):
        finish(tiny_bundle, tmp_path / "holiday.jpg")


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"settings": 3}', "half a "])
def test_a_damaged_claim_is_refused(tiny_bundle, tmp_path, content):
    (tmp_path / "distil.json").write_text(content)
    with pytest.raises(ValueError, match="distil.json is damaged"):
        finish(tiny_bundle, tmp_path)


def test_a_class_folder_that_was_not_made_here_is_refused(tiny_bundle, tmp_path):
    finish(tiny_bundle, tmp_path, rank=1, world=2)
    (tmp_path / FOLDERS[0]).mkdir()
    with pytest.raises(ValueError, match=f"{FOLDERS[0]} was not finished here"):
        finish(tiny_bundle, tmp_path)


@pytest.mark.parametrize("place", [{"rank": 2, "world": 2}, {"rank": -1, "world": 2}, {"rank": 0, "world": 0}])
def test_a_rank_that_cannot_be_is_refused_at_the_call(tiny_bundle, tmp_path, place):
    with pytest.raises(ValueError, match="rank must be between 0"):
        distil(tiny_bundle, tmp_path / "set", Distillation.of(tiny_bundle, **SHORT), **place)
    assert not (tmp_path / "set").exists()


def test_settings_of_another_bundle_are_refused_at_the_call(tiny_bundle, tmp_path):
    with pytest.raises(ValueError, match="settings are for other"):
        distil(tiny_bundle, tmp_path, replace(Distillation.of(tiny_bundle, **SHORT), bundle="other"))


def test_the_claimed_number_of_threads_computes_and_the_callers_is_put_back(tiny_bundle, tmp_path):
    settings = Distillation.of(tiny_bundle, **SHORT)
    torch.set_num_threads(2)
    try:
        next(distil(tiny_bundle, tmp_path, settings))
    finally:
        torch.set_num_threads(1)
    seen = []
    hook = torch.nn.modules.module.register_module_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    try:
        for event in distil(tiny_bundle, tmp_path, settings):
            assert torch.get_num_threads() == 1
            if event.classes_done:
                break
    finally:
        hook.remove()
    assert set(seen) == {2}
    assert json.loads((tmp_path / "distil.json").read_text())["threads"] == 2


@pytest.mark.parametrize("writes", range(12))
def test_a_full_disk_leaves_whole_classes_and_the_same_command_goes_on(
    tiny_bundle, whole, tmp_path, monkeypatch, writes
):
    count = itertools.count()

    def full(_):
        if next(count) >= writes:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="is on a full disk: free some space"):
        patch.setattr(os, "fsync", full)
        finish(tiny_bundle, tmp_path)
    assert all(len(list(folder.glob("*.png"))) == 2 for folder in tmp_path.glob("0*"))
    assert not list(tmp_path.rglob("*.partial"))
    finish(tiny_bundle, tmp_path)
    assert contents(tmp_path) == contents(whole)


def test_one_image_a_class_is_held_against_the_class(tiny_bundle):
    single = Distillation.of(tiny_bundle, **{**SHORT, "ipc": 1})
    assert single.run(tiny_bundle, 0).reference == "class"
    assert single.run(tiny_bundle, 0, composite=True).reference == "batch"
    assert replace(single, beta=0.0).run(tiny_bundle, 0).reference == "batch"
    assert replace(single, ipc=2).run(tiny_bundle, 0).reference == "batch"


def test_absent_settings_are_the_cards_and_beta_says_where_it_comes_from(tiny_bundle):
    settings = Distillation.of(tiny_bundle, seed=None)
    assert settings == Distillation("tiny", ipc=4, beta=0.5, eta=0.1, steps=10)
    assert settings.beta_from == "the default of the bundle's card"
    assert Distillation.of(tiny_bundle, beta=0).beta_from == "given"
    with pytest.raises(ValueError, match="beta must be a number, got 'most'"):
        Distillation.of(tiny_bundle, beta="most")


def with_table(bundle, entry):
    return replace(bundle, card={**bundle.card, "auto_beta": entry})


@pytest.mark.parametrize("ipc, beta", [(1, 0.0), (10, 2.0), (100, 1.0), (1000, 1.0), (31.6227766, 1.5), (2, 0.60206)])
def test_auto_beta_is_linear_in_the_logarithm_of_ipc_and_held_at_the_ends(tiny_bundle, ipc, beta):
    bundle = with_table(tiny_bundle, {"table": [[1, 0.0], [10, 2.0], [100, 1.0]], "how": "best of five seeds"})
    found, sentence = auto_beta(bundle, ipc)
    assert found == pytest.approx(beta, abs=1e-5)
    assert "10: 2" in sentence and sentence.endswith("best of five seeds")


def test_auto_beta_without_a_table_is_the_cards_default(tiny_bundle):
    beta, sentence = auto_beta(tiny_bundle, 10)
    assert beta == 0.5 and "no table" in sentence
    settings = Distillation.of(tiny_bundle, beta="auto")
    assert (settings.beta, settings.beta_from) == (beta, sentence)


@pytest.mark.parametrize(
    "entry",
    [
        {},
        3,
        {"table": [], "how": ""},
        {"table": [[1]], "how": ""},
        {"table": [[10, 1], [1, 2]], "how": ""},
        {"table": [[0, 1]], "how": ""},
        {"table": [[1, -1]], "how": ""},
        {"table": [[1, "many"]], "how": ""},
    ],
)
def test_a_table_that_is_none_is_refused(tiny_bundle, entry):
    with pytest.raises(ValueError, match="no proper table of β"):
        auto_beta(with_table(tiny_bundle, entry), 10)


def test_the_card_explains_an_automatic_beta(tiny_bundle, tmp_path):
    bundle = with_table(tiny_bundle, {"table": [[2, 0.7]], "how": "by trial"})
    settings = Distillation.of(bundle, **{**SHORT, "beta": "auto"})
    finish(bundle, tmp_path, settings=settings)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["settings"]["beta"] == 0.7 and card["beta_from"].endswith("by trial")
    finish(bundle, tmp_path, settings=replace(settings, beta_from="given"))


def test_tiles_are_halved_by_their_means_and_stand_row_by_row():
    images = torch.arange(8, dtype=torch.uint8)[:, None, None, None].expand(8, 1, 4, 4) * 10
    first, second = tiled(images)[:, 0]
    expected = torch.tensor([[0, 10], [20, 30]]).repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(first.long(), expected) and torch.equal(second.long(), expected + 40)
    assert tiled(torch.tensor([[0, 4], [8, 100]], dtype=torch.uint8).expand(4, 3, 2, 2)).unique().tolist() == [28]


def test_a_composite_is_one_batch_of_four_times_as_many(tiny_bundle, tmp_path):
    finish(tiny_bundle, tmp_path, composite=True)
    run = Run.of(tiny_bundle, **{**SHORT, "ipc": 8}, label="Square/box", columns=["contextual"])
    (x,) = sample(tiny_bundle.prior, tiny_bundle.estimator, run.batches(tiny_bundle), steps=3)
    assert torch.equal(read_image_folder(tmp_path).of_class(1), tiled(to_bytes(x)))
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["settings"]["composite"] is True and card["settings"]["ipc"] == 2
    assert card["classes"][1]["image_seeds"] == list(image_seeds(7, 1, 8))
    verdict = asdict(judge(tiny_bundle, to_bytes(x), 1))
    assert {name: card["classes"][1][name] for name in verdict} == verdict


def test_a_composite_of_too_many_is_refused(tiny_bundle, tmp_path):
    settings = Distillation.of(tiny_bundle, **{**SHORT, "ipc": MAX_IPC // 4 + 1})
    with pytest.raises(ValueError, match="1004 images of a class would be made together, 1000 can be"):
        distil(tiny_bundle, tmp_path, settings, composite=True)


def test_of_several_candidates_those_are_kept_whose_mean_stands_nearest_to_that_of_all(tiny_bundle, tmp_path):
    finish(tiny_bundle, tmp_path, candidates=3)
    data, card = read_image_folder(tmp_path), json.loads((tmp_path / "card.json").read_text())
    for label, name in enumerate(tiny_bundle.classes):
        run = Run.of(tiny_bundle, **{**SHORT, "ipc": 6}, label=name, columns=["contextual"])
        *_, last = run.start(tiny_bundle)
        every = to_bytes(last.batches[0].x)
        features = tiny_bundle.estimator.encoder(to_unit(every))
        first = int((features - features.mean(0)).norm(dim=1).argmin())
        kept = best_of(tiny_bundle, every, 2)
        assert first in kept and len(kept) == 2
        assert torch.equal(data.of_class(label), every[kept])
        seeds = image_seeds(SHORT["seed"], label, 6)
        assert card["classes"][label]["image_seeds"] == [seeds[row] for row in kept]
        expected = figures_of(judge(tiny_bundle, every[kept], label))
        assert {name: card["classes"][label][name] for name in expected} == expected


@pytest.mark.parametrize("candidates, said", [(0, "candidates must be at least 1, got 0"), (501, "1002 images of a")])
def test_no_candidates_or_too_many_are_refused(tiny_bundle, tmp_path, candidates, said):
    with pytest.raises(ValueError, match=said):
        distil(tiny_bundle, tmp_path / "out", Distillation.of(tiny_bundle, **SHORT), candidates=candidates)
    assert not (tmp_path / "out").exists()


def test_a_bundle_without_a_second_judge_has_null_in_its_card(bare_bundle, tmp_path):
    finish(bare_bundle, tmp_path)
    entries = json.loads((tmp_path / "card.json").read_text())["classes"]
    assert all(entry["held_out_prototype"] is None for entry in entries)


def test_the_command_takes_every_setting_of_the_guidance(tiny_bundle_path, tmp_path):
    settings = "--steps 3 --eta 0.5 --solver ddim --reference class --at x0 --scaling deviation --interval 0.1 0.9"
    command = ["distil", "--bundle", str(tiny_bundle_path), "--ipc", "1", "--out", str(tmp_path / "out")]
    assert main([*command, *settings.split()]) == 0
    made = json.loads((tmp_path / "out/card.json").read_text())["settings"]
    wanted = ("class", "x0", "deviation", [0.1, 0.9], 3, 0.5, "ddim")
    names = ("reference", "at", "scaling", "interval", "steps", "eta", "solver")
    assert tuple(made[name] for name in names) == wanted
