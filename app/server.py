"""The server: the page of the one bundle that is open, under that bundle's address, and a door to every other one."""

import asyncio
import ctypes
import gc
import json
import logging
import socket
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from html import escape
from urllib.parse import parse_qs

import fastapi
import fastapi.dependencies.models
import gradio as gr
import uvicorn
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from app.controls import text_of
from app.shelf import Shelf
from app.ui import LOOK, Page
from app.words import full_sentence
from igds.bundle import Bundle, read_card
from igds.files import sentence_of

PARTING_SECONDS = 2.0
ROOT = "/b/"
NOT_STORED = {"Cache-Control": "no-store"}
BUSY = "A run is under way there, which this would end. {title} opens as soon as the run has ended."
PUT_BACK = "This page’s bundle was put back when another one was opened, and nothing on it works any more."


class Server:
    """An ASGI application in which one bundle at a time is open, for all visitors alike.

    `/b/NAME/` is the page of the bundle NAME where that is the open one. Of any other on the shelf it is a door: a
    page that asks to open it, waits while a visitor's run is under way, and is then the bundle's own. Pages of the
    bundle that was open before are told so (410) whatever they ask for. `/` leads to the open one, or to the one that
    its query names, and whatever else has no NAME is asked of the open one, so that a program need not know the name.
    """

    def __init__(self, shelf: Shelf, page_of: Callable[[Bundle], Page]):
        self.shelf, self._page_of = shelf, page_of
        self.open: _OpenPage | None = None
        self._turn = asyncio.Lock()
        self._leaving: set[asyncio.Task] = set()

    async def begin(self, name: str) -> None:
        """Open the first bundle; raises what `Shelf.load` raises."""
        self.open = await self._opened(name)

    async def _opened(self, name: str) -> "_OpenPage":
        return await _OpenPage.of(name, await asyncio.to_thread(lambda: self._page_of(self.shelf.load(name))))

    async def switch(self, name: str) -> None:
        """Open this bundle in place of the other, whose memory is free a few seconds later.

        The new one is loaded before the old one goes: what cannot be opened costs nobody anything, and for a moment
        both are in memory. Raises BusyError while a run waits or is under way, and what `Shelf.load` raises.
        """
        async with self._turn:
            if name == self.open.name:
                return
            old = self.open
            if not old.page.shut():
                raise BusyError
            try:
                self.open = await self._opened(name)
            except BaseException:
                old.page.reopen()
                raise
            self._later(self._clear_away(old))

    async def _clear_away(self, old: "_OpenPage") -> None:
        await old.close()
        await asyncio.sleep(PARTING_SECONDS)  # until the tasks of Gradio's queue have seen that it is closed
        old.page = old.app = None
        free_memory()

    async def close(self) -> None:
        await self.open.close()

    def _later(self, work) -> asyncio.Task:
        task = asyncio.create_task(work)
        self._leaving.add(task)  # the event loop alone would let go of it
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task) -> None:
        self._leaving.discard(task)
        if not task.cancelled():
            task.exception()  # told to whoever asked, if he is still there

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:  # no page here speaks by WebSocket
            await send({"type": "websocket.close"})

    async def _answer(self, scope, receive, send) -> None:
        request, path = Request(scope, receive), scope["path"]
        named = parse_qs(scope["query_string"].decode("latin-1")).get("bundle", [""])[0]
        query = f"?{request.url.query}" if request.url.query else ""
        if path == "/" and request.method in ("GET", "HEAD"):
            name = named if named in self.shelf.names() else self.open.name
            answer = RedirectResponse(f"b/{name}/{query}", headers=NOT_STORED)
        elif not path.startswith(ROOT):
            whole = f"{ROOT}{self.open.name}{path}"
            scope = scope | {"path": whole, "raw_path": whole.encode()}
            answer = self.open.app
        else:
            name, slash, rest = path.removeprefix(ROOT).partition("/")
            is_page = rest == "" and request.method in ("GET", "HEAD")
            if is_page and not slash:
                answer = RedirectResponse(f"{name}/{query}", headers=NOT_STORED)
            elif is_page and named in self.shelf.names() and named not in (name, self._folder_name(name)):
                answer = RedirectResponse(f"../{named}/{query}", headers=NOT_STORED)
            elif rest == "open" and request.method == "POST":
                answer = await self._asked_to_open(name, request)
            elif name == self.open.name:
                answer = self.open.app if rest != "here" else Response(status_code=204, headers=NOT_STORED)
            elif is_page:
                answer = self._door(name)
            else:
                answer = self._put_back(name)
        if answer is self.open.app:
            await self.open.answer(scope, receive, send)
        else:
            await answer(scope, receive, send)

    def _folder_name(self, name: str) -> str:
        return self.shelf.path(name).name if name in self.shelf.names() else name

    async def _asked_to_open(self, name: str, request: Request) -> Response:
        """What the door asks for. Another site's page cannot: for JSON a browser asks first, in vain."""
        if request.headers.get("content-type") != "application/json":
            return JSONResponse({"wrong": "A bundle is opened from its own page."}, 415)
        try:
            # Whoever leaves the door meanwhile does not leave the server halfway between two bundles.
            await asyncio.shield(self._later(self.switch(name)))
        except BusyError:
            return JSONResponse({"wait": BUSY.format(title=self._title(name))}, headers=NOT_STORED)
        except (ValueError, OSError) as error:
            return JSONResponse({"wrong": full_sentence(sentence_of(error))}, headers=NOT_STORED)
        except Exception:
            logging.getLogger(__name__).exception("the bundle %s could not be opened", name)
            return JSONResponse({"wrong": "It could not be opened: the server’s log says why."}, headers=NOT_STORED)
        return JSONResponse({"open": name}, headers=NOT_STORED)

    def _title(self, name: str) -> str:
        """What its card calls a bundle; its name where the card cannot be read any more."""
        with suppress(ValueError, OSError):
            return str(read_card(self.shelf.path(name))["title"])
        return name

    def _door(self, name: str) -> Response:
        words = {"here": self.open.name, "here_title": self.open.page.bundle.card["title"]}
        try:
            self.shelf.path(name)
        except FileNotFoundError as error:
            return self._door_page("No such bundle", words | {"wrong": full_sentence(str(error))}, 404)
        return self._door_page(self._title(name), words, 200)

    def _door_page(self, title: str, words: dict, status: int) -> Response:
        page = text_of("door.html").replace("{title}", escape(title))
        return HTMLResponse(page.replace("{words}", escape(json.dumps(words))), status, headers=NOT_STORED)

    def _put_back(self, name: str) -> Response:
        words = {"detail": PUT_BACK, "title": self._title(name), "here": self.open.name}
        return JSONResponse(words | {"here_title": self.open.page.bundle.card["title"]}, 410, headers=NOT_STORED)


class BusyError(ValueError):
    """A visitor's run waits or is under way."""


class _OpenPage:
    """A page as it is served, with the requests that it is answering."""

    def __init__(self, name: str, page: Page):
        self.name, self.page = name, page
        self.app = fastapi.FastAPI()
        how = {
            "show_error": False,
            "head": _head(),
            "ssr_mode": False,
        }  # which hosts would switch on by the environment
        gr.mount_gradio_app(self.app, page.blocks, f"{ROOT}{name}", **how, **LOOK)
        self._life = AsyncExitStack()
        self._requests: set[asyncio.Task] = set()

    @classmethod
    async def of(cls, name: str, page: Page) -> "_OpenPage":
        opened = cls(name, page)
        await opened._life.enter_async_context(opened.app.router.lifespan_context(opened.app))
        return opened

    async def answer(self, scope, receive, send) -> None:
        task = asyncio.create_task(self.app(scope, receive, send))
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)
        try:
            await task
        except asyncio.CancelledError:  # of the task by `close`, or of this one: then the visitor has gone
            task.cancel()

    async def close(self) -> None:
        """End what is open to browsers, then what Gradio keeps running."""
        self.app.routes[-1].app.stop_event.set()  # ends the streams by which browsers say that they are there
        self.page.blocks._queue.close()
        if self._requests:
            await asyncio.wait(self._requests, timeout=PARTING_SECONDS)
        for task in list(self._requests):
            task.cancel()
        await self._life.aclose()
        await asyncio.to_thread(self.page.close)


def free_memory() -> None:
    """Return what is no longer used to the system: what FastAPI's caches hold, Python's cycles, glibc's free pages."""
    for cache in vars(fastapi.dependencies.models).values():  # their keys are handlers, and with them whole pages
        if hasattr(cache, "cache_clear"):
            cache.cache_clear()
    gc.collect()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def _head() -> str:
    return f"<script>{text_of('put_back.js')}</script>"


async def serve(server: Server, name: str, *, sockets: list[socket.socket], ready: Callable[[], None]) -> None:
    """Serve this bundle's page, and those opened later, until the program is told to end; raises as `begin` does."""
    await server.begin(name)
    listener = _Listener(uvicorn.Config(server, log_level="warning", lifespan="off", timeout_graceful_shutdown=5))
    listener.served = server
    running = asyncio.create_task(listener.serve(sockets=sockets))
    while not listener.started and not running.done():
        await asyncio.sleep(0.02)
    ready()
    await running


class _Listener(uvicorn.Server):
    async def shutdown(self, sockets=None) -> None:
        await self.served.close()  # first, since it would wait for the streams to end
        await super().shutdown(sockets)
