"""Run the tests: the one place that knows how; make and CI call it too."""

import argparse
import subprocess
import sys
import webbrowser
from pathlib import Path

_ROOT = Path(__file__).parents[1]
# Most tests wait for sockets and servers: three files at a time on two cores. Faults and figures run alone.
_THREE_AT_A_TIME = ["-n", "3", "--dist", "loadfile"]
_USUAL = "not faults and not performance and not soak"
_SELECTIONS = {
    "all": ["tests", "-m", _USUAL, *_THREE_AT_A_TIME],
    "unit": ["tests/unit", "-m", _USUAL, *_THREE_AT_A_TIME],
    "integration": ["tests/integration", "-m", _USUAL, *_THREE_AT_A_TIME],
    "performance": ["tests/performance", "-m", "performance", "-s"],
    "fast": ["tests", "-m", f"not slow and {_USUAL}", *_THREE_AT_A_TIME],
    "faults": ["tests", "-m", "faults and not soak"],
    "soak": ["tests", "-m", "soak", "-s", "--timeout", "0"],
    "failed": ["tests", "--last-failed", "--last-failed-no-failures", "none"],
}


def main() -> int:
    """Parse the command line and return pytest's exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="Example: scripts/run_tests.py --unit --specific backoff --verbose"
    )
    selection = parser.add_mutually_exclusive_group()
    for name in _SELECTIONS:
        selection.add_argument(f"--{name}", action="store_const", const=name, dest="selection")
    parser.add_argument("--specific", metavar="PATTERN", help="only tests whose name matches (pytest -k)")
    parser.add_argument("--coverage", action="store_true", help="measure coverage, report in htmlcov/ and coverage.xml")
    parser.add_argument("--open-browser", action="store_true", help="open the coverage report")
    parser.add_argument("--quality", action="store_true", help="run ruff, import-linter and mypy first")
    parser.add_argument("--verbose", action="store_true", help="one line for each test")
    options = parser.parse_args()

    if options.quality and (code := subprocess.call(["make", "quality"], cwd=_ROOT)):  # noqa: S607 - make is on PATH
        return code
    command = [sys.executable, "-m", "pytest", *_SELECTIONS[options.selection or "all"], "--durations=10"]
    command += ["-k", options.specific] if options.specific else []
    command += ["-v"] if options.verbose else []
    if options.coverage:
        command += ["--cov", "--cov-report=term:skip-covered", "--cov-report=xml", "--cov-report=html"]
    code = subprocess.call(command, cwd=_ROOT)
    if options.coverage and options.open_browser:
        webbrowser.open((_ROOT / "htmlcov" / "index.html").as_uri())
    return code


if __name__ == "__main__":
    sys.exit(main())
