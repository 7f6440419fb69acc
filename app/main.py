"""Start the explorer: python app/main.py [--host --port --bundle --device]."""

import argparse
import errno
import os
import socket
import sys
from pathlib import Path

# The project's root instead of this folder: none of its files can then shadow the standard library.
sys.path[0] = str(Path(__file__).resolve().parents[1])
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

DEFAULT_PORT = 7860


def port_number(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= 65535:
        return int(text)
    raise argparse.ArgumentTypeError(f"a port is a whole number between 1 and 65535, got {text!r}")


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


def main() -> int:
    parser = argparse.ArgumentParser(description="Watch information-guided diffusion in the browser.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s; 0.0.0.0 for everybody)")
    parser.add_argument("--port", type=port_number, help=f"port to listen on (the first free one from {DEFAULT_PORT})")
    parser.add_argument("--bundle", default="fashion-mnist", help="an embedded bundle's name or a folder (%(default)s)")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute (%(default)s)"
    )
    arguments = parser.parse_args()
    try:
        port = choose_port(arguments.host, arguments.port)
        import torch

        from igds.bundle import load_bundle
        from igds.device import choose_device

        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
        bundle = load_bundle(arguments.bundle, device=choose_device(arguments.device))

        from app.ui import LOOK, build

        page = build(bundle)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    try:
        page.launch(server_name=arguments.host, server_port=port, prevent_thread_lock=True, quiet=True, **LOOK)
    except OSError as error:
        print(f"{parser.prog}: cannot open the page at port {port}: {error}", file=sys.stderr)
        return 2
    shown = "127.0.0.1" if arguments.host in ("0.0.0.0", "::") else arguments.host
    print(f"{bundle.card['title']} on {bundle.device}: http://{shown}:{port}  (Ctrl+C ends it)", flush=True)
    page.block_thread()
    return 0


if __name__ == "__main__":
    sys.exit(main())
