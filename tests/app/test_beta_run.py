"""Several β side by side: what is sampled, judged, said and drawn, without a page."""

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from urllib.parse import parse_qsl

import numpy as np
import pytest
import torch
from PIL import Image

from app import beta_run
from app.beta_picture import picture
from app.beta_run import (
    MAP_MEASURES,
    MOST_BETAS,
    MOST_ROWS,
    BetaRecord,
    BetaRun,
    BetaSession,
    about,
    asked,
    betas_of,
    csv_of,
    other_settings,
    play,
    preview_of,
    query_of,
    read_comparison,
    restored,
    said,
    studied_betas,
    study_map,
    trained_map,
    whole_range,
    words_of,
)
from app.figures import picture_of
from app.session import Studio
from igds.measures import features_and_logits
from igds.rng import image_seeds
from igds.runs import Run
from igds.sampling import ClassBatch, Guidance, sample
from igds.study import read_study
from igds.verdict import Verdict

BETAS = (0.0, 0.5, 1.0)
STRONG = {"ipc": 3, "eta": 10.0, "steps": 8}  # enough to be seen: the test's networks have small gradients


@pytest.fixture
def run(tiny_bundle):
    return BetaRun(Run.of(tiny_bundle, label="Square/box", **STRONG), BETAS)


def last_of(events):
    *_, last = events
    return last


def finished(bundle, **settings) -> BetaSession:
    betas = settings.pop("betas", "0, 0.5, 1")
    studio = Studio(bundle)
    session = BetaSession(studio.line.join(), asked(bundle, STRONG | settings, betas))
    assert last_of(play(studio, session))["state"] == "finished"
    return session


def test_all_columns_go_through_the_prior_together(tiny_bundle, run, monkeypatch):
    denoise, sizes = tiny_bundle.prior.denoise, []
    monkeypatch.setattr(tiny_bundle.prior, "denoise", lambda x, t, y: (sizes.append(len(x)), denoise(x, t, y))[1])
    assert len(list(run.start(tiny_bundle))) == 8
    assert sizes == [4 * 3] * 8


def test_the_largest_grid_is_still_one_batch(tiny_bundle, monkeypatch):
    betas = ",".join(str(i / 10) for i in range(MOST_BETAS))
    largest = asked(tiny_bundle, {"ipc": MOST_ROWS, "steps": 2}, betas)
    denoise, sizes = tiny_bundle.prior.denoise, []
    monkeypatch.setattr(tiny_bundle.prior, "denoise", lambda x, t, y: (sizes.append(len(x)), denoise(x, t, y))[1])
    list(largest.start(tiny_bundle))
    assert sizes == [MOST_ROWS * (MOST_BETAS + 1)] * 2


def test_the_unguided_column_is_the_sampler_alone_on_the_same_noise(tiny_bundle, run):
    ours = last_of(run.start(tiny_bundle)).batches[0].x
    batch = ClassBatch(1, image_seeds(run.run.seed, 1, 3), Guidance())
    (alone,) = sample(tiny_bundle.prior, tiny_bundle.estimator, [batch], steps=8, solver="ddpm")
    assert torch.allclose(ours, alone, atol=1e-5)


@pytest.mark.parametrize("column", [1, 2, 3])
def test_a_column_is_what_a_run_with_its_beta_makes(tiny_bundle, run, column):
    every = last_of(run.start(tiny_bundle)).batches
    beta = run.betas[column - 1]
    three = Run.of(tiny_bundle, label="Square/box", beta=beta, **STRONG)
    unguided, prototype, contextual = last_of(three.start(tiny_bundle)).batches
    assert torch.allclose(every[column].x, contextual.x, atol=1e-4)
    assert torch.allclose(every[column].contextual, contextual.contextual, atol=1e-4)
    assert torch.allclose(every[0].x, unguided.x, atol=1e-4) and torch.allclose(every[1].x, prototype.x, atol=1e-4)


def test_columns_differ_so_that_their_agreement_with_runs_says_something(tiny_bundle, run):
    images = [batch.x for batch in last_of(run.start(tiny_bundle)).batches]
    for i in range(4):
        for j in range(i):
            assert (images[i] - images[j]).abs().max() > 0.01


def test_each_column_has_a_q_of_its_own_images(tiny_bundle, run):
    with_others = last_of(run.start(tiny_bundle)).batches[2]
    alone = last_of(replace(run, betas=(0.5,)).start(tiny_bundle)).batches[1]
    assert torch.allclose(with_others.x, alone.x, atol=1e-4)


@pytest.mark.parametrize("column", [0, 1, 3])
def test_the_run_of_a_column_makes_that_column_again(tiny_bundle, run, column):
    (alone,) = last_of(run.single(column).start(tiny_bundle)).batches
    assert torch.allclose(last_of(run.start(tiny_bundle)).batches[column].x, alone.x, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "betas"),
    [("0, 0.5, 1", BETAS), ("1 .5;0", BETAS), ("0,0,1.0,1", (0.0, 1.0)), ("5e-1,", (0.5,)), ("-0", (0.0,))],
)
def test_a_list_of_betas_is_read_in_any_order_and_each_once(tiny_bundle, text, betas):
    assert betas_of(tiny_bundle, text) == betas
    assert betas_of(tiny_bundle, words_of(betas)) == betas


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "β is empty"),
        (None, "β is empty"),
        (" , ", "β is empty"),
        ("0, half", "got 'half'"),
        ("0, 1.5", "between 0 and 1 on this page, got 1.5"),
        ("-0.1", "between 0 and 1"),
        ("nan", "between 0 and 1"),
        ("0 .1 .2 .3 .4 .5 .6 .7 .8", "at most 8 values of β stand side by side, got 9"),
    ],
)
def test_a_list_that_cannot_be_used_gives_a_sentence(tiny_bundle, text, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        asked(tiny_bundle, {}, text)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"ipc": 1}, "images per class must be between 2 and 10 here, got 1"),
        ({"ipc": 11}, "between 2 and 10 here, got 11"),
        ({"seed": None}, "seed is empty"),
        ({"label": "Circel"}, "did you mean 'Circle'"),
        ({"eta": -1}, "eta must be"),
    ],
)
def test_a_setting_that_is_wrong_gives_a_sentence(tiny_bundle, settings, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        asked(tiny_bundle, settings, "0")


@pytest.mark.parametrize("ends", [(0, 1), (0, 3), (0, 10), (0.2, 0.7), (0, 0.06)])
def test_the_whole_range_is_a_few_round_values_from_end_to_end(tiny_bundle, monkeypatch, ends):
    monkeypatch.setitem(tiny_bundle.card, "beta_range", list(ends))
    betas = whole_range(tiny_bundle)
    gaps = np.diff(betas)
    assert betas[0] == ends[0] and ends[1] - gaps[0] < betas[-1] <= ends[1]
    assert 4 <= len(betas) <= 7 and np.allclose(gaps, gaps[0])
    assert betas_of(tiny_bundle, words_of(betas)) == betas


def test_an_address_reopens_exactly_this_run(tiny_bundle):
    run = asked(tiny_bundle, {"label": "Tri <angle>", "ipc": 5, "eta": 0.25, "seed": 9, "steps": 7}, "0, .05, 1")
    query = dict(parse_qsl(query_of(run)))
    assert restored(tiny_bundle, query) == run
    assert restored(tiny_bundle, {"label": "Circle"}) is None
    with pytest.raises(ValueError, match="made for the bundle 'other', and this page runs 'tiny'"):
        restored(tiny_bundle, query | {"bundle": "other"})
    with pytest.raises(ValueError, match="between 0 and 1"):
        restored(tiny_bundle, query | {"betas": "7"})


def test_steps_come_as_pictures_of_every_column_and_end_with_the_finished_images(tiny_bundle):
    session = finished(tiny_bundle)
    assert [step["index"] for step in session.steps] == list(range(8))
    for step in session.steps:
        assert [len(step[key]) for key in ("frames", "prototype", "contextual")] == [4, 4, 4]
    tile = about(session.record.run, tiny_bundle)["tile"]
    pitch = tile["height"] + tile["gap"]
    for uri, images in zip(session.steps[-1]["frames"], session.record.images):
        sheet = np.array(picture_of(uri))[..., 0]
        assert sheet.shape == (3 * pitch - tile["gap"], 8)
        for i, image in enumerate(images):
            assert (sheet[i * pitch : i * pitch + 8] == image[0].numpy()).all()


def test_the_preview_is_the_noise_in_one_column(tiny_bundle, run):
    preview = preview_of(run, tiny_bundle)
    assert picture_of(preview["noise"]).size == (8, 3 * 8 + 2)
    assert [column["beta"] for column in preview["columns"]] == [None, *BETAS]


def test_the_figures_are_those_of_the_independent_judges(studied_bundle):
    session = finished(studied_bundle, label="Square/box")
    ending = session.since(0)["payloads"][-1]
    for column, images in enumerate(session.record.images):
        _, logits = features_and_logits(studied_bundle.classifier, images)
        recognised = (logits.argmax(1) == 1).tolist()
        assert [name is None for name in ending["missed"][column]] == recognised
        assert ending["figures"][column]["accuracy"] == pytest.approx(sum(recognised) / 3)
        assert ending["figures"][column]["held_out_contextual"] is not None


def test_a_column_of_which_less_than_two_are_recognised_has_no_diversity(tiny_bundle):
    session = finished(tiny_bundle)
    session.record.verdicts = [
        replace(verdict, recognised_diversity=float("nan")) for verdict in session.record.verdicts
    ]
    assert {figure["recognised_diversity"] for figure in session.ending()["figures"]} == {None}
    assert picture(session, "png")[1][:4] == b"\x89PNG"


def test_a_stopped_run_keeps_its_steps_and_sends_no_more(tiny_bundle):
    studio = Studio(tiny_bundle)
    session = BetaSession(studio.line.join(), asked(tiny_bundle, STRONG, "0, 1"))
    playing = play(studio, session)
    for _ in range(3):
        next(playing)
    ending = session.end("stopped")
    assert ending["count"] == 2 and "figures" not in ending
    assert list(playing) == [] and session.has_frames and not session.is_finished
    assert studio.line.ahead(studio.line.join()) == 0
    with pytest.raises(ValueError, match="let a run finish"):
        csv_of(session)
    assert "-stopped-at-2.png" in picture(session, "png")[0]


def test_a_run_that_breaks_off_frees_its_place_and_is_known_as_broken(tiny_bundle, run):
    studio = Studio(tiny_bundle)
    session = BetaSession(studio.line.join(), replace(run, run=replace(run.run, solver="none")))
    with pytest.raises(ValueError, match="solver"):
        list(play(studio, session))
    assert session.state == "broken" and studio.line.ahead(studio.line.join()) == 0


def test_the_csv_has_a_row_a_column_with_its_settings_and_figures(tiny_bundle):
    name, content = csv_of(finished(tiny_bundle, label="Square/box", seed=4))
    assert name == "igds-square-box-seed4-betas.csv"
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    assert [row["column"] for row in rows] == ["unguided", "β = 0", "β = 0.5", "β = 1"]
    assert [row["beta"] for row in rows] == ["", "0.0", "0.5", "1.0"]
    assert [float(row["eta"]) for row in rows] == [0.0, 10.0, 10.0, 10.0]
    assert all(float(row["contextual"]) <= np.log(3) + 1e-6 and row["label"] == "Square/box" for row in rows)


def test_the_pictures_hold_every_column(tiny_bundle):
    session = finished(tiny_bundle)
    name, content = picture(session, "png")
    assert name.endswith("-betas.png") and Image.open(io.BytesIO(content)).format == "PNG"
    name, drawing = picture(session, "svg")
    root = ET.fromstring(drawing)
    assert len(root.findall(".//{http://www.w3.org/2000/svg}image")) == 4
    assert picture(session, "svg")[1] == drawing, "the same run gives the same file"
    with pytest.raises(ValueError, match="start a run first"):
        picture(BetaSession(), "png")


def verdict(accuracy: float, contextual: float) -> Verdict:
    return Verdict(accuracy, 0.2, 0.1, 1.0, contextual, 1.0, contextual)


def test_what_is_said_comes_from_the_numbers(tiny_bundle, run):
    record = BetaRecord(
        run, tiny_bundle, verdicts=[verdict(1, 0.1), verdict(1, 0.2), verdict(1, 0.3), verdict(1 / 3, 0.5)]
    )
    text = said(record)
    assert "Against β = 0, β = 1 bought 0.300 nats of Ĥ" in text and "cost 2 of 3 images recognised" in text
    assert "Fewer are recognised than at β = 0: at β = 1." in text and "One seed proves little" in text
    record.verdicts[-1] = verdict(1, 0.5)
    assert "at none of these β" in said(record)
    single = BetaRecord(replace(run, betas=(0.5,)), tiny_bundle, verdicts=[verdict(1, 0.1), verdict(1, 0.3)])
    assert "Against no guidance, β = 0.5 bought 0.200 nats of Ĥ" in said(single) and "Fewer" not in said(single)
    still = BetaRecord(replace(run, run=replace(run.run, eta=0.0)), tiny_bundle, verdicts=record.verdicts)
    assert "nothing was guided" in said(still)


def test_the_map_is_the_mean_of_the_study_s_records(studied_bundle, study_file):
    study = read_study(study_file, studied_bundle)
    found = study_map(study)
    assert found["ipcs"] == [1, 4] and found["betas"] == [None, 0.0, 0.5, 1.0] and found["seeds"] == 2
    for measure in MAP_MEASURES:
        for i, ipc in enumerate(found["ipcs"]):
            for j, arm in enumerate(("unguided", "β = 0", "β = 0.5", "β = 1")):
                values = [r[measure] for r in study["records"] if r["ipc"] == ipc and r["arm"] == arm]
                known = [value for value in values if value is not None]
                cell = found["measures"][measure]["cells"][i][j]
                if len(known) == len(values):
                    assert cell[0] == pytest.approx(np.mean(known))
                elif not known:
                    assert cell is None
    assert found["measures"]["recognised_diversity"]["cells"][0] == [None] * 4, "one image has no diversity"
    assert studied_betas(study) == BETAS


def test_the_trained_accuracy_of_a_comparison_is_a_measure_with_its_own_rows_and_columns():
    rows = [(1, "β = 0", 0.5), (1, "β = 1", 0.25), (10, "β = 0", 0.75), (10, "β = 1", 0.8)]
    comparison = {
        "networks": ["convnet3"],
        "ipcs": [1, 10],
        "methods": {"random": {"select": "random"}, "β = 1": {"beta": 1.0}, "β = 0": {"beta": 0.0}},
        "generation_seeds": [4, 5],
        "epochs": {"1": 300, "10": 150},
        "split": "validation",
        "summary": [
            {"ipc": ipc, "network": "convnet3", "method": name, "accuracy": {"mean": mean, "standard_error": 0.1}}
            for ipc, name, mean in [*rows, (1, "random", 0.1)]
        ],
    }
    found = trained_map(comparison)
    assert found["ipcs"] == [1, 10] and found["betas"] == [0.0, 1.0]
    assert found["cells"] == [[[0.5, 0.1], [0.25, 0.1]], [[0.75, 0.1], [0.8, 0.1]]]
    assert "validation" in found["about"] and "2 sets" in found["about"] and "300 with IPC 1" in found["about"]
    with pytest.raises(ValueError, match="the comparison is damaged"):
        trained_map(comparison | {"summary": comparison["summary"][:2]})


def test_the_committed_comparison_is_read_for_the_bundle_it_was_made_with_alone(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(beta_run, "COMPARISONS", tmp_path)
    path = tmp_path / f"{tiny_bundle.name}-beta.json"
    assert read_comparison(tiny_bundle) is None
    path.write_text(json.dumps({"bundle_sha256": "another"}))
    assert read_comparison(tiny_bundle) is None
    path.write_text(json.dumps({"bundle_sha256": tiny_bundle.checksum()}))
    assert read_comparison(tiny_bundle)["bundle_sha256"] == tiny_bundle.checksum()
    path.write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        read_comparison(tiny_bundle)


def test_a_study_made_with_other_settings_is_known_as_such(studied_bundle, study_file, monkeypatch):
    study = read_study(study_file, studied_bundle)
    assert other_settings(study, studied_bundle) == {}
    monkeypatch.setitem(studied_bundle.card["defaults"], "eta", 0.3)
    monkeypatch.setitem(studied_bundle.card["defaults"], "scaling", "deviation")
    assert other_settings(study | {"defaults": study["defaults"] | {"eta": 0.1}}, studied_bundle) == {
        "eta": 0.1,
        "scaling": "constant",
    }


def test_a_damaged_study_gives_a_sentence(studied_bundle, study_file):
    study = read_study(study_file, studied_bundle)
    with pytest.raises(ValueError, match="the study is damaged"):
        study_map(study | {"summary": study["summary"][:2]})
    with pytest.raises(ValueError, match="the study is damaged"):
        study_map(study | {"arms": None})
