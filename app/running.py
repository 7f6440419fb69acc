"""Start and Stop of a place: the line before the model, what is said meanwhile, and how a run ends, however it does."""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import gradio as gr

from app import words
from app.session import Session, Studio

FULL = "Too many runs wait already: try again in a while"
A_GLANCE = 0.12  # seconds between two pictures: more than eight a second cost the run more than they show
QUICK = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


@dataclass(frozen=True)
class Running:
    """What the runs of a place act on. `clock` ticks while a visitor waits; `others` are what its own updates change.

    `buttons(session)` says what can be clicked now, `begun(values)`, `finished(session)` and `ended(session)` what else
    changes when a run is asked for, has finished, or was stopped.
    """

    session: gr.State
    stage: gr.HTML
    notice: gr.HTML
    clock: gr.Timer
    start: gr.Button
    stop: gr.Button
    others: Sequence[gr.components.Component]
    buttons: Callable[[Session], dict]
    begun: Callable[[Sequence], dict] = lambda values: {}
    finished: Callable[[Session], dict] = lambda session: {}
    ended: Callable[[Session], dict] = lambda session: {}


def wire(
    place: Running,
    studio: Studio,
    inputs: Sequence[gr.components.Component],
    *,
    wanted: Callable[[Session, Sequence], object],
    play: Callable[[Session], Iterator[dict]],
) -> None:
    """Let Start ask for the run that `inputs` describe and `play` it, and let Stop end it.

    `wanted(session, values)` is that run; its ValueError is said at once.
    """
    session, stage, notice, clock, buttons = place.session, place.stage, place.notice, place.clock, place.buttons
    everything = [stage, notice, clock, place.start, place.stop, *place.others]
    at_rest = {notice: "", clock: gr.Timer(active=False)}

    def ask(session: Session, request: gr.Request, *values):
        if session.ticket is not None:
            return {notice: gr.skip()}
        try:
            session.wanted = wanted(session, values)
        except ValueError as error:
            return {notice: words.notice(str(error))}
        if studio.line.is_full():
            return {notice: words.notice(FULL)}
        session.ticket = studio.line.join(request.session_hash)
        ahead = studio.line.ahead(session.ticket)
        waits = {
            notice: words.notice(words.waiting(ahead), calm=True) if ahead else "",
            clock: gr.Timer(active=ahead > 0),
        }
        return buttons(session) | waits | place.begun(values)

    def run(session: Session):
        if session.ticket is None:  # the settings were wrong, or Stop was quicker than the queue
            yield gr.skip()
            return
        session.is_settled, session.said = False, ""
        try:
            for payload in in_glances(play(session)):
                yield message(payload)
        except ValueError as error:  # such settings cannot be followed to the end
            session.said = str(error)
            yield message(session.end("failed"))

    # Asked outside the queue, so that a wrong setting is told at once, and played inside it.
    asked = place.start.click(ask, [session, *inputs], everything, trigger_mode="once", **QUICK)
    running = asked.then(
        run,
        session,
        stage,  # alone: with each message the page goes through all outputs of its event
        concurrency_id="model",
        concurrency_limit=1,
        trigger_mode="multiple",
        show_progress="hidden",
        api_visibility="private",
    )

    def settle(session: Session):
        """After the last step: the buttons, and what the run was found to be."""
        if session.is_settled:
            return {notice: gr.skip()}
        session.is_settled = True
        more = place.finished(session) if session.is_finished else {}
        return buttons(session) | at_rest | more | ({notice: words.notice(session.said)} if session.said else {})

    running.success(settle, session, everything, **QUICK)

    def fail(session: Session):
        if session.ticket is None:  # Gradio calls a run that was stopped a failure too
            return buttons(session)
        if session.state == "running":
            return {notice: gr.skip()}
        if session.state != "broken":  # never begun: Gradio's own queue was full
            studio.line.leave(session.ticket)
            session.ticket = None
            return buttons(session) | at_rest | {notice: words.notice(FULL)}
        last = session.end("failed")
        said = words.notice("The run broke off: the server's log says why")
        return buttons(session) | at_rest | {stage: message(last), notice: said}

    running.failure(fail, session, everything, **QUICK)

    def end(session: Session):
        studio.line.leave(session.ticket)
        session.ticket = None
        if session.state == "running":
            session.end("stopped")
        shown = {stage: message(session.ending())} if session.head else {}
        return at_rest | place.ended(session) | shown | buttons(session)

    place.stop.click(end, session, everything, cancels=[running], **QUICK)

    def tell_place(session: Session):
        if session.ticket is None:
            return {notice: gr.skip()}
        if session.state == "running":
            return at_rest
        return {notice: words.notice(words.waiting(studio.line.ahead(session.ticket)), calm=True)}

    clock.tick(tell_place, session, [notice, clock], **QUICK)

    def send_again(session: Session, event: gr.EventData):
        return message(session.since(int(event.have)))

    stage.missing(send_again, session, stage, **QUICK)


def message(payload: dict) -> str:
    """A payload as a stage gets it: text.

    Gradio sends it whole, where of anything else it sends what has changed, which costs more to find, is wrong for
    nested lists that get shorter, and cannot be put together again where a message was lost. In the browser it is one
    value, where Gradio copies every number of a nested one at each message of the page.
    """
    return json.dumps(payload)


def in_glances(payloads: Iterable[dict], seconds: float = A_GLANCE) -> Iterator[dict]:
    """The payloads of a run, steps that follow each other within `seconds` as one: sending costs more than a fast step.

    Nothing but steps waits, and none for longer than the next one takes.
    """
    held, shown = [], -math.inf  # when the last step was sent
    for payload in payloads:
        held.append(payload)
        is_step = payload["kind"] == "step"
        if is_step and time.monotonic() - shown < seconds:
            continue
        yield held[0] if len(held) == 1 else {"kind": "many", "payloads": held}
        held, shown = [], time.monotonic() if is_step else shown
