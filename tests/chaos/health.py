"""Whether Envoy and the module's VMs are well."""

from __future__ import annotations

from collections import Counter

from e2e.gateway import Gateway


def failures(gateway: Gateway) -> Counter[str]:
    """What has failed: Envoy itself, or a VM. By what it is, how often."""
    found: Counter[str] = Counter()
    if not gateway.envoy.running:
        found["Envoy ended"] += 1
    else:
        for name, value in gateway.envoy.stats().items():
            if value and "vm_reload" in name:
                found[f"a VM was reloaded ({name})"] += value
    for line in gateway.envoy.log_text().splitlines():
        if "panicked" in line or "[critical]" in line or ("[error]" in line and "[wasm]" in line):
            found[f"in the log: {line.partition('] ')[2][:300]}"] += 1
    return found
