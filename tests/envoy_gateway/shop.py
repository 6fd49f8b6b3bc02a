"""A Gateway that is there already, and serves a shop."""

from __future__ import annotations

import base64

import trustme

from e2e.serves import HOST

SHOP_HOST = "shop.test"
# What is there before: a Gateway for all hosts, and a shop at one of them. PORT is the Gateway's.
SHOP = """\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: public, namespace: default}
spec:
  gatewayClassName: eg
  infrastructure:
    parametersRef: {group: gateway.envoyproxy.io, kind: EnvoyProxy, name: aoai}
  listeners:
  - {name: http, port: PORT, protocol: HTTP}
---
"""
# The same with TLS: two listeners at one port.
SHOP_WITH_TLS = SHOP.replace("  - {name: http, port: PORT, protocol: HTTP}\n", """\
  - name: shop
    hostname: shop.test
    port: PORT
    protocol: HTTPS
    tls: {certificateRefs: [{name: certificate}]}
  - name: ai
    hostname: ai.example.test
    port: PORT
    protocol: HTTPS
    tls: {certificateRefs: [{name: certificate}]}
""")
ROUTE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: default}
spec:
  parentRefs: [{name: public}]
  hostnames: [shop.test]
  rules:
  - matches: [{path: {type: PathPrefix, value: /shop}}]
    filters:
    - type: ExtensionRef
      extensionRef: {group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: shop}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: HTTPRouteFilter
metadata: {name: shop, namespace: default}
spec:
  directResponse: {statusCode: 200, body: {type: Inline, inline: the shop}}
"""


def certificate(authority: trustme.CA) -> str:
    """The secret of the listeners."""
    issued = authority.issue_cert(HOST, SHOP_HOST)
    chain = b"".join(one.bytes() for one in issued.cert_chain_pems)
    data = {"tls.crt": chain, "tls.key": issued.private_key_pem.bytes()}
    lines = "".join(f"  {name}: {base64.b64encode(value).decode()}\n" for name, value in data.items())
    return ("apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\n"
            f"metadata: {{name: certificate, namespace: default}}\ndata:\n{lines}---\n")
