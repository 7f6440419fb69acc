import csv
import io
import json
import zipfile
from dataclasses import replace

import pytest
from PIL import Image

from app.downloads import Downloads, file_of
from app.session import Line, Session, Studio, preview_of
from app.settings import checked, defaults
from app.words import results
from igds.runs import Record, Run


def asked(studio: Studio, **settings) -> Session:
    run = checked(studio.bundle, defaults(studio.bundle) | {"steps": 4} | settings)
    return Session(ticket=studio.line.join(), wanted=run)


@pytest.fixture
def studio(tiny_bundle):
    return Studio(tiny_bundle)


def test_a_run_is_a_head_its_steps_and_an_end(studio):
    session = asked(studio)
    payloads = list(studio.play(session))
    assert [payload["kind"] for payload in payloads] == ["start", *["step"] * 4, "end"]
    assert payloads[-1]["state"] == "finished" and session.is_finished
    json.dumps(payloads)


def test_the_page_gets_the_same_images_as_python_does(studio, tiny_bundle):
    session = asked(studio, seed=7)
    list(studio.play(session))
    record = Record(session.wanted, tiny_bundle)
    for step in session.wanted.start(tiny_bundle):
        record.add(step)
    for column, images in record.images.items():
        assert (session.record.images[column] == images).all()


def test_the_curves_on_the_stage_are_those_of_the_record(studio):
    session = asked(studio)
    list(studio.play(session))
    for i, payload in enumerate(session.steps):
        rows = session.record.curves[3 * i : 3 * i + 3]
        assert payload["prototype"] == pytest.approx([row["prototype_nats"] for row in rows], abs=1e-4)
        assert payload["contextual"] == pytest.approx([row["contextual_nats"] for row in rows], abs=1e-4)


def test_a_stopped_run_keeps_its_steps_and_sends_no_more(studio):
    session = asked(studio)
    playing = studio.play(session)
    for _ in range(3):
        next(playing)
    assert session.end("stopped")["count"] == 2
    assert list(playing) == []
    assert len(session.steps) == 2 and session.has_frames and not session.is_finished


def test_a_closed_tab_frees_its_place(studio):
    session, other = asked(studio), studio.line.join()
    playing = studio.play(session)
    next(playing), next(playing)
    assert studio.line.ahead(other) == 1
    playing.close()
    assert studio.line.ahead(other) == 0


def test_a_run_that_breaks_off_frees_its_place_and_is_known_as_broken(studio):
    session = asked(studio)
    session.wanted = replace(session.wanted, solver="none")
    with pytest.raises(ValueError, match="solver"):
        list(studio.play(session))
    assert session.state == "broken"
    assert not studio.line.is_full() and studio.line.ahead(studio.line.join()) == 0


def test_the_line_counts_who_comes_before_and_forgets_who_has_left():
    line = Line()
    first, second, third = line.join("anna"), line.join("ben"), line.join("cleo")
    assert [line.ahead(ticket) for ticket in (first, second, third)] == [0, 1, 2]
    line.forget("ben")
    assert line.ahead(third) == 1
    line.leave(first)
    assert line.ahead(third) == 0


def test_a_stage_that_missed_steps_gets_them_again(studio):
    session = asked(studio)
    payloads = list(studio.play(session))
    again = session.since(2)["payloads"]
    assert again[0] == payloads[0] and again[1:3] == payloads[3:5] and again[-1] == payloads[-1]


def test_the_preview_shows_the_same_noise_in_every_column(tiny_bundle):
    preview = preview_of(Run.of(tiny_bundle), tiny_bundle)
    assert len(set(preview["noise"])) == 1 and len(preview["noise"]) == 3


def test_every_file_of_a_finished_run_is_what_it_says(studio, tiny_bundle):
    session = asked(studio, label="Square/box", ipc=3)
    list(studio.play(session))
    name, content = file_of(session, "zip")
    assert name == "igds-square-box-seed0.zip"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        assert sum(name.endswith(".png") for name in names) == 9
        assert "contextual/0001_square-box/0002.png" in names
        assert json.loads(archive.read("run.json"))["settings"]["ipc"] == 3
    rows = list(csv.DictReader(io.StringIO(file_of(session, "csv")[1].decode())))
    assert len(rows) == 3 * 4
    assert Image.open(io.BytesIO(file_of(session, "png")[1])).format == "PNG"
    assert Image.open(io.BytesIO(file_of(session, "webp")[1])).format == "WEBP"


def test_a_stopped_run_has_pictures_and_curves_and_no_zip(studio):
    session = asked(studio)
    playing = studio.play(session)
    next(playing), next(playing)
    session.end("stopped")
    assert "stopped-at-1" in file_of(session, "png")[0]
    with pytest.raises(ValueError, match="no images yet"):
        file_of(session, "zip")


def test_before_a_run_there_is_nothing_to_download():
    with pytest.raises(ValueError, match="start a run first"):
        file_of(Session(), "png")


def test_a_file_that_the_disk_refuses_is_a_sentence_and_leaves_nothing(tmp_path):
    downloads = Downloads(tmp_path)
    with pytest.raises(ValueError, match="could not be written on the server: File name too long"):
        downloads.put("a" * 300, b"")
    assert list(downloads.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "Against β = 0, β = 0.5"),
        ({"beta": 0.0}, "the last two columns are the same"),
        ({"eta": 0.0}, "nothing was guided"),
        ({"ipc": 1}, "One seed proves little"),
        ({"ipc": 1, "reference": "class"}, "One seed proves little"),
    ],
)
def test_the_verdict_speaks_of_this_run(studio, settings, said):
    session = asked(studio, **settings)
    list(studio.play(session))
    assert said in results(session.record)
