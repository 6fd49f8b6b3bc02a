"""Identities of every kind, several at a time: in simulated Azure, in the plugin's document, and in
the Envoy between them.

    with AzureSim() as sim:
        found = Identities(sim, tmp_path)
        one = found.add("client_secret", "east")      # an identity, a backend and a model "east"
        with found.gateway(workers=2) as gateway:
            assert found.chat(gateway, "east").status == 200
            assert [seen.token.oid for seen in found.arrived("east")] == [one.object_id]

Source of Envoy's shapes: its v3 API reference. A secret reaches the module by way of an internal
listener that serves its file, or does not reach it at all: Envoy adds X-IDENTITY-HEADER.
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
from e2e.bootstrap import cluster, tls
from e2e.gateway import Gateway
from e2e.regions import widen
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
# What the platform puts into the environment of a process on App Service.
_VARIABLE = "IDENTITY_HEADER"
_EXTENSIONS = "type.googleapis.com/envoy.extensions"
_PROTOCOL_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


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
        return own_metrics(gateway).get(metric(self.name, result), 0)

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
        """A cluster that serves a file of another volume. Returns its name."""
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
        return Gateway(document or self.document(), self.sim, workers=workers, edit=self.edit,
                       environment={_VARIABLE: str(self.sim.app_service.identity_header)},
                       **options)

    def edit(self, bootstrap: Json) -> None:
        """Adds what leads to the endpoints, to the proofs and to the backends."""
        bootstrap["bootstrap_extensions"] = [{
            "name": "envoy.bootstrap.internal_listener", "typed_config": {
                "@type": f"{_EXTENSIONS}.bootstrap.internal_listener.v3.InternalListener"}}]
        static = bootstrap["static_resources"]
        static["clusters"] += [
            app_service_cluster(self.sim),
            *(entra_cluster(cloud, self.sim) for cloud in clouds.CLOUDS),
            *(proof_cluster(name) for name in self._proofs),
            *(cluster(f"aoai_{name}", at.port, backend=name)
              for name, at in self._resources.items())]
        static["listeners"] += [proof_listener(name, path) for name, path in self._proofs.items()]
        widen(bootstrap)

    def chat(self, gateway: Gateway, name: str) -> Response:
        """The answer to a request for a model, on a connection of its own."""
        return calls.send(gateway, chat_call(name))

    def wait_for_fetches(self, gateway: Gateway, result: str, count: int, *,
                         names: Optional[Sequence[str]] = None,
                         timeout: float = HANG_LIMIT) -> None:
        """Returns once every identity, or each of these, has had as many fetches that ended so."""
        def all_have() -> bool:
            stats = own_metrics(gateway)
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
            fields = {"cluster": "app_service", "endpoint": endpoint.url}
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
        by_token = kind == "workload_identity"
        where = proof or (_TOKEN_CLUSTER if by_token else _SECRET_CLUSTER)
        return SignIn(kind, name, cloud, self.sim.entra, bearer, bearer.client_id, {kind: {
            "tenant": tenant, "client_id": bearer.client_id, "cluster": f"entra_{cloud.name}",
            ("token_cluster" if by_token else "secret_cluster"): where}})

    def _answer(self, endpoint: Endpoint, request: RecordedRequest) -> Optional[Step]:
        found = next((one for one in self.all.values()
                      if one.endpoint is endpoint and one.is_meant(request)), None)
        if found is None or found.rule is None:
            return None
        found.asked += 1
        return found.rule(found.asked)


def own_metrics(gateway: Gateway) -> Dict[str, int]:
    """The module's metrics as of now. Envoy 1.36 puts a cluster's name before theirs where there are
    pools: that of the one for which it first loaded the module."""
    stats = gateway.envoy.stats().items()
    return {"wasmcustom." + stat.rpartition("wasmcustom.")[2]: value for stat, value in stats
            if "wasmcustom." in stat}


def metric(name: str, result: str) -> str:
    """The counter of an identity's fetches that ended so."""
    return f"wasmcustom.aoai_token_fetches_total.identity.{name}.result.{result}"


def chat_call(name: str) -> calls.Call:
    return calls.chat(name, ("api-key", KEY))


def app_service_cluster(sim: AzureSim) -> Json:
    """The cluster that adds X-IDENTITY-HEADER from the environment."""
    mutation = {"append": {"header": {"key": "x-identity-header",
                                      "value": f"%ENVIRONMENT({_VARIABLE})%"}}}
    filters = [
        {"name": "envoy.filters.http.header_mutation", "typed_config": {
            "@type": f"{_EXTENSIONS}.filters.http.header_mutation.v3.HeaderMutation",
            "mutations": {"request_mutations": [mutation]}}},
        {"name": "envoy.filters.http.upstream_codec", "typed_config": {
            "@type": f"{_EXTENSIONS}.filters.http.upstream_codec.v3.UpstreamCodec"}},
    ]
    return {**cluster("app_service", sim.app_service.port),
            "typed_extension_protocol_options": {_PROTOCOL_OPTIONS: {
                "@type": f"type.googleapis.com/{_PROTOCOL_OPTIONS}",
                "explicit_http_config": {"http_protocol_options": {}},
                "http_filters": filters}}}


def entra_cluster(cloud: Cloud, sim: AzureSim) -> Json:
    """The cluster of a cloud's Entra ID, over TLS."""
    return {**cluster(f"entra_{cloud.name}", sim.entra_over_tls()),
            "transport_socket": tls(cloud.authority, sim)}


def proof_cluster(name: str) -> Json:
    """The cluster of the internal listener of the same name."""
    endpoint = {"endpoint": {"address": {"envoy_internal_address": {"server_listener_name": name}}}}
    return {"name": name, "load_assignment": {
        "cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}}


def proof_listener(name: str, path: Path) -> Json:
    """An internal listener, out of reach of everybody else, that serves what is in a file now. Its
    volume's root is watched, where kubelet renames `..data`."""
    body = {"filename": str(path), "watched_directory": {"path": str(path.parent)}}
    manager = {
        "@type": f"{_EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {
            "max_direct_response_body_size_bytes": 16384,
            "virtual_hosts": [{"name": name, "domains": ["*"], "routes": [
                {"match": {"path": "/"}, "direct_response": {"status": 200, "body": body}}]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
            "@type": f"{_EXTENSIONS}.filters.http.router.v3.Router"}}],
    }
    return {"name": name, "internal_listener": {}, "filter_chains": [{"filters": [
        {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}]}
