"""Expected shares of labels: values of the setting, and values of a column."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tirazh.errors import InputError, RequestError
from tirazh.pipeline.classification.priors import check_priors, check_shares_column, make_priors, read_shares

LABELS = ("sport", "art")
GOOD = {"sport": 0.75, "art": 0.25}


def test_probabilities_are_weighted_by_the_expected_share_over_the_one_behind_the_scores() -> None:
    """The formula of Saerens et al. 2002, with its figures worked out by hand."""
    priors = make_priors(GOOD, LABELS, source=(0.6, 0.4))
    assert priors is not None
    weights = np.array([0.5 * 0.75 / 0.6, 0.5 * 0.25 / 0.4])
    assert priors.correct(np.array([[0.5, 0.5]])) == pytest.approx(weights[None] / weights.sum())


def test_the_scores_of_a_model_are_taken_for_those_of_equal_shares() -> None:
    priors = make_priors(GOOD, LABELS)
    assert priors is not None
    assert priors.correct(np.array([[0.5, 0.5]])) == pytest.approx(np.array([[0.75, 0.25]]))


@pytest.mark.parametrize("value", [None, "balanced", "column:shares", GOOD, {"sport": 3 / 4, "art": 0.2501}, {**GOOD}])
def test_good_values_are_accepted(value: Any) -> None:
    check_priors(value, LABELS)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("balance", "--priors must be balanced, column:NAME, or a YAML or JSON file .* did you mean balanced"),
        ("column:", "--priors must be balanced"),
        ([0.5, 0.5], "--priors must be balanced"),
        ({"sport": 1.0}, "--priors has no share of the label 'art'"),
        ({**GOOD, "arts": 0.0}, "has a share of 'arts', which is none of the labels; did you mean art"),
        ({"sport": 1.5, "art": -0.5}, "has the share -0.5 of the label 'art'; it must be a number of 0 or more"),
        ({"sport": True, "art": 0.0}, "has the share True"),
        ({"sport": "1", "art": 0.0}, "has the share '1'"),
        ({"sport": float("nan"), "art": 0.0}, "has the share nan"),
        ({"sport": 0.5, "art": 0.4}, "has shares that sum to 0.9, not to 1"),
    ],
)
def test_other_values_are_refused(value: Any, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        check_priors(value, LABELS)


def test_a_label_without_a_row_in_the_sample_of_the_calibration_is_refused() -> None:
    with pytest.raises(RequestError, match="its sample has no row of the label 'art'"):
        make_priors("balanced", LABELS, source=(1.0, 0.0))


COLUMNS = {
    "struct": pa.array([GOOD], pa.struct({"art": pa.float32(), "sport": pa.float64()})),
    "map": pa.array([list(GOOD.items())], pa.map_(pa.string(), pa.float64())),
    "list": pa.array([[{"label": label, "share": share} for label, share in GOOD.items()]]),
    "text": pa.array([json.dumps(GOOD)]),
    "large text": pa.array([json.dumps(GOOD)], pa.large_string()),
    "category": pa.array([json.dumps(GOOD)]).dictionary_encode(),
    "json": pa.ExtensionArray.from_storage(pa.json_(), pa.array([json.dumps(GOOD)])),
    "decimal": pa.array([list(GOOD.items())], pa.map_(pa.string(), pa.float64())).cast(
        pa.map_(pa.string(), pa.decimal128(5, 3))
    ),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_row_has_its_shares_as_a_struct_map_list_or_text(kind: str) -> None:
    column = pa.chunked_array([COLUMNS[kind]])
    check_shares_column(pa.schema({"shares": column.type}), "shares", LABELS)
    shares, problems = read_shares(column, LABELS)
    assert problems == [None]
    assert shares == pytest.approx(np.array([[0.75, 0.25]]))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "is null"),
        ("{", "is not JSON"),
        ("[1, 2]", "has no shares of labels"),
        ("3", "has no shares of labels"),
        ("[[]]", "has no shares of labels"),
        ('[{"label": "art", "share": 0.5}, {"label": "art", "share": 0.5}]', "names a label twice"),
        ('{"sport": 1}', "has no share of the label 'art'"),
        ('{"sport": 1, "art": null}', "has the share None of the label 'art'"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_bad_value_is_a_problem_of_its_row(value: str | None, says: str) -> None:
    shares, problems = read_shares(pa.chunked_array([pa.array([value, json.dumps(GOOD)])]), LABELS)
    assert problems[0] is not None
    assert problems[0].startswith(says)
    assert problems[1] is None
    assert shares == pytest.approx(np.array([[1, 1], [0.75, 0.25]]))


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"share": pa.string()}, "the input has no column 'shares'; did you mean share"),
        ({"shares": pa.float64()}, "column 'shares' has the type double; it must be a map"),
        ({"shares": pa.struct({"sport": pa.float64()})}, "the structs of column 'shares' have no field 'art'"),
    ],
)
def test_a_column_that_holds_no_shares_is_refused(columns: dict[str, pa.DataType], says: str) -> None:
    with pytest.raises(InputError, match=says):
        check_shares_column(pa.schema(columns), "shares", LABELS)
