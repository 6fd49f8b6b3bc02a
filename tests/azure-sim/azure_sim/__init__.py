"""Simulated Azure: an identity endpoint and Azure OpenAI resources, for tests and `make run`."""

from . import errors
from .access import Access
from .answers import AT_ONCE, HANG, RESET, Answer, Delivery, Gate, sse
from .identity import Identity, ManagedIdentity
from .limits import HANG_LIMIT
from .recorder import Recorder
from .records import RecordedRequest
from .resource import Resource
from .script import Script
from .sim import AzureSim, taken_port
from .strict_json import NotStrictJson
from .tokens import Claims

__all__ = [
    "AT_ONCE", "Access", "Answer", "AzureSim", "Claims", "Delivery", "Gate", "HANG", "HANG_LIMIT",
    "Identity", "ManagedIdentity", "NotStrictJson", "RESET", "RecordedRequest", "Recorder",
    "Resource", "Script", "errors", "sse", "taken_port",
]
