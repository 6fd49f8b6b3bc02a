"""What Entra ID says about itself: the official clients ask before they ask for a token."""

from __future__ import annotations

from . import clouds
from .answers import Answer

INSTANCE_PATH = "/common/discovery/instance"


def openid_configuration(host: str, tenant: str) -> Answer:
    """A tenant's endpoints, on the host (and port) that was asked."""
    base = f"https://{host}/{tenant}"
    return Answer(200, body={
        "issuer": f"{base}/v2.0",
        "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
        "token_endpoint": f"{base}/oauth2/v2.0/token",
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
        "jwks_uri": f"{base}/discovery/v2.0/keys",
        "response_types_supported": ["code", "id_token"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
    })


def instances(host: str) -> Answer:
    """The authorities that exist."""
    authorities = [cloud.authority for cloud in clouds.CLOUDS]
    return Answer(200, body={
        "tenant_discovery_endpoint":
            f"https://{host}/common/v2.0/.well-known/openid-configuration",
        "api-version": "1.1",
        "metadata": [{"preferred_network": one, "preferred_cache": one, "aliases": [one]}
                     for one in authorities],
    })
