"""Edits of a rendered bootstrap by path.

A path consists of names of fields, joined by dots. Brackets select items of a list by name, or a field
whose name has dots: `clusters[aoai_eastus]`, `clusters[aoai/*]`, `routes[*]` for all of them.

    Gateway(document, sim, edits=[put(f"{MANAGER}.max_request_headers_kb", 256)])

A path that leads nowhere is an error: without its edit, a test would prove something else.
"""

from __future__ import annotations

import copy
import re
from fnmatch import fnmatchcase
from typing import Any, Callable, Dict, Iterator, List, Tuple

Json = Dict[str, Any]
Edit = Callable[[Json], None]

# Where the renderer puts things.
LISTENERS = "static_resources.listeners"
CLUSTERS = "static_resources.clusters"
OUR_LISTENER = f"{LISTENERS}[aoai]"
# Its HTTP connection manager: within the listener, and within the bootstrap.
IN_LISTENER = "filter_chains[*].filters[envoy.filters.network.http_connection_manager].typed_config"
MANAGER = f"{OUR_LISTENER}.{IN_LISTENER}"
VIRTUAL_HOST = f"{MANAGER}.route_config.virtual_hosts[aoai]"
ROUTES = f"{VIRTUAL_HOST}.routes"
# The gateway stage, and its plugin.
FILTER = f"{MANAGER}.http_filters[aoai]"
PLUGIN = f"{FILTER}.typed_config.config"
# The backend stage of every pool, and its plugin.
BACKEND_FILTER = (f"{CLUSTERS}[aoai/*].typed_extension_protocol_options"
                  "[envoy.extensions.upstreams.http.v3.HttpProtocolOptions].http_filters[aoai]")
BACKEND_PLUGIN = f"{BACKEND_FILTER}.typed_config.config"


def all_at(tree: Any, path: str) -> List[Any]:
    """What is at a path, all of it; at least one."""
    values = [holder[key] for holder, key in _places(tree, path) if _has(holder, key)]
    assert values, f"nothing at {path}"
    return values


def only(tree: Any, path: str) -> Any:
    """The only thing at a path."""
    [value] = all_at(tree, path)
    return value


def take(tree: Any, path: str) -> Any:
    """The only thing at a path, which is not there any more."""
    value = only(tree, path)
    remove(path)(tree)
    return value


def put(path: str, value: Any) -> Edit:
    """This value at the path, wherever that leads, in the place of what may be there."""
    def edit(tree: Json) -> None:
        places = list(_places(tree, path))
        assert places, f"nothing at {path}"
        for holder, key in places:
            holder[key] = copy.deepcopy(value)
    return edit


def add(path: str, *items: Any) -> Edit:
    """More items for the lists at the path."""
    def edit(tree: Json) -> None:
        for value in all_at(tree, path):
            value.extend(copy.deepcopy(items))
    return edit


def remove(path: str, *, if_there: bool = False) -> Edit:
    """The path leads nowhere any more. `if_there` allows that it did not before."""
    def edit(tree: Json) -> None:
        places = [(holder, key) for holder, key in _places(tree, path) if _has(holder, key)]
        assert places or if_there, f"nothing at {path}"
        # From the end, so that the indices of a list stay what they are.
        for holder, key in reversed(places):
            del holder[key]
    return edit


def _places(tree: Any, path: str) -> Iterator[Tuple[Any, Any]]:
    """Each object or list that the path's last step is in, and the key or the index there. A key may be
    absent."""
    steps = re.findall(r"\[([^\]]+)\]|([^.\[\]]+)", path)
    holders = [tree]
    for bracket, name in steps[:-1]:
        holders = [holder[key] for holder in holders for key in _keys(holder, bracket, name)
                   if _has(holder, key)]
    bracket, name = steps[-1]
    for holder in holders:
        for key in _keys(holder, bracket, name):
            yield holder, key


def _keys(holder: Any, pattern: str, name: str) -> List[Any]:
    if not pattern:
        return [name] if isinstance(holder, dict) else []
    if isinstance(holder, dict):
        return [key for key in holder if fnmatchcase(key, pattern)]
    return [index for index, item in enumerate(holder)
            if pattern == "*" or fnmatchcase(str(item.get("name", "")), pattern)]


def _has(holder: Any, key: Any) -> bool:
    return not isinstance(holder, dict) or key in holder


# Edits that several tests need


def configured(configuration: Any, plugin: str = PLUGIN) -> Edit:
    """The plugin's configuration is this instead of the document, even if it is invalid: a text as a
    StringValue, anything else as a Struct."""
    kind = "StringValue" if isinstance(configuration, str) else "Struct"
    return put(f"{plugin}.configuration",
               {"@type": f"type.googleapis.com/google.protobuf.{kind}", "value": configuration})


def without_filter(tree: Json) -> None:
    """Envoy alone: neither stage of the module, and nothing that removes its headers from requests,
    which name their cluster themselves."""
    remove(FILTER)(tree)
    remove(BACKEND_FILTER, if_there=True)(tree)
    remove(f"{MANAGER}.early_header_mutation_extensions", if_there=True)(tree)


# The listener passes trailers on.
with_trailers = put(f"{MANAGER}.http_protocol_options", {"enable_trailers": True})

# Envoy does not deliver bodies to a filter that waits for them: the gateway stage, and the backend stage.
bodies_held_back = remove(f"{PLUGIN}.allow_on_headers_stop_iteration")
attempts_held_back = remove(f"{BACKEND_PLUGIN}.allow_on_headers_stop_iteration")


def leads_to(cluster: str, port: int) -> Edit:
    """A cluster's endpoint is this port of this machine."""
    endpoint = "load_assignment.endpoints[*].lb_endpoints[*].endpoint"
    return put(f"{CLUSTERS}[{cluster}].{endpoint}.address",
               {"socket_address": {"address": "127.0.0.1", "port_value": port}})


def forward_to(listener: Json, cluster: str) -> None:
    """Makes a copy of the rendered listener one without the filter that forwards everything to this
    cluster."""
    remove(f"{IN_LISTENER}.http_filters[aoai]")(listener)
    put(f"{IN_LISTENER}.route_config", {"virtual_hosts": [{
        "name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}]}]})(listener)


def module_at(path: str) -> Edit:
    """Both stages are of the module in this file."""
    def edit(tree: Json) -> None:
        for plugin in (PLUGIN, BACKEND_PLUGIN):
            put(f"{plugin}.vm_config.code.local.filename", path)(tree)
    return edit
