"""Run pytest again and again without loading torch each time: one forked process for each job.

A job is a line of JSON on the standard input (folder, output, arguments); the answer is the exit
code on a line of its own. What is loaded here is what every test needs; of the package itself
nothing, so that each process takes it from its own folder.
"""

import gc
import json
import os
import sys
import traceback

import hypothesis  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import pytest
import sklearn.datasets  # noqa: F401
import torch._dynamo  # which the first optimizer would load, for seconds
import torch.func  # noqa: F401


def run(folder: str, output: str, arguments: list[str]) -> int:
    """Run pytest in a process of its own and return its exit code."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    code = 70
    try:
        to = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(to, 1)
        os.dup2(to, 2)
        os.chdir(folder)
        # hypothesis brings a plugin, which pytest would rather have loaded itself.
        loaded = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        code = int(pytest.main([*loaded, *arguments]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    gc.freeze()  # what is loaded here is not looked through again by each process
    for line in sys.stdin:
        print(run(**json.loads(line)), flush=True)  # noqa: T201
