import json
import subprocess
import sys

import numpy as np
import pytest

from app.figures import frame_of, picture_of
from app.recording import read_recording
from igds.runs import Run


def test_a_recording_comes_back_as_the_stage_takes_it(recording_file, studied_bundle):
    payload = read_recording(recording_file, studied_bundle)
    head, *steps, end = payload["payloads"]
    assert payload["kind"] == "many" and head["recording"] and head["run"] == 0, "any visitor's run comes after it"
    assert [step["index"] for step in steps] == list(range(10)) and end["state"] == "finished"
    assert head["title"].startswith("Square/box: 4 images")


def test_its_images_are_the_run_s_own_to_the_last_pixel(recording_file, studied_bundle):
    last = read_recording(recording_file, studied_bundle)["payloads"][-2]
    for step in Run.of(studied_bundle, label="Square/box", seed=8).start(studied_bundle):
        states = step.batches
    for uri, state in zip(last["frames"], states):
        assert uri.startswith("data:image/webp")
        sent = np.array(picture_of(uri).convert("RGBA"))
        exact = np.array(picture_of(frame_of(state.x)).convert("RGBA"))
        assert (sent[..., 3] == exact[..., 3]).all()
        assert (sent[exact[..., 3] > 0] == exact[exact[..., 3] > 0]).all()


def test_it_says_what_it_was_made_with(recording_file, studied_bundle):
    recording = json.loads(recording_file.read_text())
    assert recording["bundle_sha256"] == studied_bundle.checksum()
    assert recording["settings"]["label"] == "Square/box" and recording["settings"]["seed"] == 8


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-40],
        lambda text: text.replace("Square", "Square and more"),
        lambda text: "[]",
        lambda text: '{"payloads": []}',
        lambda text: "\udcff",
    ],
)
def test_a_damaged_recording_is_one_sentence(recording_file, studied_bundle, tmp_path, damage):
    path = tmp_path / "damaged.json"
    path.write_bytes(damage(recording_file.read_text()).encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match="not a recording, or is damaged: make it again with"):
        read_recording(path, studied_bundle)


def test_a_recording_of_another_bundle_is_told(recording_file, tiny_bundle):
    with pytest.raises(ValueError, match="made with another bundle"):
        read_recording(recording_file, tiny_bundle)


def command(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "app.recording", *arguments], capture_output=True, text=True)


def test_the_command_writes_a_recording_of_the_card_s_defaults(studied_bundle, tmp_path):
    path = tmp_path / "new" / "recording.json"
    done = command("--bundle", studied_bundle.path, "--label", "circle", "--seed", "3", "--out", path)
    assert done.returncode == 0, done.stderr
    assert "Circle, seed 3" in done.stdout
    head = read_recording(path, studied_bundle)["payloads"][0]
    assert head["title"] == "Circle: 4 images, β = 0.5, seed 3"


def test_the_command_refuses_in_one_sentence(studied_bundle):
    done = command("--bundle", studied_bundle.path, "--label", "Circel")
    assert done.returncode == 2 and "did you mean 'Circle'" in done.stderr and "Traceback" not in done.stderr
