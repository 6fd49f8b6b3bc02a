"""What arrives at the regions, and whether it may."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Callable, List, Optional

from azure_sim import Answer, AzureSim, Delivery, RecordedRequest, Resource, multipart
from azure_sim.script import Step
from e2e.load import MARK, SEEN

# What the noisy neighbour calls a request whose body is to be refused.
REFUSED = "refused"
# A model takes its time.
LATENCY = 0.02
_KEYS = ("api-key", "ocp-apim-subscription-key", "x-api-key", "subscription-key")


class Arrivals:
    """Looks at every request that reaches a region, and forgets it."""

    def __init__(self, azure: AzureSim, allowed: "frozenset[str]",
                 fault: Callable[[Resource], Optional[Step]] = lambda _resource: None) -> None:
        """`allowed`: the deployments that any caller may use. `fault`: what a region does to a request in
        place of what it does usually."""
        self._azure, self._allowed, self._fault = azure, allowed, fault
        self._lock = threading.Lock()
        self.violations: Counter[str] = Counter()
        for resource in azure.resources.values():
            resource.script.always(self._rule(resource))

    def sweep(self) -> None:
        """Forgets what was recorded, and looks at what was not complete."""
        self._azure.identity.recorder.take()
        for resource in self._azure.resources.values():
            for seen in resource.recorder.take():
                if not seen.complete:
                    self._look_at(resource, seen)

    def _rule(self, resource: Resource) -> Callable[[RecordedRequest], Optional[Step]]:
        def rule(seen: RecordedRequest) -> Step:
            self._look_at(resource, seen)
            mark = str(seen.header(MARK))
            if mark.startswith(REFUSED):
                self._violated(f"a body that is to be refused arrived whole: {mark}")
            fault = self._fault(resource)
            answer = fault if isinstance(fault, Answer) else resource.answer(seen)
            delivery = fault if isinstance(fault, Delivery) else Delivery(delay=LATENCY)
            return answer.with_headers([(SEEN, mark)]).delivered(delivery)
        return rule

    def _look_at(self, resource: Resource, seen: RecordedRequest) -> None:
        machine = self._azure.identity.system_assigned
        assert machine is not None
        if seen.host != resource.host:
            self._violated("a request arrived for another host")
        if (len(seen.header_values("authorization")) != 1 or seen.token is None
                or seen.token.oid != machine.object_id):
            self._violated("a request arrived that is not signed in as the gateway")
        elif seen.token.exp <= time.time():
            self._violated("a request arrived with a token that has expired")
        names = {name for name, _ in seen.headers} | {name.lower() for name, _ in seen.query}
        if names.intersection(_KEYS):
            self._violated("a key arrived")
        if any(name.startswith("x-aoai-") for name in names):
            self._violated("a header of the gateway's own arrived")
        if (named := _deployments(seen)) is not None and not self._allowed.issuperset(named):
            self._violated(f"a request arrived for {named}")

    def _violated(self, what: str) -> None:
        with self._lock:
            self.violations[what] += 1


def _deployments(seen: RecordedRequest) -> Optional[List[str]]:
    """What a request names, if it has arrived as far as that."""
    segments = seen.path.strip("/").split("/")
    if segments[1:2] == ["deployments"]:
        return segments[2:3]
    if not seen.complete:
        return None
    parts = multipart.parse(seen.header("content-type") or "", seen.body)
    if parts is not None:
        return [part.text() for part in parts if part.name == "model"]
    return [str(model) for model in seen.models]
