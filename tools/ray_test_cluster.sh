#!/usr/bin/env bash
# A Ray cluster on this machine alone, to try sweeps on: two nodes of one emulated GPU each, kinds a100 and l4.
#
#   tools/ray_test_cluster.sh start    prints how to use it; does nothing where it is up already
#   tools/ray_test_cluster.sh stop     ends it and removes its folder
#   tools/ray_test_cluster.sh env      `export` lines for a shell: eval "$(tools/ray_test_cluster.sh env)"
#
# Needs the extra `ray` in .venv. Everything is in one folder ($WATTCOUNT_RAY_DIR, else wattcount-ray-<user> below
# $XDG_RUNTIME_DIR or /tmp) and at one port ($WATTCOUNT_RAY_PORT), so that another Ray of this machine is left alone.
# In a job, NVML is an emulated machine of the node's kind: everything measured is `emulated`.
set -euo pipefail

DIR=${WATTCOUNT_RAY_DIR:-${XDG_RUNTIME_DIR:-/tmp}/wattcount-ray-$(id -un)}
BIN=$(cd "$(dirname "${PYTHON:-$(dirname "$0")/../.venv/bin/python}")" && pwd)
PORT=${WATTCOUNT_RAY_PORT:-26379}
KINDS=(a100 l4)
export RAY_ADDRESS=127.0.0.1:$PORT RAY_USAGE_STATS_ENABLED=0 PYTHONWARNINGS=ignore
# Whoever has once started a Ray of his own has a token in ~/.ray, which Ray would ask for here too.
export RAY_AUTH_MODE=disabled
# On a busy machine a node may answer late, and others may need the memory: neither is to cost a node or a worker.
export RAY_health_check_timeout_ms=60000 RAY_health_check_failure_threshold=10 RAY_memory_monitor_refresh_ms=0

is_up() { [ -d "$DIR" ] && timeout 100 "$BIN/ray" health-check --address "$RAY_ADDRESS" >/dev/null 2>&1; }

node() { # KIND ARGUMENTS: starts a node, whose processes end with the one that is started here
  local kind=$1 variables
  shift
  mapfile -t variables < <("$BIN/python" "$(dirname "$0")/emulated_node.py" "$DIR/machine-$kind" "$kind" 1)
  env -u RAY_ADDRESS PATH="$BIN:$PATH" "${variables[@]}" setsid "$BIN/ray" start "$@" --block --num-cpus=1 \
    --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0 \
    --num-gpus=0 --resources="{\"gpu_$kind\": 1}" --object-store-memory=80000000 --disable-usage-stats \
    >"$DIR/$kind.log" 2>&1 </dev/null &
  echo $! >"$DIR/$kind.pid"
}

start() {
  [ -x "$BIN/ray" ] || {
    echo "ray_test_cluster: no ray in $BIN: pip install 'wattcount[ray]'" >&2
    exit 1
  }
  if is_up; then
    echo "up already, in $DIR"
    return
  fi
  stop
  mkdir -p "$DIR"
  node "${KINDS[0]}" --head --node-ip-address=127.0.0.1 --port="$PORT" --temp-dir="$DIR/tmp" --include-dashboard=false \
    --ray-client-server-port=$((PORT + 1))
  for _ in $(seq 60); do
    if is_up || ! kill -0 "$(cat "$DIR/${KINDS[0]}.pid")" 2>/dev/null; then break; fi
    sleep 0.5
  done
  node "${KINDS[1]}" --address="$RAY_ADDRESS" --node-ip-address=127.0.0.1
  for _ in $(seq 20); do
    if timeout 60 "$BIN/ray" status --address "$RAY_ADDRESS" 2>/dev/null | grep -q "gpu_${KINDS[1]}"; then
      echo "up, with the resources ${KINDS[*]/#/gpu_}"
      echo "use it with: eval \"\$($0 env)\""
      return
    fi
    sleep 0.5
  done
  echo "ray_test_cluster: it did not come up; see $DIR/*.log" >&2
  exit 1
}

stop() {
  [ -d "$DIR" ] || return 0
  local file pid
  for file in "$DIR"/*.pid; do
    [ -f "$file" ] || continue
    pid=$(cat "$file")
    kill "$pid" 2>/dev/null || continue
    for _ in $(seq 100); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL -- "-$pid" 2>/dev/null || true # what is left of its session's group
  done
  rm -rf "$DIR"
}

case ${1:-} in
  start) start ;;
  stop) stop ;;
  env) echo "export RAY_ADDRESS=$RAY_ADDRESS RAY_AUTH_MODE=$RAY_AUTH_MODE" ;;
  *)
    sed -n '2,11p' "$0" | cut -c3-
    exit 2
    ;;
esac
