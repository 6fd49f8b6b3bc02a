"""Forms that are nearly right, and what readers of forms other than the module's find in them."""

from __future__ import annotations

import email
import email.policy
import io
from random import Random
from typing import Any, Callable, Dict, List

from werkzeug.formparser import MultiPartParser

BOUNDARY = "b"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY}"
Reader = Callable[[bytes], List[bytes]]

_SAMPLES = [
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nlonger\r\n--b--\r\n',
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
    b'Content-Type: audio/wav\r\n\r\nRIFF\r\n'
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nlonger\r\n--b--',
    b'--b\r\ncontent-disposition:form-data;name=model\r\n\r\nsame\r\n'
    b'--b\r\nContent-Disposition: form-data; name=x\r\n\r\n\r\n--b--\r\n',
    b'--b\r\nContent-Disposition: form-data; filename="; name=mode ;b"; name="file"\r\n\r\nsecret\r\n'
    b'--b\r\nContent-Type: text/plain\r\nContent-Disposition: form-data; name="model"\r\n\r\nsame\r\n'
    b'--b--\r\n',
    b'--b\r\nContent-Disposition: form-data; name="file"; filename*=utf-8\'\'a.wav\r\n'
    b'Content-Type: multipart/mixed; boundary=c\r\n\r\n'
    b'--c\r\nContent-Disposition: form-data; name="model"\r\n\r\nsecret\r\n--c--\r\n'
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nsame\r\n--b--',
]
# About what readers of forms differ.
_PIECES = [
    b'"', b"\\", b'\\"', b"'", b"<", b">", b"(", b",", b"%22", b"\0", b"\n", b"\r", b"\r\n", b"\r\n\r\n",
    b" ", b"\t", b"\x0b", b"\x1c", b"\x85", b"\xc2\xa0", b"\xe2\x80\xa8", b"\xff",
    b"--", b"--b", b"--b--", b"\r\n--b\r\n", b"\n--b\n", b"\r--b\r", b";", b"=", b":",
    b"model", b"name", b'name="model"', b"; name=model", b"name*=utf-8''model",
    b"name*0=mo; name*1=del", b"=?utf-8?q?model?=", b"filename=", b"Content-Type: ",
    b"Content-Transfer-Encoding: base64\r\n", b"Content-Length: 3\r\n", b"multipart/mixed; boundary=b",
    b"message/rfc822", b"text/plain; charset=utf-16",
    b'Content-Disposition: form-data; name="model"\r\n',
]


def nearly_right(random: Random) -> bytes:
    """A form, most often with a few changes."""
    form = bytearray(random.choice(_SAMPLES))
    for _ in range(random.randrange(4)):
        at = random.randrange(len(form))
        edit = random.randrange(4)
        if edit == 0:
            form[at] ^= 1 << random.randrange(8)
        elif edit == 1:
            del form[at:at + random.randrange(1, 40)]
            form = form or bytearray(b"x")
        elif edit == 2:
            form[at:at] = random.choice(_PIECES)
        else:
            again = random.randrange(len(form))
            form[again:again] = form[at:at + random.randrange(1, 80)]
    return bytes(form)


def _werkzeug(form: bytes) -> List[bytes]:
    fields, files = MultiPartParser().parse(io.BytesIO(form), BOUNDARY.encode(), len(form))
    return [*(value.encode() for name, value in fields.items(multi=True) if _is_like_model(name)),
            *(file.read() for name, file in files.items(multi=True) if _is_like_model(name))]


def _email(form: bytes) -> List[bytes]:
    message: Any = email.message_from_bytes(
        f"Content-Type: {CONTENT_TYPE}\r\n\r\n".encode() + form, policy=email.policy.HTTP)
    parts = message.get_payload() if message.is_multipart() else []
    return [part.get_payload(decode=True) for part in parts
            if _is_like_model(part.get_param("name", header="content-disposition"))]


# The contents of the parts that each reader, or a more lenient one, takes for the model.
READERS: Dict[str, Reader] = {"werkzeug": _werkzeug, "email": _email}


def _is_like_model(name: Any) -> bool:
    # An encoded name is its charset, its language and the text.
    text = name[2] if isinstance(name, tuple) else name
    return isinstance(text, str) and text.strip().lower() == "model"
