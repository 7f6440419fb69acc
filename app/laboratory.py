"""What the place Laboratory computes and says. Knows no page.

An experiment is everything that a visitor can set; it stands in the address as `lab=…`, feeds the controls and is what
a lesson is. The bench holds the trained estimators and turns experiments into payloads for the browser.
"""

import base64
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache

import torch
from torch import Tensor

from app.laboratory_film import film
from igds.estimator import VariationalEstimator
from igds.laboratory import (
    CLASSES,
    ENCODERS,
    MOST_PARTICLES,
    PRESETS,
    REACH,
    REAL_DISTANCE,
    STEPS,
    Learnt,
    Outcome,
    Play,
    Scene,
    beta_curve,
    drawn,
    learn,
    modes_by_chance,
    outcomes,
    play,
    truth,
)
from igds.runs import MAX_SEED
from igds.sampling import COLUMNS

DRAWN = "drawn"
SCENES = {
    "rings": "Three rings",
    "moons": "Two moons",
    "overlap": "Overlapping classes",
    "rare": "A rare mode",
    "imbalance": "Imbalance",
    DRAWN: "Draw your own",
}
ENCODER_NAMES = {"contrastive": "algorithm 1", "cross-entropy": "cross-entropy alone"}
MOST_BETA = MOST_ETA = 40.0
WORDS = {"n": "n", "beta": "β", "eta": "η", "seed": "the seed", "lesson": "the lesson"}
PIXELS = 1000  # of a whole number for each unit of the plane, in what is sent
FARTHEST = 32.0  # units: what is sent of a particle that has left the plane for good
ARROWS = 8  # particles of a class whose forces are sent


@dataclass(frozen=True)
class Experiment:
    """Everything that can be set. `points` are the numbers x, y, class of each mode of a drawn scene.

    `lesson` counts from 1; 0 is none. Raises ValueError in a sentence for the first thing that is wrong.
    """

    scene: str = "rings"
    encoder: str = "contrastive"
    n: int = 8
    beta: float = 4.0
    eta: float = 1.0
    seed: int = 0
    lesson: int = 0
    points: tuple[float, ...] = ()

    def __post_init__(self):
        if self.scene not in SCENES:
            raise ValueError(f"scene must be one of {', '.join(SCENES)}, got {self.scene!r}")
        if self.encoder not in ENCODERS:
            raise ValueError(f"encoder must be one of {', '.join(ENCODERS)}, got {self.encoder!r}")
        bounds = {
            "n": (1, MOST_PARTICLES),
            "beta": (0, MOST_BETA),
            "eta": (0, MOST_ETA),
            "seed": (0, MAX_SEED),
            "lesson": (0, len(LESSON_TITLES)),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not (low <= value <= high):
                raise ValueError(f"{WORDS[name]} must be between {low:g} and {high:g}, got {value:g}")
        self.mixture()

    def mixture(self) -> Scene:
        if self.scene != DRAWN:
            return PRESETS[self.scene]
        if len(self.points) % 3:
            raise ValueError(f"points must be threes of numbers (x, y, class), got {len(self.points)} numbers")
        rows = [self.points[i : i + 3] for i in range(0, len(self.points), 3)]
        if any(label not in range(CLASSES) for _, _, label in rows):
            raise ValueError(f"a point's class must be between 0 and {CLASSES - 1}")
        return drawn([(x, y, int(label)) for x, y, label in rows])

    def query(self) -> str:
        """What stands behind `lab=` in the address: what differs from the defaults."""
        parts = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value == field.default:
                continue
            if field.name == "points":
                value = "_".join(f"{number:.6g}" for number in value)
            parts.append(f"{field.name}:{f'{value:.12g}' if isinstance(value, float) else value}")
        return ",".join(parts)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(_number(part) for part in text.split("_") if part)


def _number(text: object) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a number")
    return value


def _whole(text: object) -> int:
    value = _number(text)
    if value != int(value):
        raise ValueError(f"{text!r} is not a whole number")
    return int(value)


READERS = {
    "scene": str,
    "encoder": str,
    "n": _whole,
    "beta": _number,
    "eta": _number,
    "seed": _whole,
    "lesson": _whole,
    "points": _numbers,
}


def experiment_of(settings: dict) -> Experiment:
    """From the controls' raw values; ValueError names the first that is wrong."""
    values = {}
    for name, read in READERS.items():
        if name in settings:
            raw = settings[name]
            if raw is None or raw == "":
                if name == "points":
                    continue
                raise ValueError(f"{WORDS.get(name, name)} is empty: give it a value")
            try:
                values[name] = read(raw)
            except ValueError as error:
                raise ValueError(f"{WORDS.get(name, name)}: {error}") from None
    return Experiment(**values)


def restored(query: str) -> tuple[Experiment, list[str]]:
    """The experiment of an address, and a sentence for each thing in it that could not be used."""
    experiment, complaints = Experiment(), []
    settings = {}
    for part in filter(None, query.split(",")):
        name, colon, value = part.partition(":")
        if not colon or name not in READERS:
            complaints.append(f"This link cannot be followed in full: the laboratory has no setting {name!r}.")
        else:
            settings[name] = value
    try:  # together first: a drawn scene is nothing without its points
        return experiment_of(settings), complaints
    except ValueError:
        pass
    kept: dict = {}
    for name, value in settings.items():
        try:
            experiment = experiment_of(kept | {name: value})
            kept[name] = value
        except ValueError as error:
            complaints.append(f"This link cannot be followed in full: {error}. It was left out.")
    return experiment, complaints


LESSON_TITLES = (
    "Few draws, few modes",
    "β = 0 sharpens",
    "β > 0 spreads",
    "Too much β",
    "n = 1 feels no β",
    "Too large an η",
    "Cross-entropy alone",
)
LESSONS = (
    Experiment(lesson=1, scene="rings", n=4, beta=4.0, eta=1.0),
    Experiment(lesson=2, scene="overlap", n=20, beta=0.0, eta=3.0),
    Experiment(lesson=3, scene="rare", n=4, beta=8.0, eta=1.0),
    Experiment(lesson=4, scene="rings", n=20, beta=32.0, eta=1.0),
    Experiment(lesson=5, scene="rings", n=1, beta=16.0, eta=1.0),
    Experiment(lesson=6, scene="rings", n=10, beta=4.0, eta=20.0),
    Experiment(lesson=7, scene="rings", n=4, beta=4.0, eta=1.0, encoder="cross-entropy"),
)
LESSON_WORDS = (
    (
        "Look at the grey column: four particles for each class of six modes, and nothing guides them.",
        "Each particle falls to a mode by chance, so that some modes get two and others none. With an exact score this "
        "is no failure of the diffusion: four independent draws reach half of the modes on average, and no sampler "
        "with independent particles does better. To do better, particles must know of each other: see orange.",
    ),
    (
        "Compare grey and blue where the colours overlap, and the column “class kept”.",
        "The prototype force η∇log P(y|x) pushes particles away from where their class is in doubt. The true posterior "
        "then agrees with nearly all of them, and Î rises above the true I(X;Y) of the data: purer, and less like the "
        "data, for the modes in the middle are given up.",
    ),
    (
        "One mode of each class is eight times as rare as the others. Compare blue and orange: modes reached.",
        "The contextual force ηβ∇KL(p‖Q̂) pushes each particle away from what those made with it have in common. "
        "Particles that would have shared a mode part while there is noise enough left to choose. Try other seeds: one "
        "run proves little, and the curve below is the mean of several.",
    ),
    (
        "Watch the orange particles near the end, and their distance to the nearest mode.",
        "Ĥ is what an encoder computes, and the encoder can be pleased off the data too. At β = 32 Ĥ is highest, yet "
        "particles stand between and outside the rings, and some have lost their class. The curve below turns down: "
        "that is what β costs.",
    ),
    (
        "Blue and orange are the same picture, whatever β you set.",
        "Q̂ is the mean of the particles that are made together. With a single one p = Q̂, so that KL(p‖Q̂) = 0 and its "
        "gradient is 0 too: there is no orange arrow. Set n to 2, and β acts.",
    ),
    (
        "Blue and orange both leave the rings, and reach far fewer modes than grey.",
        "At η = 1 the class term weighs as much as the score (classifier guidance). At η = 20 the encoder overrules "
        "the score, although it has never seen noise: it drives particles to where it is surest, which is not "
        "where the data is.",
    ),
    (
        "The settings of lesson 1, but f was trained by cross-entropy alone. Look at Ĥ, and at orange.",
        "Cross-entropy keeps what tells the classes apart and lets the rest collapse: the held-out Ĥ is less than half "
        "that of algorithm 1, while Î is as good. The same β then has less to push along, and reaches fewer modes.",
    ),
)


def lessons() -> list[dict]:
    """For the page: title, what to look at, why, and the settings."""
    return [
        {"title": title, "look": look, "why": why, "query": experiment.query(), "settings": asdict(experiment)}
        for title, (look, why), experiment in zip(LESSON_TITLES, LESSON_WORDS, LESSONS)
    ]


def opening() -> dict:
    """What the page must know before anything runs."""
    return {
        "kind": "idle",
        "scenes": [{"name": name, "title": title} for name, title in SCENES.items()],
        "encoders": [{"name": name, "title": title} for name, title in ENCODER_NAMES.items()],
        "presets": {name: _modes(scene) for name, scene in PRESETS.items()},
        "lessons": lessons(),
        "settings": asdict(Experiment()),
        "most": {"n": MOST_PARTICLES, "beta": MOST_BETA, "eta": MOST_ETA},
        "reach": REACH,
        "steps": STEPS,
        "columns": list(COLUMNS),
        "real_distance": REAL_DISTANCE,
    }


def _modes(scene: Scene) -> list[list[float]]:
    return [[mode.label, mode.x, mode.y, mode.std, mode.weight] for mode in scene.modes]


def single_threaded(workers: int) -> ThreadPoolExecutor:
    """Threads that compute alone: networks this small lose more to waiting for each other than they gain by sharing.

    torch keeps a number for each thread, but what one of them sets is what others begin with when they first ask.
    """
    usual = torch.get_num_threads()
    begun = threading.Barrier(workers + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()

    pool = ThreadPoolExecutor(workers, initializer=begin)
    for _ in range(workers):
        pool.submit(begun.wait)
    begun.wait()
    torch.set_num_threads(usual)
    return pool


class Bench:
    """The estimators trained so far, for all visitors: one a scene and encoder, the last MOST of them.

    Everything is computed by a few threads of its own, beside the image model.
    """

    MOST = 64

    def __init__(self):
        self.workers = single_threaded(3)  # one for a training, one for a curve, one for runs
        self._trained: OrderedDict[tuple[Scene, str], tuple[list[dict], VariationalEstimator]] = OrderedDict()
        self._lock = threading.Lock()
        self._curve = lru_cache(maxsize=128)(self._measure_curve)

    def _find(self, experiment: Experiment) -> tuple[list[dict], VariationalEstimator] | None:
        key = experiment.mixture(), experiment.encoder
        with self._lock:
            if key in self._trained:
                self._trained.move_to_end(key)
            return self._trained.get(key)

    def do(self, compute: Callable[..., dict], *given: object) -> dict:
        """The result of `compute(*given)`, computed by one of the bench's threads."""
        return self.workers.submit(compute, *given).result()

    def train(self, experiment: Experiment, *, again: bool = False) -> Iterator[dict]:
        """Payloads while the encoder learns; at once its whole history where it has been trained before."""
        scene = experiment.mixture()
        about = {"truth": self.do(truth_of, scene)}
        found = None if again else self._find(experiment)
        if found is None:
            history: list[dict] = []
            yield about | {"kind": "learning", "history": history}
            events = learn(scene, experiment.encoder)
            while event := self.workers.submit(next, events, None).result():
                learnt = event.estimator
                history = [*history, _moment(event)]
                yield about | {"kind": "learning", "history": history}
            found = history, learnt
            with self._lock:
                self._trained[scene, experiment.encoder] = found
                while len(self._trained) > self.MOST:
                    self._trained.popitem(last=False)
            self._curve.cache_clear()
        yield about | {"kind": "learnt", "history": found[0]}

    def play(self, experiment: Experiment) -> tuple[Scene, Play] | None:
        found = self._find(experiment)
        if found is None:
            return None
        scene = experiment.mixture()
        settings = {"n": experiment.n, "beta": experiment.beta, "eta": experiment.eta, "seed": experiment.seed}
        return scene, play(scene.prior(), found[1], **settings, arrows=ARROWS)

    def run(self, experiment: Experiment) -> dict:
        """A whole run for the browser; {"kind": "untrained"} where the encoder must be trained first."""
        played = self.play(experiment)
        return {"kind": "untrained"} if played is None else payload_of(experiment, *played)

    def film(self, experiment: Experiment, kind: str) -> dict:
        """The run as an animation, "gif" or "mp4", in base 64; ValueError as `animation`."""
        played = self.play(experiment)
        if played is None:
            return {"kind": "untrained"}
        content = film(*played, beta=experiment.beta, kind=kind)
        return {"kind": "film", "format": kind, "content": base64.b64encode(content).decode()}

    def curve(self, experiment: Experiment) -> dict:
        """What β costs and buys at this scene, encoder, n and η."""
        if self._find(experiment) is None:
            return {"kind": "untrained"}
        return self._curve(replace(experiment, beta=0.0, seed=0, lesson=0))

    def _measure_curve(self, experiment: Experiment) -> dict:
        scene, estimator = experiment.mixture(), self._find(experiment)[1]
        seeds = range(6 if experiment.n <= 12 else 4 if experiment.n <= 24 else 2)
        points = beta_curve(scene, scene.prior(), estimator, n=experiment.n, eta=experiment.eta, seeds=seeds)
        return {
            "kind": "curve",
            "n": experiment.n,
            "seeds": len(seeds),
            "points": [
                {"beta": point.beta, "mean": _rounded(point.mean), "error": _rounded(point.error)} for point in points
            ],
        }


def _moment(event: Learnt) -> dict:
    figures = {name: round(getattr(event, name), 4) for name in ("loss", "prototype", "contextual")}
    return {"share": event.seen / event.total, **figures}


def _rounded(outcome: Outcome) -> dict:
    return {name: round(value, 4) for name, value in asdict(outcome).items()}


def truth_of(scene: Scene) -> dict:
    known = truth(scene)
    return {
        "prototype": round(known.information.prototype, 4),
        "entropy": round(known.information.contextual, 3),
        "label_entropy": round(known.label_entropy, 4),
        "mode_entropy": round(known.mode_entropy, 4),
        "accuracy": round(known.accuracy, 4),
    }


def payload_of(experiment: Experiment, scene: Scene, played: Play) -> dict:
    """A run, packed: positions as whole numbers, forces of some particles as floats, the curves as numbers."""
    arrows = played.prototype_force.shape[3]
    score = played.variance.view(-1, 1, 1, 1, 1) * played.score[:, :, :, :arrows]
    forces = torch.stack([score, played.prototype_force, played.contextual_force])
    positions = (played.x.clamp(-FARTHEST, FARTHEST) * PIXELS).round().to(torch.int16)
    curves = {name: getattr(played, name).mean(dim=(2, 3)) for name in ("prototype", "contextual")}
    return {
        "kind": "run",
        "query": experiment.query(),
        "settings": asdict(experiment),
        "classes": scene.classes,
        "arrows": arrows,
        "pixels": PIXELS,
        "t": list(played.t),
        "x": _packed(positions),
        "forces": _packed(forces.clamp(-1e6, 1e6).float()),
        "outcomes": {way: _rounded(found) for way, found in outcomes(scene, scene.prior(), played).items()},
        "total_modes": len(scene.modes),
        "chance": round(modes_by_chance(scene, experiment.n), 3),
        "log_n": round(math.log(experiment.n), 4),
        **{name: [[round(float(value), 4) for value in row] for row in rows] for name, rows in curves.items()},
    }


def _packed(values: Tensor) -> str:
    """The numbers' bytes, little-endian and in row-major order, in base 64."""
    return base64.b64encode(values.contiguous().numpy().tobytes()).decode()
