"""The first half of WireGuard's handshake, as a peer does it: enough to know who answers.

<https://www.wireguard.com/protocol/>
"""

import hmac
import secrets
import socket
import struct
import time
from base64 import b64decode
from hashlib import blake2s

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

_CONSTRUCTION = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
_IDENTIFIER = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
_RESPONSE = struct.Struct("<4s4s4s32s16s16s16s")
_NO_PRESHARED_KEY = bytes(32)
_TAI = 2**62 + 10


def answers(address: tuple[str, int], own: X25519PrivateKey, server: str, seconds: float = 5) -> bool:
    """Whether the holder of the public key `server` (base64) is there, by UDP, and takes `own` for a peer."""
    peer = X25519PublicKey.from_public_bytes(b64decode(server))
    ephemeral = X25519PrivateKey.generate()
    chain, seen, message = _initiation(own, peer, ephemeral)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(seconds)
        udp.sendto(message, address)
        try:
            answer = udp.recv(2048)
        except TimeoutError:
            return False
    _, _, _, other, nothing, _, _ = _RESPONSE.unpack(answer)
    theirs = X25519PublicKey.from_public_bytes(other)
    seen = _hash(seen + other)
    (chain,) = _derive(chain, other, 1)
    (chain,) = _derive(chain, ephemeral.exchange(theirs), 1)
    (chain,) = _derive(chain, own.exchange(theirs), 1)
    chain, mixed, key = _derive(chain, _NO_PRESHARED_KEY, 3)
    # Raises unless whoever answered has the server's private key.
    return ChaCha20Poly1305(key).decrypt(bytes(12), nothing, _hash(seen + mixed)) == b""


def _initiation(
    own: X25519PrivateKey, peer: X25519PublicKey, ephemeral: X25519PrivateKey
) -> tuple[bytes, bytes, bytes]:
    """The chaining key and the hash afterwards, and the message."""
    server, public = peer.public_bytes_raw(), ephemeral.public_key().public_bytes_raw()
    chain = _hash(_CONSTRUCTION)
    seen = _hash(_hash(_hash(chain + _IDENTIFIER) + server) + public)
    (chain,) = _derive(chain, public, 1)
    chain, key = _derive(chain, ephemeral.exchange(peer), 2)
    static = ChaCha20Poly1305(key).encrypt(bytes(12), own.public_key().public_bytes_raw(), seen)
    seen = _hash(seen + static)
    chain, key = _derive(chain, own.exchange(peer), 2)
    now = time.time()
    timestamp = struct.pack(">QI", _TAI + int(now), int(now % 1 * 1e9))
    dated = ChaCha20Poly1305(key).encrypt(bytes(12), timestamp, seen)
    seen = _hash(seen + dated)
    message = b"\x01\0\0\0" + secrets.token_bytes(4) + public + static + dated
    mac = blake2s(message, key=_hash(b"mac1----" + server), digest_size=16).digest()
    return chain, seen, message + mac + bytes(16)


def _hash(data: bytes) -> bytes:
    return blake2s(data).digest()


def _derive(chain: bytes, data: bytes, count: int) -> list[bytes]:
    """HKDF, as Noise has it."""
    secret = hmac.digest(chain, data, "blake2s")
    found, last = [], b""
    for number in range(1, count + 1):
        last = hmac.digest(secret, last + bytes([number]), "blake2s")
        found.append(last)
    return found
