#!/usr/bin/env bash
# Tell Ray that this node will be taken away, so that runs save their checkpoints and leave it.
# Usage: leave_node.sh RAY SECONDS      RAY: path of the `ray` command; SECONDS: until the node goes
set -eu
ray=$1 seconds=$2
node=$("$(dirname "$ray")/python" - <<'END'
import logging, ray
ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
print(ray.get_runtime_context().get_node_id())
END
)
exec "$ray" drain-node --node-id "$node" --reason DRAIN_NODE_REASON_PREEMPTION \
  --reason-message 'the machine is taken away' --deadline-remaining-seconds "$seconds"
