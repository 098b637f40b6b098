"""Benchmark fine-tuning EfficientNet-Lite0 on 142 photos of nine classes: zoo against fastai's `fine_tune(5)`.

python tools/bench/fastai_photos.py [--seeds 3] [--quick]

Each side runs in its own process, imports included. fastai uses its default batch size 64: mean accuracy of two seeds
.745, with 16 .735, with 8 .718.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import peer_models
import peers
from peers import Given


def ours(given: Given) -> Mapping[str, float]:
    import zoo

    train, valid = peers.halves(given)
    model = zoo.load(peers.LITE0, "cpu").finetune(train, valid=valid, seed=given.seed)
    return {"accuracy": model.metrics["accuracy"]}


def theirs(given: Given) -> Mapping[str, float]:
    learn, _ = learner(given)
    from fastai.callback.core import Callback

    class PrintAccuracy(Callback):
        order = 60  # runs after Recorder

        def after_epoch(self) -> None:
            print(f"epoch {self.epoch} accuracy {self.recorder.values[-1][-1]:.3f}")

    with learn.no_bar():
        learn.fine_tune(1 if given.quick else 5, cbs=PrintAccuracy())
    return {"accuracy": learn.recorder.values[-1][-1]}


def learner(given: Given) -> tuple[Any, float]:
    """Return the learner of the photos, and the seconds to create its data."""
    train, valid = peers.halves(given)
    weights = given.work / f"{peers.LITE0.rpartition('/')[2]}.safetensors"
    return peer_models.fastai_learner(train, valid, weights, given.seed)


SIDES = {"zoo": ours, "fastai": theirs}


def report(found: peers.Found) -> None:
    rows = [["photos, mean of the seeds", "accuracy", "process", "at fastai's accuracy"]]
    whole, reached = {}, {}
    for name, outcomes in found.items():
        pairs = zip(outcomes, found["fastai"], strict=True)
        reached[name] = statistics.fmean(own.reached(other.figures["accuracy"]) for own, other in pairs)
        whole[name] = peers.seconds(outcomes)
        accuracy = f"{peers.mean(outcomes, 'accuracy'):.4f}"
        rows.append([name, accuracy, f"{whole[name]:.1f} s", f"{reached[name]:.1f} s"])
    ratios = (f"{times['fastai'] / times['zoo']:.1f} x" for times in (whole, reached))
    peers.table([*rows, ["zoo is faster by", "", *ratios]])


if __name__ == "__main__":
    peers.bench(SIDES, report, [peers.LITE0], [peers.photos, peers.fastai])
