"""The demo's model: will this flight arrive more than 15 minutes late?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurechaos.errors import FeatureError, RequestError

INPUTS = ("hour", "weekday", "distance", "carrier_code", "origin_code", "dest_code")
"""What a request brings itself; the same however old the features are."""

ROUNDS = 80
ALERT_SHARE = 0.2


class Answered(Protocol):
    """What the model reads of a response: `columns` by `view:feature`, (n,) each."""

    @property
    def columns(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, eq=False)
class Model:
    """Gradient-boosted trees over online features and request-time inputs.

    Attributes:
        features: the features it reads, as `view:feature`, in the order of its columns.
        threshold: a score from here on is an alert.
    """

    features: tuple[str, ...]
    threshold: float
    estimator: Any

    @classmethod
    def fit(
        cls,
        features: Sequence[str],
        matrix: NDArray[np.float32],
        inputs: Mapping[str, ArrayLike],
        labels: NDArray[np.bool_],
        *,
        seed: int,
    ) -> Self:
        """Learn from n flights: matrix (n, len(features)), NaN is null. The threshold is still 0.5."""
        try:
            from sklearn.ensemble import HistGradientBoostingClassifier
        except ImportError as error:
            msg = "the flights model wants the package scikit-learn: pip install 'featurechaos[demo]'"
            raise FeatureError(msg) from error
        estimator = HistGradientBoostingClassifier(max_iter=ROUNDS, early_stopping=False, random_state=seed)
        with _one_thread():
            estimator.fit(_joined(matrix, inputs), labels)
        return cls(tuple(features), 0.5, estimator)

    def alerting(self, matrix: NDArray[np.float32], inputs: Mapping[str, ArrayLike]) -> Self:
        """The same model, with the threshold that makes alerts of the top fifth of these flights."""
        threshold = float(np.quantile(self.predict_matrix(matrix, inputs), 1 - ALERT_SHARE))
        return type(self)(self.features, threshold, self.estimator)

    def predict(self, response: Answered, **inputs: ArrayLike) -> NDArray[np.float64]:
        """The probability of a late arrival for each row of a response, (n,).

        Args:
            response: an answer to a call for `self.features`; its nulls, if it has them, are NaN here.
            inputs: each of `INPUTS`, (n,).

        Raises:
            RequestError: a feature or an input is missing, or of another length.
        """
        return self.predict_matrix(self.matrix(response), inputs)

    def predict_matrix(self, matrix: NDArray[np.float32], inputs: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
        """The probability of a late arrival for each row of (n, len(features)), NaN is null. (n,)."""
        rows = _joined(matrix, inputs)
        if not len(rows):
            return np.empty(0)
        with _one_thread():
            scores: NDArray[np.float64] = self.estimator.predict_proba(rows)[:, 1]
        return scores

    def matrix(self, response: Answered) -> NDArray[np.float32]:
        """The features of a response, float32 (n, len(features)), NaN is null."""
        nulls = getattr(response, "nulls", None)
        columns = []
        for feature in self.features:
            column = _column(response, feature).astype(np.float32)
            if nulls is not None:
                column[np.asarray(nulls[feature])] = np.nan
            columns.append(column)
        return np.stack(columns, axis=1)


def _column(response: Answered, feature: str) -> NDArray[Any]:
    try:
        return np.asarray(response.columns[feature])
    except KeyError:
        msg = f"the flights model wants the feature {feature!r}, and the response has no such column"
        raise RequestError(msg) from None


@cache
def _openmp() -> Any:
    """What holds scikit-learn's OpenMP to a number of threads; to be made once it is loaded."""
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    return ThreadpoolController()


def _one_thread() -> AbstractContextManager[Any]:
    """Run OpenMP on the calling thread alone.

    Its threads wait for each other by spinning. On cores that others use too, a fit of 1 s took 25,
    and a serving thread's request of 20 rows 10 ms instead of 1. The scores are the same.
    """
    limit: AbstractContextManager[Any] = _openmp().limit(limits=1, user_api="openmp")
    return limit


def _joined(matrix: NDArray[np.float32], inputs: Mapping[str, ArrayLike]) -> NDArray[np.float32]:
    """Features and inputs side by side, float32."""
    if inputs.keys() != set(INPUTS):
        msg = f"the flights model wants the inputs {', '.join(INPUTS)}; got {', '.join(inputs) or 'none'}"
        raise RequestError(msg)
    columns = [np.asarray(inputs[name], np.float32) for name in INPUTS]
    for name, column in zip(INPUTS, columns, strict=True):
        if column.shape != (len(matrix),):
            msg = f"input {name!r} wants {len(matrix)} values, one a row; got an array of shape {column.shape}"
            raise RequestError(msg)
    return np.column_stack([matrix, *columns])
