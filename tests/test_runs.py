"""A run's settings are checked, its images are those of its settings, and its record can make it again."""

import csv
import dataclasses
import io
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from igds.data import to_bytes
from igds.rng import image_seeds
from igds.runs import MAX_IPC, MAX_SEED, Record, Run, class_folder
from igds.sampling import COLUMNS, Guidance
from igds.verdict import judge

SHORT = {"label": "Square/box", "ipc": 3, "steps": 3}


def record_of(run: Run, bundle) -> Record:
    record = Record(run, bundle)
    for step in run.start(bundle):
        record.add(step)
    return record


@pytest.fixture(scope="module")
def record(tiny_bundle):
    return record_of(Run.of(tiny_bundle, **SHORT, eta=0.2, seed=5), tiny_bundle)


def test_absent_and_none_settings_are_the_cards_defaults(tiny_bundle):
    expected = Run("tiny", "Circle", ipc=4, beta=0.5, eta=0.1, steps=10)
    assert Run.of(tiny_bundle) == expected
    assert Run.of(tiny_bundle, label=None, ipc=None, beta=None, eta=None, steps=None, seed=None) == expected
    assert Run.of(tiny_bundle, interval=None, columns=None, solver=None, reference=None, at=None) == expected


def test_zero_is_a_setting_and_not_an_absent_one(tiny_bundle):
    run = Run.of(tiny_bundle, beta=0, eta=0, seed=0)
    assert (run.beta, run.eta, run.seed) == (0, 0, 0)


def test_settings_may_be_text_as_an_address_bar_gives_them(tiny_bundle):
    typed = Run.of(
        tiny_bundle,
        ipc="3",
        beta="0.25",
        eta="1e-1",
        steps="7",
        seed="12",
        interval=["0.1", "0.9"],
        columns=["unguided"],
    )
    assert typed == Run.of(
        tiny_bundle, ipc=3, beta=0.25, eta=0.1, steps=7, seed=12, interval=(0.1, 0.9), columns=("unguided",)
    )
    assert type(typed.ipc) is int and type(typed.beta) is float and type(typed.interval) is tuple


def test_a_class_name_is_written_as_the_bundle_writes_it(tiny_bundle):
    assert Run.of(tiny_bundle, label="circle").label == "Circle"


def test_guidance_and_batches_are_those_of_the_settings(tiny_bundle):
    way = {"reference": "class", "at": "x0", "scaling": "variance", "interval": (0.2, 0.8)}
    run = Run.of(tiny_bundle, **SHORT, seed=9, beta=2, eta=0.3, **way)
    assert run.guidance == Guidance(2, 0.3, **way)
    batches = run.batches(tiny_bundle)
    assert [(b.guidance.beta, b.guidance.eta) for b in batches] == [(2, 0), (0, 0.3), (2, 0.3)]
    assert {b.seeds for b in batches} == {image_seeds(9, 1, 3)} and {b.label for b in batches} == {1}


@pytest.mark.parametrize("settings", [{"ipc": 1}, {"ipc": MAX_IPC}, {"steps": 2}, {"steps": 100}, {"seed": MAX_SEED}])
def test_the_ends_of_every_range_are_allowed(tiny_bundle, settings):
    run = Run.of(tiny_bundle, **settings)
    assert {name: getattr(run, name) for name in settings} == settings


WRONG = [
    ("label", "Hexagon"),
    ("label", "Circel"),
    ("label", ""),
    ("label", 3),
    *(("ipc", value) for value in (0, -1, 10_000, MAX_IPC + 1, 1.5, "many", "", math.nan, math.inf, [3], 10**400)),
    *((name, value) for name in ("beta", "eta") for value in (-0.1, math.nan, math.inf, -math.inf, "abc", "", [1], 1j)),
    *(("steps", value) for value in (0, 1, -5, 101, 2.5, "ten", math.nan)),
    *(("seed", value) for value in (-1, MAX_SEED + 1, 0.5, "dice", math.inf)),
    *(("solver", value) for value in ("heun", "", 3, "DDPM ", ["ddpm"])),
    *(("reference", value) for value in ("mean", "", 1, ["batch"])),
    *(("at", value) for value in ("x_t", "", ["x0"])),
    *(("scaling", value) for value in ("sigma", "", 2, ["variance"])),
    *(
        ("interval", value)
        for value in (
            (0.8, 0.2),
            (0.5, 0.5),
            (-0.1, 1),
            (0, 1.5),
            (0.0,),
            (0, 0.5, 1),
            "01",
            0.5,
            (math.nan, 1),
            ("a", "b"),
            (None, 1),
            {0: 1, 1: 2},
        )
    ),
    *(
        ("columns", value)
        for value in (
            [],
            (),
            ["random"],
            ["unguided", "unguided"],
            ["unguided", "random"],
            "unguided",
            5,
            [1, 2],
            [None],
            [["unguided"]],
        )
    ),
    ("colour", "blue"),
]


@pytest.mark.parametrize("name, value", WRONG, ids=lambda value: str(value)[:20].replace("\n", " "))
def test_a_wrong_setting_is_refused_in_one_line_that_names_it(tiny_bundle, name, value):
    with pytest.raises(ValueError) as raised:
        Run.of(tiny_bundle, **{name: value})
    message = str(raised.value)
    assert "\n" not in message
    word = "class" if name == "label" else name
    assert word.lower() in message.lower()


@pytest.mark.parametrize(
    "defaults",
    [
        {},
        {"ipc": 2},
        {"ipc": 2, "eta": 0.1, "steps": 5},
        {"ipc": 2, "beta": 0, "eta": 0, "steps": 5, "colour": 1},
        [],
        None,
    ],
)
def test_a_card_with_impossible_defaults_is_refused_in_one_line(tiny_bundle, defaults):
    bundle = dataclasses.replace(tiny_bundle, card={**tiny_bundle.card, "defaults": defaults})
    with pytest.raises(ValueError) as raised:
        Run.of(bundle)
    assert "\n" not in str(raised.value)


def test_the_same_run_twice_is_bit_identical(tiny_bundle, record):
    again = record_of(record.run, tiny_bundle)
    assert again.curves == record.curves
    assert again.files() == record.files()
    for one, other in zip(record.run.start(tiny_bundle), record.run.start(tiny_bundle), strict=True):
        assert all(torch.equal(a.x, b.x) for a, b in zip(one.batches, other.batches, strict=True))


def test_another_seed_gives_other_images(tiny_bundle, record):
    other = record_of(Run.of(tiny_bundle, **SHORT, eta=0.2, seed=6), tiny_bundle)
    assert not torch.equal(other.images["unguided"], record.images["unguided"])


def test_another_ipc_keeps_the_first_images_without_beta(tiny_bundle):
    columns = ["unguided", "prototype"]
    few, many = (
        list(Run.of(tiny_bundle, label="Circle", ipc=n, steps=3, beta=0, eta=0.2, columns=columns).start(tiny_bundle))
        for n in (2, 5)
    )
    for a, b in zip(few[-1].batches, many[-1].batches, strict=True):
        torch.testing.assert_close(a.x, b.x[:2], rtol=0, atol=1e-5)


def test_files_are_one_picture_an_image_and_the_two_tables(record):
    pictures = [f"{column}/0001_square-box/{i:04d}.png" for column in COLUMNS for i in range(3)]
    assert sorted(record.files()) == sorted([*pictures, "run.json", "curves.csv"])


def test_a_single_column_stands_at_the_top(tiny_bundle):
    files = record_of(Run.of(tiny_bundle, **SHORT, columns=["contextual"]), tiny_bundle).files()
    assert sorted(files) == ["0001_square-box/0000.png", "0001_square-box/0001.png", "0001_square-box/0002.png"] + [
        "curves.csv",
        "run.json",
    ]


def test_pictures_hold_the_last_steps_pixels(tiny_bundle, record):
    *_, last = record.run.start(tiny_bundle)
    for column, batch in zip(COLUMNS, last.batches, strict=True):
        for i, expected in enumerate(to_bytes(batch.x)):
            content = record.files()[f"{column}/0001_square-box/{i:04d}.png"]
            assert np.array_equal(np.array(Image.open(io.BytesIO(content))), expected[0].numpy())


def strict(content: bytes) -> dict:
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(content.decode("utf-8"), parse_constant=refuse)


def test_run_json_makes_the_run_again(tiny_bundle, record):
    settings = strict(record.files()["run.json"])["settings"]
    assert settings.pop("bundle") == "tiny"
    assert Run.of(tiny_bundle, **settings) == record.run


def test_run_json_tells_the_seeds_the_weights_and_the_result(tiny_bundle, record):
    summary = strict(record.files()["run.json"])
    assert summary["image_seeds"] == list(image_seeds(5, 1, 3)) and summary["label_index"] == 1
    assert summary["bundle_sha256"] == tiny_bundle.checksum()
    assert summary["software"]["torch"] == torch.__version__
    assert set(summary["result"]) == set(COLUMNS)
    for column, verdict in record.verdict().items():
        assert summary["result"][column] == dataclasses.asdict(verdict)
        assert verdict == judge(tiny_bundle, record.images[column], 1)


def test_run_json_has_null_where_a_bundle_has_no_judge(bare_bundle):
    run = Run.of(bare_bundle, **SHORT, columns=["contextual"])
    result = strict(record_of(run, bare_bundle).files()["run.json"])["result"]["contextual"]
    assert [name for name, value in result.items() if value is None] == ["held_out_prototype", "held_out_contextual"]


def test_the_verdict_takes_the_runs_own_reference(tiny_bundle):
    record = record_of(Run.of(tiny_bundle, **SHORT, reference="class", columns=["contextual"]), tiny_bundle)
    assert record.verdict()["contextual"] == judge(tiny_bundle, record.images["contextual"], 1, reference="class")


def test_curves_have_a_row_for_every_step_and_column(tiny_bundle, record):
    rows = list(csv.DictReader(io.StringIO(record.files()["curves.csv"].decode())))
    assert [(int(row["step"]), row["column"]) for row in rows] == [(s, c) for s in (1, 2, 3) for c in COLUMNS]
    for row, step in zip(rows[::3], record.run.start(tiny_bundle), strict=True):
        assert int(row["t"]) == step.t
        assert float(row["prototype_nats"]) == float(step.batches[0].prototype.mean())
        assert float(row["contextual_nats"]) == float(step.batches[0].contextual.mean())
        assert float(row["gradient_norm"]) == float(step.batches[0].gradient_norm.mean()) == 0


def test_a_run_stopped_midway_still_has_a_record(tiny_bundle, record):
    part = Record(record.run, tiny_bundle)
    steps = record.run.start(tiny_bundle)
    part.add(next(steps))
    steps.close()
    files = part.files()
    assert files.keys() == record.files().keys()
    assert len(files["curves.csv"].splitlines()) == 1 + 3


def test_one_image_has_no_contextual_information_and_no_diversity(tiny_bundle):
    single = record_of(Run.of(tiny_bundle, label="Circle", ipc=1, steps=2, beta=1, eta=0.1), tiny_bundle)
    assert all(abs(row["contextual_nats"]) < 1e-5 for row in single.curves)
    for verdict in single.verdict().values():
        assert verdict.diversity == 0
        assert max(abs(verdict.contextual), abs(verdict.held_out_contextual)) < 1e-5


@pytest.mark.parametrize(
    "label, name, folder",
    [
        (0, "T-shirt/top", "0000_t-shirt-top"),
        (9, "Ankle boot", "0009_ankle-boot"),
        (12, "Tri <angle>", "0012_tri-angle"),
        (3, "../../etc", "0003_etc"),
        (4, "...", "0004_"),
        (466, "Bullet train", "0466_bullet~train"),
        (5, "Test tube", "0005_~test-tube"),
        (6, "Contest of trained devils", "0006_contest-of-trained-devils"),
    ],
)
def test_class_folders_sort_by_label_and_are_safe_names(label, name, folder):
    assert class_folder(label, name) == folder
