"""Standard Webhooks signatures over `id.timestamp.body`: v1 is HMAC-SHA256 with a secret that the receiver
has too, v1a is Ed25519, where the receiver has but the public key.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Sequence

PREFIX = "whsec_"
#: "Between 24 bytes (192 bits) and 64 bytes (512 bits)" (Signature scheme).
SIZES = range(24, 65)


#: The private key of v1a: its seed.
PRIVATE_PREFIX = "whsk_"
SEED_SIZE = 32

#: Makes a signature with its version, `v1,…`, of what is to be signed.
Signer = Callable[[bytes], str]


def signer(secret: str) -> Signer:
    """For `whsec_<base64>` or `whsk_<base64>`. Raises ValueError, without the secret, when it is neither."""
    if secret.startswith(PRIVATE_PREFIX):
        seed = _decoded(secret, PRIVATE_PREFIX)
        if len(seed) != SEED_SIZE:
            raise ValueError(f"a private key of Ed25519 has {SEED_SIZE} bytes, found {len(seed)}")
        # Imported where it is needed: few do.
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        private = Ed25519PrivateKey.from_private_bytes(seed)
        return lambda signed: "v1a," + base64.b64encode(private.sign(signed)).decode()
    if not secret.startswith(PREFIX):
        raise ValueError(
            f"a signing secret begins with {PREFIX}, or {PRIVATE_PREFIX} for Ed25519, and goes on in base64"
        )
    key = _decoded(secret, PREFIX)
    if len(key) not in SIZES:
        raise ValueError(f"a signing secret has {SIZES[0]} to {SIZES[-1]} bytes, found {len(key)}")
    return lambda signed: "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def _decoded(secret: str, prefix: str) -> bytes:
    text = secret.removeprefix(prefix).rstrip("=")
    try:
        # Some generators leave the padding out.
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        # `from None`: the cause could show what it could not read.
        raise ValueError(f"what follows {prefix} in a signing secret is base64, and this is not") from None


def signature(signers: Sequence[Signer], identity: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: one signature per secret, separated by spaces."""
    signed = b"%s.%d.%s" % (identity.encode(), timestamp, body)
    return " ".join(sign(signed) for sign in signers)
