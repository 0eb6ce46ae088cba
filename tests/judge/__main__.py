"""Runs transformers' tests with and without hetsched, and says what fails with it alone; exit code 1 for news."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from . import JUDGED

HERE = Path(__file__).parent
ABSENT = {"generation/test_utils.py": "GenerationTesterMixin", "exporters/test_export.py": "ExportTesterMixin"}
# What fails under hetsched and why; the text is part of the failure's last line.
BY_DESIGN = {
    "runs inference only": "training is refused while a model is attached; detach() first",
    "cannot be copied or pickled": "an attached model is neither copied nor pickled; detach() first",
}


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.judge", description=__doc__)
    text = "a checkout or an unpacked source package of transformers, or its folder 'tests'"
    parser.add_argument("--tests", type=Path, required=True, metavar="FOLDER", help=text)
    parser.add_argument("-k", default="", metavar="WORDS", help="only tests that pytest's -k would choose")
    parser.add_argument("--json", action="store_true", help="all that was found, as JSON")
    args = parser.parse_args()
    folder = args.tests / "tests" if (args.tests / "tests").is_dir() else args.tests
    if not (folder / "test_modeling_common.py").is_file():
        print(f"judge: {folder} has no test_modeling_common.py; give a checkout of transformers", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as made:
        theirs = _beside(folder, Path(made))
        eager, ours = (_outcomes(way, theirs, args.k) for way in ("eager", "hetsched"))
    verdict = judged(eager, ours)
    print(json.dumps(verdict, indent=2) if args.json else shown(verdict))
    return 1 if verdict["news"] or not verdict["calls"] else 0


def _beside(folder: Path, made: Path) -> Path:
    """A package `theirs` of links to the copy, with empty mixins in place of those that a source package lacks."""
    theirs = made / "theirs"
    theirs.mkdir()
    for entry in folder.resolve().iterdir():
        (theirs / entry.name).symlink_to(entry)
    (theirs / "__init__.py").touch()
    for name, mixin in ABSENT.items():
        if not (theirs / name).exists():
            (theirs / name).parent.mkdir(exist_ok=True)
            (theirs / name).parent.joinpath("__init__.py").touch()
            (theirs / name).write_text(f"class {mixin}:\n    pass\n")
    return theirs


def _outcomes(way: str, theirs: Path, words: str) -> dict[str, Any]:
    """What a run of the tests came to, model by model's own files where the copy has them."""
    own = [theirs / "models" / name / f"test_modeling_{name}.py" for name in JUDGED.values()]
    files = [file for file in own if file.is_file()] or [HERE / "shared_tests.py"]
    out = theirs.parent / f"{way}.json"
    paths = os.pathsep.join([str(theirs.parent), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    options = ["-q", "--noconftest", "-c", os.devnull, "--rootdir", str(theirs.parent), "-p", "tests.judge.judged"]
    chosen = ["-k", words] if words else []
    command = [sys.executable, "-m", "pytest", *options, *chosen, *map(str, files)]
    environment = os.environ | {"PYTHONPATH": paths, "JUDGE_OUT": str(out), "JUDGE_WAY": way, "HF_HUB_OFFLINE": "1"}
    print(f"judge: {way} ...", file=sys.stderr)
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if not out.is_file():
        raise SystemExit(f"judge: pytest ended with {done.returncode}:\n{done.stdout[-2000:]}")
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def judged(eager: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """Counts, and what fails with hetsched alone: by design with the reason, and news."""
    failed = {
        test: outcome["why"]
        for test, outcome in ours["outcomes"].items()
        if outcome["outcome"] == "failed" and eager["outcomes"].get(test, {}).get("outcome") == "passed"
    }
    reasons = {test: _reason(why) for test, why in failed.items()}
    return {
        "tests": len(ours["outcomes"]),
        "calls": ours["calls"],
        "passed": [sum(o["outcome"] == "passed" for o in run["outcomes"].values()) for run in (eager, ours)],
        "by_design": {test: reason for test, reason in reasons.items() if reason},
        "news": {test: failed[test] for test, reason in reasons.items() if not reason},
    }


def _reason(why: str) -> str:
    return next((reason for words, reason in BY_DESIGN.items() if words in why), "")


def shown(verdict: dict[str, Any]) -> str:
    """The verdict for people."""
    eager, ours = verdict["passed"]
    lines = [
        f"{verdict['tests']} tests, {verdict['calls']} calls of experts under hetsched",
        f"passed: {eager} as they are, {ours} under hetsched",
        f"fail under hetsched by design: {len(verdict['by_design'])}",
        *[f"  {test.rpartition('::')[2]}: {reason}" for test, reason in verdict["by_design"].items()],
        f"fail under hetsched, and should not: {len(verdict['news'])}",
        *[f"  {test}: {why}" for test, why in verdict["news"].items()],
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
