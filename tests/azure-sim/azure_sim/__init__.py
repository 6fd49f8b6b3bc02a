"""Simulated Azure: identity endpoints and Azure OpenAI resources, for tests and `make run`."""

from . import aadsts, assertions, clouds, errors, faults
from .access import Access
from .answers import AT_ONCE, HANG, RESET, Answer, Delivery, Gate, sse
from .app_service import AppService
from .applications import Application, ClientSecret, FederatedCredential
from .entra import Entra
from .expires_on import ExpiresOn
from .identity import Identity
from .limits import HANG_LIMIT
from .managed_identity import TENANT, ManagedIdentity
from .mistakes import MISTAKES, Mistake
from .quota import Quota
from .recorder import Recorder
from .records import RecordedRequest
from .resource import Resource
from .script import Script
from .sim import AzureSim, taken_port
from .strict_json import NotStrictJson
from .tokens import Claims
from .volume import SECRET_FILE, TOKEN_FILE, ProjectedVolume

__all__ = [
    "AT_ONCE", "Access", "Answer", "AppService", "Application", "AzureSim", "Claims",
    "ClientSecret", "Delivery", "Entra", "ExpiresOn", "FederatedCredential", "Gate", "HANG",
    "HANG_LIMIT", "Identity", "MISTAKES", "ManagedIdentity", "Mistake", "NotStrictJson",
    "ProjectedVolume", "Quota", "RESET", "RecordedRequest", "Recorder", "Resource", "SECRET_FILE",
    "Script", "TENANT", "TOKEN_FILE", "aadsts", "assertions", "clouds", "errors", "faults", "sse",
    "taken_port",
]
