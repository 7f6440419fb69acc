import json
import math
from concurrent.futures import ThreadPoolExecutor

import pytest

from app import tightness
from app.tightness import FEWEST_SEED, LONGER, STUDY, asked, opening, read, said, watch
from igds.tightness import CROSS_ENTROPY, VE


@pytest.fixture(scope="module")
def study():
    return read(STUDY)


def test_the_page_gets_every_arm_of_the_committed_study_with_its_error(study):
    shown = opening(study, read(LONGER))
    assert len(shown["rows"]) == len(study["summary"]) and len(shown["longer"]) > 8
    row = next(row for row in shown["rows"] if (row["delta"], row["d"], row["arm"]) == (2.0, 128, VE))
    seeds = [r for r in study["records"] if (r["delta"], r["features"], r["arm"]) == (2.0, 128, VE)]
    for measure in ("prototype", "gap", "contextual"):
        assert row[measure][0] == pytest.approx(sum(r[measure] for r in seeds) / len(seeds))
        assert row[measure][1] > 0
    assert shown["entropy"] == pytest.approx(2.5 * math.log(2 * math.pi * math.e))


def test_what_is_said_comes_from_the_study_s_own_numbers(study):
    words = said(study, read(LONGER))
    assert "Ĥ = 0.69 against 0.20" in words and "log d = 4.85" in words and "was not run" in words
    changed = json.loads(json.dumps(study))
    for row in changed["summary"]:
        if (row["delta"], row["features"], row["arm"]) == (2.0, 128, VE):
            row["measures"]["contextual"]["mean"] = 3.21
    assert "Ĥ = 3.21 against 0.20" in said(changed, None)
    assert "epochs instead of" not in said(changed, None)


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ((0.4, 128, 1000), "δ must be between 0.5 and 4"),
        (("nan", 128, 1000), "δ must be between"),
        ((2, 100, 1000), "d must be one of 32, 64"),
        ((2, 128, 3), "the seed must be between"),
        ((None, 128, 1000), "must be numbers"),
    ],
)
def test_a_cell_that_cannot_be_trained_here_is_refused_in_a_sentence(study, cell, told):
    with pytest.raises(ValueError, match=told):
        asked(study, *cell)


def test_a_cell_is_trained_as_the_study_trains_and_stands_under_the_truth(study):
    small = json.loads(json.dumps(study))
    small["settings"] |= {"samples": 6400, "held_out": 4000, "epochs": 1}
    with ThreadPoolExecutor(1) as workers:
        seen = list(watch(workers, *asked(small, 3, 32, FEWEST_SEED)))
    assert [payload["done"] for payload in seen] == sorted(payload["done"] for payload in seen)
    last = seen[-1]
    assert last["kind"] == "watched" and last["done"] == last["total"] == 100
    assert {payload["kind"] for payload in seen[:-1]} == {"watching"}
    assert set(last["figures"]) == {VE, CROSS_ENTROPY}
    for found in last["figures"].values():
        assert found["gap"] == pytest.approx(found["prototype"] - last["truth"])
        assert -0.3 < found["gap"] < 0.02 and 0 < found["contextual"] < math.log(32)
    assert last["figures"][VE]["contextual"] > last["figures"][CROSS_ENTROPY]["contextual"]


def test_a_study_that_is_missing_or_damaged_gives_a_sentence(study, tmp_path):
    with pytest.raises(ValueError, match="there is no study at tightness.json: make it again"):
        read(tmp_path / "tightness.json")
    path = tmp_path / "tightness.json"
    for wrong in (
        "{",
        "[]",
        json.dumps(study | {"summary": [{"delta": 1}]}),
        json.dumps(study | {"settings": {"x": 1}}),
    ):
        path.write_text(wrong)
        with pytest.raises(ValueError, match="tightness.json is damaged: make it again"):
            read(path)


def test_the_place_stands_without_its_study(monkeypatch, tmp_path):
    import gradio as gr

    from app.laboratory import Bench
    from app.tightness_place import tightness_place

    monkeypatch.setattr(tightness, "STUDY", tmp_path / "tightness.json")
    with gr.Blocks() as page:
        tightness_place(Bench())
    assert any(
        "There is no study at tightness.json" in str(block.value)
        for block in page.blocks.values()
        if hasattr(block, "value")
    )
