"""The command line: python -m igds."""

import argparse
import sys
from collections.abc import Sequence

from igds.commands import compare, complete, distil, evaluate, fetch, figure, hub, import_, info, sample, study, train
from igds.files import sentence_of

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
        print(f"igds: {sentence_of(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print(f"\nigds: stopped; {stopped}" if str(stopped) else "\nigds: stopped", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m igds", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (sample, distil, evaluate, compare, figure, fetch, import_, complete, hub, info, train, study):
        command.add(commands)
    return parser
