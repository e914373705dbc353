"""What the config says about one S3 source."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

_SECRETS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")


class S3Spec(BaseModel):
    """An S3 prefix that holds images of views.

    Credentials come from where botocore looks for them (environment, shared file, instance role) and
    never from here. `max_bytes` bounds one replica on disk, by default half the free disk. `timeout_s`
    is accepted for symmetry with other sources: a read is local. `options` go to `boto3.client` as
    they are, but for `config`, a mapping of `botocore.config.Config`'s arguments.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    type: Literal["s3"] = "s3"
    url: str
    endpoint_url: str | None = None
    region: str | None = None
    refresh_s: float = Field(default=60.0, gt=0)
    cache_dir: str | None = None
    timeout_s: float | None = Field(default=None, gt=0)
    role: Literal["snapshot"] = "snapshot"
    max_bytes: int | None = Field(default=None, gt=0)
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _holds_no_keys(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        options = given.get("options")
        for place in (given, options if isinstance(options, dict) else {}):
            if found := [name for name in _SECRETS if name in place]:
                msg = (
                    f"{found[0]} does not belong in a config file: give AWS credentials by the environment, "
                    "the shared credentials file or an instance role"
                )
                raise ValueError(msg)
        return given

    @field_validator("url")
    @classmethod
    def _names_a_bucket(cls, url: str) -> str:
        bucket, _, _ = url.removeprefix("s3://").partition("/")
        if not url.startswith("s3://") or not bucket or "@" in bucket or ":" in bucket:
            msg = "wanted s3://BUCKET or s3://BUCKET/PREFIX"
            raise ValueError(msg)
        return url.rstrip("/")

    @property
    def bucket(self) -> str:
        return self.url.removeprefix("s3://").partition("/")[0]

    @property
    def prefix(self) -> str:
        """What every key begins with: empty, or ending in a slash."""
        rest = self.url.removeprefix("s3://").partition("/")[2].strip("/")
        return f"{rest}/" if rest else ""
