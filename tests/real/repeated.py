"""Fine-tune with every strategy again and again while other processes come and go, and compare the bits.

Prints a JSON document: for each backbone and strategy the number of runs and of different zoo.safetensors.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "tools" / "bench")]

STRATEGIES = ("probe", "lp-ft", "full", "lora", "scratch", "gradual")
MAILS, STEPS, BATCH = 44, 2, 32


def cases() -> list[tuple[str, str]]:
    """Return pairs of strategy and kind of data; only texts and transformers have layers for adapters."""
    return [(strategy, kind) for strategy in STRATEGIES for kind in ("photos", "mails")]


def child(work: Path, seed: int) -> None:
    """Run every case once, in an order of its own, and print the hashes."""
    import peers

    import zoo
    from zoo.console import quiet

    given = peers.Given(0, False, work)
    photos, mails = peers.halves(given)[0], peers.mails(given)[0]
    few = [[pair for pair in photos if pair[1] == name][:8] for name in sorted({name for _, name in photos})[:3]]
    data = {"photos": [pair for pairs in few for pair in pairs], "mails": mails[:MAILS]}
    names = {"photos": peers.LITE0, "mails": peers.MINILM}
    order = cases()
    random.Random(seed).shuffle(order)
    found = {}
    for strategy, kind in order:
        name = peers.VIT if (strategy, kind) == ("lora", "photos") else names[kind]
        settings = {"strategy": strategy, "valid": 0.25, "seed": 1, "batch_size": BATCH}
        settings |= {} if strategy == "probe" else {"steps": STEPS, "evals": 1}
        settings |= {"max_length": 32} if kind == "mails" else {"views": 1}
        with quiet(), tempfile.TemporaryDirectory() as out:
            zoo.load(name, "cpu").finetune(data[kind], **settings).save(Path(out) / "model")
            weights = (Path(out) / "model" / "zoo.safetensors").read_bytes()
        found[f"{kind}, {strategy}"] = hashlib.sha256(weights).hexdigest()
    print(json.dumps(found))


@contextmanager
def others(most: int, rng: random.Random) -> Iterator[None]:
    """Keep between 0 and `most` processes busy inside the block; every few seconds another number."""
    over = threading.Event()

    def come_and_go() -> None:
        from busy import busy

        while not over.is_set():
            with busy(rng.randint(0, most)):
                over.wait(rng.uniform(0.5, 6))

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--together", type=int, default=2, help="processes at a time")
    parser.add_argument("--most", type=int, default=4, help="busy processes beside them, at most")
    parser.add_argument("--child", type=int)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    if options.child is not None:
        child(options.work, options.child)
        return
    import peers

    seen: dict[str, Counter[str]] = defaultdict(Counter)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        peers.pull([peers.LITE0, peers.MINILM, peers.VIT], work)
        peers.photos(work)
        waiting = list(range(options.runs))
        with others(options.most, random.Random(0)):
            while waiting:
                batch, waiting = waiting[: options.together], waiting[options.together :]
                running = [start(work, seed) for seed in batch]
                for process in running:
                    answer, _ = process.communicate()
                    assert process.returncode == 0
                    for case, digest in json.loads(answer.splitlines()[-1]).items():
                        seen[case][digest] += 1
                print({case: len(digests) for case, digests in sorted(seen.items())}, file=sys.stderr, flush=True)
    json.dump({case: {"runs": sum(n.values()), "different": len(n)} for case, n in sorted(seen.items())}, sys.stdout)


def start(work: Path, seed: int) -> subprocess.Popen[str]:
    """Start a process with a store of its own: nothing is read from the cache of another run."""
    import shutil

    home = work / f"store-{seed}"
    shutil.copytree(work / "store", home)
    environ = os.environ | {"ZOO_HOME": str(home), "HF_ENDPOINT": "http://127.0.0.1:9", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, __file__, "--child", str(seed), "--work", str(work)]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)


if __name__ == "__main__":
    main()
