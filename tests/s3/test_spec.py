"""What a config may say about an S3 source."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from featurechaos_s3 import S3Spec


def test_url_is_cut_into_bucket_and_prefix() -> None:
    spec = S3Spec(url="s3://features/flights/live/")

    assert (spec.bucket, spec.prefix) == ("features", "flights/live/")
    assert S3Spec(url="s3://features").prefix == ""


def test_defaults_are_those_of_the_contract() -> None:
    spec = S3Spec(url="s3://features/flights")

    assert (spec.refresh_s, spec.cache_dir, spec.role, spec.max_bytes) == (60.0, None, "snapshot", None)


@pytest.mark.parametrize("url", ["features/flights", "s3://", "s3:///flights", "s3://key:secret@features"])
def test_anything_but_a_bucket_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="wanted s3://BUCKET"):
        S3Spec(url=url)


@pytest.mark.parametrize("name", ["aws_access_key_id", "aws_secret_access_key", "aws_session_token"])
@pytest.mark.parametrize("place", ["top", "options"])
def test_aws_keys_are_refused_and_never_shown(name: str, place: str) -> None:
    secret = {name: "AKIA-not-to-be-seen"}
    given = secret if place == "top" else {"options": secret}

    with pytest.raises(ValidationError, match="does not belong in a config file") as refused:
        S3Spec.model_validate({"url": "s3://features"} | given)

    assert "not-to-be-seen" not in str(refused.value)


@pytest.mark.parametrize("given", [{"bucket": "x"}, {"refresh_s": 0}, {"max_bytes": 0}, {"role": "primary"}])
def test_unknown_keys_and_impossible_values_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        S3Spec.model_validate({"url": "s3://features"} | given)
