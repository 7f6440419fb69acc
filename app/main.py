"""Start the explorer: python app/main.py [--host --port --bundle --device].

Where an option is left out, what Gradio's own programs read from the environment holds, so that a Hugging Face Space or
another host can start this file as it stands: GRADIO_SERVER_NAME and GRADIO_SERVER_PORT, or PORT.
"""

import argparse
import asyncio
import errno
import os
import socket
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

# The project's root instead of this folder: none of its files can then shadow the standard library.
sys.path[0] = str(Path(__file__).resolve().parents[1])
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

OPENS_ON = "imagenette-32"  # photographs have grounds and surroundings: what is prototype and what context can be seen
DEFAULT_PORT = 7860
THIS_MACHINE, EVERYBODY = "127.0.0.1", "0.0.0.0"


def port_number(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= 65535:
        return int(text)
    raise argparse.ArgumentTypeError(f"a port is a whole number between 1 and 65535, got {text!r}")


def host_of(environment: Mapping[str, str]) -> str:
    """Where to listen unless it is said: as the environment has it, and to everybody on a Hugging Face Space."""
    return environment.get("GRADIO_SERVER_NAME") or (EVERYBODY if environment.get("SPACE_ID") else THIS_MACHINE)


def port_of(environment: Mapping[str, str]) -> int | None:
    """The port that the environment names; ValueError where it names none that there is."""
    for name in ("GRADIO_SERVER_PORT", "PORT"):
        if text := environment.get(name):
            try:
                return port_number(text)
            except argparse.ArgumentTypeError as error:
                raise ValueError(f"{name}: {error}") from None
    return DEFAULT_PORT if environment.get("SPACE_ID") else None


def is_free(host: str, port: int) -> bool:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except PermissionError:
            raise ValueError(f"port {port} may not be opened by this user: choose one of 1024 or more") from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise ValueError(f"cannot listen on {host}: {error.strerror or error}") from None
    return True


def choose_port(host: str, port: int | None) -> int:
    """The port asked for, or the first free one from 7860 on; ValueError where there is none."""
    try:
        candidates = [port] if port else range(DEFAULT_PORT, DEFAULT_PORT + 100)
        for candidate in candidates:
            if is_free(host, candidate):
                return candidate
    except socket.gaierror:
        raise ValueError(f"there is no address for the host {host!r}") from None
    if port:
        raise ValueError(f"port {port} is in use: choose another with --port")
    raise ValueError(f"all ports from {DEFAULT_PORT} to {DEFAULT_PORT + 99} are in use: choose one with --port")


def listening(host: str, port: int) -> socket.socket:
    """A socket that is bound to this address; OSError where somebody was quicker."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    own = socket.socket(family, socket.SOCK_STREAM)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        own.bind(address)
    except OSError as error:
        own.close()
        raise OSError(f"cannot open the page at port {port}: {error.strerror}") from None
    return own


def main() -> int:
    parser = argparse.ArgumentParser(description="Watch information-guided diffusion in the browser.")
    host = host_of(os.environ)
    parser.add_argument("--host", default=host, help="address to listen on (%(default)s; 0.0.0.0 for everybody)")
    parser.add_argument("--port", type=port_number, help=f"port to listen on (the first free one from {DEFAULT_PORT})")
    parser.add_argument("--bundle", default=OPENS_ON, help="an embedded bundle's name or a folder (%(default)s)")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute (%(default)s)"
    )
    arguments = parser.parse_args()
    try:
        port = choose_port(arguments.host, arguments.port or port_of(os.environ))
        import torch

        from igds.bundle import bundle_path
        from igds.device import choose_device

        bundle_path(arguments.bundle)  # told before the seconds that the page's own modules take
        device = choose_device(arguments.device)
        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)

        from app.laboratory import Bench
        from app.server import Server, serve
        from app.shelf import Shelf, is_this_machine
        from app.ui import page_of

        shelf = Shelf(device=device, takes_paths=is_this_machine(arguments.host))
        server = Server(shelf, partial(page_of, shelf=shelf, bench=Bench()))
        shown = THIS_MACHINE if arguments.host in (EVERYBODY, "::") else arguments.host

        def ready() -> None:
            title = server.open.page.bundle.card["title"]
            print(f"{title} on {device}: http://{shown}:{port}  (Ctrl+C ends it)", flush=True)

        with listening(arguments.host, port) as own:
            asyncio.run(serve(server, shelf.add(arguments.bundle), sockets=[own], ready=ready))
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
