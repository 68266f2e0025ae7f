"""Check that every model of the zoo builds and runs: quickly, finite, twice alike, and backward.

    python benchmarks/check_zoo.py [--set odd] [--filter 'lstm*']

Each model runs in a forked child. Prints one line a model; the exit status is the number that fail.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import resource
import sys
import time
import warnings

import torch
import zoo
from coverage_child import backward_error
from outputs import tensors_in

_SECONDS, _GIB, _LARGE = 10.0, 12, 1e6


def check(set_name: str, name: str) -> tuple[str, bool]:
    """One line about one model, and whether it is as it should be."""
    start = time.perf_counter()
    try:
        model, example = zoo.build(set_name, name)
        built = time.perf_counter()
        with torch.no_grad():
            first = list(tensors_in(zoo.run(model, example)))
            once = time.perf_counter()
            second = list(tensors_in(zoo.run(model, example)))
    except Exception as error:
        return f"{name:44s} {type(error).__name__}: {str(error)[:240]!r}", False
    floats = [t for t in first if t.is_floating_point()]
    peak = max((float(t.abs().max()) for t in floats if t.numel()), default=0.0)
    same = len(first) == len(second) and all(map(torch.equal, first, second))
    seconds = once - built
    problems = {
        "no outputs": not first,
        "differs from run to run": not same,
        "not finite": not all(bool(torch.isfinite(t).all()) for t in floats),
        "an empty output": any(t.numel() == 0 for t in first),
        "very large outputs": peak > _LARGE,
        "slow": seconds > _SECONDS,
        "no backward pass": bool(backward_error(model, example)),
    }
    found = [problem for problem, there in problems.items() if there]
    count = sum(p.numel() for p in model.parameters()) / 1e6
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    line = (
        f"{name:44s} {count:8.3f} M parameters, built in {built - start:5.2f} s, runs in "
        f"{seconds:5.2f} s, peak {memory:5.0f} MiB, largest output {peak:8.2g}  "
    )
    return line + ", ".join(found), not found


def main() -> int:
    """Check what the command line selects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", default="all", choices=["all", *zoo.SETS])
    parser.add_argument("--filter", default="*")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    bad = 0
    for set_name in zoo.SETS if options.set == "all" else [options.set]:
        names = fnmatch.filter(zoo.registry(set_name), options.filter)
        print(f"{set_name}: {len(names)} models", flush=True)
        for name in names:
            child = os.fork()
            if child == 0:
                resource.setrlimit(resource.RLIMIT_AS, (_GIB << 30, _GIB << 30))
                line, fine = check(set_name, name)
                print(line, flush=True)
                os._exit(not fine)
            bad += os.waitpid(child, 0)[1] != 0
    print(f"{bad} fail")
    return min(bad, 255)


if __name__ == "__main__":
    sys.exit(main())
