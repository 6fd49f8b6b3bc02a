"""`multipart/form-data` (RFC 7578), as much of it as the audio and files operations need."""

from __future__ import annotations

from dataclasses import dataclass
from email.message import Message
from typing import List, Optional


@dataclass(frozen=True)
class Part:
    """One form field: its name, the file's name when it is one, and its bytes."""

    name: str
    filename: Optional[str]
    content: bytes

    def text(self) -> str:
        return self.content.decode("utf-8", "replace")


def parse(content_type: str, body: bytes) -> Optional[List[Part]]:
    """The fields in order, or None when this is not a complete multipart form."""
    header = _header("content-type", content_type)
    boundary = header.get_boundary()
    if header.get_content_type() != "multipart/form-data" or not boundary:
        return None
    delimiter = b"\r\n--" + boundary.encode("latin-1")
    sections = (b"\r\n" + body).split(delimiter)
    if len(sections) < 2 or not sections[-1].startswith(b"--"):
        return None
    parts = [_part(section) for section in sections[1:-1]]
    complete = [part for part in parts if part is not None]
    return complete if len(complete) == len(parts) else None


def first(parts: List[Part], name: str) -> Optional[Part]:
    """The first field with that name."""
    return next((part for part in parts if part.name == name), None)


def _part(section: bytes) -> Optional[Part]:
    head, blank, content = section.partition(b"\r\n\r\n")
    lines = head.decode("utf-8", "replace").split("\r\n")
    for line in lines[1:]:
        field, _, value = line.partition(":")
        if field.strip().lower() == "content-disposition" and blank:
            disposition = _header("content-disposition", value.strip())
            name = disposition.get_param("name", header="content-disposition")
            return Part(str(name), disposition.get_filename(), content) if name else None
    return None


def _header(name: str, value: str) -> Message:
    message = Message()
    message[name] = value
    return message
