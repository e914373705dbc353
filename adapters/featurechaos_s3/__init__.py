"""Features from S3: dated, complete images of views, read from a memory-mapped local replica.

Reads never touch the network. `boto3` and `pyarrow` are imported by the child process that hydrates,
and by `publish`, `verify`, `gc` and `bury` when they are called.
"""

from featurechaos_s3.spec import S3Spec
from featurechaos_s3.store import AsyncS3Store, S3Store

__all__ = ["AsyncS3Store", "S3Spec", "S3Store"]
