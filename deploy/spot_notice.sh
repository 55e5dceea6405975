#!/usr/bin/env bash
# On a spot machine of AWS: wait for the notice that it will be taken away, then leave_node.sh.
# Usage: spot_notice.sh RAY [SECONDS]      RAY: path of the `ray` command; SECONDS: of the notice that are left (110)
set -u
ray=$1 seconds=${2:-110}
imds=${IMDS:-http://169.254.169.254/latest} # where the machine asks about itself
while sleep "${EVERY_S:-5}"; do
  token=$(curl -s -m 2 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$imds/api/token") || continue
  told=$(curl -s -m 2 -o /dev/null -w '%{http_code}' -H "X-aws-ec2-metadata-token: $token" "$imds/meta-data/spot/instance-action")
  [ "$told" = 200 ] && exec bash "$(dirname "$0")/leave_node.sh" "$ray" "$seconds"
done
