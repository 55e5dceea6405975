"""Kubernetes manifests hold only fields that KubeRay's API (ray.io/v1) and pods have, and their parts fit together."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[1] / "deploy"
MANIFESTS = ("kuberay_cluster.yaml", "kuberay_job.yaml")

# Field names as docs/reference/api.md of KubeRay lists them (ray.io/v1, operator 1.3), and those of pods that the
# manifests use. Kubernetes drops a field that it does not know without a word, so a misspelt one would do nothing.
FIELDS = {
    "RayCluster": "apiVersion kind metadata spec",
    "RayJob": "apiVersion kind metadata spec",
    "PersistentVolumeClaim": "apiVersion kind metadata spec",
    "RayClusterSpec": "suspend managedBy autoscalerOptions headServiceAnnotations enableInTreeAutoscaling"
    " gcsFaultToleranceOptions headGroupSpec rayVersion workerGroupSpecs",
    "RayJobSpec": "activeDeadlineSeconds backoffLimit rayClusterSpec submitterPodTemplate metadata clusterSelector"
    " submitterConfig managedBy deletionStrategy entrypoint runtimeEnvYAML jobId submissionMode entrypointResources"
    " entrypointNumCpus entrypointNumGpus ttlSecondsAfterFinished shutdownAfterJobFinishes suspend",
    "AutoscalerOptions": "resources image imagePullPolicy securityContext idleTimeoutSeconds upscalingMode version env"
    " envFrom volumeMounts",
    "HeadGroupSpec": "template headService enableIngress rayStartParams serviceType",
    "WorkerGroupSpec": "suspend groupName replicas minReplicas maxReplicas idleTimeoutSeconds rayStartParams template"
    " scaleStrategy numOfHosts",
    "PodSpec": "containers volumes tolerations terminationGracePeriodSeconds nodeSelector",
    "Container": "name image resources env lifecycle volumeMounts command args",
    "Resources": "requests limits",
    "Volume": "name persistentVolumeClaim emptyDir",
}


def parts(manifest: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every object of a manifest whose fields are known, after the name of its class."""
    yield manifest["kind"], manifest
    if manifest["kind"] == "PersistentVolumeClaim":
        return
    spec = manifest["spec"]
    if manifest["kind"] == "RayJob":
        yield "RayJobSpec", spec
        spec = spec["rayClusterSpec"]
    yield "RayClusterSpec", spec
    yield "AutoscalerOptions", spec["autoscalerOptions"]
    yield "HeadGroupSpec", spec["headGroupSpec"]
    for group in spec["workerGroupSpecs"]:
        yield "WorkerGroupSpec", group
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        yield "PodSpec", pod
        for container in pod["containers"]:
            yield "Container", container
            yield "Resources", container["resources"]
        for volume in pod["volumes"]:
            yield "Volume", volume


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


def every(kind: str) -> list[Mapping[str, Any]]:
    return [part for name in MANIFESTS for each in documents(name) for found, part in parts(each) if found == kind]


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_hold_known_fields_only(name):
    for manifest in documents(name):
        for kind, part in parts(manifest):
            assert set(part) <= set(FIELDS[kind].split()), kind
        assert manifest["apiVersion"] == ("v1" if manifest["kind"] == "PersistentVolumeClaim" else "ray.io/v1")


def test_ray_start_parameters_are_text_as_the_api_wants_and_options_of_ray_start():
    from ray.scripts.scripts import start

    known = {option.removeprefix("--") for parameter in start.params for option in parameter.opts}
    for group in every("HeadGroupSpec") + every("WorkerGroupSpec"):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        assert set(group["rayStartParams"]) <= known
    assert all(group["rayStartParams"]["num-cpus"] == "0" for group in every("HeadGroupSpec"))


def test_pods_say_what_they_take_mount_what_they_declare_and_leave_ray_before_they_are_killed():
    for pod in every("PodSpec"):
        [container] = pod["containers"]
        assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
        assert container["resources"]["requests"] == container["resources"]["limits"]
        if "lifecycle" in container:
            command = container["lifecycle"]["preStop"]["exec"]["command"][-1]
            waits = sum(int(each) for each in re.findall(r"sleep (\d+)", command))
            assert (DEPLOY / "leave_node.sh").is_file() and "deploy/leave_node.sh" in command
            assert 60 <= waits < pod["terminationGracePeriodSeconds"]
    assert sum("lifecycle" in container for container in every("Container")) == len(every("WorkerGroupSpec"))


def test_counts_of_workers_agree_with_what_the_job_asks_for():
    for group in every("WorkerGroupSpec"):
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    [job] = every("RayJobSpec")
    [group] = job["rayClusterSpec"]["workerGroupSpecs"]
    asked = re.search(r"--workers (\d+):(\d+)", job["entrypoint"])
    assert asked and [int(each) for each in asked.groups()] == [group["minReplicas"], group["maxReplicas"]]


def test_the_job_runs_a_command_that_there_is():
    import shlex

    from orchestrator.run import parser, resolved

    [job] = every("RayJobSpec")
    words = shlex.split(job["entrypoint"])
    assert words[:3] == ["python", "-m", "orchestrator.run"]
    assert resolved(parser().parse_args(words[3:])).name == "plates"


def test_runtime_environments_are_what_ray_takes():
    from ray.runtime_env import RuntimeEnv

    [job] = every("RayJobSpec")
    submitted = yaml.safe_load((DEPLOY / "job.yaml").read_text(encoding="utf-8"))
    for environment in (yaml.safe_load(job["runtimeEnvYAML"]), submitted):
        found = RuntimeEnv(env_vars=environment["env_vars"])
        assert int(found["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 60


def test_a_job_brings_the_code_and_neither_data_nor_tests_nor_results(tmp_path):
    """What `ray job submit --working-dir .` packs of this folder, with things in it that do not belong."""
    import shutil
    import zipfile

    from ray._private.runtime_env.packaging import create_package

    root = tmp_path / "here"
    ignored = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "plumbline-store", "*.egg-info")
    shutil.copytree(DEPLOY.parent, root, ignore=ignored)
    for name in ("plumbline-store/runs/a/record.json", "data/iiit5k/a.png", "runs/x", "shards.arrow", "w.safetensors"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("much")
    create_package(str(root), tmp_path / "job.zip", include_gitignore=True, excludes=[".git", ".venv", "__pycache__"])
    packed = {name for name in zipfile.ZipFile(tmp_path / "job.zip").namelist() if not name.endswith("/")}
    assert {"orchestrator/run.py", "orchestrator/recipes/plates.py", "models/text.py", "pyproject.toml"} <= packed
    strangers = ("tests/", "benchmarks/", "docs/", "data/", "plumbline-store/", "runs/")
    assert [name for name in packed if name.startswith(strangers) or name.endswith((".arrow", ".safetensors"))] == []
    assert (tmp_path / "job.zip").stat().st_size < 3e6


def test_the_image_has_the_ray_that_the_project_asks_for():
    import ray

    image = re.search(r"^FROM rayproject/ray:([\d.]+)-py311", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert image and image[1] == ray.__version__
    specs = [part["rayVersion"] for part in every("RayClusterSpec")]
    assert specs == [ray.__version__] * 2


def test_a_spot_machine_leaves_ray_when_its_notice_comes(tmp_path):
    """The script against a server that answers as a machine's own does: no notice at first, then one."""
    asked: list[str] = []

    class Machine(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self._answer(200, b"a-token")

        def do_GET(self) -> None:
            asked.append(self.headers["X-aws-ec2-metadata-token"])
            self._answer(200 if len(asked) >= 3 else 404, b"{}")

        def _answer(self, code: int, text: bytes) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args: object) -> None:
            pass

    for name, does in {"ray": 'echo "$@" > "$0.said"', "python": "echo abc123"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    server = HTTPServer(("127.0.0.1", 0), Machine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {"IMDS": f"http://127.0.0.1:{server.server_port}", "EVERY_S": "0.05", "PATH": "/usr/bin:/bin"}
    subprocess.run(
        ["bash", str(DEPLOY / "spot_notice.sh"), str(tmp_path / "ray")], env=environment, timeout=30, check=True
    )
    server.shutdown()
    assert asked == ["a-token"] * 3
    said = (tmp_path / "ray.said").read_text()
    assert said.startswith("drain-node --node-id abc123 --reason DRAIN_NODE_REASON_PREEMPTION")
    assert "--deadline-remaining-seconds 110" in said
