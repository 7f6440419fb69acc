"""A study makes its images once, goes on where it stood, and says of them what its measures say."""

import copy
import json
import math
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy import stats

from igds.bundle import load_bundle
from igds.data import ImageSet, to_bytes
from igds.measures import features_and_logits, frechet_distance, manifold, out_of_range, pixel_range
from igds.plots import study_figure
from igds.sampling import sample
from igds.study import (
    EMBEDDED,
    MEASURES,
    PAPER_BETAS,
    REAL,
    STUDIES,
    UNGUIDED,
    Study,
    beta_arm,
    beta_study,
    cell_path,
    measure_study,
    read_study,
    sample_study,
    study_path,
    summary_of,
    write_study,
)
from igds.verdict import judge

ARMS = {
    UNGUIDED: {"eta": 0.0, "steps": 2},
    "β = 0": {"beta": 0.0, "steps": 2, "eta": 0.5},
    "β = 1": {"beta": 1.0, "steps": 2, "eta": 0.5},
}
STUDY = Study("beta", "tiny", ARMS, ipcs=(1, 3), seeds=(0, 1, 4))


def run(study: Study, bundle, folder) -> list:
    return list(sample_study(study, bundle, folder))


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def random_images(n: int, classes, seed: int) -> ImageSet:
    images = torch.randint(256, (n, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return ImageSet(images, torch.arange(n) % len(classes), classes)


@pytest.fixture(scope="module")
def sampled(tiny_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "work"
    run(STUDY, tiny_bundle, folder)
    return folder


@pytest.fixture(scope="module")
def data(tiny_bundle):
    return random_images(60, tiny_bundle.classes, 1), random_images(45, tiny_bundle.classes, 2)


@pytest.fixture(scope="module")
def results(tiny_bundle, sampled, data):
    return measure_study(STUDY, tiny_bundle, sampled, *data)


@pytest.fixture
def folder(sampled, tmp_path):
    """A copy of the sampled study that a test may damage."""
    return shutil.copytree(sampled, tmp_path / "work")


def refusal(call, *arguments) -> str:
    with pytest.raises(ValueError) as raised:
        call(*arguments)
    message = str(raised.value)
    assert "\n" not in message and len(message) < 400
    return message


def test_a_study_leaves_a_file_a_cell_and_says_whose_it_is(tiny_bundle, sampled):
    cells = STUDY.cells(tiny_bundle)
    assert len(cells) == 2 * 3 * 3
    assert set(contents(sampled)) == {"study.json", *(cell_path(sampled, cell).name for cell in cells)}
    assert json.loads((sampled / "study.json").read_text())["bundle_sha256"] == tiny_bundle.checksum()
    for cell in cells:
        images = load_file(cell_path(sampled, cell))
        assert set(images) == set(ARMS)
        assert all(batch.shape == (cell[0], 1, 8, 8) and batch.dtype == torch.uint8 for batch in images.values())


def test_progress_counts_every_evaluation_of_the_prior_up_to_the_total(tiny_bundle, tmp_path):
    events = run(STUDY, tiny_bundle, tmp_path / "work")
    total = (1 + 3) * 3 * 3 * len(ARMS) * 2
    assert {event.total for event in events} == {total}
    assert [event.done for event in events] == sorted({event.done for event in events})
    assert events[-1].done == total and len(events) == 18 * 2


def test_each_arms_images_are_those_of_its_own_run(tiny_bundle, sampled):
    for cell in ((1, 4, 2), (3, 0, 1)):
        images = load_file(cell_path(sampled, cell))
        for name, single in STUDY.runs(tiny_bundle, *cell).items():
            expected = sample(
                tiny_bundle.prior,
                tiny_bundle.estimator,
                single.batches(tiny_bundle),
                steps=single.steps,
                solver=single.solver,
            )[0]
            assert int((images[name].int() - to_bytes(expected).int()).abs().max()) <= 1
        assert not torch.equal(images["β = 0"], images[UNGUIDED])


def test_arms_of_several_solvers_and_steps_keep_their_names(tiny_bundle, tmp_path):
    ways = [("ddpm", 3), ("dpmpp_2m_sde", 2), ("ddpm", 2), ("dpmpp_2m_sde", 2)]
    arms = {f"{i}": {"solver": solver, "steps": n, "eta": 0.1 * i} for i, (solver, n) in enumerate(ways)}
    study = Study("steps", "tiny", arms, ipcs=(2,), seeds=(3,))
    events = run(study, tiny_bundle, tmp_path / "work")
    assert events[-1].done == events[-1].total == 3 * 2 * sum(n for _, n in ways)
    for name, single in study.runs(tiny_bundle, 2, 3, 1).items():
        alone = Study("alone", "tiny", {name: arms[name]}, ipcs=(2,), seeds=(3,))
        run(alone, tiny_bundle, tmp_path / name)
        one, other = (load_file(cell_path(tmp_path / where, (2, 3, 1)))[name].int() for where in ("work", name))
        assert (single.solver, single.steps) == ways[int(name)]
        assert int((one - other).abs().max()) <= 1


def test_arms_share_their_noise(tiny_bundle, tmp_path):
    arms = {"one": {"eta": 0.0, "beta": 0.0, "steps": 2}, "other": {"eta": 0.0, "beta": 1.0, "steps": 2}}
    study = Study("noise", "tiny", arms, ipcs=(3,), seeds=(0, 1))
    run(study, tiny_bundle, tmp_path / "work")
    first, second = (load_file(cell_path(tmp_path / "work", (3, seed, 0))) for seed in (0, 1))
    assert torch.equal(first["one"], first["other"])
    assert not torch.equal(first["one"], second["one"])


def test_an_image_of_a_larger_ipc_has_the_noise_of_the_smaller(sampled):
    one, three = (load_file(cell_path(sampled, (ipc, 0, 0)))[UNGUIDED].int() for ipc in (1, 3))
    assert int((one[0] - three[0]).abs().max()) <= 1


def test_a_finished_study_is_not_made_again(tiny_bundle, folder):
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    events = run(STUDY, tiny_bundle, folder)
    assert len(events) == 18 and events[-1].done == events[-1].total
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_missing_cell_is_made_again_bit_for_bit_and_no_other(tiny_bundle, folder):
    whole = contents(folder)
    lost = cell_path(folder, (3, 1, 2))
    lost.unlink()
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    events = run(STUDY, tiny_bundle, folder)
    assert len(events) == 17 + 2 and events[-1].done == events[-1].total
    assert contents(folder) == whole
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {name: time for name, time in after.items() if name != lost.name} == before


@pytest.mark.parametrize("stop", [1, 2, 3, 8])
def test_a_study_stopped_midway_keeps_whole_cells_and_goes_on_to_the_same_images(tiny_bundle, sampled, tmp_path, stop):
    events = sample_study(STUDY, tiny_bundle, tmp_path / "work")
    for _ in range(stop):
        next(events)
    events.close()
    part, whole = contents(tmp_path / "work"), contents(sampled)
    assert len(part) == 1 + (stop - 1) // 2
    assert all(whole[name] == content for name, content in part.items())
    run(STUDY, tiny_bundle, tmp_path / "work")
    assert contents(tmp_path / "work") == whole


def test_more_seeds_and_ipcs_go_on_in_the_same_folder(tiny_bundle, folder):
    before = contents(folder)
    more = replace(STUDY, ipcs=(1, 2, 3), seeds=(0, 1, 2, 4))
    run(more, tiny_bundle, folder)
    after = contents(folder)
    assert len(after) == 1 + 3 * 4 * 3
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize(
    "change, said",
    [
        ({"ipcs": ()}, "each IPC must be between 1 and 1000, got none"),
        ({"ipcs": (0, 1)}, "each IPC must be between 1 and 1000, got 0, 1"),
        ({"ipcs": (-1,)}, "each IPC must be between 1 and 1000"),
        ({"ipcs": (1001,)}, "each IPC must be between 1 and 1000"),
        ({"seeds": ()}, "at least one seed"),
        ({"seeds": (-1,)}, "seed must be between"),
        ({"arms": {"a": {"reference": "batch", "steps": 2}}}, "leave out IPC 1"),
        ({"arms": {"a": {"beta": -1.0}}}, "beta must be"),
        ({"arms": {"a": {}, "b": {"solver": "heun"}}}, "solver must be one of"),
        ({"arms": {"a": {}, "b": {"steps": 101}}}, "steps must be between 2 and 100"),
        ({"arms": {"a": {"colour": "blue"}}}, "no setting 'colour'"),
    ],
)
def test_an_impossible_study_is_refused_at_the_call_and_leaves_nothing(tiny_bundle, tmp_path, change, said):
    assert said in refusal(sample_study, replace(STUDY, **change), tiny_bundle, tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_the_batch_reference_is_welcome_without_ipc_1(tiny_bundle, tmp_path):
    study = replace(STUDY, arms={"a": {"reference": "batch", "steps": 2}}, ipcs=(2,), seeds=(0,))
    assert {single.reference for single in study.runs(tiny_bundle, 2, 0, 0).values()} == {"batch"}
    run(study, tiny_bundle, tmp_path / "work")


def test_one_image_is_held_against_its_class(tiny_bundle):
    for ipc, reference in ((1, "class"), (3, "batch")):
        assert {single.reference for single in STUDY.runs(tiny_bundle, ipc, 0, 0).values()} == {reference}


def test_a_bundle_without_a_held_out_estimator_is_refused_with_what_to_do(bare_bundle, tmp_path):
    message = refusal(sample_study, STUDY, bare_bundle, tmp_path / "work")
    assert "tiny has no held-out estimator" in message and "train held_out" in message
    assert not (tmp_path / "work").exists()


def test_the_folder_of_another_study_is_left_alone(tiny_bundle, folder):
    before = contents(folder)
    for other in (replace(STUDY, name="steps"), replace(STUDY, arms={**ARMS, "β = 0": {**ARMS["β = 0"], "eta": 0.4}})):
        assert "holds another study" in refusal(sample_study, other, tiny_bundle, folder)
    assert contents(folder) == before


def test_the_folder_of_another_bundle_is_left_alone(tiny_bundle, tiny_bundle_path, folder, tmp_path):
    before = contents(folder)
    shutil.copytree(tiny_bundle_path, tmp_path / "other")
    card = json.loads((tmp_path / "other/card.json").read_text())
    card["estimator"]["tau"] = 0.5
    (tmp_path / "other/card.json").write_text(json.dumps(card))
    other = load_bundle(tmp_path / "other")
    assert "holds images of another bundle" in refusal(sample_study, STUDY, other, folder)
    assert contents(folder) == before


def test_images_by_other_defaults_of_the_same_weights_are_left_alone(tiny_bundle, folder):
    defaults = {**tiny_bundle.card["defaults"], "solver": "ddim"}
    other = replace(tiny_bundle, card={**tiny_bundle.card, "defaults": defaults})
    assert "holds another study" in refusal(sample_study, STUDY, other, folder)


def test_images_of_another_precision_are_left_alone(tiny_bundle, folder):
    halved = replace(tiny_bundle, prior=copy.deepcopy(tiny_bundle.prior))
    halved.prior.bfloat16 = True
    assert "holds another study" in refusal(sample_study, STUDY, halved, folder)


def test_a_full_disk_leaves_no_half_cell_and_the_study_goes_on(tiny_bundle, sampled, tmp_path, monkeypatch):
    work = tmp_path / "work"

    def full_after_two(_):
        if len(list(work.glob("*.safetensors"))) == 2:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left .*safetensors'"):
        patch.setattr(os, "fsync", full_after_two)
        run(STUDY, tiny_bundle, work)
    assert not list(work.glob(".*"))
    whole, part = contents(sampled), list(work.glob("*.safetensors"))
    assert len(part) == 2 and all(path.read_bytes() == whole[path.name] for path in part)
    run(STUDY, tiny_bundle, work)
    assert contents(work) == whole


def test_a_foreign_folder_is_left_alone(tiny_bundle, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    assert "is not a study" in refusal(sample_study, STUDY, tiny_bundle, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"3", b"null"])
def test_a_folder_whose_study_cannot_be_told_is_left_alone(tiny_bundle, folder, content):
    (folder / "study.json").write_bytes(content)
    before = contents(folder)
    assert str(folder / "study.json") in refusal(sample_study, STUDY, tiny_bundle, folder)
    assert contents(folder) == before


def test_there_is_a_record_for_every_arm_ipc_seed_and_class_with_every_measure(tiny_bundle, results):
    keys = [(record["arm"], record["ipc"], record["seed"], record["label"]) for record in results["records"]]
    arms = (REAL, *ARMS)
    assert len(keys) == len(set(keys)) == len(arms) * 2 * 3 * 3
    assert {key[3] for key in keys} == set(tiny_bundle.classes)
    of_a_set = {"frechet_distance"}
    for record in results["records"]:
        absent = {"diversity", "recall"} if record["ipc"] == 1 else set()
        absent |= {"recognised_diversity"} if round(record["accuracy"] * record["ipc"]) < 2 else set()
        assert {name for name in MEASURES if record.get(name) is not None} == set(MEASURES) - of_a_set - absent
        assert all(math.isfinite(record[name]) for name in set(MEASURES) - of_a_set - absent)
    assert [(row["arm"], row["ipc"], row["seed"]) for row in results["sets"]] == [
        (arm, ipc, seed) for ipc in STUDY.ipcs for seed in STUDY.seeds for arm in arms
    ]
    assert all(row["frechet_distance"] >= 0 for row in results["sets"])


def test_a_records_settings_make_its_run_again(tiny_bundle, results):
    for record in results["records"]:
        if record["arm"] != REAL:
            label = tiny_bundle.label_of(record["label"])
            expected = STUDY.runs(tiny_bundle, record["ipc"], record["seed"], label)[record["arm"]]
            assert {name: record[name] for name in vars(expected)} == vars(expected)


@pytest.mark.parametrize("ipc, reference", [(1, "class"), (3, "batch")])
@pytest.mark.parametrize("arm", ARMS)
def test_a_record_says_what_the_measures_say_of_the_images(tiny_bundle, sampled, data, results, arm, ipc, reference):
    train, test = data
    images = load_file(cell_path(sampled, (ipc, 1, 2)))[arm]
    (record,) = [
        record
        for record in results["records"]
        if (record["arm"], record["ipc"], record["seed"], record["label"]) == (arm, ipc, 1, "Tri <angle>")
    ]
    expected = vars(judge(tiny_bundle, images, 2, reference=reference)).copy()
    features, real = (
        features_and_logits(tiny_bundle.classifier, part)[0] for part in (images, test.images[test.labels == 2])
    )
    expected |= manifold(real, features)._asdict()
    expected["out_of_range"] = out_of_range(images, *pixel_range(train.images[train.labels == 2]))
    if ipc == 1:
        assert record["diversity"] is record["recall"] is None
        del expected["diversity"], expected["recall"]
    if math.isnan(expected["recognised_diversity"]):
        assert record["recognised_diversity"] is None
        del expected["recognised_diversity"]
    assert {name: record[name] for name in expected} == pytest.approx(expected, abs=1e-5)


def test_real_images_are_as_many_training_images_of_the_class(tiny_bundle, data, results):
    train, test = data
    images = []
    for label in range(3):
        own = train.images[train.labels == label]
        images.append(own[torch.randperm(20, generator=torch.Generator().manual_seed(1))[:3]])
        verdict = judge(tiny_bundle, images[-1], label)
        (record,) = [
            record
            for record in results["records"]
            if (record["arm"], record["ipc"], record["seed"]) == (REAL, 3, 1)
            and record["label"] == tiny_bundle.classes[label]
        ]
        assert record["held_out_contextual"] == pytest.approx(verdict.held_out_contextual, abs=1e-5)
    features = [features_and_logits(tiny_bundle.classifier, part)[0] for part in (torch.cat(images), test.images)]
    (row,) = [row for row in results["sets"] if (row["arm"], row["ipc"], row["seed"]) == (REAL, 3, 1)]
    assert row["frechet_distance"] == pytest.approx(frechet_distance(*features), abs=1e-5)


def by_hand(results, ipc: int, arm: str, measure: str) -> np.ndarray:
    """One value a seed: the mean over classes, or that of the whole set."""
    rows = [row for row in [*results["records"], *results["sets"]] if (row["ipc"], row["arm"]) == (ipc, arm)]
    by_seed = [[row[measure] for row in rows if row["seed"] == seed and measure in row] for seed in STUDY.seeds]
    known = [[value for value in values if value is not None] for values in by_seed]
    return np.array([np.mean(values) if values else np.nan for values in known])


def test_the_summary_has_means_and_standard_errors_over_seeds(results):
    assert [(row["ipc"], row["arm"]) for row in results["summary"]] == [
        (ipc, arm) for ipc in STUDY.ipcs for arm in (REAL, *ARMS)
    ]
    for row in results["summary"]:
        absent = {"diversity", "recall", "recognised_diversity"} if row["ipc"] == 1 else set()
        assert set(MEASURES) - absent - {"recognised_diversity"} <= set(row["measures"]) <= set(MEASURES) - absent
        for measure, found in row["measures"].items():
            values = by_hand(results, row["ipc"], row["arm"], measure)
            values = values[~np.isnan(values)]
            assert found["mean"] == pytest.approx(values.mean(), abs=1e-12)
            assert found["standard_error"] == pytest.approx(stats.sem(values), abs=1e-12)


def test_the_summary_holds_guided_arms_against_unguided_and_beta_0_seed_by_seed(results):
    against = {UNGUIDED: {"β = 0", "β = 1"}, "β = 0": {"β = 1"}}
    for other, arms in against.items():
        assert {row["arm"] for row in results["summary"] if other in row["against"]} == arms
    compared = 0
    for row in results["summary"]:
        for other, measures in row["against"].items():
            for measure, found in measures.items():
                one, two = (by_hand(results, row["ipc"], arm, measure) for arm in (row["arm"], other))
                both = ~np.isnan(one - two)
                one, two = one[both], two[both]
                assert found["mean"] == pytest.approx((one - two).mean(), abs=1e-12)
                assert found["standard_error"] == pytest.approx(stats.sem(one - two), abs=1e-12)
                if np.ptp(one - two) < 1e-9:
                    assert found["p"] is None
                else:
                    assert found["p"] == pytest.approx(stats.ttest_rel(one, two).pvalue)
                    compared += 1
    assert compared > 10


def records(values: dict[str, list[float]]) -> list[dict]:
    return [
        {"arm": arm, "ipc": 5, "seed": seed, "accuracy": value}
        for arm, row in values.items()
        for seed, value in enumerate(row)
    ]


def test_the_paired_p_is_that_of_a_textbook_example():
    differences = [0.1, 0.3, 0.2, 0.4]
    base = [0.2, 0.5, 0.1, 0.4]
    values = {UNGUIDED: base, "β = 1": [one + other for one, other in zip(base, differences)]}
    row = {row["arm"]: row for row in summary_of(records(values), [])}["β = 1"]["against"][UNGUIDED]["accuracy"]
    error = np.std(differences, ddof=1) / 2
    assert row["mean"] == pytest.approx(0.25) and row["standard_error"] == pytest.approx(error)
    assert row["p"] == pytest.approx(2 * stats.t.sf(0.25 / error, df=3))


@pytest.mark.parametrize("base", [[0.25, 0.5, 0.125], [0.1, 0.3, 0.7]])
def test_differences_that_are_equal_but_for_rounding_have_no_p(base):
    values = records({UNGUIDED: base, "β = 1": [value + 0.1 for value in base]})
    found = summary_of(values, [])[1]["against"][UNGUIDED]["accuracy"]
    assert found["mean"] == pytest.approx(0.1) and found["p"] is None


def test_equal_arms_and_single_seeds_have_no_p():
    equal = summary_of(records({UNGUIDED: [0.5, 0.6], "β = 0": [0.5, 0.6]}), [])
    assert equal[1]["against"][UNGUIDED]["accuracy"] == {"mean": 0, "standard_error": 0, "p": None}
    single = summary_of(records({UNGUIDED: [0.5], "β = 0": [0.75]}), [])
    assert single[1]["against"][UNGUIDED]["accuracy"] == {"mean": 0.25, "standard_error": None, "p": None}
    assert single[0]["measures"]["accuracy"] == {"mean": 0.5, "standard_error": None}


def test_arms_are_compared_over_the_seeds_that_both_have():
    values = records({UNGUIDED: [0.1, 0.2, 0.9], "β = 0": [0.2, 0.5]})
    row = summary_of(values, [])[1]["against"][UNGUIDED]["accuracy"]
    assert row["mean"] == pytest.approx(0.2)
    assert row["p"] == pytest.approx(stats.ttest_rel([0.2, 0.5], [0.1, 0.2]).pvalue)


def test_real_images_are_held_against_nothing(results):
    assert all(row["against"] == {} for row in results["summary"] if row["arm"] in (REAL, UNGUIDED))


def test_measuring_twice_gives_the_same(tiny_bundle, sampled, data, results):
    assert measure_study(STUDY, tiny_bundle, sampled, *data) == results


def test_a_missing_cell_is_named_when_the_study_is_measured(tiny_bundle, folder, data):
    path = cell_path(folder, (3, 1, 2))
    path.unlink()
    message = refusal(measure_study, STUDY, tiny_bundle, folder, *data)
    assert str(path) in message and "is missing" in message


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "an arm less"])
def test_a_damaged_cell_is_named_when_the_study_is_measured(tiny_bundle, folder, data, damage):
    path = cell_path(folder, (1, 0, 0))
    images = load_file(path)
    if damage == "an arm less":
        save_file({name: images[name] for name in list(ARMS)[:-1]}, path)
    else:
        path.write_bytes({"empty": b"", "cut": path.read_bytes()[:-9], "text": b"not images"}[damage])
    message = refusal(measure_study, STUDY, tiny_bundle, folder, *data)
    assert str(path) in message and "is damaged" in message
    path.unlink()
    run(STUDY, tiny_bundle, folder)
    measure_study(STUDY, tiny_bundle, folder, *data)


@pytest.fixture
def written(results, tmp_path):
    write_study(results, tmp_path / "deep" / "tiny-beta.json")
    return tmp_path / "deep" / "tiny-beta.json"


def test_results_come_back_as_they_were_written(tiny_bundle, results, written):
    assert read_study(written, tiny_bundle) == json.loads(json.dumps(results))


def test_the_file_has_a_record_a_line_and_no_nan(results, written):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    text = written.read_text(encoding="utf-8")
    json.loads(text, parse_constant=refuse)
    lines = [json.loads(line.rstrip(",")) for line in text.splitlines() if line.startswith("    ")]
    assert len(lines) == sum(len(results[name]) for name in ("summary", "records", "sets"))
    assert "β = 0" in text


def test_the_study_of_another_bundle_is_refused(bare_bundle, written):
    message = refusal(read_study, written, bare_bundle)
    assert str(written) in message and "another bundle" in message and "python -m igds study beta" in message


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"null", b"{}", b'"text"', b"\xff\xfe", b"[1, 2]"])
def test_a_file_that_is_no_study_is_refused(tiny_bundle, tmp_path, content):
    path = tmp_path / "study.json"
    path.write_bytes(content)
    message = refusal(read_study, path, tiny_bundle)
    assert str(path) in message and "is not the results of a study" in message


def test_a_study_that_is_not_there_is_told_with_how_to_make_it(tiny_bundle, tmp_path):
    message = refusal(read_study, tmp_path / "none.json", tiny_bundle)
    assert "there is no study at" in message and "python -m igds study beta --bundle tiny" in message


def test_the_beta_study_has_the_papers_betas_and_the_bundles_own_range(tiny_bundle):
    assert list(beta_study(tiny_bundle).arms) == [UNGUIDED, *(beta_arm(beta) for beta in PAPER_BETAS)]
    wide = replace(tiny_bundle, card={**tiny_bundle.card, "beta_range": [0.0, 3.0]})
    assert list(beta_study(wide).arms)[-2:] == ["β = 2", "β = 3"]
    assert beta_study(tiny_bundle, [0.0, 0.25], seeds=(7,)).arms == {
        UNGUIDED: {"eta": 0.0},
        "β = 0": {"beta": 0.0},
        "β = 0.25": {"beta": 0.25},
    }


@pytest.mark.parametrize("name", STUDIES)
def test_every_arm_of_every_study_is_a_run_of_its_bundle(name):
    bundle = load_bundle("fashion-mnist")
    study = STUDIES[name](bundle)
    assert study.name == name
    runs = study.runs(bundle, study.ipcs[-1], 0, 0)
    assert len({json.dumps(vars(single)) for single in runs.values()}) >= len(runs) - 1
    assert sum(single.eta == 0 for single in runs.values()) >= 1


def test_results_of_embedded_bundles_stand_in_the_assets(tiny_bundle):
    assert study_path(tiny_bundle) == EMBEDDED / "tiny-beta.json"
    assert study_path(tiny_bundle, "steps") == EMBEDDED / "tiny-steps.json"


def picture_of(results, path) -> Image.Image:
    study_figure(results, path)
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        return image


def test_the_figure_is_a_picture_with_a_row_an_ipc(tiny_bundle, written, tmp_path):
    results = read_study(written, tiny_bundle)
    both = picture_of(results, tmp_path / "deep" / "both.png")
    one = picture_of({**results, "ipcs": [3]}, tmp_path / "one.png")
    assert both.size[0] == one.size[0] > 1000 and both.size[1] > one.size[1] + 200
    assert len(both.convert("RGB").getcolors(maxcolors=1_000_000)) > 20


def test_the_figure_of_a_single_seed_has_no_error_bars_and_still_stands(tiny_bundle, data, tmp_path):
    study = replace(STUDY, seeds=(0,), ipcs=(1,))
    run(study, tiny_bundle, tmp_path / "work")
    picture_of(measure_study(study, tiny_bundle, tmp_path / "work", *data), tmp_path / "figure.png")


def test_the_figure_of_a_study_with_named_arms_stands(tiny_bundle, data, tmp_path):
    arms = {"ddpm 3, unguided": {"eta": 0.0, "steps": 3}, "ddpm 3, β = 0": {"beta": 0.0, "steps": 3}}
    study = Study("steps", "tiny", arms, ipcs=(2,), seeds=(0, 1))
    run(study, tiny_bundle, tmp_path / "work")
    picture_of(measure_study(study, tiny_bundle, tmp_path / "work", *data), tmp_path / "figure.png")
