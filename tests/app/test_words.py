from dataclasses import replace

from app.words import PLACE_NAMES, REFERENCE_NAMES, SCALING_NAMES, SOLVER_NAMES, expectation_words, results
from igds.expectation import Expectation, Spread
from igds.runs import Record, Run
from igds.sampling import PLACES, REFERENCES, SCALINGS, SOLVERS
from igds.study import UNGUIDED, read_study

RUN = Run("fashion-mnist", "Ankle boot", ipc=10, beta=3.0, eta=0.3, steps=20)
CHANGE = {
    "accuracy": Spread(-0.014, 0.02),
    "recognised_diversity": Spread(0.0102, 0.004),
    "held_out_contextual": Spread(0.1204, 0.0301),
}
EXPECTED = Expectation("Ankle boot", 10, 5, "β = 0", (3.0,), CHANGE, (0.0, 3.0), {}, {})


def test_the_expectation_is_a_sentence_with_its_spread():
    assert expectation_words(EXPECTED, RUN) == (
        "In the study (Ankle boot, IPC 10; 5 seeds, mean ± standard deviation), β = 3 raised held-out Ĥ by "
        "0.120 ± 0.030 nats, the diversity of those recognised by 0.010 ± 0.004 and changed the share recognised by "
        "−1 ± 2 points against β = 0."
    )


def test_what_falls_is_lowered_and_one_seed_has_no_spread():
    change = {name: Spread(-CHANGE[name].mean, float("nan")) for name in ("accuracy", "held_out_contextual")}
    assert expectation_words(replace(EXPECTED, seeds=1, change=change), RUN) == (
        "In the study (Ankle boot, IPC 10; 1 seed), β = 3 lowered held-out Ĥ by 0.120 nats and changed the share "
        "recognised by +1 points against β = 0."
    )


def test_neighbours_the_nearest_ipc_and_other_settings_are_named():
    other = {
        "eta": 0.2,
        "steps": 25,
        "solver": "dpmpp_2m",
        "reference": "batch",
        "at": "x_prev",
        "scaling": "variance",
        "interval": (0.0, 0.7),
    }
    said = expectation_words(replace(EXPECTED, near=(2.0, 5.0), other_settings=other), replace(RUN, ipc=9))
    assert "(Ankle boot, IPC 10, the studied one nearest to 9; 5 seeds" in said
    assert "β = 3 (between the studied 2 and 5) raised" in said
    assert said.endswith(
        "It was made with other settings (η 0.2, 25 steps, DPM++ 2M, reference: images made together, guided at the "
        "noisy next image, η scaled by σ̃ₜ², interval 0 to 0.7), so it is only a guide here."
    )


def test_prototype_guidance_is_held_against_no_guidance():
    said = expectation_words(replace(EXPECTED, against=UNGUIDED, near=(0.0,)), replace(RUN, beta=0.0))
    assert "β = 0 raised" in said and said.endswith("against no guidance.")


def test_with_eta_0_nothing_is_expected_of_beta():
    assert expectation_words(EXPECTED, replace(RUN, eta=0.0)) == ""


def test_every_choice_has_a_name():
    assert set(SOLVER_NAMES) == set(SOLVERS)
    assert set(REFERENCE_NAMES) == set(REFERENCES)
    assert set(PLACE_NAMES) == set(PLACES)
    assert set(SCALING_NAMES) == set(SCALINGS)


def recorded(bundle, **settings) -> Record:
    record = Record(Run.of(bundle, steps=4, **settings), bundle)
    for step in record.run.start(bundle):
        record.add(step)
    return record


def test_the_table_gives_the_figures_of_run_json(studied_bundle, study_file):
    record = recorded(studied_bundle)
    text = results(record, read_study(study_file, studied_bundle)).replace("−", "-")
    for column in record.summary()["result"].values():
        for figure in ("prototype", "contextual", "held_out_contextual", "recognised_diversity"):
            value = column[figure]
            assert f"<td>{'–' if value is None else f'{value:.3f}'}</td>" in text
    assert "by a second estimator that guided nothing" in text and "of the finished images" in text


def test_without_a_held_out_estimator_its_column_is_left_out(bare_bundle):
    text = results(recorded(bare_bundle), no_study="there is no study at here: make it")
    assert "second estimator" not in text and "nan" not in text
    assert "<p class='expected'>There is no study at here: make it.</p>" in text


def test_a_single_image_has_no_study_beside_it_but_against_the_class(studied_bundle, study_file):
    study = read_study(study_file, studied_bundle)
    assert "In the study" not in results(recorded(studied_bundle, ipc=1), study)
    assert "In the study (Circle, IPC 1; 2 seeds" in results(recorded(studied_bundle, ipc=1, reference="class"), study)


def test_with_a_beta_beyond_the_study_the_page_says_how_far_it_goes(studied_bundle, study_file):
    study = read_study(study_file, studied_bundle)
    text = results(recorded(studied_bundle, beta=1.5), study)
    assert "The study holds β from 0 to 1, and this run has β = 1.5." in text and "<figure" not in text
