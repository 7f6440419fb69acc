"""The shelf, the cards, the server that opens one bundle at a time, and places at work on RGB images."""

import asyncio
import gc
import json
import shutil
import weakref
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import gradio as gr
import httpx
import pytest
import torch
from PIL import Image

import app.server
from app import lessons
from app.bundle_cards import card_of, figures_of
from app.distillery import Distillery, wanted
from app.downloads import Downloads, file_of
from app.figures import picture_of
from app.lessons import real_folder, real_images
from app.server import Server
from app.session import Line, Session, Studio
from app.settings import checked, defaults
from app.shelf import Shelf, is_this_machine
from app.ui import Page, page_of
from igds.bundle import load_bundle
from igds.datasets import IMAGENETTE


@pytest.fixture(autouse=True)
def embedded(tiny_bundle_path, tmp_path_factory, monkeypatch):
    """The tiny bundle as the only embedded one."""
    monkeypatch.setattr("igds.bundle.EMBEDDED", tiny_bundle_path.parent)
    monkeypatch.setattr(app.server, "PARTING_SECONDS", 0.5)


@pytest.fixture
def colours(colours_path):
    return load_bundle(colours_path)


# The shelf


def test_a_bundle_added_by_path_gets_a_name_that_an_address_can_hold_and_keeps_it(colours_path):
    shelf = Shelf()
    assert shelf.add(colours_path) == shelf.add_checked(f" {colours_path / 'card.json'} ") == "my-colours"
    assert shelf.names() == ["tiny", "my-colours"] and shelf.path("my-colours") == colours_path
    assert shelf.load("my-colours").classes[0] == "red"


def test_two_folders_of_one_name_stay_apart(bare_bundle_path, tiny_bundle_path):
    shelf = Shelf()
    assert shelf.add(bare_bundle_path) == "tiny-2" and shelf.add(tiny_bundle_path) == "tiny"
    assert shelf.path("tiny") == tiny_bundle_path and shelf.path("tiny-2") == bare_bundle_path


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda path: shutil.rmtree(path), "there is no bundle"),
        (lambda path: (path / "card.json").write_text("{"), "is not valid JSON"),
        (lambda path: (path / "card.json").write_text("[]"), "is not the card of a bundle"),
        (lambda path: (path / "prior.safetensors").write_bytes(b"cut"), "is damaged or was changed"),
        (lambda path: (path / "estimator.safetensors").unlink(), "estimator.safetensors is missing"),
    ],
)
def test_what_is_no_bundle_is_told_and_stays_off_the_shelf(colours_path, tmp_path, spoil, sentence):
    path = shutil.copytree(colours_path, tmp_path / "spoilt")
    spoil(path)
    shelf = Shelf()
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        shelf.add_checked(str(path))
    assert shelf.names() == ["tiny"]


def test_an_empty_path_is_told():
    with pytest.raises(ValueError, match="the path is empty"):
        Shelf().add_checked("  ")


def test_only_loopback_addresses_are_this_machine():
    assert all(map(is_this_machine, ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"]))
    assert not any(map(is_this_machine, ["0.0.0.0", "::", "192.168.0.7", "example.org", "", "localhost.example.org"]))


# Its cards


def test_a_card_says_whose_it_is_how_large_and_what_was_measured(colours_path):
    text = card_of("my-colours", colours_path, is_open=False)
    for words in ("made by the tests", "MIT", "50.0 %", "of unseen real images named right", "MB", "657,772"):
        assert words in text, words
    assert "href='../my-colours/" in text and "Open now" not in text
    assert "href=" not in card_of("my-colours", colours_path, is_open=True)
    dark = card_of("my-colours", colours_path, is_open=False, query="?__theme=dark")
    assert "href='../my-colours/?__theme=dark#bundles'" in dark


def test_nothing_in_a_card_becomes_html(colours_path):
    text = card_of("my-colours", colours_path, is_open=False)
    assert "Colours &lt;i&gt;" in text and "blue &amp; &lt;b&gt;" in text
    assert "<i>" not in text and "<b>" not in text


def test_a_card_that_cannot_be_read_says_why_and_cannot_be_opened(tmp_path):
    (tmp_path / "card.json").write_text("no card")
    text = card_of("broken", tmp_path, is_open=False)
    assert "is not valid JSON" in text and "href=" not in text


def test_figures_are_the_cards_own_with_their_bound():
    measured = {
        "classifier": {"accuracy_on_test": 0.9225},
        "estimator": {"prototype_information_on_test_nats": 1.5, "contextual_information_on_test_nats": float("nan")},
        "prior": {
            "frechet_distance_samples_to_test": 0.0774,
            "frechet_distance_as_many_training_images_to_test": 0.044,
        },
    }
    rows = {name: (value, about) for value, name, about in figures_of({"classes": ["a"] * 10, "measured": measured})}
    assert rows["of unseen real images named right"][0] == "92.2 %"
    assert rows["Î(X;Y) of unseen real images"] == (
        "1.50 nats",
        "How surely their class is recognised: at most log 10 = 2.30, the class certain.",
    )
    value, about = rows["Fréchet distance to unseen real images"]
    assert value == "0.077" and "at 0.044" in about
    assert len(rows) == 3, "what was not measured has no row"


@pytest.mark.parametrize("measured", [None, [], {"prior": 3, "classifier": {"accuracy_on_test": "much"}}])
def test_figures_of_a_strange_card_are_none(measured):
    assert figures_of({"classes": ["a", "b"], "measured": measured}) == []


@pytest.mark.parametrize("with_copies", [False, True])
def test_the_made_images_are_shown_without_the_training_images_below_them(colours_path, tmp_path, with_copies):
    path = shutil.copytree(colours_path, tmp_path / "sampled")
    made, copied = Image.new("RGB", (12 * 16, 16), (0, 200, 0)), Image.new("RGB", (12 * 16, 16), (200, 0, 0))
    rows = [made, copied] * 3 if with_copies else [made] * 3
    sheet = Image.new("RGB", (12 * 16, 16 * len(rows)))
    for i, row in enumerate(rows):
        sheet.paste(row, (0, 16 * i))
    sheet.save(path / "samples.png")
    text = card_of("sampled", path, is_open=False)
    picture = picture_of(text.partition("<img src='")[2].partition("'")[0]).convert("RGB")
    assert picture.size == (6 * 16, 3 * 16)
    (_, most_red), (least_green, _), _ = picture.getextrema()
    assert most_red < 60 and least_green > 140


# The line


def test_a_line_is_shut_only_while_nobody_is_in_it():
    line = Line()
    ticket = line.join()
    assert not line.shut() and not line.is_full()
    line.leave(ticket)
    assert line.shut() and line.is_full()
    with pytest.raises(ValueError, match="another bundle is being opened"):
        line.join()
    line.reopen()
    line.join()


# The server


def bare_page_of(bundle, folder) -> Page:
    """All that works behind a page, without its widgets, which take seconds to build."""
    studio = Studio(bundle)
    blocks = gr.Blocks(analytics_enabled=False)
    return Page(blocks, studio, Distillery(studio, folder / "distilled"), Downloads(folder / "downloads"))


@asynccontextmanager
async def served(colours_path, folder, *, takes_paths: bool = True, whole: bool = False):
    shelf = Shelf(takes_paths=takes_paths)
    page = (
        partial(page_of, shelf=shelf, distilled=folder / "distilled") if whole else partial(bare_page_of, folder=folder)
    )
    server = Server(shelf, page)
    shelf.add(colours_path)
    await server.begin("tiny")
    transport = httpx.ASGITransport(app=server)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            client.ask = partial(client.post, json={})
            yield server, client
    finally:
        await server.close()


def with_server(test, *given, **options) -> None:
    async def run():
        async with served(*given, **options) as (server, client):
            await test(server, client)

    asyncio.run(run())


def test_a_switch_frees_the_old_bundle_and_its_page(colours_path, tmp_path):
    async def test(server, client):
        await client.get("/b/tiny/")
        old = [weakref.ref(server.open.page.bundle.prior), weakref.ref(server.open.page.blocks)]
        assert all(thing() is not None for thing in old)
        assert (await client.ask("/b/my-colours/open")).json() == {"open": "my-colours"}
        for _ in range(100):
            await asyncio.sleep(0.1)
            gc.collect()
            if not any(thing() for thing in old):
                break
        assert [thing() for thing in old] == [None, None]
        assert server.open.page.bundle.classes[0] == "red"
        assert (await client.ask("/b/tiny/open")).json() == {"open": "tiny"}
        assert server.open.page.bundle.classes[0] == "Circle"

    with_server(test, colours_path, tmp_path, whole=True)


def test_the_address_of_a_closed_bundle_is_a_door_and_then_its_page(colours_path, tmp_path):
    async def test(server, client):
        door = await client.get("/b/my-colours/")
        assert door.status_code == 200 and "Colours &lt;i&gt;" in door.text and "gradio_config" not in door.text
        assert server.open.name == "tiny", "a door alone opens nothing"
        await client.ask("/b/my-colours/open")
        assert "gradio_config" in (await client.get("/b/my-colours/")).text

    with_server(test, colours_path, tmp_path)


def test_a_page_of_the_old_bundle_is_told_whatever_it_asks(colours_path, tmp_path):
    async def test(server, client):
        assert (await client.get("/b/tiny/here")).status_code == 204
        await client.ask("/b/my-colours/open")
        for answer in (
            await client.get("/b/tiny/here"),
            await client.post("/b/tiny/gradio_api/queue/join", json={"fn_index": 0, "data": []}),
            await client.get("/b/tiny/gradio_api/heartbeat/x"),
        ):
            assert answer.status_code == 410
            assert "was put back" in answer.json()["detail"] and answer.json()["here"] == "my-colours"

    with_server(test, colours_path, tmp_path)


@pytest.mark.parametrize("line", [lambda page: page.studio.line, lambda page: page.distillery.workshop.line])
def test_no_run_is_cut_a_switch_waits_for_it(colours_path, tmp_path, line):
    async def test(server, client):
        old = server.open
        ticket = line(old.page).join("a visitor")
        answer = (await client.ask("/b/my-colours/open")).json()
        assert "A run is under way" in answer["wait"] and server.open is old
        assert not old.page.studio.line.is_full(), "others may still start runs"
        line(old.page).leave(ticket)
        assert (await client.ask("/b/my-colours/open")).json() == {"open": "my-colours"}

    with_server(test, colours_path, tmp_path)


def test_what_cannot_be_opened_leaves_all_as_it_was(colours_path, tmp_path):
    path = shutil.copytree(colours_path, tmp_path / "damaged")

    async def test(server, client):
        name = server.shelf.add(path)
        (path / "prior.safetensors").write_bytes(b"cut")
        answer = (await client.ask(f"/b/{name}/open")).json()
        assert "is damaged or was changed" in answer["wrong"] and answer["wrong"].endswith(".")
        assert server.open.name == "tiny" and not server.open.page.studio.line.is_full()
        unknown = await client.get("/b/nothing/")
        assert unknown.status_code == 404 and "there is no bundle" in unknown.text.lower()
        assert "no bundle" in (await client.ask("/b/nothing/open")).json()["wrong"]

    with_server(test, colours_path, tmp_path)


def test_a_bug_in_opening_is_one_sentence_and_the_log_has_the_rest(colours_path, tmp_path, caplog):
    async def test(server, client):
        server._page_of = lambda bundle: 1 / 0
        assert (await client.ask("/b/my-colours/open")).json()["wrong"] == (
            "It could not be opened: the server’s log says why."
        )
        assert "ZeroDivisionError" in caplog.text and not server.open.page.studio.line.is_full()

    with_server(test, colours_path, tmp_path)


def test_another_sites_form_cannot_open_a_bundle(colours_path, tmp_path):
    async def test(server, client):
        answer = await client.post("/b/my-colours/open", data={"x": "1"})
        assert answer.status_code == 415 and server.open.name == "tiny"

    with_server(test, colours_path, tmp_path)


def test_a_link_leads_to_the_bundle_that_its_query_names(colours_path, bare_bundle_path, tmp_path):
    async def test(server, client):
        async def leads(address):
            answer = await client.get(address)
            return str(answer.url.join(answer.headers["location"]).raw_path, "ascii") if answer.is_redirect else None

        assert await leads("/") == "/b/tiny/"
        assert await leads("/?seed=3&bundle=my-colours") == "/b/my-colours/?seed=3&bundle=my-colours"
        assert await leads("/?bundle=unknown") == "/b/tiny/?bundle=unknown"
        assert await leads("/b/tiny") == "/b/tiny/"
        assert await leads("/b/tiny/?bundle=my-colours") == "/b/my-colours/?bundle=my-colours"
        assert await leads("/b/my-colours/?bundle=my%20colours") is None, "its own folder's name"
        other = server.shelf.add(bare_bundle_path)
        assert await leads(f"/b/{other}/?bundle=tiny") is None, "a folder of the same name as another on the shelf"

    with_server(test, colours_path, tmp_path)


def test_a_program_need_not_know_which_bundle_is_open(colours_path, tmp_path):
    async def test(server, client):
        assert "/sample" in (await client.get("/gradio_api/info")).json()["named_endpoints"]
        labels = json.dumps((await client.get("/config")).json())
        assert "Circle" in labels

    with_server(test, colours_path, tmp_path, whole=True)


def test_a_page_that_others_reach_has_no_box_for_paths(colours_path, tmp_path):
    async def test(server, client):
        config = json.dumps((await client.get("/config")).json(), ensure_ascii=False)
        assert "bundles-path" not in config and "Opening folders by path is off" in config

    with_server(test, colours_path, tmp_path, takes_paths=False, whole=True)


def test_a_path_from_elsewhere_is_refused(colours_path, tmp_path):
    async def test(server, client):
        config = (await client.get("/config")).json()
        ids = {component["props"].get("elem_id"): component["id"] for component in config["components"]}
        [index] = [
            dependency["id"]
            for dependency in config["dependencies"]
            if dependency["targets"] == [[ids["bundles-open"], "click"]]
        ]

        async def asked(**headers):
            body = {"fn_index": index, "data": ["/etc"], "session_hash": "x"}
            return str((await client.post("/gradio_api/run/predict", json=body, headers=headers)).json()["data"])

        assert "There is no bundle" in await asked(host="127.0.0.1")
        for headers in ({"host": "explorer.example.org"}, {"host": "127.0.0.1", "x-forwarded-for": "10.0.0.7"}):
            assert "Opening folders by path is off" in await asked(**headers)

    with_server(test, colours_path, tmp_path, whole=True)


# Places at work on RGB images of another size


def test_a_run_in_colours_shows_colours_and_is_downloaded_in_them(colours):
    studio = Studio(colours)
    session = Session(ticket=studio.line.join(), wanted=checked(colours, defaults(colours) | {"steps": 3}))
    list(studio.play(session))
    assert session.is_finished and session.head["real"] is None
    last = picture_of(session.steps[-1]["frames"][0])
    pixels = torch.frombuffer(bytearray(last.convert("RGB").tobytes()), dtype=torch.uint8).reshape(-1, 3)
    assert last.size == (33, 33) and (pixels[:, 0] != pixels[:, 1]).any()
    for kind in ("png", "webp", "zip", "csv"):
        assert len(file_of(session, kind)[1]) > 100
    assert "<table" in studio.judged(session.record)


def test_a_set_in_colours_is_made_and_sent_as_webp(colours, tmp_path):
    distillery = Distillery(Studio(colours), tmp_path)
    making = distillery.start(wanted(colours, ipc=2, beta=0.5, seed=1))
    distillery.workshop.wait(60)
    assert making.is_finished and making.since(0)["made"][0]["sheet"].startswith("data:image/webp")
    assert making.zip_of()[1].startswith(b"PK")


def write_imagenette(folder, names, *, per_class: int) -> None:
    """The official layout: splits of folders by WordNet id."""
    for split in ("train", "val"):
        for i, name in enumerate(names):
            (folder / split / name).mkdir(parents=True)
            for k in range(per_class):
                Image.new("RGB", (40, 30), (20 * i, 10 * k, 99)).save(folder / split / name / f"{k}.png")


def test_a_bundle_of_imagenettes_classes_finds_its_images_at_its_own_size(colours, tmp_path, monkeypatch):
    monkeypatch.setattr(lessons, "SYSTEM", tmp_path / "none")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    card = colours.card | {"title": "Photographs", "classes": list(IMAGENETTE.values())}
    photographs = replace(colours, name="mine", card=card)
    with pytest.raises(FileNotFoundError, match="Photographs are not on this machine: `python -m igds fetch imagen"):
        real_folder(photographs)
    write_imagenette(tmp_path / "igds" / "imagenette-320", IMAGENETTE, per_class=2)
    images = real_images(photographs, "test")
    assert images.images.shape == (20, 3, 16, 16) and images.classes == photographs.classes
    assert images.images[images.labels == 3][:, 0].float().mean() == pytest.approx(60, abs=1), "labels are in order"


def test_images_of_other_classes_are_not_taken_for_the_bundles(colours, tmp_path, monkeypatch):
    monkeypatch.setattr(lessons, "SYSTEM", tmp_path / "none")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    write_imagenette(tmp_path / "igds" / "imagenette-160", list(IMAGENETTE)[:9], per_class=1)
    photographs = replace(colours, card=colours.card | {"classes": list(IMAGENETTE.values())})
    with pytest.raises(ValueError, match="have other classes than"):
        real_images(photographs, "train")
