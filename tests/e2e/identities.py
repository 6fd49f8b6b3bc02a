"""Identities of every kind, several at a time: in simulated Azure and in the document, from which the
Envoy between them is rendered.

    with AzureSim() as sim:
        found = Identities(sim, tmp_path)
        one = found.add("client_secret", "east")      # an identity, a backend and a model "east"
        with found.gateway(workers=2) as gateway:
            assert found.chat(gateway, "east").status == 200
            assert [seen.token.oid for seen in found.arrived("east")] == [one.object_id]
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

from azure_sim import (HANG_LIMIT, SECRET_FILE, TENANT, TOKEN_FILE, Answer, Application, AppService,
                       AzureSim, Entra, FederatedCredential, Identity, ManagedIdentity,
                       ProjectedVolume, RecordedRequest, Resource, assertions, clouds, faults,
                       tokens)
from azure_sim.clouds import Cloud
from azure_sim.endpoint import Endpoint
from azure_sim.script import Step
from e2e import calls, config
from e2e.gateway import Gateway
from e2e.wire import Response

Json = Dict[str, Any]
# What becomes of the n-th request for a token of an identity, counted from 1; None is the usual.
Rule = Callable[[int], Optional[Step]]

KINDS = ("managed_identity", "app_service", "workload_identity", "client_secret")
KEY = "aoai_the-search-teams-key-0001"
# The parameters, of any kind, that say which identity is meant.
_SELECTORS = {"client_id", "object_id", "principal_id", "msi_res_id", "mi_res_id"}
# What serves the proofs that all share.
_TOKEN_CLUSTER, _SECRET_CLUSTER = "projected_token", "client_secret_file"


@dataclass
class SignIn:
    """One identity. `document` is what stands for it in `identities`; `chosen` is the id by which
    its requests say which one is meant."""

    kind: str
    name: str
    cloud: Cloud
    endpoint: Union[Identity, AppService, Entra]
    bearer: Union[ManagedIdentity, Application]
    chosen: Optional[str]
    document: Json
    rule: Optional[Rule] = None
    # The fetches for which the endpoint has asked `rule`.
    asked: int = 0

    @property
    def object_id(self) -> str:
        return self.bearer.object_id

    @property
    def application(self) -> Application:
        """Who it is, where it is an application."""
        assert isinstance(self.bearer, Application)
        return self.bearer

    @property
    def managed(self) -> ManagedIdentity:
        """Who it is, where it is a managed identity."""
        assert isinstance(self.bearer, ManagedIdentity)
        return self.bearer

    @property
    def requests(self) -> List[RecordedRequest]:
        """Its requests for a token, as they have arrived."""
        return [one for one in self.endpoint.requests if one.complete and self.is_meant(one)]

    def is_meant(self, request: RecordedRequest) -> bool:
        given = {value for name, value in [*request.query, *request.form] if name in _SELECTORS}
        return given == ({self.chosen} if self.chosen is not None else set())

    def granted(self, **more: Any) -> Answer:
        """The answer with a token; `more` is what it says besides."""
        audience = self.cloud.audiences[0]
        if isinstance(self.endpoint, Entra):
            answer = self.endpoint.granted(audience, application=self.application,
                                           by_secret=self.kind == "client_secret")
        else:
            answer = self.endpoint.granted(audience, identity=self.managed)
        assert isinstance(answer.body, dict)
        return replace(answer, body={**answer.body, **more})

    def fetches(self, gateway: Gateway, result: str) -> int:
        """How many fetches ended so: `success`, `failed` or `refused`."""
        return gateway.envoy.stats().get(metric(self.name, result), 0)

    def log(self, gateway: Gateway) -> List[str]:
        """The lines of Envoy's log that are about it, without what Envoy puts before each."""
        return [line.partition("wasm log ")[2] for line in gateway.envoy.log_text().splitlines()
                if f"(identity {self.name})" in line]


class Identities:
    """A document's identities, each with a backend and a model of its name, in front of one
    resource for each cloud and tenant. `volume` has the projected token and the secret that all
    share which have none of their own."""

    def __init__(self, sim: AzureSim, folder: Path) -> None:
        self.sim = sim
        self.secret = str(sim.entra.secret)
        self.volume = ProjectedVolume(folder / "volume", {
            TOKEN_FILE: assertions.issue(), SECRET_FILE: self.secret})
        self.all: Dict[str, SignIn] = {}
        self._folder = folder
        self._resources: Dict[str, Resource] = {}
        self._proofs = {_TOKEN_CLUSTER: self.volume.path(TOKEN_FILE),
                        _SECRET_CLUSTER: self.volume.path(SECRET_FILE)}
        for endpoint in (sim.identity, sim.app_service, sim.entra):
            endpoint.script.always(partial(self._answer, endpoint))

    def add(self, kind: str, name: str, *, selector: Optional[str] = "client_id",
            cloud: Cloud = clouds.PUBLIC, tenant: str = TENANT, proof: Optional[str] = None,
            rule: Optional[Rule] = None, known: bool = True) -> SignIn:
        """One more. `selector` is by what a managed identity is chosen, None for the machine's own;
        `proof` is a cluster that `add_proof` made; `known` is whether simulated Azure has it."""
        if kind in ("managed_identity", "app_service"):
            found = self._managed(kind, name, selector, cloud, tenant, known)
        else:
            found = self._application(kind, name, cloud, tenant, proof, known)
        found.rule = rule
        if cloud is not clouds.PUBLIC:
            found.document["cloud"] = cloud.name
        self.all[name] = found
        self._resources[name] = self.resource(cloud, tenant)
        self._resources[name].deployments[name] = "gpt-4o"
        return found

    def add_proof(self, name: str, volume: ProjectedVolume, file: str = TOKEN_FILE) -> str:
        """A cluster by which a file of another volume is served. Returns its name."""
        self._proofs[name] = volume.path(file)
        return name

    def resource(self, cloud: Cloud = clouds.PUBLIC, tenant: str = TENANT) -> Resource:
        """The one resource of this cloud and tenant."""
        name = f"{cloud.name.replace('_', '-')}-{tenant[:8]}"
        if name not in self.sim.resources:
            self.sim.add_resource(name, host=f"contoso-{name}.openai.{cloud.domain}", tenant=tenant)
        return self.sim.resources[name]

    def resource_of(self, name: str) -> Resource:
        """The one at which requests of an identity arrive."""
        return self._resources[name]

    def document(self, **more: Any) -> Json:
        """The plugin's configuration; `more` are further fields of it, or others."""
        document = config.config(
            subscriptions=[config.subscription("search", key=KEY)],
            backends=[config.backend(self._resources[name], name=name, identity=name)
                      for name in self.all],
            models=[config.model(name, name) for name in self.all],
            identities={name: one.document for name, one in self.all.items()})
        del document["identity"]
        return {**document, **more}

    def gateway(self, workers: int, document: Optional[Json] = None, **options: Any) -> Gateway:
        """An Envoy with all of this."""
        # What the platform puts into the environment of a process on App Service.
        environment = {"IDENTITY_HEADER": str(self.sim.app_service.identity_header)}
        return Gateway(document or self.document(), self.sim, workers=workers,
                       environment=environment, **options)

    def chat(self, gateway: Gateway, name: str) -> Response:
        """The answer to a request for a model, on a connection of its own."""
        return calls.send(gateway, chat_call(name))

    def wait_for_fetches(self, gateway: Gateway, result: str, count: int, *,
                         names: Optional[Sequence[str]] = None,
                         timeout: float = HANG_LIMIT) -> None:
        """Returns once every identity, or each of these, has had as many fetches that ended so."""
        def all_have() -> bool:
            stats = gateway.envoy.stats()
            return all(stats.get(metric(name, result), 0) >= count for name in names or self.all)
        gateway.envoy.wait_until(all_have, f"{count} fetches of each with {result}", timeout)

    def arrived(self, name: str) -> List[RecordedRequest]:
        """The requests for a model that arrived at its resource."""
        return [one for one in self._resources[name].requests
                if f"/deployments/{name}/" in one.path]

    def nothing_arrived(self) -> bool:
        """Whether no resource has got anything."""
        return not any(one.requests for one in self.sim.resources.values())

    def shown(self, gateway: Gateway) -> List[str]:
        """Which secrets show in the log, the metrics or the configuration of an Envoy."""
        secrets = {"token": tokens.MARK, "assertion": assertions.MARK, "secret": self.secret,
                   "identity header": str(self.sim.app_service.identity_header),
                   "what is no token": faults.NOT_A_TOKEN}
        where = {"log": gateway.envoy.log_text(), "metrics": gateway.envoy.prometheus(),
                 "configuration": str(gateway.envoy.config_dump())}
        return [f"{name} in {place}" for name, secret in secrets.items()
                for place, text in where.items() if secret in text]

    def _managed(self, kind: str, name: str, selector: Optional[str], cloud: Cloud, tenant: str,
                 known: bool) -> SignIn:
        endpoint = self.sim.identity if kind == "managed_identity" else self.sim.app_service
        fields: Json = {"cluster": config.IDENTITY_CLUSTER}
        if isinstance(endpoint, AppService):
            fields = {"cluster": "app_service_endpoint", "endpoint": endpoint.url}
        if selector is None:
            bearer = endpoint.system_assigned
            assert bearer is not None
            return SignIn(kind, name, cloud, endpoint, bearer, None, {kind: fields})
        bearer = ManagedIdentity(tenant=tenant, resource_id=(
            "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/group(1)"
            f"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}"))
        if known:
            endpoint.user_assigned.append(bearer)
        chosen = str(getattr(bearer, selector))
        return SignIn(kind, name, cloud, endpoint, bearer, chosen,
                      {kind: {**fields, selector: chosen}})

    def _application(self, kind: str, name: str, cloud: Cloud, tenant: str, proof: Optional[str],
                     known: bool) -> SignIn:
        bearer = Application(tenant=tenant)
        if known:
            bearer = self.sim.entra.add_application(
                tenant=tenant, cloud=cloud, secrets=[self.secret],
                federated=[FederatedCredential()])
        what = "token" if kind == "workload_identity" else "secret"
        where = proof or (_TOKEN_CLUSTER if what == "token" else _SECRET_CLUSTER)
        return SignIn(kind, name, cloud, self.sim.entra, bearer, bearer.client_id, {kind: {
            "tenant": tenant, "client_id": bearer.client_id, "cluster": f"entra_{cloud.name}",
            f"{what}_cluster": where, f"{what}_file": str(self._proofs[where])}})

    def _answer(self, endpoint: Endpoint, request: RecordedRequest) -> Optional[Step]:
        found = next((one for one in self.all.values()
                      if one.endpoint is endpoint and one.is_meant(request)), None)
        if found is None or found.rule is None:
            return None
        found.asked += 1
        return found.rule(found.asked)


def metric(name: str, result: str) -> str:
    """The counter of an identity's fetches that ended so."""
    return f"wasmcustom.aoai_entra_token_fetches_total.identity.{name}.result.{result}"


def chat_call(name: str) -> calls.Call:
    return calls.chat(name, ("api-key", KEY))
