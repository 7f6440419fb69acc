"""The protocols to the letter, and small networks that learn what can be learnt."""

import json
import math

import pytest
import torch
from torch import nn

from igds.data import ImageSet
from igds.evaluation import (
    FINE_TUNING,
    PRETRAINING,
    PROTOCOLS,
    Epoch,
    _optimizer,
    _rate,
    align,
    epochs_of,
    normalisation,
    protocol_for,
    result_of,
    results_latex,
    results_markdown,
    seeded_network,
    summarise,
    train_network,
    transfer,
)

CLASSES = ("Dark", "Light/bright", "Half & half")


def some_images(per_class: int, *, classes=CLASSES, channels: int = 1, size: int = 8, seed: int = 0) -> ImageSet:
    """Noise about a level of grey that tells the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(CLASSES)).repeat_interleave(per_class)
    noise = torch.randint(-40, 41, (len(labels), channels, size, size), generator=generator)
    levels = torch.tensor([50, 200, 50])[labels][:, None, None, None].repeat(1, 1, size, 1)
    levels[labels == 2, :, : size // 2] = 200
    order = torch.tensor([CLASSES.index(name) for name in classes]).argsort()
    return ImageSet((levels + noise).clamp(0, 255).to(torch.uint8), order[labels], tuple(classes))


class Small(nn.Module):
    """A network of a few hundred parameters with all that evaluation asks of one; dropout draws at every step."""

    def __init__(self, channels: int = 1, classes: int = 3, dropout: float = 0.0):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(dropout)
        )
        self.head = nn.Linear(32, classes)

    def forward(self, x):
        return self.head(self.features(x))


def small(seed: int = 0, dropout: float = 0.0) -> Small:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Small(dropout=dropout)


def curve(network="convnet3", train=None, test=None, **settings) -> list[Epoch]:
    settings = {"protocol": "paper", "seed": 0, "epochs": 3, "tests": 3, **settings}
    return list(train_network(network, train or some_images(2), test or some_images(2, seed=1), **settings))


def without_time(events: list[Epoch]) -> list[tuple]:
    return [(event.index, event.loss, event.accuracy) for event in events]


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("paper", {1: 2000, 10: 2000, 20: 1500, 50: 1500, 100: 1000, 500: 1000}),
        ("minimax", {1: 3000, 2: 2000, 10: 2000, 20: 1500, 50: 1500, 100: 1000, 500: 500, 1000: 300}),
        ("igd", {1: 3000, 10: 2000, 20: 1500, 50: 1500, 100: 1000}),
        ("rded", {1: 300, 10: 300, 50: 300, 100: 300}),
    ],
)
def test_epochs_are_those_of_the_protocol(protocol, expected):
    assert {ipc: epochs_of(protocol, ipc) for ipc in expected} == expected


def learning_rates(protocol: str, epochs: int, at: tuple[int, ...]) -> list[float]:
    settings = PROTOCOLS[protocol]
    return [settings.learning_rate * _rate(settings.schedule, epoch, epochs) for epoch in at]


def test_learning_rates_are_those_of_the_protocols():
    assert learning_rates("paper", 2000, (0, 1999)) == [0.01, 0.01]
    at = (0, 665, 666, 832, 833, 999)
    assert learning_rates("minimax", 1000, at) == pytest.approx([0.01, 0.01, 0.002, 0.002, 0.0004, 0.0004])
    assert learning_rates("igd", 1000, at) == pytest.approx([1e-3, 1e-3, 2e-4, 2e-4, 4e-5, 4e-5])
    assert learning_rates("rded", 300, (0, 150, 300)) == pytest.approx([1e-3, 1e-3 * (1 + 0.5**0.5) / 2, 5e-4])


@pytest.mark.parametrize("schedule", ["milestones", "half cosine"])
def test_learning_rates_change_between_epochs_as_torchs_schedulers_change_them(schedule):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    scheduler = {
        "milestones": torch.optim.lr_scheduler.MultiStepLR(optimizer, [2 * 50 // 3, 5 * 50 // 6], gamma=0.2),
        "half cosine": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100),
    }[schedule]
    for epoch in range(50):
        if schedule == "milestones":
            assert _rate(schedule, epoch + 0.5, 50.0) == pytest.approx(optimizer.param_groups[0]["lr"])
        else:
            assert _rate(schedule, epoch, 50.0) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-4)
        optimizer.step()
        scheduler.step()


def test_optimisers_are_those_of_the_protocols():
    network = small()
    assert isinstance(_optimizer(network, PROTOCOLS["paper"]), torch.optim.Adam)
    sgd = _optimizer(network, PROTOCOLS["minimax"]).defaults
    assert (sgd["lr"], sgd["momentum"], sgd["weight_decay"], sgd["nesterov"]) == (0.01, 0.9, 5e-4, False)
    igd = _optimizer(network, PROTOCOLS["igd"])
    assert isinstance(igd, torch.optim.AdamW) and [group["weight_decay"] for group in igd.param_groups] == [0.01]
    assert len(igd.param_groups[0]["params"]) == len(list(network.parameters()))
    decayed, spared = _optimizer(network, PROTOCOLS["rded"]).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.01, 0.0)
    assert {p.ndim for p in spared["params"]} == {1} and 1 not in {p.ndim for p in decayed["params"]}
    assert len(decayed["params"]) + len(spared["params"]) == len(list(network.parameters()))
    for protocol, rate, decay in ((PRETRAINING, 0.1, 1e-3), (FINE_TUNING, 0.01, 5e-4)):
        defaults = _optimizer(network, protocol).defaults
        assert (defaults["lr"], defaults["momentum"], defaults["weight_decay"]) == (rate, 0.9, decay)


def test_a_protocol_fits_itself_to_classes_size_and_tiles():
    photographs = protocol_for("minimax", classes=10, size=64)
    assert photographs == PROTOCOLS["minimax"] and photographs.crop == (0.5, 1.0) and photographs.cutmix == 1.0
    many = protocol_for("minimax", classes=200, size=64)
    assert (many.learning_rate, many.weight_decay, many.batch_sizes) == (0.1, 1e-4, ((1, 128),))
    assert protocol_for("igd", classes=200, size=64) == PROTOCOLS["igd"]
    for name in ("minimax", "igd"):
        tiny = protocol_for(name, classes=10, size=32)
        assert tiny.siamese and tiny.crop is None and not tiny.colours and tiny.cutmix == 0.5
    assert protocol_for("paper", classes=10, size=32) == PROTOCOLS["paper"]
    assert protocol_for("rded", classes=10, size=64).crop is None
    assert protocol_for("rded", classes=10, size=64, tiles=2).crop == (0.5, 1.0)
    with pytest.raises(ValueError, match="protocol must be one of paper, minimax, igd, rded, got 'idc'"):
        protocol_for("idc", classes=10, size=32)


def test_normalisation_is_the_fields_for_colours_and_the_sets_own_for_grey():
    cpu = torch.device("cpu")
    mean, std = normalisation(some_images(2, channels=3, size=64), cpu)
    assert mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406]) and mean.shape == (3, 1, 1)
    mean, std = normalisation(some_images(2, channels=3, size=32), cpu)
    assert std.flatten().tolist() == pytest.approx([0.2023, 0.1994, 0.2010])
    train = some_images(20)
    mean, std = normalisation(train, cpu)
    normalised = (train.images / 255 - mean) / std
    assert float(normalised.mean()) == pytest.approx(0, abs=1e-5) and float(normalised.std()) == pytest.approx(1, 1e-4)


def test_every_batch_size_is_that_of_the_protocol_and_the_last_batch_is_kept():
    seen = []
    network = small()
    network.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    curve(network, some_images(30), epochs=1, tests=1)
    assert seen == [64, 26, 6]
    for per_class, expected in ((1, 10), (10, 50), (11, 100)):
        seen.clear()
        images = some_images(max(per_class, 40))
        rows = torch.cat([(images.labels == label).nonzero()[:per_class, 0] for label in range(3)])
        chosen = ImageSet(images.images[rows], images.labels[rows], images.classes)
        curve(network, chosen, protocol="rded", teacher=small(1), epochs=1)
        assert seen[0] == min(expected, 3 * per_class)


@pytest.mark.parametrize("protocol", ["paper", "minimax", "igd"])
def test_a_network_learns_what_can_be_learnt(protocol):
    network = small()
    events = curve(network, some_images(8), some_images(50, seed=1), protocol=protocol, epochs=120, tests=1)
    assert events[-1].accuracy > 0.9
    assert sum(event.loss for event in events[-10:]) < sum(event.loss for event in events[:10])


def with_opinion(*logits: float) -> Small:
    """A network that says the same of every image, until it has learnt."""
    network = small()
    nn.init.zeros_(network.head.weight)
    network.head.bias.data.copy_(torch.tensor(logits))
    return network


def test_the_loss_of_hard_labels_is_the_cross_entropy():
    assert curve(with_opinion(0.0, 0.0, 0.0), epochs=1)[0].loss == pytest.approx(math.log(3), rel=1e-5)


def test_the_loss_of_soft_labels_is_the_divergence_at_temperature_20():
    taught, said = torch.tensor([30.0, -10.0, 5.0]), torch.tensor([1.0, -3.0, 9.0])
    p, q = (taught / 20).softmax(0), (said / 20).softmax(0)
    network = with_opinion(*said.tolist())
    first = curve(network, protocol="rded", teacher=lambda x: taught.expand(len(x), -1), epochs=1)[0]
    assert first.loss == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-4)


def test_a_network_learns_from_a_teacher_alone():
    train, test = some_images(8), some_images(50, seed=1)
    # The labels are wrong, and the loss does not see them.
    wrong = ImageSet(train.images, train.labels.roll(8), train.classes)

    def knows(x):
        assert x.min() >= -1 - 1e-5 and x.max() <= 1 + 1e-5
        top, bottom = x[:, 0, :4].mean((1, 2)), x[:, 0, 4:].mean((1, 2))
        return 200 * torch.stack([-top - bottom - 0.5, top + bottom - 0.5, top - bottom - 0.5], 1)

    events = curve(small(), wrong, test, protocol="rded", teacher=knows, epochs=300, tests=1)
    assert events[-1].accuracy > 0.9


@pytest.mark.parametrize("protocol", ["paper", "minimax"])
def test_equal_seeds_give_equal_curves_and_others_do_not(protocol):
    first = without_time(curve(protocol=protocol))
    torch.rand(5)
    assert without_time(curve(protocol=protocol)) == first
    assert without_time(curve(protocol=protocol, seed=1)) != first


def test_dropout_is_part_of_the_seed_and_the_global_stream_is_left_alone():
    before = torch.get_rng_state()
    first = without_time(curve(small(dropout=0.5)))
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(5)
    assert without_time(curve(small(dropout=0.5))) == first


def test_gradients_stay_on_for_who_takes_the_events():
    for _ in train_network(small(), some_images(2), some_images(2), protocol="paper", seed=0, epochs=2, tests=2):
        assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("epochs", "tests", "expected"), [(10, 2, [4, 9]), (10, 10, list(range(10))), (3, 10, [0, 1, 2]), (7, 3, [1, 3, 6])]
)
def test_accuracy_is_measured_at_even_distances_and_at_the_end(epochs, tests, expected):
    events = curve(small(), epochs=epochs, tests=tests)
    assert [event.index for event in events if event.accuracy is not None] == expected
    assert [event.index for event in events] == list(range(epochs)) and events[0].epochs == epochs
    assert all(one.seconds < other.seconds for one, other in zip(events, events[1:]))


def test_the_order_of_the_test_sets_classes_does_not_matter():
    ordered, shuffled = (some_images(5, seed=1, classes=names) for names in (CLASSES, CLASSES[::-1]))
    assert not torch.equal(ordered.labels, shuffled.labels)
    assert torch.equal(align(shuffled, CLASSES).labels, ordered.labels)
    assert without_time(curve(test=shuffled)) == without_time(curve(test=ordered))


def test_classes_are_matched_by_name_in_any_case():
    """ImageNet's beagle is ImageWoof's Beagle."""
    images = ImageSet(
        torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1, 2]), ("DINGO", "Beagle", "Samoyed")
    )
    aligned = align(images, ("beagle", "Samoyed", "dingo"))
    assert aligned.labels.tolist() == [2, 0, 1] and aligned.classes == ("beagle", "Samoyed", "dingo")
    with pytest.raises(ValueError, match="two classes are named 'Beagle'"):
        align(images, ("Beagle", "beagle", "dingo"))


def test_a_class_without_a_partner_is_named_with_its_closest_match():
    images = some_images(2)
    renamed = ImageSet(images.images, images.labels, ("Dark", "light-bright", "Half & half"))
    with pytest.raises(ValueError, match="no class of the test set is named 'Light/bright': .* 'light-bright'"):
        align(renamed, CLASSES)
    with pytest.raises(ValueError, match="no class of the training set is named 'Half & half'"):
        align(images, CLASSES[:2])
    with pytest.raises(ValueError, match="two classes are named 'Dark'"):
        align(ImageSet(images.images, images.labels, ("Dark", "Dark", "x")), CLASSES)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"protocol": "idc"}, "protocol must be one of"),
        ({"network": "convnet9"}, "convnet9"),
        ({"protocol": "rded"}, "soft labels, which need a teacher"),
        ({"teacher": lambda x: x}, "no use for a teacher"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"tests": 0}, "tests must be at least 1, got 0"),
        ({"test": some_images(2, size=16)}, "1×8×8 and test images 1×16×16"),
        ({"test": some_images(0)}, "no images"),
        ({"train": ImageSet(torch.zeros(2, 1, 8, 8).byte(), torch.tensor([0, 2]), CLASSES)}, "'Light/bright'"),
    ],
)
def test_what_does_not_fit_is_said_at_the_call(settings, message):
    settings = {"network": "convnet3", "train": some_images(2), "test": some_images(2), **settings}
    network, train, test = (settings.pop(name) for name in ("network", "train", "test"))
    with pytest.raises(ValueError, match=message):
        train_network(network, train, test, **{"protocol": "paper", "seed": 0, **settings})


def test_bfloat16_learns_too():
    events = curve(small(), some_images(8), some_images(50, seed=1), epochs=120, tests=1, bfloat16=True)
    assert events[-1].accuracy > 0.9


def test_transfer_gives_a_new_head_and_trains_all_of_the_network():
    train = some_images(8)
    two = ImageSet(train.images[:16], train.labels[:16], CLASSES[:2])
    network = small()
    network.head = nn.Linear(32, 7)
    before = [parameter.clone() for parameter in network.features.parameters()]
    events = list(transfer(network, two, two, iterations=60, seed=0, tests=3))
    assert network.head.out_features == 2 and events[-1].accuracy == 1.0
    assert all(not torch.equal(old, new) for old, new in zip(before, network.features.parameters()))
    assert len(events) == 60 and sum(event.accuracy is not None for event in events) == 3


def test_transfer_counts_iterations_and_not_epochs():
    seen = []
    network = small()
    network.features.register_forward_hook(lambda module, *_: seen.append(module.training))
    events = list(transfer(network, some_images(100), some_images(2), iterations=3, seed=0))
    assert sum(seen) == 3 and [event.epochs for event in events] == [2, 2]


def test_transfer_says_what_is_wrong_at_the_call():
    with pytest.raises(ValueError, match="linear head, which ReLU"):
        transfer(nn.ReLU(), some_images(2), some_images(2), iterations=1, seed=0)
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        transfer(small(), some_images(2), some_images(2), iterations=0, seed=0)


def test_a_network_starts_from_its_seed():
    train = some_images(2)
    one, same, other = (seeded_network("convnet3", train, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters()))
    assert not torch.equal(one.head.weight, other.head.weight)


def events(accuracies: list[float | None]) -> list[Epoch]:
    n = len(accuracies)
    return [Epoch(i, n, 1.0, accuracy, 2.0 * (i + 1)) for i, accuracy in enumerate(accuracies)]


def result(repeats: int = 2) -> dict:
    curves = [events([0.1, None, 0.5, 0.4]), events([0.1, None, 0.6, 0.6])][:repeats]
    return result_of(
        curves,
        images="IGDS & co, 50%",
        protocol="paper",
        network="convnet3",
        train=some_images(2),
        split="test",
        seeds=list(range(repeats)),
    )


def test_a_result_has_best_and_final_of_every_repeat_and_says_how_it_was_made():
    made = json.loads(json.dumps(result()))
    assert made["best"] == {"mean": 0.55, "std": pytest.approx(0.07071)}
    assert made["final"] == {"mean": 0.5, "std": pytest.approx(0.14142)}
    assert made["seconds"] == {"mean": 8.0, "std": 0.0}
    expected = {"protocol": "paper", "network": "convnet3", "resolution": 8, "labels": "hard", "split": "test"}
    expected |= {"repeats": 2, "epochs": 4, "ipc": 2, "tests": 3, "training_seeds": [0, 1]}
    assert {key: made[key] for key in expected} == expected
    assert made["curves"][0] == [{"epoch": e, "accuracy": a} for e, a in ((1, 0.1), (3, 0.5), (4, 0.4))]
    assert result(1)["best"]["std"] is None


def test_a_curve_that_was_stopped_early_is_no_result():
    with pytest.raises(ValueError, match="to its last epoch"):
        summarise([events([0.1, 0.2])[:1]])
    with pytest.raises(ValueError, match="at least one curve"):
        summarise([])


def test_tables_show_per_cent_and_escape_what_their_language_would_take_for_its_own():
    markdown = results_markdown([result(), result(1)]).splitlines()
    assert len(markdown) == 4 and markdown[2].endswith("| 2 | 55.0 ± 7.1 | 50.0 ± 14.1 |")
    assert markdown[3].endswith("| 1 | 50.0 | 40.0 |")
    latex = results_latex([result()])
    assert r"IGDS \& co, 50\%" in latex and r"$55.0 \pm 7.1$ & $50.0 \pm 14.1$ \\" in latex
    assert latex.startswith(r"\begin{tabular}{lllllllllll}") and latex.endswith("\\end{tabular}\n")
    named = results_latex([result() | {"images": "$5 ~ a^b"}])
    assert r"\$5 \textasciitilde{} a\textasciicircum{}b & " in named
