"""What a reviewer sees: `python -m review --base REF [--stack STACK]`, as `make review` calls it.

Writes `review.md` (one comment) and `review.json` into the data folder and prints where. Exit status: 0 may
be merged once approved, 1 must not be merged, or a mistake that is told in one message; 130 interrupted.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from local import consoles, engine, store
from local.errors import refused
from local.paths import DATA, ROOT
from review import markdown, report, trees
from review.errors import ReviewError
from review.model import Plan

OUT = DATA / "review"
_CONSOLE = consoles.console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the review; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m review", description=__doc__)
    parser.add_argument("--base", required=True, help="the commit, branch or tag to compare with")
    parser.add_argument("--stack", default=engine.LOCAL_STACK, help="local, or another stack")
    parser.add_argument(
        "--plugins", choices=("any", "official"), default="any", help="official: refuse a stand-in"
    )
    consoles.write_anything()
    options = parser.parse_args(arguments)
    try:
        shutil.rmtree(OUT, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix="agent-platform-review-") as folder:
            reviewed = _review(options, Path(folder))
        _write(markdown.render(reviewed), reviewed.as_data())
    except ReviewError as error:
        _write(markdown.refusal(str(error)), {"passes": False, "problems": [str(error)]})
        _CONSOLE.print(f"error: {error}", style="red", soft_wrap=True)
        return 1
    except OSError as error:
        _CONSOLE.print(f"error: {refused(error, DATA, 'there is no review')}", style="red", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        _CONSOLE.print("Interrupted. Nothing was changed.")
        return 130
    for problem in reviewed.problems:
        _CONSOLE.print(f"error: {problem}", style="red", soft_wrap=True)
    return 1 if reviewed.problems else 0


def _review(options: argparse.Namespace, folder: Path) -> report.Review:
    base, stack = options.base, options.stack
    # Another stack than the local one is read where it really is, if the environment says where; else the two
    # plans from nothing are compared. What is real is not shown to stand-ins.
    backend = os.environ.get("PULUMI_BACKEND_URL") if stack != engine.LOCAL_STACK else None
    plugins = "official" if backend else options.plugins
    command = ["--stack", stack, "--plugins", plugins, *(["--backend", backend] if backend else [])]
    both = trees.extract(ROOT, base, folder)
    for line in both.left_out:
        _CONSOLE.print(f"left out of the review: {line}", soft_wrap=True)
    scope = report.Scope(
        base=base,
        base_commit=both.base_commit,
        head_commit=both.head_commit,
        stack=stack,
        from_state=stack == engine.LOCAL_STACK or bool(backend),
        paths=both.paths,
    )
    after = _plan("head", both.head, folder / "head.json", command)
    if after.error:
        return report.failed(scope, after.error)
    # What runs may be ahead of the base: what the base would delete is not going to be.
    before = _plan(f"base ({base})", both.base, folder / "base.json", [*command, "--unprotected"])
    if before.error:
        raise ReviewError(
            f"The base, {base}, could not be planned, so nothing can be compared. {before.error}"
        )
    return report.review(scope, before, after)


def _plan(what: str, tree: Path, out: Path, options: Sequence[str]) -> Plan:
    """Preview one tree in a process of its own: Python imports a package once."""
    _CONSOLE.print(f"Planning the {what} …")
    command = [sys.executable, "-m", "review.plan", str(tree), str(out), *options]
    done = subprocess.run(command, cwd=ROOT, check=False)  # noqa: S603
    if done.returncode or not out.is_file():
        raise ReviewError(f"The {what} could not be planned (exit status {done.returncode}), see above.")
    return Plan.read(out)


def _write(page: str, facts: Mapping[str, Any]) -> None:
    store.private_folder(OUT)
    comment, data = OUT / "review.md", OUT / "review.json"
    comment.write_text(page, encoding="utf-8")
    data.write_text(engine.as_json(facts) + "\n", encoding="utf-8")
    sys.stdout.write(f"{comment}\n{data}\n")


if __name__ == "__main__":
    sys.exit(main())
