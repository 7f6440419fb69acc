"""The bundles that a server can open, by the names that they have in its addresses. Knows no page."""

import re
import threading
from ipaddress import ip_address
from pathlib import Path

from igds.bundle import Bundle, bundle_path, embedded_bundles, load_bundle


class Shelf:
    """The embedded bundles and those added by path. Only cards are kept: a bundle is read when it is opened.

    `takes_paths` says whether visitors may add folders of this machine.
    """

    def __init__(self, *, device: str = "cpu", takes_paths: bool = True):
        self.device, self.takes_paths = device, takes_paths
        self._added: dict[str, Path] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        return [*embedded_bundles(), *self._added]

    def path(self, name: str) -> Path:
        """The folder of a bundle; FileNotFoundError where none of this name is on the shelf."""
        if name in self._added:
            return self._added[name]
        if name in embedded_bundles():
            return bundle_path(name)
        raise FileNotFoundError(f"there is no bundle {name!r} on this server: it has {', '.join(self.names())}")

    def add(self, path: str | Path) -> str:
        """Put a bundle, by its path or an embedded one's name, on the shelf; its name in addresses.

        FileNotFoundError where there is no card.
        """
        folder = bundle_path(path)
        with self._lock:
            for name in self.names():
                if self.path(name) == folder:
                    return name
            plain = re.sub(r"[^\w.-]+", "-", folder.name, flags=re.ASCII).strip("-.") or "bundle"
            taken, name, count = set(self.names()), plain, 1
            while name in taken:
                count += 1
                name = f"{plain}-{count}"
            self._added[name] = folder
        return name

    def add_checked(self, text: str) -> str:
        """Put what a visitor typed on the shelf, read whole first, so that what is wrong with it is told now.

        Raises FileNotFoundError and ValueError as `load_bundle` does.
        """
        if not text.strip():
            raise ValueError("the path is empty: give the folder of a bundle, which holds its card.json")
        folder = Path(text.strip()).expanduser()
        folder = folder.parent if folder.name == "card.json" else folder
        load_bundle(folder)
        return self.add(folder)

    def load(self, name: str) -> Bundle:
        """The bundle of this name, with its networks; FileNotFoundError and ValueError as `load_bundle` has them."""
        return load_bundle(self.path(name), device=self.device)


def is_this_machine(host: str) -> bool:
    """Whether an address, or the name in one, is that of the machine itself and of nobody beside it."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
