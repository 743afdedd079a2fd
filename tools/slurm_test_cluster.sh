#!/usr/bin/env bash
# A SLURM cluster on this machine alone, to try sweeps on: two nodes of two emulated GPUs each, kinds a100 and l4.
#
#   tools/slurm_test_cluster.sh start    prints how to use it; does nothing where it is up already
#   tools/slurm_test_cluster.sh stop     ends it and removes its folder
#   tools/slurm_test_cluster.sh env      `export` lines for a shell: eval "$(tools/slurm_test_cluster.sh env)"
#
# Needs Debian's or Ubuntu's packages `slurm-wlm` and `munge` (SLURM 22.05 is what it is tried with). Everything
# is in one folder ($WATTCOUNT_SLURM_DIR, else wattcount-slurm-<user> below $XDG_RUNTIME_DIR or /tmp): its own
# configuration, key and sockets, so that a SLURM of this machine is left alone. Runs as whoever calls it: jobs can
# then only be that user's. In a job, NVML is an emulated machine of the node's kind: everything measured is
# `emulated`.
set -euo pipefail

DIR=${WATTCOUNT_SLURM_DIR:-${XDG_RUNTIME_DIR:-/tmp}/wattcount-slurm-$(id -un)}
PY=${PYTHON:-$(dirname "$0")/../.venv/bin/python}
KINDS=(a100 l4)
GPUS_PER_NODE=2
CTLD_PORT=${WATTCOUNT_SLURM_PORT:-16817}
export PATH=$PATH:/usr/sbin SLURM_CONF=$DIR/slurm.conf

need() {
  for program in munged slurmctld slurmd sbatch sinfo; do
    command -v "$program" >/dev/null || {
      echo "slurm_test_cluster: no $program here: apt-get install slurm-wlm munge" >&2
      exit 1
    }
  done
}

is_up() { [ -f "$SLURM_CONF" ] && timeout 30 scontrol ping 2>/dev/null | grep -q 'is UP'; }

configure() {
  local host user
  host=$(hostname -s) user=$(id -un)
  mkdir -p "$DIR"/state
  chmod 755 "$DIR"
  cat >"$SLURM_CONF" <<CONF
ClusterName=wattcount
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
SlurmctldPort=$CTLD_PORT
AuthType=auth/munge
AuthInfo=socket=$DIR/munge.socket
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool-%n
SlurmctldPidFile=$DIR/slurmctld.pid
SlurmdPidFile=$DIR/slurmd-%n.pid
SlurmctldLogFile=$DIR/slurmctld.log
SlurmdLogFile=$DIR/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog=$DIR/task_prolog
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
GresTypes=gpu
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
KillWait=30
CONF
  : >"$DIR/gres.conf"
  local port=$((CTLD_PORT + 1)) kind index
  for kind in "${KINDS[@]}"; do
    # As many cores as GPUs, whatever the machine has, so that a job can run on each.
    echo "NodeName=wc-$kind NodeHostname=$host NodeAddr=127.0.0.1 Port=$port CPUs=$GPUS_PER_NODE" \
      "RealMemory=2000 Feature=$kind Gres=gpu:$kind:$GPUS_PER_NODE State=UNKNOWN" >>"$SLURM_CONF"
    for ((index = 0; index < GPUS_PER_NODE; index++)); do
      ln -sf /dev/null "$DIR/$kind-gpu$index" # SLURM takes only devices for GPUs
    done
    echo "NodeName=wc-$kind Name=gpu Type=$kind File=$DIR/$kind-gpu[0-$((GPUS_PER_NODE - 1))]" >>"$DIR/gres.conf"
    port=$((port + 1))
  done
  echo "SlurmdParameters=config_overrides" >>"$SLURM_CONF"
  echo "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO" >>"$SLURM_CONF"
  # The job's environment is the submitting shell's; what the node has, the node says.
  cat >"$DIR/task_prolog" <<PROLOG
#!/bin/sh
. "$DIR/\$SLURMD_NODENAME.env"
PROLOG
  chmod 755 "$DIR/task_prolog"
}

emulate_gpus() {
  local kind
  for kind in "${KINDS[@]}"; do
    "$PY" "$(dirname "$0")/emulated_node.py" "$DIR/machine-$kind" "$kind" "$GPUS_PER_NODE" |
      sed 's/^/echo export /' >"$DIR/wc-$kind.env"
  done
}

start() {
  need
  if is_up; then
    echo "up already, in $DIR"
    return
  fi
  stop
  configure
  emulate_gpus
  (umask 077 && head -c 1024 /dev/urandom >"$DIR/munge.key")
  # --force: the folder's parent (/tmp) is writable by others, and the user may be root.
  munged --force --key-file="$DIR/munge.key" --socket="$DIR/munge.socket" --pid-file="$DIR/munged.pid" \
    --log-file="$DIR/munged.log" --seed-file="$DIR/munged.seed" 2>/dev/null
  slurmctld
  local kind
  for kind in "${KINDS[@]}"; do
    slurmd -N "wc-$kind"
  done
  for _ in $(seq 90); do
    if [ "$(sinfo -h -N -t idle -o %N 2>/dev/null | wc -l)" = "${#KINDS[@]}" ]; then
      sinfo -N -o '%N %T %f %G'
      echo "use it with: eval \"\$($0 env)\""
      return
    fi
    sleep 1
  done
  echo "slurm_test_cluster: the nodes did not come up; see $DIR/*.log" >&2
  sinfo -N -l >&2 || true
  exit 1
}

stop() {
  [ -d "$DIR" ] || return 0
  if is_up; then
    scancel --full --signal=KILL --user="$(id -un)" 2>/dev/null || true
    scancel --user="$(id -un)" 2>/dev/null || true
  fi
  local file pid
  for file in "$DIR"/slurmd-*.pid "$DIR"/slurmctld.pid "$DIR"/munged.pid; do
    [ -f "$file" ] || continue
    pid=$(cat "$file")
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 50); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
  done
  rm -rf "$DIR"
}

case ${1:-} in
  start) start ;;
  stop) stop ;;
  env) echo "export SLURM_CONF=$SLURM_CONF" ;;
  *)
    sed -n '2,14p' "$0" | cut -c3-
    exit 2
    ;;
esac
