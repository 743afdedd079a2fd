#!/usr/bin/env bash
# All tests (`make test-all`), with a SLURM and a Ray cluster of their own; says how long each stage took.
#
# Needs Debian's or Ubuntu's packages `slurm-wlm`, `munge`, `postgresql`, `zsh`, `fish` and `chromium` (.ci/run installs them). The clusters have folders and
# ports of their own, so that others of this machine are left alone, and end with this script. The tests start and end PostgreSQL
# by themselves. The last stage is the Python suite, so that the last line tells how that ended.
set -euo pipefail
cd "$(dirname "$0")/.."
export VENV=${VENV:-.venv}
python=$PWD/$VENV/bin/python

missing=()
for need in slurmctld:slurm-wlm munged:munge zsh:zsh fish:fish chromium:chromium; do
  PATH=$PATH:/usr/sbin command -v "${need%:*}" >/dev/null || missing+=("${need#*:}")
done
compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || command -v postgres >/dev/null || missing+=(postgresql)
if [ ${#missing[@]} -gt 0 ]; then
  echo "test_all: needs ${missing[*]}: apt-get install ${missing[*]}" >&2
  exit 2
fi

stage() { # NAME COMMAND...
  local name=$1 began=$SECONDS
  shift
  echo "== $name"
  "$@"
  echo "== $name: $((SECONDS - began)) s"
}

clusters_down() {
  tools/slurm_test_cluster.sh stop || true
  PYTHON=$python tools/ray_test_cluster.sh stop || true
  rm -rf "$FOLDER"
}

clusters_up() {
  PYTHON=$python tools/slurm_test_cluster.sh start
  PYTHON=$python tools/ray_test_cluster.sh start
  eval "$(tools/slurm_test_cluster.sh env)"
  eval "$(PYTHON=$python tools/ray_test_cluster.sh env)"
}

# Ports that are free here: three in a row for SLURM, two for Ray. Ray's sockets lie in its folder: a short name.
free_ports() {
  "$python" - "$1" <<'PY'
import random, socket, sys
from contextlib import ExitStack
while True:
    first = random.randrange(20000, 30000)  # below the ports that the system hands out
    try:
        with ExitStack() as stack:
            for port in range(first, first + int(sys.argv[1])):
                stack.enter_context(socket.socket()).bind(("", port))
    except OSError:
        continue
    print(first)
    break
PY
}

stage "installing" make setup-all VENV="$VENV"
stage "lint" make lint VENV="$VENV"
stage "C++ tests" make test-cpp VENV="$VENV"
stage "C++ tests with sanitizers" make test-cpp-sanitized VENV="$VENV"

FOLDER=$(mktemp -d /tmp/wc-XXXXXX)
export WATTCOUNT_SLURM_DIR=$FOLDER/slurm WATTCOUNT_RAY_DIR=$FOLDER/ray
WATTCOUNT_SLURM_PORT=$(free_ports 3) WATTCOUNT_RAY_PORT=$(free_ports 2)
export WATTCOUNT_SLURM_PORT WATTCOUNT_RAY_PORT
chmod 755 "$FOLDER"
trap clusters_down EXIT
stage "SLURM and Ray start" clusters_up
stage "SLURM and Ray" make test-clusters VENV="$VENV"
stage "SLURM and Ray stop" clusters_down
trap - EXIT
unset SLURM_CONF RAY_ADDRESS
began=$SECONDS
make test-python-all VENV="$VENV" || { code=$?; echo "== Python tests failed after $((SECONDS - began)) s"; exit $code; }
