"""A bundle comes back as it was saved, and says what is wrong when it does not."""

import copy
import hashlib
import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from igds.bundle import _load_gallery, _save_gallery, bundle_path, load_bundle, read_card, save_bundle
from igds.data import to_unit

PARTS = ("prior", "estimator", "classifier", "held_out")
FILES = (*(f"{part}.safetensors" for part in PARTS), "gallery.png")


@pytest.fixture
def folder(tiny_bundle_path, tmp_path):
    """A copy of the tiny bundle that a test may damage."""
    return shutil.copytree(tiny_bundle_path, tmp_path / "bundle")


def change_card(folder, change) -> None:
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    change(card)
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")


def sign(folder) -> None:
    """Make the checksums true again, as someone who swaps a file on purpose would."""
    sums = {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in FILES}
    change_card(folder, lambda card: card.update(files=sums))


def refusal(folder, kind=ValueError) -> str:
    """What loading says: one sentence."""
    with pytest.raises(kind) as raised:
        load_bundle(folder)
    message = str(raised.value)
    assert "\n" not in message and len(message) < 600
    return message


def test_weights_come_back_to_half_precision(tiny_bundle, tmp_path):
    parts = {part: copy.deepcopy(getattr(tiny_bundle, part)) for part in PARTS}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for network in parts.values():
            for tensor in network.state_dict().values():
                tensor.copy_(torch.rand(tensor.shape, generator=generator))
    save_bundle(tmp_path / "again", tiny_bundle.card, gallery=tiny_bundle.gallery, **parts)
    again = load_bundle(tmp_path / "again")
    for part, network in parts.items():
        loaded = getattr(again, part).state_dict()
        assert loaded.keys() == network.state_dict().keys()
        for name, tensor in network.state_dict().items():
            assert loaded[name].dtype == tensor.dtype
            assert torch.equal(loaded[name], tensor.half().to(tensor.dtype)), name


def test_parts_answer_as_they_did_before(tiny_bundle, tmp_path):
    parts = {part: getattr(tiny_bundle, part) for part in PARTS}
    save_bundle(tmp_path / "again", tiny_bundle.card, gallery=tiny_bundle.gallery, **parts)
    again = load_bundle(tmp_path / "again")
    x, y = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(3)
    assert torch.equal(again.prior.denoise(x, 40, y).x0, tiny_bundle.prior.denoise(x, 40, y).x0)
    for part in ("estimator", "held_out"):
        one, other = getattr(again, part), getattr(tiny_bundle, part)
        assert all(torch.equal(a, b) for a, b in zip(one(x), other(x), strict=True))
        assert one.tau == other.tau
    assert torch.equal(again.classifier(x), tiny_bundle.classifier(x))
    assert torch.equal(again.gallery, tiny_bundle.gallery)
    assert again.checksum() == tiny_bundle.checksum()


@pytest.mark.parametrize("channels", [1, 3])
def test_gallery_comes_back_class_by_class(tiny_bundle, tmp_path, channels):
    gallery = torch.randint(256, (3, 5, channels, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    _save_gallery(gallery, tmp_path / "gallery.png")
    assert Image.open(tmp_path / "gallery.png").size == (5 * 6, 3 * 4)
    assert torch.equal(_load_gallery(tmp_path / "gallery.png", (channels, 4, 6), 3), gallery)


def test_card_says_what_it_was_given_and_how_its_parts_are_built(tiny_bundle):
    card = tiny_bundle.card
    assert card["title"] == "Tiny" and card["classes"] == list(tiny_bundle.classes)
    assert card["prior"]["num_channels"] == 32 and card["estimator"]["tau"] == 0.07
    assert set(card["files"]) == set(FILES)
    for file, checksum in card["files"].items():
        assert hashlib.sha256((tiny_bundle.path / file).read_bytes()).hexdigest() == checksum


def test_networks_are_frozen_and_in_evaluation_mode(tiny_bundle):
    for part in PARTS:
        network = getattr(tiny_bundle, part)
        assert not any(module.training for module in network.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())


def test_checksum_tells_other_weights_apart_and_not_other_words(tiny_bundle, folder):
    change_card(folder, lambda card: card.update(title="Another"))
    assert load_bundle(folder).checksum() == tiny_bundle.checksum()
    tensors = load_file(folder / "estimator.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, folder / "estimator.safetensors")
    sign(folder)
    assert load_bundle(folder).checksum() != tiny_bundle.checksum()


def test_a_bundle_may_have_no_held_out_estimator(bare_bundle, tiny_bundle):
    assert bare_bundle.held_out is None
    assert "held_out" not in bare_bundle.card and "held_out.safetensors" not in bare_bundle.card["files"]
    assert bare_bundle.checksum() != tiny_bundle.checksum()
    x = to_unit(tiny_bundle.gallery[0])
    assert all(torch.equal(a, b) for a, b in zip(bare_bundle.estimator(x), tiny_bundle.estimator(x), strict=True))


def test_the_held_out_estimator_is_another_one_than_that_which_guides(tiny_bundle):
    x = to_unit(tiny_bundle.gallery[0])
    assert not torch.allclose(tiny_bundle.held_out(x)[1], tiny_bundle.estimator(x)[1], atol=1e-3)


def test_a_bundle_that_is_nowhere_is_named_with_a_remedy(tmp_path):
    message = refusal(tmp_path / "absent", FileNotFoundError)
    assert str(tmp_path / "absent") in message and "card.json" in message


def test_a_folder_without_a_card_is_no_bundle(folder):
    (folder / "card.json").unlink()
    assert "card.json" in refusal(folder, FileNotFoundError)


def test_the_path_of_a_bundle_may_be_text_and_a_bundle_may_be_moved(folder):
    assert bundle_path(str(folder)) == folder
    assert load_bundle(str(folder)).name == "bundle"


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_named(folder, file):
    (folder / file).unlink()
    message = refusal(folder, FileNotFoundError)
    assert str(folder / file) in message and "missing" in message and "get the bundle again" in message


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_file_is_named(folder, file, damage):
    content = (folder / file).read_bytes()
    middle = len(content) // 2
    damaged = {
        "truncated": content[:-7],
        "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "empty": b"",
    }
    (folder / file).write_bytes(damaged[damage])
    message = refusal(folder)
    assert str(folder / file) in message and "damaged" in message and "get the bundle again" in message


@pytest.mark.parametrize("content", [b"", b"{", b"not json", b"\xff\xfe\x00", b"[]", b"3", b"null", b"{}"])
def test_a_card_that_is_none_is_named(folder, content):
    (folder / "card.json").write_bytes(content)
    assert str(folder / "card.json") in refusal(folder)


@pytest.mark.parametrize("key", ["format", "title", "classes", *PARTS[:3], "defaults", "beta_range", "files"])
def test_a_card_that_lacks_a_key_says_which(folder, key):
    change_card(folder, lambda card: card.pop(key))
    message = refusal(folder)
    assert str(folder / "card.json") in message and f"lacks {key}" in message


def test_a_card_of_another_format_asks_for_an_update(folder):
    change_card(folder, lambda card: card.update(format=2))
    message = refusal(folder)
    assert "format 2" in message and "reads 1" in message and "update" in message


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card["prior"].update(colour="blue"),
        lambda card: card["prior"].pop("image_size"),
        lambda card: card["prior"].update(prediction="x0"),
        lambda card: card["prior"].update(noise_schedule="quadratic"),
        lambda card: card["prior"].update(channel_mult="one"),
        lambda card: card["prior"].update(num_channels=30),
        lambda card: card["prior"].update(num_channels=-32),
        lambda card: card["prior"].update(num_channels="32"),
        lambda card: card["prior"].update(num_head_channels=7),
        lambda card: card["prior"].update(space_to_depth=0),
        lambda card: card["prior"].update(attention_resolutions="0"),
        lambda card: card["prior"].update(diffusion_steps="many"),
        lambda card: card["prior"].update(num_classes=4),
        lambda card: card.update(prior=[]),
        lambda card: card.update(estimator="resnet"),
        lambda card: card["estimator"].pop("encoder"),
        lambda card: card["estimator"].update(tau="warm"),
        lambda card: card["estimator"]["encoder"].update(widths=[7]),
        lambda card: card["estimator"]["encoder"].update(widths=3),
        lambda card: card["classifier"].update(widths=[]),
        lambda card: card.update(held_out=None),
        lambda card: card["held_out"].pop("tau"),
        lambda card: card.update(classes=3),
        lambda card: card.update(classes=None),
        lambda card: card.update(classes=[1, 2, 3]),
        lambda card: card.update(classes="abc"),
    ],
)
def test_a_card_that_cannot_be_built_is_named(folder, change):
    change_card(folder, change)
    assert str(folder / "card.json") in refusal(folder)


@pytest.mark.parametrize("files", [[], None, "all", {}, {"prior.safetensors": None}])
def test_a_card_must_give_the_checksum_of_every_file(folder, files):
    change_card(folder, lambda card: card.update(files=files))
    assert "card.json" in refusal(folder)


@pytest.mark.parametrize("tau", [0, -1, float("nan"), float("inf")])
def test_tau_must_be_a_positive_number(folder, tau):
    change_card(folder, lambda card: card["estimator"].update(tau=tau))
    message = refusal(folder)
    assert str(folder / "card.json") in message and "tau" in message


@pytest.mark.parametrize(
    "part, change",
    [
        ("prior", lambda card: card["prior"].update(num_channels=64)),
        ("prior", lambda card: card["prior"].update(num_res_blocks=2)),
        ("estimator", lambda card: card["estimator"]["encoder"].update(features=8)),
        ("estimator", lambda card: card["estimator"]["encoder"].update(widths=[8, 24])),
        ("classifier", lambda card: card["classifier"].update(widths=[8, 16, 24])),
    ],
)
def test_weights_of_other_widths_are_told_from_the_card(folder, part, change):
    change_card(folder, change)
    message = refusal(folder)
    assert str(folder / f"{part}.safetensors") in message and "card.json" in message


def test_weights_with_another_name_or_shape_are_named(folder):
    path = folder / "classifier.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "head.weight": tensors["head.weight"][:, :-1].contiguous()}, path)
    sign(folder)
    message = refusal(folder)
    assert "head.weight" in message and "(3, 15)" in message and "(3, 16)" in message and str(path) in message
    save_file({**tensors, "extra": torch.zeros(1)}, path)
    sign(folder)
    assert "extra does not belong" in refusal(folder)
    save_file({name: tensor for name, tensor in tensors.items() if name != "head.bias"}, path)
    sign(folder)
    assert "head.bias is missing" in refusal(folder)


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle was run')",)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_pickle_by_the_name_of_safetensors_is_refused_and_never_run(folder, part, kind):
    path = folder / f"{part}.safetensors"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"weight": Bomb()}))
    else:
        torch.save({"weight": Bomb()}, path)
    sign(folder)
    message = refusal(folder)
    assert str(path) in message and "not a safetensors file" in message


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"text"])
def test_a_gallery_that_is_no_picture_is_named(folder, content):
    (folder / "gallery.png").write_bytes(content)
    sign(folder)
    assert str(folder / "gallery.png") in refusal(folder)


def test_a_cut_gallery_is_named_though_it_is_signed(folder):
    content = (folder / "gallery.png").read_bytes()
    (folder / "gallery.png").write_bytes(content[: len(content) * 2 // 3])
    sign(folder)
    assert str(folder / "gallery.png") in refusal(folder)


@pytest.mark.parametrize("size", [(32, 23), (30, 24), (8, 8)])
def test_a_gallery_of_the_wrong_size_is_named(folder, size):
    Image.fromarray(np.zeros(size[::-1], np.uint8)).save(folder / "gallery.png")
    sign(folder)
    message = refusal(folder)
    assert str(folder / "gallery.png") in message and "8×8 tiles for each of 3 classes" in message


def test_a_card_is_read_without_its_weights(folder):
    for file in FILES:
        (folder / file).unlink()
    assert read_card(folder)["title"] == "Tiny"


@pytest.mark.parametrize("name, label", [("Circle", 0), ("circle", 0), ("SQUARE/BOX", 1), ("Tri <angle>", 2)])
def test_a_class_is_found_by_its_name_in_any_case(tiny_bundle, name, label):
    assert tiny_bundle.label_of(name) == label


@pytest.mark.parametrize("name, hint", [("Cirle", "Circle"), ("square box", "Square/box"), ("triangle", "Tri <angle>")])
def test_an_unknown_class_suggests_the_closest(tiny_bundle, name, hint):
    with pytest.raises(ValueError, match=f"did you mean '{hint}'") as raised:
        tiny_bundle.label_of(name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["", "zzz", "Ankle boot\n"])
def test_a_class_unlike_any_other_lists_them_all(tiny_bundle, name):
    with pytest.raises(ValueError, match="it has Circle, Square/box, Tri <angle>") as raised:
        tiny_bundle.label_of(name)
    assert "did you mean" not in str(raised.value) and "\n" not in str(raised.value)


def test_predictions_on_the_gallery_are_finite(tiny_bundle):
    images = to_unit(tiny_bundle.gallery.flatten(0, 1))
    assert all(tensor.isfinite().all() for tensor in tiny_bundle.estimator(images))
