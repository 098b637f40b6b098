"""DataSummary: what a saved model records about its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from zoo.data.examples import Columns


@dataclass(frozen=True, slots=True)
class DataSummary:
    """Where the data came from and how it was divided.

    origin             file, folder or data set
    columns            of a table, as requested
    train, valid, test number of examples of each part
    pairs              whether the inputs are pairs of texts
    skipped            number of unreadable inputs that were left out
    fingerprint        SHA-256 of the examples as they were read
    near_duplicates    validation examples with a near-duplicate in the training data; None without validation
    test_duplicates    test examples with one in the training or validation data; None without test data
    """

    origin: str
    columns: Columns
    train: int
    valid: int
    test: int
    pairs: bool
    skipped: int
    fingerprint: str
    near_duplicates: int | None
    test_duplicates: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        columns = {"input": list(self.columns.input), "label": self.columns.label}
        return {**asdict(self), "columns": columns}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> DataSummary:
        """Restore the result of `to_dict`."""
        columns = Columns(tuple(saved["columns"]["input"]), saved["columns"]["label"])
        return cls(**{**saved, "columns": columns})
