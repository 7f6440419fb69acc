import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app.main import host_of, port_of

MAIN = Path(__file__).resolve().parents[2] / "app" / "main.py"


def fails(*arguments: str) -> str:
    """stderr of a start that must not succeed."""
    done = subprocess.run([sys.executable, MAIN, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_bundle_that_is_not_there_is_named():
    assert "there is no bundle 'no-such-bundle'" in fails("--bundle", "no-such-bundle")


def test_a_damaged_bundle_is_told(tiny_bundle_path, tmp_path):
    shutil.copytree(tiny_bundle_path, tmp_path / "damaged")
    weights = tmp_path / "damaged" / "prior.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "is damaged or was changed" in fails("--bundle", str(tmp_path / "damaged"))


def test_a_port_in_use_is_told():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} is in use: choose another with --port" in fails("--port", str(port))


@pytest.mark.parametrize("port", ["0", "70000", "http"])
def test_a_port_that_is_none_is_told(port):
    assert "a whole number between 1 and 65535" in fails("--port", port)


def test_the_environment_of_a_space_says_where_to_listen_and_an_option_wins():
    assert (host_of({}), port_of({})) == ("127.0.0.1", None)
    assert (host_of({"SPACE_ID": "a/b"}), port_of({"SPACE_ID": "a/b"})) == ("0.0.0.0", 7860)
    environment = {"GRADIO_SERVER_NAME": "127.0.0.2", "GRADIO_SERVER_PORT": "7999", "PORT": "80", "SPACE_ID": "a/b"}
    assert (host_of(environment), port_of(environment)) == ("127.0.0.2", 7999)
    assert port_of({"PORT": "8080"}) == 8080
    with pytest.raises(ValueError, match="GRADIO_SERVER_PORT: a port is a whole number"):
        port_of({"GRADIO_SERVER_PORT": "many"})


def test_a_port_of_the_environment_that_is_in_use_is_told(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("PORT", str(port))
        assert f"port {port} is in use" in fails()


def test_a_host_that_is_none_is_told():
    assert "no address for the host" in fails("--host", "no such host")


def test_cuda_that_is_not_there_is_told(tiny_bundle_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # nor is it there on a machine that has it
    assert "no CUDA device" in fails("--bundle", str(tiny_bundle_path), "--device", "cuda")
