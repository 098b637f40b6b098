"""Processes without zoo, forked from one that has imported what exports take: an import of torch serves many checks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import TracebackType

ZYGOTE = """
import json, os, sys
import numpy, onnxruntime, PIL.Image, sentence_transformers, tokenizers, torch, transformers
import timm
torch.set_num_threads(1)
assert "zoo" not in sys.modules
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if not child:
        sys.argv = job["arguments"]
        os.environ.update(job["env"])
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT), number)
        code = 1
        try:
            names = {"__name__": "__main__", "__file__": sys.argv[0]}
            exec(compile(open(sys.argv[0]).read(), sys.argv[0], "exec"), names)
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Fresh:
    """Stands in for the module subprocess where zoo.export.verify runs a check."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", ZYGOTE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, command: list[str], env: dict[str, str], **options: object) -> subprocess.CompletedProcess[str]:
        """Run a script: [python, -I, -B, script, arguments]."""
        out, err = (os.path.join(self.folder, name) for name in ("out.txt", "err.txt"))
        for path in (out, err):
            open(path, "w").close()
        assert command[1:3] == ["-I", "-B"]
        job = {"arguments": command[3:], "env": env, "out": out, "err": err}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        return subprocess.CompletedProcess(command, code, open(out).read(), open(err).read())

    def __enter__(self) -> Fresh:
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
