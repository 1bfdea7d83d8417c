"""Fuzzes one target or all: `scripts/fuzz`. What is found is written to a file, to be added to the corpus.

With atheris (extra `fuzz`) libFuzzer looks for inputs that reach new code; without it the corpus is mutated.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path
from secrets import randbits

from tests.fuzz.targets import CORPUS, NAMES, TOKENS
from tests.fuzz.trying import Found, fuzz


def main() -> int:
    """0: nothing found; 1: something."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description="Fuzzes one target, or all in turn.")
    parser.add_argument("target", nargs="?", choices=NAMES)
    parser.add_argument("--seconds", type=float, default=60, help="for each target (default 60)")
    parser.add_argument("--seed", type=int, default=randbits(31), help="the same seed tries the same inputs")
    parser.add_argument("--engine", choices=("atheris", "mutations"), default=_best_engine())
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()), help="where finds are put")
    asked = parser.parse_args()
    asked.keep.mkdir(parents=True, exist_ok=True)
    run = by_atheris if asked.engine == "atheris" else by_mutations
    names = [asked.target] if asked.target else list(NAMES)
    return max(run(name, asked.seconds, asked.seed, asked.keep) for name in names)


def _best_engine() -> str:
    return "atheris" if importlib.util.find_spec("atheris") is not None else "mutations"


def by_mutations(name: str, seconds: float, seed: int, keep: Path) -> int:
    try:
        trial = fuzz(name, seed, seconds=seconds)
    except Found as found:
        path = keep / f"spillway-{name}-{seed}"
        path.write_bytes(found.data)
        print(f"{found}\nseed {seed}; the input is in {path}", file=sys.stderr)
        return 1
    print(
        f"{name}: {trial.count} inputs with seed {seed}, nothing found; at most {trial.most_cpu_s:.2f} s and "
        f"{max(trial.most_amplification, 0):.0f} bytes of memory for each byte"
    )
    return 0


def by_atheris(name: str, seconds: float, seed: int, keep: Path) -> int:
    """In a process of its own, which libFuzzer ends. What reaches new code is thrown away at the end."""
    with tempfile.TemporaryDirectory() as grown:
        command = [
            *(sys.executable, "-m", "tests.fuzz.by_coverage", name, grown, str(CORPUS / name)),
            *(f"-max_total_time={seconds:.0f}", f"-seed={seed}", f"-artifact_prefix={keep}/spillway-{name}-"),
            f"-dict={TOKENS / name}.dict",
            # Seconds for one input, which may run under a slow instrument on a busy machine.
            *("-timeout=5", "-rss_limit_mb=1024", "-max_len=16384", "-print_final_stats=1"),
        ]
        code = subprocess.run(command, check=False).returncode
    print(f"{name}: {'nothing found' if code == 0 else f'found, see {keep}/spillway-{name}-*'} (seed {seed})")
    return int(code != 0)


if __name__ == "__main__":
    sys.exit(main())
