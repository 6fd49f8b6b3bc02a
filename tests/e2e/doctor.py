"""`aoai doctor` as its users run it, and what every run of it must not show."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

from azure_sim import AzureSim, Resource, assertions, faults, tokens
from e2e import config

Json = Dict[str, Any]

# A step takes as long as it takes on a busy machine, except where nothing will ever come.
PATIENT = ("--timeout", "60s")


@dataclass(frozen=True)
class Found:
    """How a run ended and what it printed."""

    status: int
    stdout: str
    stderr: str

    @property
    def report(self) -> Json:
        """The document of `--json`."""
        found: Json = json.loads(self.stdout)
        return found

    @property
    def results(self) -> List[Tuple[str, str, str]]:
        """Result, subject and name of each step."""
        return [(one["result"], one["subject"], one["step"]) for one in self.report["steps"]]

    def step(self, name: str) -> Json:
        """The only step of this subject and name, joined by a slash."""
        steps = self.report["steps"]
        [found] = [one for one in steps if f'{one["subject"]}/{one["step"]}' == name]
        assert isinstance(found, dict)
        return found


def doctor(azure: AzureSim, document: Json, *options: str, env: Optional[Dict[str, str]] = None
           ) -> Found:
    """A run with this document, whose output is searched for secrets."""
    clean = {name: value for name, value in os.environ.items()
             if not name.startswith(("AZURE_", "IDENTITY_"))}
    # Nothing of what the doctor does goes through a proxy of the environment, as nothing of Envoy's.
    clean.update({"HTTP_PROXY": "http://127.0.0.1:1", "HTTPS_PROXY": "http://127.0.0.1:1"})
    done = subprocess.run([os.environ["AOAI"], "doctor", "-", *options], input=json.dumps(document),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False,
                          env={**clean, **(env or {})})
    secrets = [tokens.MARK, assertions.MARK, azure.entra.secret, azure.app_service.identity_header,
               faults.NOT_A_TOKEN, *[secret.value for one in azure.entra.applications
                                     for secret in one.secrets]]
    shown = done.stdout + done.stderr
    assert not [index for index, secret in enumerate(secrets) if secret in shown], "a secret shows"
    return Found(done.returncode, done.stdout, done.stderr)


def examined(azure: AzureSim, document: Json, *options: str, env: Optional[Dict[str, str]] = None
             ) -> Found:
    """A run with `--json` and time for everything. Its status is what its document says."""
    found = doctor(azure, document, "--json", *PATIENT, *options, env=env)
    assert found.stderr == "", found
    failed = [one for one in found.results if one[0] == "fail"]
    warned = [one for one in found.results if one[0] == "warn"]
    report = found.report
    assert (report["problems"], report["warnings"]) == (len(failed), len(warned))
    assert (found.status, report["verdict"]) == ((1, "fail") if failed else (0, "ok"))
    return found


def at(*resources: Resource) -> Tuple[str, ...]:
    """Options that lead to these resources, without TLS."""
    return tuple(f"--resolve={one.name}=127.0.0.1:{one.port}" for one in resources)


def identity_at(port: int, scheme: str = "http") -> str:
    """The option that leads to an identity endpoint."""
    return f"--identity-endpoint={scheme}://127.0.0.1:{port}"


def over_tls(resource: Resource, host: str = "localhost", port: int = 0) -> Json:
    """A backend for a resource with TLS, at a name that the system's resolver knows."""
    return {**config.backend(resource), "custom_domain": True,
            "endpoint": f"https://{host}:{port or resource.port}"}
