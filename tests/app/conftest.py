"""A browser, and a bundle that has been studied: the tiny one with a held-out estimator, its study and a recording."""

import shutil
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from playwright.sync_api import sync_playwright

from app import lessons
from app.recording import record, write_recording
from igds.bundle import load_bundle, save_bundle
from igds.classifiers import ImageClassifier
from igds.data import ImageSet
from igds.encoders import Encoder, smooth
from igds.estimator import VariationalEstimator
from igds.plots import study_figure
from igds.priors.unet import UNetPrior
from igds.recipes import RECIPES
from igds.runs import Run
from igds.study import beta_study, measure_study, read_study, sample_study, write_study
from tests.conftest import TINY_ENCODER, TINY_PRIOR, randomise

ROOT = Path(__file__).resolve().parents[2]
FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-sync --no-first-run "
    "--disable-component-update --disable-quic"
).split()


@pytest.fixture(scope="module")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    assert path, (
        f"the page is tested in a real browser: install one of {', '.join(names)} (Debian: apt install chromium)"
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def studied_bundle(tiny_bundle, tmp_path_factory):
    card = {key: tiny_bundle.card[key] for key in ("title", "classes", "license", "source", "defaults", "beta_range")}
    encoder = tiny_bundle.estimator.encoder
    held_out = VariationalEstimator(encoder, 3, features=16, tau=0.1).eval().requires_grad_(False)
    path = tmp_path_factory.mktemp("studied") / "tiny"
    parts = {name: getattr(tiny_bundle, name) for name in ("prior", "estimator", "classifier", "gallery")}
    save_bundle(path, card | {"measured": {}}, **parts, held_out=held_out)
    return load_bundle(path)


@pytest.fixture(scope="session")
def study_file(studied_bundle, tmp_path_factory):
    """Of two seeds, IPC 1 and 4, β = 0, 0.5 and 1; with a picture beside it, as the command leaves it."""
    folder = tmp_path_factory.mktemp("study")
    study = beta_study(studied_bundle, [0.0, 0.5, 1.0], ipcs=(1, 4), seeds=(0, 1))
    for _ in sample_study(study, studied_bundle, folder / "work"):
        pass
    images = torch.randint(256, (60, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    data = ImageSet(images, torch.arange(60) % 3, studied_bundle.classes)
    path = folder / "tiny-beta.json"
    write_study(measure_study(study, studied_bundle, folder / "work", data, data), path)
    study_figure(read_study(path, studied_bundle), path.with_suffix(".png"))
    return path


@pytest.fixture(scope="session")
def recording_file(studied_bundle, tmp_path_factory):
    path = tmp_path_factory.mktemp("recording") / "tiny.json"
    write_recording(record(Run.of(studied_bundle, label="Square/box", seed=8), studied_bundle), path)
    return path


@pytest.fixture
def real(tiny_bundle, tmp_path, monkeypatch):
    """Real images of the tiny bundle, where a system package would put them."""

    def load(split, *, folder):
        generator = torch.Generator().manual_seed(len(split))
        images = torch.randint(256, (60, 1, 8, 8), dtype=torch.uint8, generator=generator)
        return ImageSet(images, torch.arange(60) % 3, tiny_bundle.classes)

    (tmp_path / "system" / "tiny").mkdir(parents=True)
    monkeypatch.setattr(lessons, "SYSTEM", tmp_path / "system")
    monkeypatch.setitem(RECIPES, "tiny", replace(RECIPES["fashion-mnist"], load=load))
    monkeypatch.setattr(lessons, "MOST_EPOCHS", 10)


@pytest.fixture(scope="session")
def colours_path(tiny_bundle, tmp_path_factory):
    """Of another kind than the tiny one: 16×16 pixels, RGB, neither held-out estimator nor gallery, one figure."""
    config, classes = replace(TINY_ENCODER, channels=3), ("red", "green", "blue & <b>")
    with torch.random.fork_rng():
        torch.manual_seed(6)
        encoder = Encoder(config)
        smooth(encoder)
        estimator = VariationalEstimator(encoder, 3, features=16, tau=0.07)
    card = {key: tiny_bundle.card[key] for key in ("license", "source", "defaults", "beta_range")}
    path = tmp_path_factory.mktemp("colours") / "my colours"
    save_bundle(
        path,
        card
        | {"title": "Colours <i>", "classes": list(classes), "measured": {"classifier": {"accuracy_on_test": 0.5}}},
        prior=randomise(UNetPrior(replace(TINY_PRIOR, image_size=16, channels=3)), seed=7),
        estimator=estimator.eval().requires_grad_(False),
        classifier=randomise(ImageClassifier(config, 3), seed=8),
    )
    return path


@pytest.fixture(scope="module")
def address(tiny_bundle_path, tmp_path_factory):
    """Where the tiny bundle's page is served, by the command that users start it with."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("page") / "stderr.txt"
    command = [sys.executable, ROOT / "app" / "main.py", "--bundle", tiny_bundle_path, "--port", str(port)]
    with log.open("w") as stderr:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
        guard = threading.Timer(120, server.kill)
        guard.start()
        try:
            assert f"http://127.0.0.1:{port}" in server.stdout.readline(), log.read_text()
            guard.cancel()
            yield f"http://127.0.0.1:{port}/"
        finally:
            guard.cancel()
            server.terminate()
            server.wait(30)
    assert "Traceback" not in log.read_text(), log.read_text()
