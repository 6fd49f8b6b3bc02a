"""Gateways with certificates. Each test has an Envoy Gateway of its own, one after the other."""

from __future__ import annotations

import ssl
from typing import Any, Dict, Optional

import httpx
import pytest
import trustme

from azure_sim import HANG_LIMIT, AzureSim
from e2e.calls import chat
from e2e.serves import HOST
from e2e.two_regions import KEY, SINGLE, document_of_two
from envoy_gateway.controller import Attached
from envoy_gateway.shop import ROUTE, SHOP_WITH_TLS, certificate

Json = Dict[str, Any]


@pytest.fixture(scope="module")
def document(azure: AzureSim) -> Json:
    return document_of_two(azure)


def over_tls(gateway: Attached, authority: trustme.CA, **headers: str) -> httpx.Response:
    """What a chat completion gets at the host of the gateway."""
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    with httpx.Client(verify=trust, trust_env=False, timeout=HANG_LIMIT) as http:
        call = chat(SINGLE)
        return http.post(
            f"https://127.0.0.1:{gateway.port}{call.target}", content=call.body,
            headers={"host": HOST, "content-type": "application/json", **headers},
            extensions={"sni_hostname": HOST})


@pytest.mark.parametrize("first", [None, "shop"])
def test_of_several_listeners_at_one_port_the_first_is_told_or_there_is_no_way(
        azure: AzureSim, document: Json, first: Optional[str]) -> None:
    """Envoy's listener has the name of the first of them, and the routes of each have its own."""
    authority = trustme.CA()
    told = {} if first is None else {"first_listener": first}
    with Attached(document, azure, others=certificate(authority) + SHOP_WITH_TLS + ROUTE,
                  gateway="public", listener="ai", hosts=[HOST],
                  **told) as gateway:
        assert ("ResourceNotFound" in gateway.envoy.log_text()) == (first is None)
        answers = [over_tls(gateway, authority, **{"api-key": KEY}),
                   over_tls(gateway, authority, **{"x-aoai-cluster": "aoai_eastus"})]
    assert [one.status_code for one in answers] == ([404, 404] if first is None else [200, 401])
    assert len(azure.resources["eastus"].requests) == (0 if first is None else 1)


def test_an_own_gateway_has_a_certificate(azure: AzureSim, document: Json) -> None:
    authority = trustme.CA()
    with Attached(document, azure, others=certificate(authority), tls_secret="certificate",
                  hosts=[HOST]) as gateway:
        assert over_tls(gateway, authority, **{"api-key": KEY}).status_code == 200
