"""Which requests are looked at twice: drawn by their ids, so that every process draws the same."""

from __future__ import annotations

import hashlib


def is_sampled(request_id: str, share: float) -> bool:
    """Whether a request is among the `share` that is drawn; a smaller share draws some of the same.

    It is if the first 8 bytes of its id's blake2b, big-endian, are below share * 2**64.
    """
    if share in (0, 1):
        return bool(share)
    digest = hashlib.blake2b(request_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2.0**64
