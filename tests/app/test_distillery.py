"""Sets are made in the background, found again by their settings, and never lost; networks learn from them."""

import io
import json
import math
import os
import threading
import zipfile
from dataclasses import replace

import pytest
import torch

from app import lessons
from app.distillery import Distillery, key_of, wanted
from app.learning import explanation, learning
from app.lessons import Lesson, epochs_for, real_folder
from app.session import LONGEST_LINE, Studio, Turns
from app.workshop import FULL
from igds.distil import distil
from igds.distilled import read_image_folder

FOLDERS = ("0000_circle", "0001_square-box", "0002_tri-angle")


@pytest.fixture
def distillery(tiny_bundle, tmp_path):
    made = Distillery(Studio(tiny_bundle), tmp_path / "distilled")
    yield made
    made.workshop.close()


def settings(bundle, **changes):
    return wanted(bundle, **({"ipc": 2, "beta": 0.5, "seed": 1} | changes))


def finished(distillery, **changes):
    making = distillery.start(settings(distillery.studio.bundle, **changes))
    distillery.workshop.wait()
    assert making.state == "finished", making.said
    return making


def images_of(making):
    return read_image_folder(making.folder).images


def stop_after(making, events: int):
    """Stop it from within, after so many changes; the way to a known moment without waiting for one."""
    inner, count = making.change, iter(range(10**6))

    def change(*arguments):
        inner(*arguments)
        if next(count) == events:
            making.stopping.set()

    making.change = change


def test_a_set_is_what_the_command_makes(distillery, tiny_bundle, tmp_path):
    making = finished(distillery)
    for _ in distil(tiny_bundle, tmp_path / "other", settings(tiny_bundle)):
        pass
    assert torch.equal(images_of(making), read_image_folder(tmp_path / "other").images)


def test_the_payload_has_every_class_and_json_takes_it(distillery, tiny_bundle):
    payload = finished(distillery).since(0)
    json.dumps(payload)
    assert payload["about"]["classes"] == list(tiny_bundle.classes)
    assert [made["label"] for made in payload["made"]] == [0, 1, 2] and payload["work"] is None
    assert all(len(made["taken_for"]) == 2 for made in payload["made"])


def test_the_class_at_work_shows_its_images(distillery):
    making = distillery.start(settings(distillery.studio.bundle))
    seen = []
    inner = making.change
    making.change = lambda *note: (inner(*note), seen.append(making.since(1)))
    distillery.workshop.wait()
    work = [payload["work"] for payload in seen if payload["work"]]
    assert {(w["label"], w["step"]) for w in work} <= {(y, step) for y in range(3) for step in range(1, 10)}
    assert work and all(w["sheet"].startswith("data:image/png") for w in work)


@pytest.mark.parametrize("ipc", [1, 3])
def test_the_terms_of_the_images_average_to_the_figures_of_their_class(distillery, ipc):
    for _, made in finished(distillery, ipc=ipc).made.values():
        assert sum(made["prototype"]) / ipc == pytest.approx(made["figures"]["prototype"], abs=2e-4)
        assert sum(made["contextual"]) / ipc == pytest.approx(made["figures"]["contextual"], abs=2e-4)
        assert made["taken_for"].count(made["label"]) / ipc == pytest.approx(made["figures"]["accuracy"], abs=1e-3)


@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("ipc", [1, 3])
def test_the_figures_of_a_class_are_those_of_the_card(distillery, ipc, beta):
    making = finished(distillery, ipc=ipc, beta=beta)
    card = json.loads((making.folder / "card.json").read_text())
    for label, (_, made) in making.made.items():
        assert made["figures"] == pytest.approx(
            {name: card["classes"][label][name] for name in made["figures"]}, abs=1e-4
        )


def test_one_image_a_class_has_no_bound_of_its_contextual_information(distillery):
    assert finished(distillery, ipc=1).since(0)["about"]["bounds"] == {"prototype": math.log(3), "contextual": None}


def test_only_what_is_new_is_sent(distillery):
    making = finished(distillery)
    versions = [version for version, _ in making.made.values()]
    assert [made["label"] for made in making.since(versions[0])["made"]] == [1, 2]
    assert making.since(making.version)["made"] == [] and "about" not in making.since(making.version)


def test_the_same_settings_find_the_same_set(distillery, tiny_bundle):
    making = finished(distillery)
    assert distillery.start(settings(tiny_bundle)) is making and making.is_finished
    keys = {key_of(settings(tiny_bundle, **change), tiny_bundle) for change in ({}, {"seed": 2}, {"ipc": 3})}
    assert len(keys) == 3 and making.key in keys
    assert key_of(settings(tiny_bundle, beta="auto"), tiny_bundle) == making.key, "β is what counts, not its origin"


def test_another_server_finds_it_again(distillery, tiny_bundle):
    making = finished(distillery)
    again = Distillery(Studio(tiny_bundle), distillery.folder).find(making.key)
    assert again.is_finished and again.since(0)["made"] == making.since(0)["made"]
    assert again.zip_of()[0] == making.zip_of()[0] == "igds-tiny-ipc2-seed1.zip"


BEYOND = [{"candidates": 3}, {"composite": True}, {"composite": True, "candidates": 2}]


@pytest.mark.parametrize("beyond", BEYOND)
def test_chosen_and_composite_sets_are_what_the_command_makes_and_are_found_again(
    distillery, tiny_bundle, tmp_path, beyond
):
    wish = settings(tiny_bundle)
    making = distillery.start(wish, **beyond)
    distillery.workshop.wait()
    assert making.is_finished and distillery.start(wish, **beyond) is making
    for _ in distil(tiny_bundle, tmp_path / "other", wish, **beyond):
        pass
    assert torch.equal(images_of(making), read_image_folder(tmp_path / "other").images)
    again = Distillery(Studio(tiny_bundle), distillery.folder).find(making.key)
    assert again.is_finished and again.since(0)["about"] == making.since(0)["about"]
    assert (again.composite, again.candidates) == (making.composite, making.candidates)
    card = json.loads((making.folder / "card.json").read_text())["settings"]
    assert {name: card[name] for name in beyond} == beyond
    kind = ("-composite" if "composite" in beyond else "") + f"-of{making.candidates}" * ("candidates" in beyond)
    assert again.zip_of()[0] == f"igds-tiny-ipc2{kind}-seed1.zip"


@pytest.mark.parametrize("beyond", BEYOND)
def test_a_chosen_or_composite_set_that_was_stopped_goes_on_on_another_server(
    distillery, tiny_bundle, tmp_path, beyond
):
    whole = Distillery(Studio(tiny_bundle), tmp_path / "whole")
    uncut = whole.start(settings(tiny_bundle), **beyond)
    whole.workshop.wait()
    with distillery.studio.turns:  # nothing is computed meanwhile
        making = distillery.start(settings(tiny_bundle), **beyond)
        stop_after(making, 15)
    distillery.workshop.wait()
    assert not making.is_finished and 0 < len(making.made) < 3
    other = Distillery(Studio(tiny_bundle), distillery.folder)
    again = other.find(making.key)
    assert len(again.made) == len(making.made)
    other.workshop.begin(again)
    other.workshop.wait()
    assert again.is_finished and torch.equal(images_of(again), images_of(uncut))


def test_candidates_and_composites_are_sets_of_their_own_and_plain_sets_keep_their_keys(tiny_bundle):
    wish = settings(tiny_bundle)
    keys = [key_of(wish, tiny_bundle, **beyond) for beyond in ({}, *BEYOND, {"candidates": 2})]
    assert len(set(keys)) == 5
    assert keys[0] == key_of(wish, tiny_bundle, composite=False, candidates=1)


@pytest.mark.parametrize("beyond, shape", [({}, (2, 8)), ({"candidates": 3}, (2, 8)), ({"composite": True}, (2, 8))])
def test_the_class_at_work_shows_as_many_images_as_it_will_have(distillery, tiny_bundle, monkeypatch, beyond, shape):
    shown = []
    monkeypatch.setattr("app.distillery.strip", lambda images: shown.append(tuple(images.shape)) or "")
    distillery.start(settings(tiny_bundle), **beyond)
    distillery.workshop.wait()
    assert set(shown) == {(shape[0], 1, shape[1], shape[1])}


def test_more_images_than_can_be_made_together_are_refused_at_once(distillery, tiny_bundle):
    with pytest.raises(ValueError, match="1200 images of a class would be made together, 1000 can be"):
        distillery.start(settings(tiny_bundle, ipc=6), composite=True, candidates=50)
    assert not distillery.folder.exists()


@pytest.mark.parametrize("events", [4, 15, 24])
def test_stopped_it_keeps_whole_classes_and_goes_on_to_the_same_images(distillery, tiny_bundle, tmp_path, events):
    whole = images_of(finished(Distillery(Studio(tiny_bundle), tmp_path / "whole")))
    with distillery.studio.turns:  # nothing is computed meanwhile
        making = distillery.start(settings(tiny_bundle))
        stop_after(making, events)
    distillery.workshop.wait()
    assert not making.is_finished
    other = Distillery(Studio(tiny_bundle), distillery.folder)
    resumed = other.find(making.key)
    assert resumed.state == "stopped" and resumed.made.keys() == making.made.keys() and len(resumed.made) < 3
    other.workshop.begin(resumed)
    other.workshop.wait()
    assert resumed.is_finished and torch.equal(images_of(resumed), whole)


def test_stop_is_told_at_once_and_resume_takes_the_same_set(distillery, tiny_bundle):
    with distillery.studio.turns:
        making = distillery.start(settings(tiny_bundle))
        distillery.workshop.stop(making)
        assert making.state == "stopped" and making.since(0)["work"] is None
        distillery.workshop.begin(making)
    distillery.workshop.wait()
    assert making.is_finished and len(making.made) == 3


def test_sets_wait_for_each_other_in_line(distillery, tiny_bundle):
    with distillery.studio.turns:
        first, second = (distillery.start(settings(tiny_bundle, seed=seed)) for seed in (1, 2))
        assert [distillery.workshop.ahead(making) for making in (first, second)] == [0, 1]
        for seed in range(3, LONGEST_LINE + 1):
            distillery.workshop.stop(distillery.start(settings(tiny_bundle, seed=seed)))
        waiting = [distillery.start(settings(tiny_bundle, seed=seed)) for seed in range(20, 18 + LONGEST_LINE)]
        with pytest.raises(ValueError, match=FULL):
            distillery.start(settings(tiny_bundle, seed=99))
        for making in waiting:
            distillery.workshop.stop(making)
    distillery.workshop.wait()
    assert first.is_finished and second.is_finished


@pytest.mark.parametrize("key", ["", "../../etc", "0" * 16, "<b>"])
def test_a_key_of_nothing_is_told(distillery, key):
    with pytest.raises(FileNotFoundError, match="no longer on the server"):
        distillery.find(key)


def test_a_set_of_another_bundle_is_told(distillery, tiny_bundle):
    making = finished(distillery)
    changed = replace(tiny_bundle, card={**tiny_bundle.card, "files": {"prior.safetensors": "another"}})
    with pytest.raises(ValueError, match="made with another bundle"):
        Distillery(Studio(changed), distillery.folder).find(making.key)


def test_a_damaged_picture_is_named(distillery, tiny_bundle):
    making = finished(distillery)
    (making.folder / "0001_square-box" / "0001.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"is damaged \(0001_square-box/0001.png\)"):
        Distillery(Studio(tiny_bundle), distillery.folder).find(making.key)


def test_a_full_disk_is_a_sentence_without_a_path_and_resume_goes_on(distillery, tiny_bundle, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        making = distillery.start(settings(tiny_bundle))
        distillery.workshop.wait()
    assert making.state == "failed" and making.said.startswith("the folder of this set is on a full disk: free some")
    assert str(distillery.folder) not in making.said
    distillery.workshop.begin(making)
    distillery.workshop.wait()
    assert making.is_finished


def test_a_folder_in_use_elsewhere_is_a_sentence(distillery, tiny_bundle):
    wish = settings(tiny_bundle)
    elsewhere = distil(tiny_bundle, distillery.folder / f"tiny-{key_of(wish, tiny_bundle)}", wish)
    next(elsewhere)
    making = distillery.start(wish)
    distillery.workshop.wait()
    assert making.state == "failed" and "in use by another run" in making.said
    elsewhere.close()


def test_a_bug_is_a_sentence_on_the_page_and_a_traceback_in_the_log(distillery, tiny_bundle, monkeypatch, caplog):
    monkeypatch.setattr("app.distillery.strip", lambda images: 1 / 0)
    making = distillery.start(settings(tiny_bundle))
    distillery.workshop.wait()
    assert making.state == "failed" and "server's log" in making.said
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("change", "words"), [({"ipc": 51}, "between 1 and 50"), ({"beta": 7.0}, "β must be"), ({"seed": None}, "empty")]
)
def test_wrong_settings_are_a_sentence(tiny_bundle, change, words):
    with pytest.raises(ValueError, match=words):
        settings(tiny_bundle, **change)


def test_the_zip_holds_pictures_index_and_card(distillery):
    making = finished(distillery)
    with zipfile.ZipFile(io.BytesIO(making.zip_of()[1])) as archive:
        assert sorted(archive.namelist()) == [
            *(
                f"{folder}/000{i}.png"
                for folder in ("0000_circle", "0001_square-box", "0002_tri-angle")
                for i in (0, 1)
            ),
            "card.json",
            "classes.json",
        ]
        assert json.loads(archive.read("card.json"))["settings"]["seed"] == 1


def test_an_unfinished_set_has_no_zip(distillery, tiny_bundle):
    with distillery.studio.turns:
        making = distillery.start(settings(tiny_bundle))
        with pytest.raises(ValueError, match="not finished yet"):
            making.zip_of()
        distillery.workshop.stop(making)


def test_turns_are_taken_in_the_order_of_asking():
    turns, order = Turns(), []

    def greedy():
        for _ in range(3):
            with turns:
                order.append("greedy")

    def modest():
        with turns:
            order.append("modest")

    with turns:
        threads = []
        for asked, work in enumerate((greedy, modest), start=2):
            threads.append(threading.Thread(target=work))
            threads[-1].start()
            while turns._asked < asked:
                pass
    for thread in threads:
        thread.join()
    assert order[:2] == ["greedy", "modest"]


def test_two_networks_learn_alike_and_are_tested_alike(distillery, real):
    lesson = Lesson(finished(distillery))
    distillery.workshop.begin(lesson)
    distillery.workshop.wait()
    assert lesson.state == "finished", lesson.said
    epochs = [[epoch for epoch, _ in points] for points in lesson.curves.values()]
    assert epochs[0] == epochs[1] == list(range(1, 11)) and lesson.tested == 60
    text = learning(lesson, 0)
    assert "Over its last 3 tests" in text and "data-points='10'" in text


def test_a_lesson_without_a_set_fails_in_a_sentence(distillery, tiny_bundle, real):
    making = finished(distillery)
    for picture in (making.folder / "0000_circle").iterdir():
        picture.unlink()
    lesson = Lesson(making)
    distillery.workshop.begin(lesson)
    distillery.workshop.wait()
    assert lesson.state == "failed" and "0000_circle holds no pictures" in lesson.said
    assert str(distillery.folder) not in learning(lesson, 0) and "holds no pictures" in learning(lesson, 0)


def test_real_images_that_are_not_there_are_told_and_not_fetched(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(lessons, "SYSTEM", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="real images of Tiny are not on this machine$"):
        real_folder(tiny_bundle)
    known = replace(tiny_bundle, name="fashion-mnist")
    with pytest.raises(FileNotFoundError, match="igds fetch fashion-mnist"):
        real_folder(known)
    assert list(tmp_path.iterdir()) == []


def test_the_plan_names_its_epochs_and_the_protocols(tiny_bundle):
    assert epochs_for(10) > epochs_for(100) > epochs_for(500)
    assert "40 epochs" in explanation(10, 10) and "2,000" in explanation(10, 10)
