"""A bundle's card for people: pictures, whose it is, and its measured figures in words, as HTML. Knows no page."""

import base64
import io
import math
from html import escape
from pathlib import Path

from PIL import Image
from safetensors import SafetensorError, safe_open

from app.words import SOLVER_NAMES, full_sentence, limits
from igds.bundle import GALLERY, HELD_OUT, PARTS, read_card
from igds.files import sentence_of

SHOWN_CLASSES, SHOWN_TILES = 10, 6
TILE = 32  # CSS pixels a side
PART_NAMES = {"prior": "prior", "estimator": "estimator", "classifier": "judge", HELD_OUT: "held-out estimator"}


def card_of(name: str, path: Path, *, is_open: bool, query: str = "") -> str:
    """One bundle of the shelf; where its card cannot be read, the sentence that says why.

    `query` is what the link to it carries on, as ?__theme=dark.
    """
    try:
        card = read_card(path)
        body = _pictures(path, card) + f"<div class='facts'>{limits(card)}{_about(path, card)}{_table(card)}</div>"
        title = str(card["title"])
    except (ValueError, OSError) as error:
        title, body = name, f"<p class='wrong'>{_text(full_sentence(sentence_of(error)))}</p>"
        is_readable = False
    else:
        is_readable = True
    link = ""
    if is_open:
        link = "<span class='open-now'>Open now</span>"
    elif is_readable:
        link = (
            f"<a class='open' href='../{escape(name)}/{_text(query)}#bundles' aria-label='Open {_text(title)}'>Open</a>"
        )
    return (
        f"<article class='bundle' data-name='{escape(name)}'><header><h2>{_text(title)}</h2>{link}</header>"
        f"{body}</article>"
    )


def _text(value: object) -> str:
    return escape(str(value), quote=True)


def _about(path: Path, card: dict) -> str:
    rows = {
        "Source": card.get("source", "not stated"),
        "Licence": card.get("license", "not stated"),
        "Parameters": parameters_of(path, card),
        "On disk": readable_size(sum(file.stat().st_size for file in path.iterdir() if file.is_file())),
    }
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{_text(value)}</dd>" for name, value in rows.items()) + "</dl>"


def readable_size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"


def parameters_of(path: Path, card: dict) -> str:
    """How many numbers each part has, as the card counts them, or else its file."""
    counted = card.get("parameters")
    counts = {}
    for part in (*PARTS, HELD_OUT):
        if not card.get(part):
            continue
        if isinstance(counted, dict) and isinstance(counted.get(part), int):
            counts[part] = counted[part]
            continue
        try:
            with safe_open(path / f"{part}.safetensors", "pt") as tensors:
                counts[part] = sum(math.prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())
        except (SafetensorError, OSError):
            return "unknown: a file is missing or damaged"
    each = ", ".join(f"{PART_NAMES[part]} {_count(count)}" for part, count in counts.items())
    return f"{_count(sum(counts.values()))}: {each}"


def _count(count: int) -> str:
    for size, unit in ((1e9, " billion"), (1e6, " million")):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return f"{count:,}"


def _table(card: dict) -> str:
    rows = figures_of(card)
    if not rows:
        return "<p class='none'>Nothing was measured of it yet.</p>"
    body = "".join(
        f"<tr><td class='value'>{_text(value)}</td><th scope='row'>{_text(name)}<small>{_text(about)}</small></th></tr>"
        for value, name, about in rows
    )
    return f"<table><tbody>{body}</tbody></table>"


def figures_of(card: dict) -> list[tuple[str, str, str]]:
    """What was measured, as (figure, what it is, what it means); only of what the card has."""
    measured = card.get("measured")
    measured = measured if isinstance(measured, dict) else {}
    parts = {part: found if isinstance(found := measured.get(part), dict) else {} for part in (*PARTS, HELD_OUT)}
    prior, estimator, judge = parts["prior"], parts["estimator"], parts["classifier"]
    classes = len(card["classes"])
    bound = f"at most log {classes} = {math.log(classes):.2f}, the class certain"
    steps = f", {prior['steps']} steps" if _is_number(prior.get("steps")) else ""
    way = SOLVER_NAMES.get(str(prior.get("solver")), "")
    drawn = f"Of {prior['unguided_samples']:,}" if _is_number(prior.get("unguided_samples")) else "Of all drawn"
    as_near = prior.get("frechet_distance_as_many_training_images_to_test")
    beside = f"; as many training images are at {as_near:.3f}, about the least there is" if _is_number(as_near) else ""
    unseen = prior.get("nearest_training_image_of_test_images")
    fresh = f"; from unseen real images it is {unseen:.4f}. Much nearer would be copies" if _is_number(unseen) else ""
    rows = [
        (
            judge.get("accuracy_on_test"),
            _percent,
            "of unseen real images named right",
            "By the judge, a classifier that guides nothing and says what is recognised.",
        ),
        (
            prior.get("classifier_recognises_samples"),
            _percent,
            "of its own images recognised",
            f"{drawn} without guidance{', ' + way if way else ''}{steps}, by the judge.",
        ),
        (
            prior.get("frechet_distance_samples_to_test"),
            _three,
            "Fréchet distance to unseen real images",
            f"In the judge’s features; smaller is closer{beside}.",
        ),
        (prior.get("precision"), _percent, "precision", "Of its images, how many lie among real ones of their class."),
        (prior.get("recall"), _percent, "recall", "Of real images, how many lie among its own: the variety it covers."),
        (
            prior.get("nearest_training_image_of_samples"),
            _four,
            "to the nearest training image",
            f"Mean distance in the judge’s features{fresh}.",
        ),
        (
            estimator.get("linear_accuracy_on_test"),
            _percent,
            "of unseen real images, by the estimator",
            "f with its linear g: what guidance goes by.",
        ),
        (
            estimator.get("prototype_information_on_test_nats"),
            _nats,
            "Î(X;Y) of unseen real images",
            f"How surely their class is recognised: {bound}.",
        ),
        (
            estimator.get("contextual_information_on_test_nats"),
            _nats,
            "Ĥ(X|Y) of unseen real images",
            "How much images of a class differ from one another; 0 where all are alike.",
        ),
    ]
    return [(show(value), name, about) for value, show, name, about in rows if _is_number(value)]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _three(value: float) -> str:
    return f"{value:.3f}"


def _four(value: float) -> str:
    return f"{value:.4f}"


def _nats(value: float) -> str:
    return f"{value:.2f} nats".replace("-", "−")


def _pictures(path: Path, card: dict) -> str:
    """A row a class: its name, real images where the bundle has them, and images of its prior."""
    names = [str(name) for name in card["classes"]]
    columns = [("real", _real(path, len(names))), ("made, unguided", _made(path, card, len(names)))]
    columns = [(title, uri) for title, uri in columns if uri]
    shown = names[:SHOWN_CLASSES]
    rest = len(names) - len(shown)
    more = f"<p class='rest'>and {rest:,} more classes</p>" if rest else ""
    labels = "".join(f"<li>{_text(name)}</li>" for name in shown)
    height = f"height:{len(shown) * TILE}px"
    sheets = "".join(
        f"<figure><figcaption>{title}</figcaption><img src='{uri}' style='{height}' alt='{title}: a row a class'>"
        "</figure>"
        for title, uri in columns
    )
    return f"<div class='classes'><div class='rows'><ol style='--tile:{TILE}px'>{labels}</ol>{sheets}</div>{more}</div>"


def _real(path: Path, classes: int) -> str | None:
    """The gallery's first classes and images."""
    picture = _opened(path / f"{GALLERY}.png")
    if picture is None or picture.height % classes:
        return None
    tile = picture.height // classes
    return _uri(picture.crop((0, 0, min(SHOWN_TILES * tile, picture.width), min(SHOWN_CLASSES, classes) * tile)), tile)


def _made(path: Path, card: dict, classes: int) -> str | None:
    """The sheet of samples without the training images that stand below each row of them, where they do."""
    picture, tile = _opened(path / "samples.png"), card["prior"].get("image_size")
    if picture is None or not isinstance(tile, int) or picture.height not in (tile * classes, 2 * tile * classes):
        return None
    step, rows = picture.height // classes, min(SHOWN_CLASSES, classes)
    width = min(SHOWN_TILES * tile, picture.width)
    sheet = Image.new(picture.mode, (width, rows * tile))
    for row in range(rows):
        sheet.paste(picture.crop((0, row * step, width, row * step + tile)), (0, row * tile))
    return _uri(sheet, tile)


def _opened(path: Path) -> Image.Image | None:
    try:
        with Image.open(path) as picture:
            return picture.convert("L" if picture.mode == "L" else "RGB")
    except (OSError, Image.DecompressionBombError):
        return None


def _uri(picture: Image.Image, tile: int) -> str:
    """At twice the size at which it is shown, or as it is where it is smaller."""
    if tile > 2 * TILE:
        factor = 2 * TILE / tile
        size = round(picture.width * factor), round(picture.height * factor)
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=90, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
