from urllib.parse import parse_qsl

import pytest

from app.settings import MAX_IPC, SETTINGS, beta_marks, checked, defaults, query_of, restored


def test_the_defaults_are_the_card_s(tiny_bundle):
    values = defaults(tiny_bundle)
    assert set(values) == set(SETTINGS)
    assert (values["ipc"], values["beta"], values["steps"]) == (4, 0.5, 10)


def test_a_run_survives_the_way_through_its_link(tiny_bundle):
    run = checked(
        tiny_bundle,
        defaults(tiny_bundle)
        | {
            "label": "Tri <angle>",
            "ipc": 7,
            "beta": 0.1,
            "seed": 4294967295,
            "solver": "ddim",
            "low": 0.25,
            "high": 0.75,
        },
    )
    settings, complaints = restored(tiny_bundle, None, dict(parse_qsl(query_of(run))))
    assert complaints == []
    assert checked(tiny_bundle, settings) == run


def test_the_link_wins_over_what_the_browser_remembers(tiny_bundle):
    settings, complaints = restored(tiny_bundle, {"ipc": 9, "seed": 5, "gone": 1}, {"ipc": "3"})
    assert (settings["ipc"], settings["seed"], complaints) == (3, 5, [])


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("label", "Circel", "did you mean"),
        ("ipc", "0", "IPC"),
        ("ipc", "10000", "between 1 and"),
        ("ipc", "many", "whole number"),
        ("beta", "-1", "at least 0"),
        ("beta", "nan", "finite"),
        ("beta", "7", "β must be between 0 and 1"),
        ("steps", "101", "steps must be between"),
        ("seed", "", "seed is empty"),
        ("solver", "euler", "ddpm, ddim"),
        ("low", "1", "interval"),
    ],
)
def test_a_wrong_value_in_a_link_gives_one_sentence_and_the_default(tiny_bundle, name, value, said):
    settings, complaints = restored(tiny_bundle, None, {name: value})
    assert settings == defaults(tiny_bundle)
    assert len(complaints) == 1 and said in complaints[0] and complaints[0].count("..") == 0


def test_a_link_for_another_bundle_says_so(tiny_bundle):
    _, complaints = restored(tiny_bundle, None, {"bundle": "imagenet"})
    assert "'imagenet'" in complaints[0]


def test_what_the_browser_remembers_wrongly_is_passed_over_in_silence(tiny_bundle):
    assert restored(tiny_bundle, {"beta": 99, "label": None}, {}) == (defaults(tiny_bundle), [])


@pytest.mark.parametrize("name", SETTINGS)
def test_an_empty_control_is_named(tiny_bundle, name):
    with pytest.raises(ValueError, match="is empty"):
        checked(tiny_bundle, defaults(tiny_bundle) | {name: None})


def test_the_page_makes_no_more_images_than_its_slider_allows(tiny_bundle):
    with pytest.raises(ValueError, match=f"between 1 and {MAX_IPC}"):
        checked(tiny_bundle, defaults(tiny_bundle) | {"ipc": MAX_IPC + 1})


def test_only_the_paper_s_values_on_the_slider_are_marked(tiny_bundle):
    assert beta_marks(tiny_bundle) == {"paper": (0.0, 0.1, 0.5), "default": (0.5,)}
