"""The command line: python -m igds."""

import argparse
import errno
import sys
from collections.abc import Sequence

from igds.commands import compare, distil, evaluate, fetch, info, sample, study, train

DESCRIPTION = """\
Information-Guided Diffusion Sampling: makes a few images of a class that carry as much of
I(X;Y) + β·H(X|Y) as possible. β = 0 gives prototypes; a larger β gives them variety.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 on success, 2 with one sentence on standard error for what the user can put right."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except (ValueError, OSError) as error:
        print(f"igds: {_sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print(f"\nigds: stopped; {stopped}" if str(stopped) else "\nigds: stopped", file=sys.stderr)
        return 130
    return 0


def _sentence(error: Exception) -> str:
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    place = error.filename or "the output folder"
    remedies = {
        errno.ENOSPC: "is on a full disk: free some space or choose another place",
        errno.ENOENT: "does not exist: check the path",
        errno.EACCES: "may not be written or read by you: choose another place",
        errno.EROFS: "is on a read-only disk: choose another place",
    }
    return f"{place} {remedies.get(error.errno, f'cannot be used ({error.strerror}): choose another place')}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m igds", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (sample, distil, evaluate, compare, fetch, info, train, study):
        command.add(commands)
    return parser
