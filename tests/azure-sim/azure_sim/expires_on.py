"""The ways in which App Service and its relatives have been seen to write when a token expires."""

from __future__ import annotations

import enum
import time
from typing import Union


class ExpiresOn(enum.Enum):
    """One form of `expires_on`; the values show what it looks like. All dates are UTC.

    Sources: Microsoft's REST reference of App Service and its sample, what people reported to the
    official SDKs, and what those SDKs parse.
    """

    EPOCH_TEXT = "1506484173"
    EPOCH_NUMBER = 1506484173
    # Windows: nothing is padded but minutes and seconds.
    TWELVE_HOURS = "9/27/2017 3:49:33 AM +00:00"
    # Linux.
    TWENTY_FOUR_HOURS = "09/27/2017 03:49:33 +00:00"
    # The reference's own sample: padded, 24 hours, and AM or PM all the same.
    BOTH = "09/27/2017 03:49:33 AM +00:00"
    # .NET's round-trip format, with ticks and an offset.
    ISO_TICKS = "2017-09-27T03:49:33.0000000+00:00"
    ISO_OFFSET = "2017-09-27T03:49:33+00:00"
    ISO_UTC = "2017-09-27T03:49:33Z"

    def write(self, epoch: int) -> Union[int, str]:
        """This time, as a value of the answer's JSON."""
        at = time.gmtime(epoch)
        half = "AM" if at.tm_hour < 12 else "PM"
        if self is ExpiresOn.EPOCH_NUMBER:
            return epoch
        if self is ExpiresOn.TWELVE_HOURS:
            clock = time.strftime("%M:%S", at)
            return (f"{at.tm_mon}/{at.tm_mday}/{at.tm_year} {at.tm_hour % 12 or 12}:{clock} {half} "
                    "+00:00")
        formats = {
            ExpiresOn.TWENTY_FOUR_HOURS: "%m/%d/%Y %H:%M:%S +00:00",
            ExpiresOn.BOTH: f"%m/%d/%Y %H:%M:%S {half} +00:00",
            ExpiresOn.ISO_TICKS: "%Y-%m-%dT%H:%M:%S.0000000+00:00",
            ExpiresOn.ISO_OFFSET: "%Y-%m-%dT%H:%M:%S+00:00",
            ExpiresOn.ISO_UTC: "%Y-%m-%dT%H:%M:%SZ",
        }
        return time.strftime(formats[self], at) if self in formats else str(epoch)
