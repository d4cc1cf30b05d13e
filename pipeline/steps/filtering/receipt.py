"""Receipts of a filter step: which rows of a part were kept and dropped, and the files that hold them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields


@dataclass(frozen=True, kw_only=True, slots=True)
class FilterReceipt:
    """Facts about one part of a filter step.

    `input_sha256` is that of the part of the step before, which has `input_rows` rows. `rows` are those in the part
    file and `errors` those of them with an error. `not_kept` are the numbers of the dropped rows in the input part.
    `dropped_sha256` is that of their file; empty without one. `reasons` counts the reasons; a row may have several.
    `masked` counts masked personal data by kind.
    """

    part: int
    plan_id: str
    input_sha256: str
    input_rows: int
    rows: int
    errors: int
    file_bytes: int
    sha256: str
    dropped_bytes: int
    dropped_sha256: str
    not_kept: list[int]
    reasons: dict[str, int] = field(default_factory=dict)
    masked: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: bytes) -> FilterReceipt:
        """Parse a receipt. Raises ValueError or TypeError for anything else."""
        try:
            values = json.loads(data)
        except RecursionError:
            raise ValueError("it is nested too deep") from None
        if not isinstance(values, dict) or values.keys() != {each.name for each in fields(cls)}:
            raise ValueError("it is no receipt of a filter step")
        receipt = cls(**values)
        numbers = (
            receipt.part,
            receipt.input_rows,
            receipt.rows,
            receipt.errors,
            receipt.file_bytes,
            *receipt.not_kept,
        )
        if not all(isinstance(number, int) for number in numbers):
            raise TypeError("its counts must be integers")
        return receipt

    def to_json(self) -> bytes:
        """Serialise the receipt; equal receipts give equal bytes."""
        return json.dumps(asdict(self), ensure_ascii=False).encode()
