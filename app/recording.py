"""Record a run for the stage to play before anything is clicked: python -m app.recording [--bundle --label --seed]."""

import argparse
import hashlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

from app.figures import compact
from app.session import Session, Studio
from igds.bundle import DEFAULT, Bundle, load_bundle
from igds.runs import Run

EMBEDDED = Path(__file__).resolve().parents[1] / "assets" / "recordings"
SHADES = 64


def recording_path(bundle: Bundle) -> Path:
    """Where the recording of an embedded bundle is."""
    return EMBEDDED / f"{bundle.name}.json"


def record(run: Run, bundle: Bundle) -> dict:
    """The whole of a recording's file: `payloads` are what the stage takes, of a run that comes before all others."""
    session = Session(ticket=0, wanted=run)
    for _ in Studio(bundle).play(session):
        pass
    real = session.head["real"]
    session.head |= {"recording": True, "real": real and compact(real)}
    for step in session.steps:  # what moves may be a little coarser than what stands at the end
        shades = 256 if step is session.steps[-1] else SHADES
        step["frames"] = [compact(uri, shades=shades) for uri in step["frames"]]
    payloads = session.since(0)["payloads"]
    return {
        "bundle_sha256": bundle.checksum(),
        "settings": asdict(run),
        "payloads_sha256": _checksum(payloads),
        "payloads": payloads,
    }


def _checksum(payloads: list[dict]) -> str:
    return hashlib.sha256(json.dumps(payloads, sort_keys=True).encode()).hexdigest()


def write_recording(recording: dict, path: Path) -> None:
    """The recording's JSON, a payload a line."""
    payloads = ",\n    ".join(json.dumps(payload, ensure_ascii=False) for payload in recording["payloads"])
    rest = [
        f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"
        for key, value in recording.items()
        if key != "payloads"
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(",\n".join(["{\n" + rest[0], *rest[1:], f'  "payloads": [\n    {payloads}\n  ]\n}}\n']), "utf-8")


def read_recording(path: Path, bundle: Bundle) -> dict:
    """The payload with which the stage plays a recording of `bundle`.

    Raises FileNotFoundError, and ValueError where the file is damaged or of another bundle.
    """
    remedy = f"make it again with `python -m app.recording --bundle {bundle.name}`"
    try:
        recording = json.loads(path.read_text(encoding="utf-8"))
        payloads, made_with = recording["payloads"], recording["bundle_sha256"]
        intact = recording["payloads_sha256"] == _checksum(payloads)
    except (UnicodeDecodeError, json.JSONDecodeError, LookupError, TypeError):
        intact = False
    if not intact:
        raise ValueError(f"{path} is not a recording, or is damaged: {remedy}")
    if made_with != bundle.checksum():
        raise ValueError(f"{path} was made with another bundle than {bundle.path}: {remedy}")
    return {"kind": "many", "payloads": payloads}


def main() -> int:
    parser = argparse.ArgumentParser(description="Record a run with which the page opens, by the card's defaults.")
    parser.add_argument("--bundle", default=DEFAULT, help="an embedded bundle's name or a folder (%(default)s)")
    parser.add_argument("--label", metavar="CLASS", help="class name (the first)")
    parser.add_argument("--seed", type=int, help="of the noise (0)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write (assets/recordings/BUNDLE.json)")
    options = parser.parse_args()
    try:
        bundle = load_bundle(options.bundle)
        run = Run.of(bundle, label=options.label, seed=options.seed)
        path = options.out or recording_path(bundle)
        write_recording(record(run, bundle), path)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    print(f"{path} shows {run.label}, seed {run.seed}: {path.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
