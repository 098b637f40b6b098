"""Benchmark ten epochs on a frozen backbone: zoo against fastai (photos) and transformers' Trainer (mails).

python tools/bench/frozen.py [--seeds 3] [--quick]

Times data preparation and training within the process; excludes imports, loading and evaluation on all sides.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

import fastai_photos
import peers
import trainer
from peers import Given

EPOCHS = 10


def ours(given: Given, name: str) -> Mapping[str, float]:
    import zoo

    train, valid = (peers.mails if name == peers.MINILM else peers.halves)(given)
    model = zoo.load(name, "cpu")
    start = time.perf_counter()
    model.finetune(train, valid=0, strategy="probe", seed=given.seed)
    return {"training": time.perf_counter() - start, "accuracy": model.evaluate(valid)["accuracy"]}


def fastai(given: Given) -> Mapping[str, float]:
    learn, prepared = fastai_photos.learner(given)
    from fastai.callback.core import Callback, CancelValidException

    class NoValidation(Callback):
        def before_validate(self) -> None:
            raise CancelValidException

    learn.freeze()
    with learn.no_bar():
        start = time.perf_counter()
        learn.fit(1 if given.quick else EPOCHS, cbs=NoValidation())
        elapsed = time.perf_counter() - start
        return {"training": prepared + elapsed, "accuracy": learn.validate()[1]}


SIDES = {
    "photos: zoo": partial(ours, name=peers.LITE0),
    "photos: fastai": fastai,
    "mails: zoo": partial(ours, name=peers.MINILM),
    "mails: Trainer": partial(trainer.trainer, frozen=True, num_train_epochs=EPOCHS),
    # The default learning rate is for full fine-tuning, too low for a new head.
    "mails: Trainer, rate 1e-3": partial(trainer.trainer, frozen=True, num_train_epochs=EPOCHS, learning_rate=1e-3),
}


def report(found: peers.Found) -> None:
    rows = [["frozen backbone, mean of the seeds", "accuracy", "training", "x zoo"]]
    took = {name: peers.mean(outcomes, "training") for name, outcomes in found.items()}
    for name, outcomes in found.items():
        ratio = took[name] / took[f"{name.partition(':')[0]}: zoo"]
        rows.append([name, f"{peers.mean(outcomes, 'accuracy'):.4f}", f"{took[name]:.2f} s", f"{ratio:.2f}"])
    peers.table(rows)


if __name__ == "__main__":
    peers.bench(SIDES, report, [peers.LITE0, peers.MINILM], [peers.photos, peers.fastai])
