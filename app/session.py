"""One visitor's run and the one model that all visitors share. Knows no page."""

import itertools
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from app.figures import frame, frame_of, grid_shape, noise_frame
from app.settings import query_of
from app.words import bound_of, captions, credit, headline, images, results
from igds.bundle import Bundle
from igds.rng import NoiseStreams, image_seeds
from igds.runs import Record, Run
from igds.sampling import Step

REAL_IMAGES, REAL_COLUMNS = 10, 2  # as tall as a grid is beside them

LONGEST_LINE = 8

T = TypeVar("T")

_tickets = itertools.count(1)


class Turns:
    """A lock that is given out in the order in which it was asked for, so that no long job keeps it from the others."""

    def __init__(self):
        self._changed = threading.Condition()
        self._asked = self._served = 0

    def __enter__(self) -> None:
        with self._changed:
            turn, self._asked = self._asked, self._asked + 1
            self._changed.wait_for(lambda: self._served == turn)

    def __exit__(self, *_) -> None:
        with self._changed:
            self._served += 1
            self._changed.notify_all()


class Line:
    """The visitors whose runs have not ended, in the order in which they asked."""

    def __init__(self):
        self._places: dict[int, str] = {}
        self._lock = threading.Lock()
        self._is_shut = False

    def join(self, visitor: str = "") -> int:
        """A place in the line; ValueError where it is shut."""
        with self._lock:
            if self._is_shut:
                raise ValueError("another bundle is being opened: try again in a moment")
            ticket = next(_tickets)
            self._places[ticket] = visitor
            return ticket

    def leave(self, ticket: int | None) -> None:
        with self._lock:
            self._places.pop(ticket, None)

    def forget(self, visitor: str) -> None:
        """Take away every place of a visitor who has closed the page."""
        with self._lock:
            self._places = {ticket: owner for ticket, owner in self._places.items() if owner != visitor}

    def is_full(self) -> bool:
        with self._lock:
            return self._is_shut or len(self._places) >= LONGEST_LINE

    def shut(self) -> bool:
        """Let nobody join any more; False, and all is as before, where somebody is in the line."""
        with self._lock:
            self._is_shut = self._is_shut or not self._places
            return self._is_shut

    def reopen(self) -> None:
        with self._lock:
            self._is_shut = False

    def ahead(self, ticket: int) -> int:
        """How many runs come before this one, the one on the model included."""
        with self._lock:
            return list(self._places).index(ticket) if ticket in self._places else 0


@dataclass
class Session:
    """What one visitor has: the run that was asked for, and the record of the one on the stage. CPU data only.

    `ticket` is the place in the line of the run that waits or runs; None when nothing does. `steps` are the payloads
    as the stage got them. `said` is why a run could not go on; `is_settled` tells that the page around the stage has
    heard how it ended.
    """

    ticket: int | None = None
    wanted: Run | None = None
    record: Record | None = None
    state: str = "idle"
    head: dict = field(default_factory=dict)
    steps: list[dict] = field(default_factory=list)
    said: str = ""
    is_settled: bool = True

    @property
    def has_frames(self) -> bool:
        return bool(self.steps) and self.state in ("finished", "stopped")

    @property
    def is_finished(self) -> bool:
        return self.state == "finished"

    def end(self, state: str) -> dict:
        """Close the run: "finished", "stopped" or "failed"; the stage's last payload."""
        self.state, self.ticket = state, None
        return self.ending()

    def ending(self) -> dict:
        return {"kind": "end", "run": self.head.get("run"), "state": self.state, "count": len(self.steps)}

    def since(self, have: int) -> dict:
        """The run again from step `have` on, for a stage that missed some: a slow page, or one that was asleep."""
        payloads = [self.head, *self.steps[have:]] if self.head else []
        if self.state in ("finished", "stopped", "failed"):
            payloads.append(self.ending())
        return {"kind": "many", "payloads": payloads}


class Studio:
    """The model and its line. One step is computed at a time, whoever it is for.

    `study` is what the results are held against; without it, `no_study` says why.
    """

    def __init__(self, bundle: Bundle, study: dict | None = None, *, no_study: str = ""):
        self.bundle, self.study, self.no_study = bundle, study, no_study
        self.line = Line()
        self.turns = Turns()  # a cancelled run leaves Gradio's queue before its last step has ended

    def each(self, events: Generator[T]) -> Iterator[T]:
        """The events of a long job, each computed while nothing else is."""
        try:
            while True:
                with self.turns:
                    event = next(events, None)
                if event is None:
                    return
                yield event
        finally:
            events.close()

    def play(self, session: Session) -> Iterator[dict]:
        """The session's wanted run as payloads for Explore's stage: its head, its steps, its end."""
        run = session.wanted
        return self.follow(session, Record(run, self.bundle), head_of(run, self.bundle, session.ticket))

    def follow(
        self,
        session: Session,
        record,
        head: dict,
        *,
        columns: int | None = None,
        finish: Callable[[], None] = lambda: None,
    ) -> Iterator[dict]:
        """Start the session's wanted run: its `head`, its steps (also into `record`), and after `finish` its end.

        `columns` is that of the grids. Ends without another word where the visitor has stopped it, which the ticket
        tells.
        """
        ticket, started = session.ticket, time.monotonic()
        try:
            session.record, session.steps, session.state, session.head = record, [], "running", head
            yield head
            for step in self.each(session.wanted.start(self.bundle)):
                payload = payload_of(step, ticket, time.monotonic() - started, columns=columns)
                if session.ticket != ticket:
                    return
                record.add(step)
                session.steps.append(payload)
                yield payload
            with self.turns:
                finish()
            if session.ticket == ticket:
                yield session.end("finished")
        except Exception:
            session.state = "broken"
            raise
        finally:
            self.line.leave(ticket)

    def judged(self, record: Record) -> str:
        """The verdict on a finished run, as HTML."""
        with self.turns:
            return results(record, self.study, self.no_study)

    def record(self, run: Run) -> Record:
        """A whole run at once."""
        record, ticket = Record(run, self.bundle), self.line.join()
        try:
            for step in self.each(run.start(self.bundle)):
                record.add(step)
        finally:
            self.line.leave(ticket)
        return record


def about(run: Run, bundle: Bundle) -> dict:
    """What the stage must know of a run before its first step: words, layout, bounds, real images."""
    return {
        "title": headline(run),
        "label": run.label,
        "columns": [{"name": name, "caption": caption} for name, caption in captions(run).items()],
        "timesteps": len(bundle.prior.schedule),
        "images": run.ipc,
        "grid": grid_shape(run.ipc),
        "bounds": {key: bound_of(key, run, bundle) for key in ("prototype", "contextual")},
        "real": _real(run, bundle),
        "credit": credit(bundle),
    }


def _real(run: Run, bundle: Bundle) -> str | None:
    """Real images of the run's class; None where the bundle may not hold any."""
    if bundle.gallery is None:
        return None
    return frame(bundle.gallery[bundle.label_of(run.label)][:REAL_IMAGES], columns=REAL_COLUMNS)


def head_of(run: Run, bundle: Bundle, ticket: int) -> dict:
    return {
        **about(run, bundle),
        "kind": "start",
        "run": ticket,
        "count": run.steps,
        "query": query_of(run),
        "recording": False,
    }


def payload_of(step: Step, ticket: int, elapsed: float, *, columns: int | None = None) -> dict:
    """One step for a stage: x̃0 of each column, at the last step the images themselves, and the two curves' points.

    A column's images stand in the squarest grid, or in one of `columns` columns.
    """
    last = step.index + 1 == step.steps
    return {
        "kind": "step",
        "run": ticket,
        "index": step.index,
        "t": step.t,
        "frames": [frame_of(batch.x if last else batch.x0, columns=columns) for batch in step.batches],
        "prototype": [round(float(batch.prototype.mean()), 5) for batch in step.batches],
        "contextual": [round(float(batch.contextual.mean()), 5) for batch in step.batches],
        "elapsed": round(elapsed, 3),
    }


def preview_of(run: Run, bundle: Bundle) -> dict:
    """The stage before a run: the very noise it would start from, and real images of its class."""
    label = bundle.label_of(run.label)
    noise = NoiseStreams(image_seeds(run.seed, label, run.ipc)).draw(bundle.prior.shape)
    return {
        **about(run, bundle),
        "kind": "idle",
        "hint": f"This noise becomes {images(run.ipc)}, three ways. Press Start",
        "noise": [noise_frame(noise)] * len(run.columns),
    }
