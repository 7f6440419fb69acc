"""Long jobs that no page can end: each in a thread of its own, one at a time, in the order in which they were asked."""

import atexit
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

from app.session import Line, Turns

FULL = "Too much is being made already: try again in a while"
PARTING_SECONDS = 5.0


@dataclass(eq=False)
class Job(ABC):
    """What one job has to show. `version` grows with every change, so that a page can ask for what is new to it.

    `said` is the sentence of a job that failed.
    """

    state: str = field(default="stopped", init=False)
    said: str = field(default="", init=False)
    version: int = field(default=0, init=False)
    ticket: int | None = field(default=None, init=False)
    stopping: threading.Event = field(default_factory=threading.Event, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def is_busy(self) -> bool:
        return self.state in ("waiting", "running")

    @abstractmethod
    def work(self, stopping: threading.Event) -> bool:
        """Do all of it, or what can be done until `stopping` is set; whether it is complete."""

    def tell(self, error: Exception) -> str:
        """An error that a visitor can act on, as a sentence."""
        return str(error)

    def become(self, state: str, said: str = "") -> None:
        self.state, self.said = state, said
        self.change()

    def change(self, note: Callable[[int], None] = lambda version: None) -> None:
        """A new version, which `note` is told before anybody else."""
        with self._lock:
            note(self.version + 1)
            self.version += 1


class Workshop:
    """Where jobs are worked on. They end with the program, or before when they are stopped."""

    def __init__(self):
        self.line = Line()
        self._turns = Turns()
        self._lock = threading.Lock()
        self._threads: dict[threading.Thread, threading.Event] = {}
        atexit.register(self.close)

    def begin(self, job: Job) -> None:
        """Put a job into the line, unless it is there already; ValueError where the line is full."""
        with self._lock:
            if job.is_busy:
                return
            if self.line.is_full():
                raise ValueError(FULL)
            job.ticket, job.stopping = self.line.join(), threading.Event()
            job.become("waiting")
            thread = threading.Thread(target=self._run, args=(job, job.ticket, job.stopping), daemon=True)
            self._threads[thread] = job.stopping
            thread.start()

    def stop(self, job: Job) -> None:
        """End a job after the step that is being computed."""
        with self._lock:
            if job.is_busy:
                job.stopping.set()
                self.line.leave(job.ticket)
                job.become("stopped")

    def ahead(self, job: Job) -> int:
        """How many jobs come before this one."""
        return self.line.ahead(job.ticket)

    def close(self) -> None:
        """Stop everything: a thread at work while Python shuts down would take it with it."""
        for stopping in list(self._threads.values()):
            stopping.set()
        self.wait(PARTING_SECONDS)

    def wait(self, seconds: float | None = None) -> None:
        """Until nothing is being worked on, or so many seconds for each job."""
        for thread in list(self._threads):
            thread.join(seconds)

    def _run(self, job: Job, ticket: int, stopping: threading.Event) -> None:
        try:
            with self._turns:
                self._turn(job, stopping, "running")
                if not stopping.is_set() and job.work(stopping):
                    self._turn(job, stopping, "finished")
        except (ValueError, OSError) as error:
            self._turn(job, stopping, "failed", job.tell(error))
        except Exception:
            logging.getLogger(__name__).exception("a job broke off")
            self._turn(job, stopping, "failed", "It broke off: the server's log says why")
        finally:
            self.line.leave(ticket)
            self._threads.pop(threading.current_thread(), None)

    def _turn(self, job: Job, stopping: threading.Event, state: str, said: str = "") -> None:
        """A new state, unless the job was stopped: it may be on its way again in another thread."""
        with self._lock:
            if not stopping.is_set():
                job.become(state, said)
