"""func-e runs what is rendered, from the repository's root, with an Envoy that is there already."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import httpx
import yaml

from azure_sim import HANG_LIMIT, AzureSim
from e2e.rendering import ROOT, resource_at

CHAT = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
ASK = {"messages": [{"role": "user", "content": "hello"}]}


def test_func_e_serves_the_example_and_fetches_no_envoy(azure: AzureSim, tmp_path: Path) -> None:
    example = yaml.safe_load((ROOT / "envoy" / "example.yaml").read_text())
    resources = [azure.add_resource(
        one["name"], host=one["endpoint"].removeprefix("https://"),
        deployments={model["name"]: model["name"] for model in example["models"]})
        for one in example["backends"]]
    # As envoy/envoy.yaml, but for ports: the module's path is relative to the root here too.
    bootstrap = subprocess.run(
        [os.environ["AOAI"], "render", "envoy", "envoy/example.yaml", "--listener-port", "0",
         "--admin-port", "0", "--identity", f"127.0.0.1:{azure.identity.port}",
         *map(resource_at, resources)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    (tmp_path / "envoy.yaml").write_text(bootstrap.stdout)
    admin, log = tmp_path / "admin", tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [os.environ["FUNC_E"], "run", "-c", str(tmp_path / "envoy.yaml"), "--use-dynamic-base-id",
             "--admin-address-path", str(admin)],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env={**os.environ, "ENVOY_PATH": os.environ["ENVOY"],
                 "FUNC_E_HOME": str(tmp_path / "home")})
    try:
        deadline = time.monotonic() + HANG_LIMIT
        while not (admin.exists() and admin.read_text()):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        with httpx.Client(trust_env=False, timeout=HANG_LIMIT) as http:
            found = http.get(f"http://{admin.read_text()}/listeners?format=json").json()
            [port] = [one["local_address"]["socket_address"]["port_value"]
                      for one in found["listener_statuses"] if one["name"] == "aoai"]
            answer = http.post(f"http://127.0.0.1:{port}{CHAT}", json=ASK,
                               headers={"api-key": "aoai_demo"})
        assert answer.status_code == 200, log.read_text()
        assert not list((tmp_path / "home").rglob("bin/envoy")), "it has fetched one"
    finally:
        process.terminate()
        process.wait(timeout=HANG_LIMIT)
