"""The chart's and the overlays' objects against the policies of checkov, which knows those of CIS
and of the Pod Security Standards. `make policy-check` fetches it; without it these are skipped."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.helm_chart import EXAMPLES, Object, example, pod_specs, render, tool
from tests.unit.deploy.test_kustomize import OVERLAYS, build

KEPT = (
    "image.digest=sha256:" + "0" * 64,
    "image.pullPolicy=Always",
)
"""Values for an operator to set, which have no default that fits everyone."""
SKIPPED = {
    # A limit of CPU slows down what others wait for; requests are set, and memory is limited.
    "CKV_K8S_11",
    # The token of Hugging Face, and those of trackers: their libraries read these variables.
    "CKV_K8S_35",
}
PROBES = {"CKV_K8S_8", "CKV_K8S_9"}
"""The pod of `helm test` ends by itself; the container `free` beside the coordinator serves nobody;
Ray looks after the second pod of an engine. checkov judges a pod by its worst container:
test_deploy_roles.py looks at the others."""
UNPROBED = ("-coordinator", "-test", "-generator-main-1")
OF_OVERLAYS = {
    # Their user names the image, by a digest or not.
    "CKV_K8S_14",
    "CKV_K8S_15",
    "CKV_K8S_43",
}
Failure = tuple[str, str]
"""A check, and the object."""


def plain(objects: Sequence[Object]) -> list[Object]:
    """The same in a namespace, as they are sent, and pods of custom resources, which checkov does
    not know, as pods."""
    out = []
    for o in objects:
        if "coreos.com" in o["apiVersion"]:
            continue
        if o["apiVersion"].split("/")[0] in ("jobset.x-k8s.io", "leaderworkerset.x-k8s.io"):
            for i, spec in enumerate(pod_specs(o)):
                name = f"{o['metadata']['name']}-{i}"
                meta = {"name": name, "namespace": "lab"}
                out.append({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
        else:
            out.append({**o, "metadata": {**o["metadata"], "namespace": "lab"}})
    return out


def failures(folder: Path, files: dict[str, Sequence[Object]]) -> dict[str, set[Failure]]:
    """By file, what checkov has against its objects."""
    for name, objects in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump_all(plain(objects)))
    done = subprocess.run(
        [tool("checkov"), "-d", str(folder), "--framework", "kubernetes", "--compact", "--quiet",
         "--skip-download", "-o", "json"],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > 100
    found: dict[str, set[Failure]] = {name: set() for name in files}
    for one in report["results"]["failed_checks"]:
        found[Path(one["file_path"]).stem].add((one["check_id"], one["resource"]))
    return found


def named(found: set[Failure], *, but: set[str]) -> set[Failure]:
    return {
        (check, on)
        for check, on in found
        if check not in but and not (check in PROBES and on.endswith(UNPROBED))
    }


@pytest.fixture(scope="module")
def of_charts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[Failure]]:
    tool("checkov")
    files = {values.stem: render(values, *KEPT) for values in EXAMPLES}
    files["planted"] = render(example("8x8"), *KEPT)
    (spec,) = pod_specs(
        next(o for o in files["planted"] if o["kind"] == "JobSet" and o["metadata"]["name"])
    )
    spec["hostNetwork"] = True
    spec["containers"][0]["securityContext"]["capabilities"] = {"add": ["SYS_ADMIN"]}
    return failures(tmp_path_factory.mktemp("charts"), files)


@pytest.mark.parametrize("values", EXAMPLES, ids=lambda path: path.stem)
def test_the_chart_breaks_no_policy(values: Path, of_charts: dict[str, set[Failure]]) -> None:
    rdma = {"CKV_K8S_25"} if values.stem == "multi-node-rdma" else set()  # adds IPC_LOCK
    assert named(of_charts[values.stem], but=SKIPPED | rdma) == set()


def test_what_is_skipped_would_be_found_and_faults_are(of_charts: dict[str, set[Failure]]) -> None:
    everywhere = {check for found in of_charts.values() for check, _ in found}
    assert everywhere >= SKIPPED | PROBES, "nothing is skipped that is not there"
    planted = {c for c, on in named(of_charts["planted"], but=SKIPPED) if "learner" in on}
    assert planted >= {"CKV_K8S_19", "CKV_K8S_37", "CKV_K8S_39"}  # network, capabilities


def test_overlays_break_no_policy(tmp_path: Path) -> None:
    tool("checkov")
    found = failures(tmp_path, {overlay: build(overlay) for overlay in OVERLAYS})
    assert {k: named(v, but=SKIPPED | OF_OVERLAYS) for k, v in found.items()} == {
        overlay: set() for overlay in OVERLAYS
    }
