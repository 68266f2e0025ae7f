"""DeepSparse in a process of its own: loads ONNX files and times calls, told by lines of JSON.

It wants an older Python than Secateur's (1.8.0: up to 3.11), so nothing else is imported here.
"""

import json
import os
import sys
from time import perf_counter

import numpy as np


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the engine prints must not be taken for an answer
    import deepsparse

    engine, inputs = None, []
    for line in sys.stdin:
        wanted = json.loads(line)
        if "model" in wanted:
            engine = deepsparse.Engine(wanted["model"], batch_size=wanted["batch"],
                                       num_cores=wanted["threads"])  # fmt: skip
            inputs = [np.load(wanted["inputs"])]
            np.save(wanted["outputs"], engine.run(inputs)[0])
            answer = {
                "version": deepsparse.__version__,
                "instructions": engine.cpu_avx_type,
                "supported": engine.fraction_of_supported_ops,
            }
        else:
            seconds = []
            for _ in range(wanted["runs"]):
                start = perf_counter()
                engine.run(inputs)
                seconds.append(perf_counter() - start)
            answer = {"seconds": seconds}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
