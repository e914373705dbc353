"""What estimators and callables are given, and what they may give back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression, LogisticRegression

from featurechaos.errors import RequestError
from featurechaos.impact.scoring import scorer

RNG = np.random.default_rng(31)
TABLE = RNG.normal(size=(200, 3))
LABEL = TABLE @ [2.0, -1.0, 0.5] > 0


@dataclass(frozen=True, eq=False)
class Matrix:
    """A response that is only a matrix with names."""

    matrix: NDArray[np.float64]
    feature_names_out: tuple[str, ...] = ("a", "b", "c")

    def to_numpy(self) -> NDArray[np.float64]:
        return self.matrix

    def __len__(self) -> int:
        return len(self.matrix)


def score(model: Any, response: Matrix, **inputs: Any) -> NDArray[Any]:
    return scorer(model)(response, inputs)  # type: ignore[arg-type]  # No provenance is needed to score.


def test_a_classifier_gives_the_probability_of_its_second_class() -> None:
    model = LogisticRegression().fit(TABLE, LABEL)

    got = score(model, Matrix(TABLE[:5]))

    np.testing.assert_array_equal(got, model.predict_proba(TABLE[:5])[:, 1])


def test_a_regressor_gives_its_prediction() -> None:
    model = LinearRegression().fit(TABLE, LABEL)

    np.testing.assert_array_equal(score(model, Matrix(TABLE[:5])), model.predict(TABLE[:5]))


def test_inputs_stand_behind_the_features_in_the_order_given() -> None:
    model = LogisticRegression().fit(TABLE, LABEL)
    features = Matrix(TABLE[:5, :1], ("a",))

    got = score(model, features, b=TABLE[:5, 1], c=TABLE[:5, 2:])

    np.testing.assert_array_equal(got, model.predict_proba(TABLE[:5])[:, 1])


def test_a_scalar_input_is_for_every_row() -> None:
    model = LogisticRegression().fit(TABLE, LABEL)
    table = np.column_stack([TABLE[:5, :2], np.full(5, 0.25)])

    got = score(model, Matrix(TABLE[:5, :2], ("a", "b")), c=0.25)

    np.testing.assert_array_equal(got, model.predict_proba(table)[:, 1])


def test_a_model_fitted_on_names_gets_its_columns_by_name() -> None:
    frame = pd.DataFrame(TABLE, columns=["a", "b", "c"])
    model = LogisticRegression().fit(frame, LABEL)
    shuffled = Matrix(TABLE[:5, [1, 0]], ("b", "a"))

    got = score(model, shuffled, c=TABLE[:5, 2])

    np.testing.assert_allclose(got, model.predict_proba(frame[:5])[:, 1], rtol=1e-12)


def test_a_model_that_misses_a_named_column_says_which() -> None:
    model = LogisticRegression().fit(pd.DataFrame(TABLE, columns=["a", "b", "wind"]), LABEL)

    with pytest.raises(RequestError, match="the response and inputs lack: wind"):
        score(model, Matrix(TABLE[:5]))


def test_names_a_library_made_up_are_no_names() -> None:
    class Booster:
        feature_names_in_ = ("Column_0", "Column_1", "Column_2")

        def predict(self, table: NDArray[np.float64]) -> NDArray[np.float64]:
            return table[:, 0]

    assert score(Booster(), Matrix(TABLE[:5])).tolist() == TABLE[:5, 0].tolist()


def test_more_than_two_classes_want_a_callable() -> None:
    model = LogisticRegression().fit(TABLE, np.arange(200) % 3)

    with pytest.raises(RequestError, match=r"predict_proba wants shape \(5, 2\), got \(5, 3\)"):
        score(model, Matrix(TABLE[:5]))


@pytest.mark.parametrize("wrong", [["UA"] * 5, [1, 2, 3], np.zeros((5, 2, 2))])
def test_an_input_that_is_no_column_of_numbers_is_refused_by_name(wrong: Any) -> None:
    model = LogisticRegression().fit(TABLE, LABEL)

    with pytest.raises(RequestError, match="input 'carrier' wants a number for each of 5 rows"):
        score(model, Matrix(TABLE[:5, :2]), carrier=wrong)


def test_a_callable_is_given_the_response_and_the_inputs_as_they_are() -> None:
    def model(response: Matrix, *, carrier: list[str]) -> list[float]:
        return [len(one) / len(response) for one in carrier]

    assert score(model, Matrix(TABLE[:2]), carrier=["A", "UA"]).tolist() == [0.5, 1.0]
