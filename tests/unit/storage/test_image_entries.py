"""Pictures in the spool, from this version and from those before it."""

from detector_worker.core.outbox import StoreImage
from detector_worker.storage.spool.codec import decode_delivery, encode_delivery


def test_a_picture_keeps_what_is_known_of_it() -> None:
    image = StoreImage("k", b"\xff", 60, captured_at=1_700_000_000.25, sha256="ab")

    assert decode_delivery(*encode_delivery(image)) == image


def test_a_picture_that_an_older_version_accepted_is_still_delivered() -> None:
    assert decode_delivery("StoreImage", b'{"key":"k","expire_s":60}', b"\xff") == StoreImage("k", b"\xff", 60)
