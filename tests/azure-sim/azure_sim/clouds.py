"""Azure's clouds: what differs between them for somebody who signs in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple


@dataclass(frozen=True)
class Cloud:
    """`authority` is the host of its Entra ID, `issuer` what its v1 tokens say, `audiences` what a
    resource in it accepts (the first one is the default), `domain` the end of its resources' names.
    """

    name: str
    authority: str
    issuer: str
    audiences: Tuple[str, ...]
    domain: str


PUBLIC = Cloud("public", "login.microsoftonline.com", "https://sts.windows.net/",
               ("https://cognitiveservices.azure.com", "https://ai.azure.com"), "azure.com")
US_GOVERNMENT = Cloud("us_government", "login.microsoftonline.us", "https://sts.windows.net/",
                      ("https://cognitiveservices.azure.us",), "azure.us")
CHINA = Cloud("china", "login.partner.microsoftonline.cn", "https://sts.chinacloudapi.cn/",
              ("https://cognitiveservices.azure.cn",), "azure.cn")
CLOUDS = (PUBLIC, US_GOVERNMENT, CHINA)
AUDIENCES = tuple(audience for cloud in CLOUDS for audience in cloud.audiences)


def of_host(host: str) -> Cloud:
    """The cloud of a resource, by its name; the public one for a name of one's own."""
    return next((cloud for cloud in CLOUDS if host.lower().endswith("." + cloud.domain)), PUBLIC)


def of_audience(audience: str) -> Cloud:
    """The cloud whose resources accept this audience; the public one for any other audience."""
    return next((cloud for cloud in CLOUDS if audience.rstrip("/") in cloud.audiences), PUBLIC)


def of_authority(host: str) -> Optional[Cloud]:
    """The cloud whose Entra ID has this host name; None when it is none's."""
    return next((cloud for cloud in CLOUDS if cloud.authority == host.lower()), None)
