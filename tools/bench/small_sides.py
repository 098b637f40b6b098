"""Sides of the small-data benchmark that run in its process: a logistic regression, zoo's probe and zoo's defaults."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import peers
import small_sets
from small_sets import Example

FOLDS = 5
STRENGTHS = 10
"""Values of C between 1e-4 and 1e4, the default of scikit-learn's LogisticRegressionCV."""
PREPARED = "small/prepared"


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: `size` training examples of each class (None: all there are) of draw number `draw`."""

    set: str
    weights: str
    size: int | None
    draw: int
    side: str

    @property
    def train(self) -> list[Example]:
        """Training examples."""
        return small_sets.split(self.set).draw(self.size, self.draw)

    @property
    def test(self) -> Sequence[Example]:
        """Test examples, the same for all draws."""
        return small_sets.split(self.set).test

    @property
    def is_text(self) -> bool:
        """Whether the inputs are texts."""
        return small_sets.SETS[self.set].modality == "text"


Side = Callable[[Cell], Mapping[str, Any]]


def logistic(cell: Cell, scaler: str = "") -> Mapping[str, Any]:
    """Solve scikit-learn's logistic regression on the last features, C chosen by cross-validated loss.

    `scaler` names what scikit-learn's preprocessing does to them first.
    """
    import warnings

    import numpy as np
    from sklearn import preprocessing
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import Pipeline

    known = features(cell.set, cell.weights)
    train, test = cell.train, cell.test
    x, y = np.stack([known[_name(value)] for value, _ in train]), [label for _, label in train]
    folds = min(FOLDS, *(y.count(label) for label in set(y)))
    if folds > 1:
        splitter = StratifiedKFold(folds, shuffle=True, random_state=cell.draw)
        head = LogisticRegressionCV(Cs=STRENGTHS, cv=splitter, scoring="neg_log_loss", max_iter=1_000)
    else:
        head = LogisticRegression(max_iter=1_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weak penalties that do not converge, and of names that change
        first = getattr(preprocessing, scaler)() if scaler else "passthrough"
        fitted = Pipeline([("scaler", first), ("head", head)]).fit(x, y)
    found = fitted.predict(np.stack([known[_name(value)] for value, _ in test]))
    return {"accuracy": float(np.mean(found == np.array([label for _, label in test])))}


def probe(cell: Cell) -> Mapping[str, Any]:
    return _zoo(cell, strategy="probe", views=1)


def default(cell: Cell) -> Mapping[str, Any]:
    return _zoo(cell)


def _zoo(cell: Cell, **fields: Any) -> Mapping[str, Any]:
    """Fine-tune with zoo on all examples; nothing is selected on the test data.

    A probe selects nothing on validation data either: there the test data are passed as such, as their features are
    computed once for all draws then.
    """
    import zoo
    from zoo.finetune.defaults import FEW_TEXTS, SMALL

    train, test = cell.train, list(cell.test)
    probed = fields.get("strategy") == "probe" or len(train) < (FEW_TEXTS if cell.is_text else SMALL)
    model = zoo.load(cell.weights, "cpu")
    options: dict[str, Any] = {"valid": test} if probed else {"valid": 0, "test": test}
    with shared_features():
        model.finetune(train, **options, seed=cell.draw, quiet=True, **fields)
    assert model.recipe
    assert probed == (model.recipe.strategy == "probe")
    measured = model.metrics if probed else model.tested
    return {"accuracy": measured["accuracy"], "strategy": model.recipe.strategy}


SIDES: dict[str, Side] = {
    "logistic": logistic,
    "standardised": partial(logistic, scaler="StandardScaler"),
    "unit": partial(logistic, scaler="Normalizer"),
    "probe": probe,
    "zoo": default,
}


def prepare(names: Sequence[str]) -> Path:
    """Pull all weights into a store of the benchmark, once, and use it; returns the folder."""
    import os

    folder = peers.real_data.once(PREPARED, lambda part: peers.pull(names, part))
    os.environ |= {
        "ZOO_HOME": str(folder / "store"),
        "HF_HOME": str(folder / "hf"),
        "HF_ENDPOINT": "http://127.0.0.1:9",
    }
    return folder


def features(name: str, weights: str) -> Mapping[str, Any]:
    """Return the pooled features of every example of a set, by input; computed once and stored."""
    import numpy as np

    def fill(folder: Path) -> None:
        import zoo

        split = small_sets.split(name)
        inputs = [value for values in split.pool.values() for value in values] + [value for value, _ in split.test]
        found = zoo.load(weights, "cpu").embed(inputs)
        np.savez(folder / "features.npz", inputs=np.array([_name(value) for value in inputs]), values=found.numpy())

    place = peers.real_data.once(f"small/last-features/{name}-{weights.replace('/', '-')}", fill)
    if place not in _LOADED:
        with np.load(place / "features.npz") as file:
            _LOADED.clear()
            _LOADED[place] = dict(zip(file["inputs"].tolist(), file["values"], strict=True))
    return _LOADED[place]


def _name(value: str | Path) -> str:
    """Return a text, or the place of an image in the cache: the same in every checkout."""
    return value if isinstance(value, str) else value.relative_to(peers.real_data.cache()).as_posix()


_LOADED: dict[Path, dict[str, Any]] = {}
_ROWS: dict[bytes, Any] = {}
"""Hash of weights and input -> features of the example."""


@contextmanager
def shared_features() -> Iterator[None]:
    """Compute the features of each example once for all draws and sizes inside the block."""
    from zoo.finetune.features import feature_cache

    original = feature_cache.extract_features

    def shared(module: Any, data: Any, **options: Any) -> Any:
        return _extract(original, module, data, options)

    feature_cache.extract_features = shared
    try:
        yield
    finally:
        feature_cache.extract_features = original


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of a dataset, as a dataset."""

    data: Any
    rows: Any

    @property
    def lengths(self) -> Any:
        """Tokens of each example."""
        return None if self.data.lengths is None else self.data.lengths[self.rows]

    @property
    def targets(self) -> Any:
        """Targets of each example."""
        return None if self.data.targets is None else self.data.targets[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Any, *options: Any) -> Any:
        """Return some of the rows."""
        return self.data.batch(self.rows[indices], *options)


def _extract(original: Callable[..., Any], module: Any, data: Any, options: Mapping[str, Any]) -> Any:
    import torch

    from zoo.finetune.inference import Outputs

    own = hashlib.sha256(repr(sorted(options.items())).encode())
    for tensor in module.state_dict().values():
        own.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()[:4096].tobytes())
    keys = [_key(own.copy(), data.batch(torch.tensor([index])).inputs) for index in range(len(data))]
    missing = [index for index, key in enumerate(keys) if key not in _ROWS]
    if missing:
        computed = original(module, Rows(data, torch.tensor(missing)), **options)
        _ROWS.update((keys[index], row.clone()) for index, row in zip(missing, computed.values, strict=True))
    return Outputs(torch.stack([_ROWS[key] for key in keys]), data.targets)


def _key(digest: Any, inputs: Any) -> bytes:
    for tensor in inputs.values() if isinstance(inputs, dict) else [inputs]:
        digest.update(tensor.contiguous().numpy().tobytes())
    found: bytes = digest.digest()
    return found
