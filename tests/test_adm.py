"""Checkpoints of guided-diffusion: the official layouts, read, made a bundle, and sampled as its own loop samples."""

import argparse
import io
import json
import shlex
import threading
import zipfile
from collections.abc import Iterator

import pytest
import torch
from guided_diffusion import gaussian_diffusion, script_util

from igds.bundle import load_bundle, read_card
from igds.cli import main
from igds.datasets import IMAGENETTE, IMAGEWOOF
from igds.fetch import CHECKPOINTS, LARGE, File, Source, announcement, fetch, is_fetched
from igds.imagenet import imagenet_classes, labels_of
from igds.priors.adm import FLAGS, config_of_flags, layout, read_adm
from igds.priors.unet import UNetPrior
from igds.rng import NoiseStreams
from igds.sampling import ClassBatch, Guidance, sample, sample_progressive
from tests.conftest import randomise
from tests.test_fetch import Handler, Server

# MODEL_FLAGS of each class-conditional model, as the README of openai/guided-diffusion gives them.
PUBLISHED = {
    "adm-64": "--attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000 --dropout 0.1 --image_size 64 "
    "--learn_sigma True --noise_schedule cosine --num_channels 192 --num_head_channels 64 --num_res_blocks 3 "
    "--resblock_updown True --use_new_attention_order True --use_fp16 True --use_scale_shift_norm True",
    "adm-128": "--attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000 --image_size 128 "
    "--learn_sigma True --noise_schedule linear --num_channels 256 --num_heads 4 --num_res_blocks 2 "
    "--resblock_updown True --use_fp16 True --use_scale_shift_norm True",
    "adm-256": "--attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000 --image_size 256 "
    "--learn_sigma True --noise_schedule linear --num_channels 256 --num_head_channels 64 --num_res_blocks 2 "
    "--resblock_updown True --use_fp16 True --use_scale_shift_norm True",
    "adm-512": "--attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000 --image_size 512 "
    "--learn_sigma True --noise_schedule linear --num_channels 256 --num_head_channels 64 --num_res_blocks 2 "
    "--resblock_updown True --use_fp16 False --use_scale_shift_norm True",
}
# Millions of parameters, as Dhariwal & Nichol (2021) give them in their table of hyperparameters.
MILLIONS = {"adm-64": 296, "adm-128": 422, "adm-256": 554, "adm-512": 559}

# The 64-pixel model's flags, narrow, at 32 pixels.
NARROW = (
    "--attention_resolutions 16,8 --class_cond True --diffusion_steps 1000 --dropout 0.1 --image_size 32 "
    "--channel_mult 1,2 --learn_sigma True --noise_schedule cosine --num_channels 32 --num_head_channels 32 "
    "--num_res_blocks 1 --resblock_updown True --use_new_attention_order True --use_scale_shift_norm True"
)
CLASSES = ["n03028079", "tench", "999"]
LABELS = [497, 0, 999]


def created(flags: str, *more: str):
    """What guided_diffusion's own scripts build from `flags`, parsed by its own parser."""
    parser = argparse.ArgumentParser()
    script_util.add_dict_to_argparser(parser, script_util.model_and_diffusion_defaults())
    options = parser.parse_args([*shlex.split(flags), *more])
    return script_util.create_model_and_diffusion(
        **script_util.args_to_dict(options, script_util.model_and_diffusion_defaults().keys())
    )


@pytest.fixture(scope="module")
def narrow():
    return randomise(created(NARROW)[0], seed=1)


@pytest.fixture(scope="module")
def narrow_file(narrow, tmp_path_factory):
    path = tmp_path_factory.mktemp("adm") / "narrow_diffusion.pt"
    torch.save(narrow.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def bundle_path(narrow_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundle") / "narrow"
    assert main(["import", "adm", str(narrow_file), "--flags", NARROW, "--classes", *CLASSES, "--out", str(out)]) == 0
    return out


def hollow(shapes: dict) -> dict[str, torch.Tensor]:
    """Tensors of these shapes that hold one number each, so that a file of gigabytes takes a few kilobytes."""
    return {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}


def refusal(capsys, *arguments) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("igds: ") and said.count("\n") == 1 and len(said) < 500
    return said


# the official layouts


@pytest.mark.parametrize("name", PUBLISHED)
def test_official_flags_build_what_guided_diffusion_builds_from_them(name):
    with torch.device("meta"):
        model, diffusion = created(PUBLISHED[name])
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == MILLIONS[name]
    theirs = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    config = config_of_flags(FLAGS[name])
    assert layout(config) == theirs
    assert (config.schedule().alpha_bars == diffusion.alphas_cumprod).all()
    with torch.device("meta"):
        own = UNetPrior(config).network
    attentions = [
        [(type(module.attention), module.num_heads) for module in network.modules() if hasattr(module, "qkv")]
        for network in (own, model)
    ]
    assert attentions[0] == attentions[1] and attentions[0]


@pytest.mark.parametrize("name", FLAGS)
def test_an_official_file_is_recognised_by_its_layout_alone(name, tmp_path):
    side = int(name.removeprefix("adm-"))
    torch.save(hollow(layout(config_of_flags(FLAGS[name]))), tmp_path / "any_name.pt")
    found, prior = read_adm(tmp_path / "any_name.pt", labels=[3, 5])
    assert (found, prior.shape, prior.num_classes) == (name, (3, side, side), 2)
    assert prior.predicts_variance and len(prior.schedule) == 1000
    assert 4 * sum(tensor.numel() for tensor in hollow(layout(config_of_flags(FLAGS[name]))).values()) == (
        CHECKPOINTS[name].size
    )


def test_files_in_torchs_older_format_are_read_too(narrow, tmp_path):
    torch.save(narrow.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(tmp_path / "old.pt")
    _, prior = read_adm(tmp_path / "old.pt", flags=NARROW)
    assert all(torch.equal(a, b) for a, b in zip(prior.network.state_dict().values(), narrow.state_dict().values()))


# sampling as guided_diffusion does


@pytest.mark.parametrize("steps", [2, 6])
def test_an_imported_bundle_samples_as_guided_diffusions_own_loop(bundle_path, narrow, monkeypatch, steps):
    bundle = load_bundle(bundle_path, needs=())
    _, diffusion = created(NARROW, "--timestep_respacing", str(steps))
    seeds, label = (7, 8), 1
    noise = NoiseStreams(seeds)
    initial = noise.draw((3, 32, 32))
    monkeypatch.setattr(gaussian_diffusion.th, "randn_like", lambda x: noise.draw(x.shape[1:]))
    theirs = diffusion.p_sample_loop(
        narrow, (2, 3, 32, 32), noise=initial, model_kwargs={"y": torch.full((2,), LABELS[label])}, device="cpu"
    )
    batch = [ClassBatch(label, seeds, Guidance())]
    (ours,) = sample(bundle.prior, None, batch, steps=steps, variance="learned")
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_kept_classes_answer_as_they_did_among_the_thousand(bundle_path, narrow_file):
    bundle = load_bundle(bundle_path, needs=())
    assert bundle.classes == ("church", "tench", "toilet tissue")
    _, whole = read_adm(narrow_file, flags=NARROW)
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    kept = bundle.prior.denoise(x, 500, torch.arange(3)).x0
    assert torch.equal(kept, whole.denoise(x, 500, torch.tensor(LABELS)).x0)
    assert not torch.allclose(kept, whole.denoise(x, 500, torch.arange(3)).x0)


def test_a_bundle_keeps_the_precision_of_its_checkpoint(bundle_path, narrow):
    bundle = load_bundle(bundle_path, needs=())
    for name, tensor in bundle.prior.network.state_dict().items():
        expected = narrow.state_dict()[name]
        assert torch.equal(tensor, expected[LABELS] if name == "label_emb.weight" else expected)


# a bundle of a prior alone


def test_a_prior_alone_draws_unguided_and_says_what_it_lacks(bundle_path, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--bundle", bundle_path, "--label", "tench", "--ipc", 2, "--steps", 2, "--unguided", "--out", out]
    assert main(["sample", *map(str, arguments)]) == 0
    said = capsys.readouterr()
    assert len(list((out / "0001_tench").glob("*.png"))) == 2
    assert "has no estimator and no classifier, so" in said.err
    assert f"python -m igds complete {bundle_path} --data FOLDER --encoder CHECKPOINT" in said.err
    assert "nan" not in said.out and said.out.strip() == f"written to {out}"
    result = json.loads((out / "run.json").read_text())["result"]["unguided"]
    assert set(result.values()) == {None}


def test_guidance_needs_an_estimator(bundle_path, tmp_path, capsys):
    said = refusal(capsys, "sample", "--bundle", bundle_path, "--out", tmp_path / "out")
    assert "narrow has no estimator yet: `python -m igds complete" in said
    bundle = load_bundle(bundle_path, needs=())
    with pytest.raises(ValueError, match="guidance needs an estimator"):
        sample_progressive(bundle.prior, None, [ClassBatch(0, (1,), Guidance(eta=0.1))], steps=2)


def test_who_needs_a_whole_bundle_is_told_how_to_make_it_one(bundle_path):
    with pytest.raises(ValueError, match="no estimator and no classifier yet: `python -m igds complete"):
        load_bundle(bundle_path)


def test_info_shows_an_imported_bundle(bundle_path, capsys):
    assert main(["info", str(bundle_path)]) == 0
    said = capsys.readouterr().out
    assert "ADM, 32×32" in said and "church, tench, toilet tissue" in said


def test_the_information_of_an_unguided_step_without_estimator_is_unknown(bundle_path):
    bundle = load_bundle(bundle_path, needs=())
    step = next(sample_progressive(bundle.prior, None, [ClassBatch(0, (1, 2), Guidance())], steps=2))
    assert step.batches[0].prototype.isnan().all() and step.batches[0].contextual.isnan().all()
    assert step.batches[0].x.isfinite().all()


# names


def test_imagenets_names_are_torchvisions_in_its_order_but_for_one_that_it_has_twice(torchvision):
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    own = list(imagenet_classes().values())
    assert [(i, name) for i, name in enumerate(own) if name != _IMAGENET_CATEGORIES[i]] == [
        (264, "Cardigan Welsh corgi")
    ]
    assert len({name.casefold() for name in own}) == 1000


def test_imagenets_ids_are_sorted_and_name_what_the_subsets_call_them():
    classes = imagenet_classes()
    assert list(classes) == sorted(classes) and len(classes) == 1000
    for wnid, name in (IMAGENETTE | IMAGEWOOF).items():
        assert classes[wnid].casefold() == name.casefold()


def test_classes_are_found_by_name_id_and_number():
    names = tuple(imagenet_classes().values())
    assert labels_of(["TENCH", "n02102040", "701"], names) == [0, 217, 701]
    assert labels_of(["b", "0"], ("a", "b")) == [1, 0]


@pytest.mark.parametrize(
    "wanted, said",
    [(["tensh"], "did you mean 'tench'"), (["n0"], "no class 'n0'"), (["tench", "0"], "'tench' is given twice")],
)
def test_classes_that_are_not_there_are_told(wanted, said):
    with pytest.raises(ValueError, match=said):
        labels_of(wanted, tuple(imagenet_classes().values()))


def test_a_model_of_ones_own_classes_is_named_by_a_file(narrow_file, narrow, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("Cat\nDog\nOwl\n")
    arguments = [narrow_file, "--flags", NARROW, "--names", tmp_path / "names.txt", "--out", tmp_path / "out"]
    assert main(["import", "adm", *map(str, arguments)]) == 0
    bundle = load_bundle(tmp_path / "out", needs=())
    assert bundle.classes == ("Cat", "Dog", "Owl") and "wnids" not in bundle.card
    assert torch.equal(bundle.prior.network.label_emb.weight, narrow.label_emb.weight[:3])
    (tmp_path / "names.txt").write_text("\n".join(map(str, range(1001))))
    arguments[-1] = tmp_path / "other"
    assert "names 1,001 classes, guided-diffusion has 1,000" in refusal(capsys, "import", "adm", *arguments)


# what does not fit


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_code_in_a_checkpoint_is_never_run(tmp_path, capsys):
    marker = tmp_path / "ran"
    torch.save({"weight": torch.zeros(1), "bomb": Bomb(marker)}, tmp_path / "bomb.pt")
    said = refusal(capsys, "import", "adm", tmp_path / "bomb.pt", "--out", tmp_path / "out")
    assert "holds more than weights" in said and not marker.exists() and not (tmp_path / "out").exists()


def change(tensors: dict, name: str, value) -> dict:
    tensors = {**tensors, name: value}
    return {name: value for name, value in tensors.items() if value is not None}


def other_files() -> dict:
    whole = hollow(layout(config_of_flags(FLAGS["adm-64"])))
    six = torch.zeros(1).expand(192, 6, 3, 3)
    return {
        "is an upsampler": change(whole, "input_blocks.0.0.weight", six),
        "is a classifier": change(whole, "out.2.weight", None),
        "is not class-conditional": change(whole, "label_emb.weight", None),
        "adm-64 is nearest, and 1 tensors differ (out.2.bias is missing)": change(whole, "out.2.bias", None),
        "(extra does not belong)": change(whole, "extra", torch.zeros(1)),
        "out.2.bias has shape (3,) instead of (6,)": change(whole, "out.2.bias", torch.zeros(3)),
        "is no official checkpoint of guided-diffusion".replace("-", "_"): {"weight": torch.zeros(3)},
        "holds no weights by name": {"step": 3},
    }


@pytest.mark.parametrize("said", other_files())
def test_a_checkpoint_of_another_model_is_told(said, tmp_path, capsys):
    torch.save(other_files()[said], tmp_path / "other.pt")
    assert said in refusal(capsys, "import", "adm", tmp_path / "other.pt", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_other_flags_is_told(narrow_file, tmp_path, capsys):
    wider = NARROW.replace("--num_channels 32", "--num_channels 64")
    said = refusal(capsys, "import", "adm", narrow_file, "--flags", wider, "--out", tmp_path / "out")
    assert "is not what these flags build" in said and "more differences" in said


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_download_is_told(narrow, tmp_path, capsys, share, zipped):
    buffer = io.BytesIO()
    torch.save(narrow.state_dict(), buffer, _use_new_zipfile_serialization=zipped)
    content = buffer.getvalue()
    (tmp_path / "cut.pt").write_bytes(content[: int(share * len(content))])
    said = refusal(capsys, "import", "adm", tmp_path / "cut.pt", "--out", tmp_path / "out")
    assert "cut short or damaged" in said


def test_a_file_that_is_not_there_and_an_output_that_is_are_told(narrow_file, tmp_path, capsys):
    assert "no.pt is not there" in refusal(capsys, "import", "adm", tmp_path / "no.pt", "--out", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "is there already" in refusal(capsys, "import", "adm", narrow_file, "--out", tmp_path / "full")


@pytest.mark.parametrize(
    "flags, said",
    [
        ("--image_side 64", "'--image_side' is no flag"),
        ("--image_size", "is no flag of guided_diffusion with its value"),
        ("image_size 64", "'image_size' is no flag"),
        ("--image_size big", "--image_size must be a number, got 'big'"),
        ("--class_cond maybe", "--class_cond must be True or False"),
        ("--class_cond False", "not class-conditional"),
        ("--class_cond True --predict_xstart True", "predicts x0 itself"),
        ("--class_cond True --rescale_timesteps True", "timesteps are rescaled"),
        ("--class_cond True --image_size 48", "channel_mult has no default for a side of 48"),
        ("--class_cond True --noise_schedule sine", "noise_schedule must be"),
    ],
)
def test_flags_that_cannot_be_are_told(narrow_file, tmp_path, capsys, flags, said):
    assert said in refusal(capsys, "import", "adm", narrow_file, f"--flags={flags}", "--out", tmp_path / "out")


# fetch


class HeadHandler(Handler):
    def do_HEAD(self):
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        server.RequestHandlerClass = HeadHandler
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def offer(server, monkeypatch, narrow_file):
    def offer(content: bytes = b"", *, least: int = 1000, md5: str | None = None) -> bytes:
        content = content or narrow_file.read_bytes()
        url = server.file("narrow.pt", content).url
        file = File(url, least, md5, is_least=True)
        monkeypatch.setitem(CHECKPOINTS, "adm-64", Source("ADM", None, (file,)))
        return content

    return offer


def test_a_checkpoint_without_published_size_is_fetched_whole_and_resumed(server, offer, tmp_path):
    content = offer()
    server.most = len(content) // 2
    events = list(fetch("adm-64", cache=tmp_path))
    assert (tmp_path / "adm-64" / "narrow.pt").read_bytes() == content and is_fetched("adm-64", cache=tmp_path)
    assert events[-1].done == events[-1].total == len(content)
    assert any(asked for asked in server.asked)  # it went on in the middle


def test_a_checkpoint_without_published_checksum_is_checked_by_what_it_holds(offer, tmp_path):
    content = bytearray(offer())
    content[len(content) // 2] ^= 1
    offer(bytes(content))
    with pytest.raises(ValueError, match="another checksum; what had arrived was deleted"):
        list(fetch("adm-64", cache=tmp_path))
    assert not list((tmp_path / "adm-64").iterdir())


def test_a_checkpoint_smaller_than_its_weights_is_refused(offer, tmp_path):
    content = offer(least=10**9)
    with pytest.raises(ValueError, match=f"{len(content):,} bytes instead of at least 1,000,000,000"):
        list(fetch("adm-64", cache=tmp_path))


def test_the_first_digits_of_a_checksum_are_enough_where_the_publisher_gives_no_more(offer, tmp_path):
    import hashlib

    content = offer()
    offer(md5=hashlib.md5(content).hexdigest()[:8])
    list(fetch("adm-64", cache=tmp_path))
    offer(md5="00000000")
    with pytest.raises(ValueError, match="another checksum"):
        list(fetch("adm-64", cache=tmp_path / "again"))


def test_gigabytes_of_a_checkpoint_are_asked_for_and_its_missing_checksum_is_said(tmp_path, capsys):
    assert all(CHECKPOINTS[name].size > LARGE for name in FLAGS)
    said = announcement("adm-256", cache=tmp_path)
    assert "at least 2.2 GB from https://openaipublic.blob.core.windows.net/diffusion/jul-2021" in said
    assert "publisher gives no checksum" in said and str(tmp_path / "adm-256") in said
    assert main(["fetch", "adm-64", "--cache", str(tmp_path)]) == 2
    assert "give --yes" in capsys.readouterr().err and not (tmp_path / "adm-64").exists()


def test_a_card_never_names_a_file_outside_its_folder(bundle_path, tmp_path):
    import shutil

    copy = shutil.copytree(bundle_path, tmp_path / "copy")
    card = read_card(copy)
    card["files"]["../outside"] = "0"
    (copy / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="outside of its folder"):
        load_bundle(copy, needs=())
