"""Training by two real processes over gloo: what one does with the whole batch, to rounding; no wait is for ever."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch import nn

import igds.training
from igds.classifiers import ImageClassifier
from igds.data import ImageSet
from igds.encoders import Encoder
from igds.files import write_json
from igds.priors.unet import UNetPrior
from igds.processes import ALONE, Processes, joined
from igds.schedule import Schedule
from igds.training import ClassifierObjective, ContrastiveObjective, PriorObjective, Training
from tests.conftest import TINY_ENCODER, TINY_PRIOR, randomise, real_images

ROOT = Path(__file__).parents[1]
KINDS = ("prior", "estimator", "classifier")
BATCH, STEPS = 7, 8  # two processes get 3 and 4 images; the queue's 12 keys are all replaced within two batches
CPU = torch.device("cpu")


def jitter(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return x + 0.3 * torch.randn(x.shape, generator=generator)


def training(kind: str, processes: Processes = ALONE, *, data: ImageSet | None = None, **options) -> Training:
    with torch.random.fork_rng():
        torch.manual_seed(processes.rank)  # so that they would begin apart, if nobody saw to it
        if kind == "prior":
            prior = randomise(UNetPrior(TINY_PRIOR), seed=1 + processes.rank).requires_grad_(True)
            objective = PriorObjective(prior, ema=0.9, flip=True)
        elif kind == "estimator":
            objective = ContrastiveObjective(
                Encoder(TINY_ENCODER),
                jitter,
                schedule=Schedule.named("cosine", 100),
                num_classes=3,
                label_weight=0.5,
                queue=12,
                noise_share=0.5,
                momentum=0.9,
            )
        else:
            objective = ClassifierObjective(ImageClassifier(TINY_ENCODER, 3), jitter)
    options = {"images": BATCH * STEPS, "batch_size": BATCH, "learning_rate": 0.1, "weight_decay": 0.1} | options
    return Training(objective, data or real_images(10), seed=4, processes=processes, **options)


def trained(kind: str, processes: Processes = ALONE, **options) -> dict[str, torch.Tensor]:
    """Of a whole training: the losses of its steps, the last step's gradients, and all weights."""
    run = training(kind, processes, **options)
    found = {"losses": []}
    add = run._optimizer.step

    def step():
        found.update({f"gradients.{i}": p.grad.clone() for i, p in enumerate(run._trained) if p.grad is not None})
        add()

    run._optimizer.step = step
    for event in run.run(every=0):
        found["losses"].append(event.loss)
        if len(found["losses"]) == 1:
            found |= {name.replace("gradients", "first"): value for name, value in found.items() if "grad" in name}
    found["losses"] = torch.tensor(found["losses"])
    return found | run.objective.state_dict()


def work(rank: int, folder: Path, ports: list[str]) -> None:
    """What process `rank` of two does, one thing after the other; what came of it is left in `folder`."""
    for part, port in zip((agree, stop_in_time, differ, fall_silent, die), ports, strict=True):
        os.environ["MASTER_PORT"] = port  # where the last part met, one may still be there
        part(rank, folder)


def agree(rank: int, folder: Path) -> None:
    with joined(rank, 2, CPU, patience=60) as processes:
        for kind in KINDS:
            path = folder / f"{kind}.pt" if rank == 0 else folder / "nowhere" / "part.pt"
            torch.save(trained(kind, processes, checkpoint=path), folder / f"{kind}-{rank}.found")


def stop_in_time(rank: int, folder: Path) -> None:
    """The clock of process 1 is ahead."""
    with joined(rank, 2, CPU, patience=60) as processes:
        run = training("classifier", processes, images=10**6)
        for _ in run.run(minutes=(0.5 if rank else 1000) / 60):
            pass
    note(folder, f"seen-{rank}", run.seen)


def differ(rank: int, folder: Path) -> None:
    """Process 1 has one image of each class more."""
    try:
        with joined(rank, 2, CPU, patience=60) as processes:
            training("classifier", processes, data=real_images(10 + rank))
    except (ValueError, ConnectionError) as error:
        note(folder, f"differ-{rank}", str(error))


def fall_silent(rank: int, folder: Path) -> None:
    """Process 1 says nothing until process 0 has lost patience."""
    with joined(rank, 2, CPU, patience=8) as processes:
        if rank == 1:
            while not (folder / "silent-0.json").exists():
                time.sleep(0.1)
            return
        try:
            for _ in training("classifier", processes).run():
                pass
        except ConnectionError as error:
            note(folder, "silent-0", str(error))


def die(rank: int, folder: Path) -> None:
    """Process 1 is killed between two steps."""
    with joined(rank, 2, CPU, patience=60) as processes:
        run = training("estimator", processes, checkpoint=folder / "died.pt")
        begun = time.monotonic()
        try:
            for event in run.run(every=0):
                if rank == 1 and event.images == 3 * BATCH:
                    os.kill(os.getpid(), signal.SIGKILL)
        except ConnectionError as error:
            note(folder, "died-0", {"told": str(error), "seconds": time.monotonic() - begun, "seen": run.seen})


def note(folder: Path, name: str, value) -> None:
    write_json(folder / f"{name}.json", {"value": value})


def noted(folder: Path, name: str):
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["value"]


def environment(rank: int, world: int, port: int) -> dict[str, str]:
    """What torchrun and `accelerate launch` tell a process."""
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {
        **os.environ,
        **{name: str(value) for name, value in own.items()},
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }


def free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def start(command: list, rank: int, port: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env=environment(rank, 2, port),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Exit status, output and errors of each; a wait without end is an error here."""
    try:
        return [(process.returncode, *said) for process in processes for said in [process.communicate(timeout=300)]]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes left behind that did all of `work`."""
    folder, ports = tmp_path_factory.mktemp("two"), free_ports(5)
    code = (
        "import sys, torch, igds.training, tests.test_processes; from pathlib import Path\n"
        "torch.set_num_threads(1); igds.training.has_fast_bfloat16 = lambda device: False\n"
        "tests.test_processes.work(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])"
    )
    both = finish([start(["-c", code, rank, folder, *ports], rank, ports[0]) for rank in range(2)])
    assert [status for status, _, _ in both] == [0, -signal.SIGKILL], both
    return folder


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    monkeypatch.setattr(igds.training, "has_fast_bfloat16", lambda device: False)


def found(folder: Path, kind: str, rank: int) -> dict[str, torch.Tensor]:
    return torch.load(folder / f"{kind}-{rank}.found", weights_only=True)


PARTS = {
    "prior": ("first", "gradients", "network", "average"),
    "estimator": ("first", "gradients", "network", "momentum_encoder", "head", "queue"),
    "classifier": ("first", "gradients", "network"),
}


def whole(found: dict[str, torch.Tensor], part: str) -> torch.Tensor:
    """All numbers of a part, in one vector."""
    return torch.cat([value.double().flatten() for name, value in found.items() if name.startswith(part)])


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_do_what_one_does_with_the_whole_batch(two, kind):
    """Losses of eight steps; gradients at the first and the last; what became of each part, against how far it went."""
    one, of_two, before = trained(kind), found(two, kind, 0), training(kind).objective.state_dict()
    assert one.keys() == of_two.keys() and len(one["losses"]) == STEPS
    torch.testing.assert_close(of_two["losses"], one["losses"], rtol=1e-5, atol=1e-5)
    for part in PARTS[kind]:
        is_gradient = part in ("first", "gradients")
        went = whole(one, part) if is_gradient else whole(one, part) - whole(before, part)
        apart = whole(of_two, part) - whole(one, part)
        # AdamW makes whole steps of gradients that are nothing but rounding, as before the UNet's normalisations.
        rounding = 3e-3 if kind == "prior" and not is_gradient else 1e-5
        assert went.norm() > 0.01
        assert apart.norm() < rounding * went.norm(), part


@pytest.mark.parametrize("kind", KINDS)
def test_both_processes_end_with_the_same_bits(two, kind):
    one, other = found(two, kind, 0), found(two, kind, 1)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("kind", KINDS)
def test_one_process_reads_the_checkpoint_that_two_have_written(two, kind):
    run = training(kind, checkpoint=two / f"{kind}.pt")
    assert run.seen == BATCH * STEPS and list(run.run()) == []
    of_two = found(two, kind, 0)
    for name, value in run.objective.state_dict().items():
        assert torch.equal(value, of_two[name])


def test_the_main_process_alone_writes_checkpoints(two):
    assert not (two / "nowhere").exists()


def test_processes_stop_after_the_same_step_whoever_has_the_faster_clock(two):
    assert 0 < noted(two, "seen-0") == noted(two, "seen-1") < 10**6


def test_processes_with_other_data_are_told_apart(two):
    told = noted(two, "differ-1")
    assert told.startswith("process 1 has other images") and "give all processes the same" in told


def test_a_process_that_falls_silent_is_waited_for_no_longer_than_the_patience(two):
    told = noted(two, "silent-0")
    assert "fell silent" in told and "\n" not in told


def test_a_process_that_dies_is_noticed_at_once_and_the_training_goes_on_as_if_it_had_not(two):
    died = noted(two, "died-0")
    assert died["told"].startswith("another process of this training stopped") and "\n" not in died["told"]
    assert died["seconds"] < 50
    rest = training("estimator", checkpoint=two / "died.pt")
    assert 3 * BATCH <= rest.seen == died["seen"] < rest.images
    for _ in rest.run():
        pass
    uninterrupted, before = trained("estimator"), training("estimator").objective.state_dict()
    for part in ("network", "momentum_encoder", "queue"):
        apart = whole(rest.objective.state_dict(), part) - whole(uninterrupted, part)
        assert apart.norm() < 1e-5 * (whole(uninterrupted, part) - whole(before, part)).norm(), part


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [1, 5, 12])
def test_rows_share_everything_once_and_evenly(n, world):
    shares = [list(range(n))[Processes(rank, world).rows(n)] for rank in range(world)]
    assert sum(shares, []) == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_everything_stays_as_it_is():
    x = torch.randn(3, 2)
    before = x.clone()
    ALONE.add([x])
    assert torch.equal(x, before) and ALONE.gather(x, 3) is x
    assert ALONE.any(True) and not ALONE.any(False) and ALONE.from_main(b"a") == b"a"
    with joined(0, 1, CPU) as processes:
        assert processes is ALONE and not torch.distributed.is_initialized()


def test_a_batch_smaller_than_the_processes_is_refused():
    with pytest.raises(ValueError, match="8 processes cannot share a batch of 7 images") as raised:
        training("classifier", Processes(0, 8))
    assert "\n" not in str(raised.value)


def test_batch_normalisation_is_refused_in_several_processes_alone():
    objective = ClassifierObjective(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 3)), jitter)
    data = real_images(4)
    with pytest.raises(ValueError, match="batch normalisation") as raised:
        Training(objective, data, images=8, batch_size=4, processes=Processes(0, 2))
    assert "\n" not in str(raised.value)
    Training(objective, data, images=8, batch_size=4)


@pytest.mark.parametrize("kind", KINDS)
def test_no_network_that_is_trained_here_has_batch_normalisation(kind):
    modules = training(kind).objective.modules()
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in modules)


def test_processes_that_nobody_told_how_to_meet_are_refused(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(ValueError, match="MASTER_ADDR is not set: start them with `torchrun`"):
        with joined(0, 2, CPU):
            pass


def test_a_process_whose_companions_do_not_come_says_so(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(*free_ports(1)))
    with pytest.raises(ConnectionError, match="did not find the others within 2 seconds") as raised:
        with joined(0, 2, CPU, patience=2):
            pass
    assert "\n" not in str(raised.value) and not torch.distributed.is_initialized()


TRAIN = ("-m", "igds", "train", "classifier", "--images", "300", "--device", "cpu")


def test_accelerate_launch_trains_with_two_processes_of_which_one_speaks(tmp_path):
    way = "--multi_gpu --num_processes 2 --num_machines 1 --main_process_port 0"
    result = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *way.split(), *TRAIN, "--work", tmp_path],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert "classifier: " in result.stderr and "loss" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["classifier.pt"]
    seen = torch.load(tmp_path / "classifier.pt", weights_only=True)["seen"]
    assert seen == 3 * 128


def test_the_command_says_in_one_sentence_that_another_process_is_gone(tmp_path):
    """Process 1 is given a folder without data: it says so, and process 0 does not wait for it."""
    (port,), nowhere = free_ports(1), tmp_path / "nowhere"
    nowhere.mkdir()
    processes = [
        start([*TRAIN, "--work", tmp_path / "work", *data], rank, port)
        for rank, data in enumerate([(), ("--data", nowhere)])
    ]
    (first, _, waiting), (second, _, failing) = finish(processes)
    assert (first, second) == (2, 2)
    assert "igds: no train-images-idx3-ubyte.gz in" in failing and "igds: another process" in waiting
    assert "Traceback" not in waiting + failing
