"""Standard Webhooks signatures, version v1: HMAC-SHA256 over `id.timestamp.body`.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

PREFIX = "whsec_"
#: "Between 24 bytes (192 bits) and 64 bytes (512 bits)" (Signature scheme).
SIZES = range(24, 65)


def signing_key(secret: str) -> bytes:
    """The bytes of `whsec_<base64>`. Raises ValueError, without the secret, when it is not one."""
    if not secret.startswith(PREFIX):
        raise ValueError(f"a signing secret begins with {PREFIX} (and goes on with base64)")
    text = secret.removeprefix(PREFIX).rstrip("=")
    try:
        # Some generators leave the padding out.
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        # `from None`: the cause could show what it could not read.
        raise ValueError(f"what follows {PREFIX} in a signing secret is base64, and this is not") from None
    if len(key) not in SIZES:
        raise ValueError(f"a signing secret has {SIZES[0]} to {SIZES[-1]} bytes, found {len(key)}")
    return key


def signature(keys: Sequence[bytes], identity: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: one signature per key, separated by spaces."""
    signed = b"%s.%d.%s" % (identity.encode(), timestamp, body)
    found = (base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys)
    return " ".join(f"v1,{text}" for text in found)
