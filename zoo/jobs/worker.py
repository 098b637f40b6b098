"""A worker process, `python -m zoo.jobs.worker`: reads calls from its standard input, writes answers to its output.

It is a program of its own rather than a process of multiprocessing: a script or notebook that calls zoo needs no
`if __name__ == "__main__"`. What it reads is pickled by its parent process, and by nobody else.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys

from zoo.jobs.call import call


def main() -> None:
    """Answer calls until the parent closes the input; libraries print to stderr, so that answers stay readable."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its workers
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    calls = sys.stdin.buffer
    try:
        shared = pickle.load(calls)
        while True:
            function, arguments = pickle.load(calls)
            pickle.dump(call(function, arguments, shared), answers)
            answers.flush()
    except (EOFError, BrokenPipeError):
        return


if __name__ == "__main__":
    main()
