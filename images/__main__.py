"""`python -m images build [NAME…]`: build images, or find them in the cache."""

import argparse
import sys

from images import build
from images.recipes import RECIPES
from local import consoles
from local.errors import LocalError


def main() -> int:
    """Build what is named, or everything."""
    parser = argparse.ArgumentParser(prog="python -m images", description="Build the images of the platform.")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("build", help="build images, or find them in the cache")
    command.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(RECIPES)}; all if none is named"
    )
    asked = parser.parse_args()
    console = consoles.console(stderr=True)
    try:
        for name in asked.names or RECIPES:
            console.print(f"{name}: {build(name, console)}", soft_wrap=True)
    except LocalError as error:
        console.print(str(error), soft_wrap=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
