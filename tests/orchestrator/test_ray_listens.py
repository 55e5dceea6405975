"""Who can reach the Ray that a command starts for itself: nobody but this machine, even with a dashboard."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

STARTED = """
import json, time, urllib.request, urllib.error
import psutil
from orchestrator.cluster import described, start_ray
start_ray(1, dashboard=True)
import ray
ray.get(ray.remote(lambda: 1).remote())  # a worker listens, too
line, place = described(), described().rpartition(" ")[2]

def answer(url):
    for _ in range(50):
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""
        except OSError:
            time.sleep(0.2)

ours = [psutil.Process(), *psutil.Process().children(recursive=True)]
listening = sorted({f"{each.laddr.ip} {process.name()}" for process in ours
                    for each in process.net_connections(kind="inet") if each.status == "LISTEN"})
page = answer("http://" + line.partition("dashboard http://")[2].partition(";")[0])
print(json.dumps({"line": line, "listening": listening, "page": page[0], "metrics": answer(place)}))
"""


@pytest.mark.ray
def test_a_ray_of_its_own_listens_on_loopback_alone_and_shows_a_dashboard_and_metrics_there():
    done = subprocess.run([sys.executable, "-c", STARTED], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["listening"]) >= 5
    assert [each for each in found["listening"] if not re.match(r"(::ffff:)?127\.0\.0\.1 |::1 ", each)] == []
    assert re.fullmatch(
        r"Ray at 127\.0\.0\.1:\d+: 1 node, 1 CPUs, 0 GPUs; job \w+; dashboard http://127\.0\.0\.1:\d+; "
        r"metrics http://127\.0\.0\.1:\d+/metrics",
        found["line"],
    )
    assert found["page"] in (200, 401)  # 401: where Ray asks for its token, as it does once it made one
    status, text = found["metrics"]
    assert status == 200 and "ray_" in text
