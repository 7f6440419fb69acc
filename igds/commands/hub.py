"""`push` and `pull`: bundles to and from the Hugging Face Hub."""

from pathlib import Path

from igds.bundle import missing_parts, read_card
from igds.hub import pull, push


def add(commands) -> None:
    to = commands.add_parser(
        "push",
        help="a bundle to the Hugging Face Hub",
        description="Upload a bundle with a model card (README.md) written from its card.json. Needs huggingface_hub "
        "and an account: `hf auth login`.",
    )
    to.set_defaults(command=_push)
    to.add_argument("bundle", help="name of an embedded bundle or path of a folder")
    to.add_argument("repo", metavar="OWNER/NAME", help="the model repository; made where there is none")
    to.add_argument("--private", action="store_true", help="make it a private one")
    back = commands.add_parser(
        "pull",
        help="a bundle from the Hugging Face Hub",
        description="Download a bundle and check every file against its card.json. Only weights are read, never code.",
    )
    back.set_defaults(command=_pull)
    back.add_argument("repo", metavar="OWNER/NAME", help="the model repository")
    back.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="the folder to write")
    back.add_argument("--revision", help="a branch, tag or commit (default: the newest)")


def _push(options) -> None:
    print(f"written to {push(options.bundle, options.repo, private=options.private)}")


def _pull(options) -> None:
    pull(options.repo, options.out, revision=options.revision)
    card = read_card(options.out)
    missing = missing_parts(card)
    lacking = f", without {' and '.join(missing)}" if missing else ""
    print(f"written to {options.out}: {card['title']}, {len(card['classes']):,} classes{lacking}")
