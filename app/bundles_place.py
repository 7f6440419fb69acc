"""The place Bundles: what is on the shelf, card by card, and a box for what lies elsewhere on this machine."""

from urllib.parse import urlsplit

import gradio as gr

from app import words
from app.bundle_cards import card_of
from app.controls import html, text_of
from app.shelf import Shelf, is_this_machine
from igds.bundle import Bundle
from igds.files import sentence_of

OFF = (
    "Opening folders by path is off: other machines reach this page, and with it every visitor could look into the "
    "folders of this one. Start it with `--bundle PATH`, or with `--host 127.0.0.1`"
)
INFO = "The folder of a bundle on this machine, made by `igds train` or `igds import`: it holds a card.json."
FOLLOW = "() => document.querySelector('#bundles-notice a')?.click()"


def bundles_place(tab: gr.Tab, shelf: Shelf, bundle: Bundle) -> None:
    """Build the place inside `tab`; `bundle` is the one that the page shows."""
    here = bundle.path
    html(text_of("bundles_intro.html"))
    cards = html("", "bundles-cards")
    with gr.Column(elem_classes="by-path"):
        html("<h2 class='teach'>Open another by path</h2>")
        if shelf.takes_paths:
            with gr.Row(elem_classes="path"):
                path = gr.Textbox(label="Path", info=INFO, max_lines=1, elem_id="bundles-path", scale=4)
                look = gr.Button("Open", variant="primary", elem_id="bundles-open", scale=0)
            notice = html("", "bundles-notice")
        else:
            html(f"<p class='about'>{words.as_sentence(OFF)}</p>", "bundles-notice")
    quick = {"queue": False, "api_visibility": "private"}

    def listed(request: gr.Request) -> str:
        query = _carried(request)
        paths = {name: shelf.path(name) for name in shelf.names()}
        return "".join(card_of(name, path, is_open=path == here, query=query) for name, path in paths.items())

    tab.select(listed, None, cards, show_progress="hidden", **quick)
    if not shelf.takes_paths:
        return

    def add(text: str, request: gr.Request) -> str:
        if not _is_local(request):
            return words.notice(OFF)
        try:
            name = shelf.add_checked(text)
        except (ValueError, OSError) as error:
            return words.notice(sentence_of(error))
        if shelf.path(name) == here:
            return words.notice("This is the bundle that is open", calm=True)
        link = f"<a href='../{name}/{_carried(request)}#bundles'>open it</a>"
        return f"<p class='calm' role='alert'>It is a bundle: {link}.</p>"

    for event in (look.click, path.submit):
        event(add, path, notice, trigger_mode="once", show_progress="minimal", **quick).success(
            None, None, None, js=FOLLOW
        )


def _carried(request: gr.Request) -> str:
    """What a link to another bundle's page takes along from this one's address: the theme that was asked for."""
    theme = request.query_params.get("__theme")
    return f"?__theme={theme}" if theme in ("dark", "light") else ""


def _is_local(request: gr.Request) -> bool:
    """Whether the page was asked for under this machine's own name, and not by way of a proxy."""
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    return is_this_machine(host) and "x-forwarded-for" not in request.headers and "forwarded" not in request.headers
