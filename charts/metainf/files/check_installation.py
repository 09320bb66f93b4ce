"""What `helm test` runs, in the operator's own image: the operator is ready, and the API serves what it needs.

Standard library alone, and no request that changes anything. Arguments: the operator's Service as environment
variables spell it, the namespaces that are watched (comma-separated, `*` for all), and whether Nodes are read.
"""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
GROUP = "/apis/metainf.dev/v1alpha1"
KINDS = {"acceleratorpools", "inferencedecisions", "inferenceworkloads"}
PATIENCE_S = 120.0


def address(service: str, port: str) -> str:
    """Give host and port of a Service, as the kubelet puts it into the environment."""
    host = os.environ[f"{service}_SERVICE_HOST"]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def fetch(url: str) -> bytes:
    """Give the body of an answer of 200; https is the API server."""
    request = urllib.request.Request(url)
    context = None
    if url.startswith("https:"):
        request.add_header("Authorization", f"Bearer {(ACCOUNT / 'token').read_text().strip()}")
        context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    with urllib.request.urlopen(request, timeout=10, context=context) as answer:
        body: bytes = answer.read()
    return body


def problem(readyz: str, server: str, collections: list[str]) -> str | None:
    """Say what is not as it should be, None where all is well."""
    url = readyz
    try:
        fetch(url)
        url = server + GROUP
        served = {each["name"] for each in json.loads(fetch(url))["resources"]}
        if missing := sorted(KINDS - served):
            return f"the API server does not serve {', '.join(missing)}: install the CRDs (crds.install)"
        for path in collections:
            url = server + path
            fetch(url)
    except urllib.error.HTTPError as error:
        return f"{url}: HTTP {error.code}: {error.read().decode(errors='replace')[:500]}"
    except OSError as error:
        return f"{url}: {error}"
    return None


def main(service: str, namespaces: str, node_access: str) -> int:
    """Ask until all is well or patience ends."""
    readyz = f"http://{address(service, '8080')}/readyz"
    server = f"https://{address('KUBERNETES', os.environ['KUBERNETES_SERVICE_PORT'])}"
    scopes = [""] if namespaces == "*" else [f"/namespaces/{name}" for name in namespaces.split(",")]
    collections = [f"{GROUP}{scope}/inferenceworkloads?limit=1" for scope in scopes]
    if node_access == "true":
        collections += [f"{GROUP}/acceleratorpools?limit=1", "/api/v1/nodes?limit=1"]
    end = time.monotonic() + PATIENCE_S
    while (found := problem(readyz, server, collections)) is not None and time.monotonic() < end:
        print(found, file=sys.stderr, flush=True)
        time.sleep(3)
    print(found or "the operator is ready, and the API server serves what it needs")
    return 0 if found is None else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
