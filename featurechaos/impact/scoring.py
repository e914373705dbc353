"""How a response becomes scores, and scores become decisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from featurechaos.errors import RequestError
from featurechaos.impact.attribution import Provenanced


class ResponseLike(Provenanced, Protocol):
    """What impact needs of a response; `featurechaos.Response` is one."""

    @property
    def request_id(self) -> str: ...
    @property
    def columns(self) -> Mapping[str, NDArray[Any]]: ...
    @property
    def entity(self) -> Mapping[str, Any]: ...
    @property
    def degraded(self) -> NDArray[np.bool_]: ...
    @property
    def feature_names_out(self) -> Any: ...
    def to_numpy(self) -> NDArray[Any]: ...


Inputs: TypeAlias = Mapping[str, Any]
Scores: TypeAlias = NDArray[Any]
Scorer: TypeAlias = Callable[[ResponseLike, Inputs], Scores]
Decider: TypeAlias = Callable[[Scores, ResponseLike, Inputs], NDArray[Any]]
Threshold: TypeAlias = float | Mapping[Any, Any] | Callable[[Any, Any], Any]


def scorer(predict: Any) -> Scorer:
    """A function of (response, inputs) that gives scores (n,), made from an estimator or a callable.

    - `predict_proba`: its second column; two classes, else RequestError.
    - else `predict`: as it comes.
    - else a callable: called as `predict(response, **inputs)`.

    An estimator gets `response.to_numpy()`, each request-time input appended as a column (a scalar
    broadcasts, (n, k) spreads) in the order given. One that was fitted on named columns
    (`feature_names_in_`) gets a DataFrame of exactly those columns, whatever the order of the request.
    """
    if hasattr(predict, "predict_proba"):
        return lambda response, inputs: _second_class(
            predict.predict_proba(_table(predict, response, inputs)), response
        )
    if hasattr(predict, "predict"):
        return lambda response, inputs: _one_a_row(predict.predict(_table(predict, response, inputs)), response)
    if callable(predict):
        return lambda response, inputs: _one_a_row(predict(response, **inputs), response)
    came = type(predict).__name__
    msg = f"predict wants an estimator with predict_proba or predict, or a callable, got {came}"
    raise RequestError(msg)


def decider(threshold: Threshold) -> Decider:
    """A function of (scores, response, inputs) that gives decisions (n,).

    - a number: alert where score >= threshold.
    - a mapping: a number for each value of one request-time input or entity column, as
      `{"column": "carrier", "default": 0.3, "UA": 0.25}`.
    - a callable: `threshold(scores, response)` gives bool (n,), or int (n,) >= 0 where 0 is "no alert".
    """
    if isinstance(threshold, Mapping):
        return _by_segment(threshold)
    if callable(threshold):
        return lambda scores, response, _inputs: _decisions(threshold(scores, response), len(scores))
    level = _number(threshold, "threshold")
    return lambda scores, _response, _inputs: scores >= level


def _second_class(raw: Any, response: ResponseLike) -> Scores:
    scores = np.asarray(raw)
    if scores.shape != (len(response), 2):
        msg = (
            f"predict_proba wants shape ({len(response)}, 2), got {scores.shape}; "
            "for another number of classes give a callable that returns one score a row"
        )
        raise RequestError(msg)
    return scores[:, 1]


def _one_a_row(raw: Any, response: ResponseLike) -> Scores:
    return as_scores(raw, len(response))


def as_scores(raw: Any, rows: int) -> Scores:
    """Scores as a numeric array (n,); (n, 1) is taken too. RequestError on anything else."""
    scores = np.asarray(raw)
    if scores.shape == (rows, 1):
        scores = scores[:, 0]
    if scores.shape != (rows,) or scores.dtype.kind not in "fiub":
        msg = f"scores want one number for each of {rows} rows, got shape {scores.shape} of {scores.dtype}"
        raise RequestError(msg)
    return scores


def _table(model: Any, response: ResponseLike, inputs: Inputs) -> Any:
    """What an estimator is given: a matrix, or a DataFrame where it was fitted on names we have."""
    matrix = response.to_numpy()
    wanted = [str(name) for name in getattr(model, "feature_names_in_", ())]
    if wanted:
        columns = dict(zip(map(str, response.feature_names_out), matrix.T, strict=True)) | dict(inputs)
        missing = [name for name in wanted if name not in columns]
        if not missing:
            import pandas as pd  # The model brought names, so it was fitted on a frame.

            return pd.DataFrame({name: columns[name] for name in wanted}, index=range(len(response)))
        if len(missing) < len(wanted):  # All missing: a library's own made-up names, so go by position.
            msg = f"the model was fitted on columns the response and inputs lack: {', '.join(missing)}"
            raise RequestError(msg)
    return _beside(matrix, inputs) if inputs else matrix


def _beside(matrix: NDArray[Any], inputs: Inputs) -> NDArray[Any]:
    rows = len(matrix)
    columns: list[NDArray[Any]] = [matrix]
    for name, value in inputs.items():
        column = np.asarray(value)
        column = np.full(rows, column) if column.ndim == 0 else column
        if column.dtype.kind not in "fiub" or column.ndim > 2 or len(column) != rows:
            msg = (
                f"input {name!r} wants a number for each of {rows} rows, to stand beside the features, got "
                f"shape {np.shape(value)} of {column.dtype}; a callable predict takes inputs of any form"
            )
            raise RequestError(msg)
        columns.append(column)
    return np.column_stack(columns)


def _by_segment(threshold: Mapping[Any, Any]) -> Decider:
    if not isinstance(threshold.get("column"), str) or "default" not in threshold:
        msg = (
            "a threshold mapping wants 'column', the name of an input or entity column, and 'default', as "
            "{'column': 'carrier', 'default': 0.3, 'UA': 0.25}; "
            f"got keys {', '.join(map(repr, threshold)) or 'none'}"
        )
        raise RequestError(msg)
    name = threshold["column"]
    levels = {key: _number(level, f"threshold[{key!r}]") for key, level in threshold.items() if key != "column"}
    default = levels.pop("default")

    def decide(scores: Scores, response: ResponseLike, inputs: Inputs) -> NDArray[Any]:
        column = inputs.get(name, response.entity.get(name))
        if column is None:
            have = ", ".join([*inputs, *response.entity]) or "none"
            msg = f"threshold column {name!r} is neither an input nor an entity column; there are: {have}"
            raise RequestError(msg)
        values = np.broadcast_to(np.asarray(column), scores.shape).tolist()
        return scores >= np.array([levels.get(value, default) for value in values])

    return decide


def _decisions(raw: Any, rows: int) -> NDArray[Any]:
    decided = np.asarray(raw)
    if decided.shape != (rows,) or decided.dtype.kind not in "biu":
        came = f"shape {decided.shape} of {decided.dtype}"
        msg = f"a threshold callable gives bool or int for each of {rows} rows, got {came}"
        raise RequestError(msg)
    return decided


def _number(value: Any, where: str) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float | np.integer | np.floating)
        or not np.isfinite(value)
    ):
        msg = f"{where} wants a finite number, got {value!r}"
        raise RequestError(msg)
    return float(value)
