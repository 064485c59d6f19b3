#!/usr/bin/env bash
# A real Slurm cluster on this machine's loopback, with GPUs in name only, and a SkyPilot that uses it.
#
#   local_slurm.sh DIR up      install what is missing, configure, start; harmless to repeat
#   local_slurm.sh DIR down    stop all that `up` started, and the jobs
#   set -a; . DIR/env; set +a  then `sky ...` and `import sky` use this cluster
#
# Needs root, Debian or a kin of it, a package mirror, and a Python environment with SkyPilot (VENV).
# Outside DIR it touches: apt packages, the user $JOB_USER, a marked block in /etc/hosts, /run/sshd.
# DIR must be short, as Unix sockets lie in it, and readable by every user. Exits with 3 where it cannot
# work at all. One such cluster per machine, for its ports.
set -euo pipefail

usage() { echo "usage: local_slurm.sh DIR up|down" >&2; exit 2; }
[ $# -eq 2 ] || usage
DIR=$(realpath -m "$1")
HERE=$(dirname "$(realpath "$0")")

POOL=${POOL:-"h100-0:H100:1 h200-0:H200:1"} # node:accelerator:count
VENV=${VENV:-$(git -C "$HERE" rev-parse --show-toplevel 2>/dev/null || echo "$HERE/../..")/.venv}
RUNTIME_PYTHON=${RUNTIME_PYTHON:-/usr/bin/python3} # of the cluster's SkyPilot; $JOB_USER must be able to run it
CLUSTER=${CLUSTER:-localslurm}
PARTITION=gpu
JOB_USER=${JOB_USER:-localslurm}
SSH_PORT=${SSH_PORT:-26122}
CONTROLLER_PORT=${CONTROLLER_PORT:-26917}
NODE_PORT=${NODE_PORT:-26920} # of the first node, less one
API_PORT=${API_PORT:-46680}   # not SkyPilot's own 46580, where the user's server may be

SLURM=$DIR/slurm
SSH=$DIR/ssh
HOME_DIR=$DIR/home          # of SkyPilot's user
CLUSTER_HOME=$DIR/cluster   # of $JOB_USER
RUNTIME=$DIR/runtime        # SkyPilot as it runs on the cluster
JOB_PYTHON=$DIR/jobs        # the Python of the jobs
export SLURM_CONF=$SLURM/slurm.conf
export UV_CACHE_DIR=${UV_CACHE_DIR:-$DIR/uv-cache}

say() { echo "local_slurm: $*" >&2; }
refuse() { say "$*"; exit 3; }
home_of_jobs() { getent passwd "$JOB_USER" | cut -d: -f6; }
nodes() { local entry; for entry in $POOL; do echo "${entry%%:*}"; done; }
# a process that nobody waits for stays as a zombie where there is no init; it is not alive
alive() { local pid; pid=$(cat "$1" 2>/dev/null) && [[ $(ps -o stat= -p "$pid") == [!Z]* ]]; }
wait_until() { local _; for _ in $(seq "$1"); do "${@:2}" && return; sleep 0.2; done; return 1; }
stopped() { ! alive "$1"; }
stop() { if alive "$1"; then kill "$(cat "$1")"; wait_until 50 stopped "$1" || true; fi; rm -f "$1"; } # by pid file
in_sky() { ( set -a; . "$DIR/env"; set +a; cd "$DIR"; "$@" ); }

check_machine() {
  [ "$(id -u)" = 0 ] || refuse "needs root, to start slurmd and sshd"
  command -v apt-get >/dev/null && command -v dpkg >/dev/null || refuse "needs Debian, for its Slurm packages"
  [ -x "$VENV/bin/python" ] || refuse "no Python environment at $VENV; set VENV"
  "$VENV/bin/python" -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("sky"))' ||
    refuse "no SkyPilot in $VENV"
  local other
  other=$(dirname "$(home_of_jobs)")
  if [ "$other" != "$DIR" ] && alive "$other/slurm/run/slurmctld.pid"; then
    say "such a cluster runs already; bring it down first: $0 $other down"
    exit 1
  fi
}

install_packages() {
  local missing=() package
  for package in slurm-wlm slurm-client munge openssh-server openssh-client procps rsync curl; do
    dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  say "installs ${missing[*]}"
  { apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$DIR/apt.log" 2>&1 ||
    refuse "apt-get cannot install ${missing[*]}; see $DIR/apt.log"
}

packages_of() { "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
serves_slurm() { "$1" -c 'import grpc, hostlist, sky' 2>/dev/null; }

# SkyPilot with what its Slurm support needs besides. Where VENV lacks that, an environment on top of it.
install_client() {
  PYTHON=$VENV/bin/python
  if ! serves_slurm "$PYTHON"; then
    PYTHON=$DIR/client/bin/python
    if ! serves_slurm "$PYTHON"; then
      "$VENV/bin/python" -m venv "$DIR/client"
      echo "import site; site.addsitedir('$(packages_of "$VENV/bin/python")')" >"$(packages_of "$PYTHON")/below.pth"
      "$PYTHON" -m pip install --quiet --disable-pip-version-check \
        "skypilot[slurm]==$("$PYTHON" -c 'from importlib.metadata import version; print(version("skypilot"))')"
    fi
  fi
  [ -x "$DIR/uv/bin/uv" ] || "$PYTHON" -m pip install --quiet --disable-pip-version-check --target "$DIR/uv" uv
  chmod -R go+rX "$DIR/uv"
}

make_folders() {
  mkdir -p "$SLURM"/{munge,state,run,log,dev} "$SSH" "$DIR/tmp" "$CLUSTER_HOME" "$HOME_DIR"/{.slurm,.sky}
  chmod 755 "$DIR" "$SLURM" "$SLURM/munge" "$SSH"
  chmod 1777 "$DIR/tmp"
  id "$JOB_USER" >/dev/null 2>&1 ||
    useradd --system --no-create-home --home-dir "$CLUSTER_HOME" --shell /bin/bash --password '*' "$JOB_USER"
  [ "$(home_of_jobs)" = "$CLUSTER_HOME" ] || usermod --home "$CLUSTER_HOME" "$JOB_USER"
  chown "$JOB_USER": "$CLUSTER_HOME"
  chown root:root "$SLURM/munge"
}

# SkyPilot looks the node names up. The file is rewritten in place: in a container it is a mount.
hosts() {
  local others
  others=$(sed '/# local_slurm begin/,/# local_slurm end/d' /etc/hosts)
  { echo "$others"; [ $# -eq 0 ] || { echo "# local_slurm begin"; printf '127.0.0.1 %s\n' "$@"; echo "# local_slurm end"; }; } >"$DIR/hosts"
  cmp -s "$DIR/hosts" /etc/hosts || cat "$DIR/hosts" >/etc/hosts
}

configure_slurm() {
  [ -s "$SLURM/munge/munge.key" ] || (umask 077; head -c 1024 /dev/urandom >"$SLURM/munge/munge.key")
  cat >"$SLURM_CONF" <<END
ClusterName=$CLUSTER
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=$CONTROLLER_PORT
AuthType=auth/munge
AuthInfo=socket=$SLURM/munge/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$SLURM/state
SlurmdSpoolDir=$SLURM/spool-%n
SlurmctldPidFile=$SLURM/run/slurmctld.pid
SlurmdPidFile=$SLURM/run/slurmd-%n.pid
SlurmctldLogFile=$SLURM/log/slurmctld.log
SlurmdLogFile=$SLURM/log/slurmd-%n.log
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog=$SLURM/prolog.sh
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=500000
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
MinJobAge=60
InactiveLimit=0
GresTypes=gpu
END
  echo "AutoDetect=off" >"$SLURM/gres.conf"
  local port=$NODE_PORT entry node kind count gpu devices
  for entry in $POOL; do
    IFS=: read -r node kind count <<<"$entry"
    port=$((port + 1)) devices=$SLURM/dev/$node.
    mkdir -p "$SLURM/spool-$node"
    # 16 CPUs and 64 GB per GPU, on paper: SkyPilot asks for 4 and 16 by default
    echo "NodeName=$node NodeHostname=$node NodeAddr=127.0.0.1 Port=$port CPUs=$((count * 16))" \
      "RealMemory=$((count * 65536)) Gres=gpu:$kind:$count State=UNKNOWN" >>"$SLURM_CONF"
    for gpu in $(seq 0 $((count - 1))); do [ -c "$devices$gpu" ] || mknod "$devices$gpu" c 1 3; done
    [ "$count" -gt 1 ] && devices+="[0-$((count - 1))]" || devices+=0
    echo "NodeName=$node Name=gpu Type=$kind File=$devices" >>"$SLURM/gres.conf"
  done
  echo "PartitionName=$PARTITION Nodes=ALL Default=YES MaxTime=1-00:00:00 State=UP" >>"$SLURM_CONF"
}

# On each new cluster SkyPilot would download uv, a CPython, and its own wheel with all dependencies. It
# does without where it finds them; so this hook, run as the job's user as an allocation begins, links
# them in. And where a new cluster names no daemon (skylet) of its own yet, SkyPilot kills all that it sees on
# the host, then races with the killed one's keeper for its port; the loser never takes its cluster down.
# Nodes of a real Slurm are hosts of their own, so each cluster names one that is not there. Slurm parses
# what this prints.
write_prolog() {
  cat >"$SLURM/prolog.sh" <<END
#!/bin/bash
exec >>"$SLURM/log/prolog.log" 2>&1
name=\${SLURM_JOB_NAME:-}
[ -n "\$name" ] && [ -f "$CLUSTER_HOME/.sky_provision/\$name.sh" ] || exit 0
[ -z "\${SLURM_STEP_ID:-}" ] || [ "\$SLURM_STEP_ID" = 4294967291 ] || exit 0 # the batch step only
home=$CLUSTER_HOME/.sky_clusters/\$name tmp=$DIR/tmp/\$name
umask 022
mkdir -p "\$home/.local/bin" "\$home/.sky/wheels" "\$tmp/.sky"
ln -sfn $DIR/uv/bin/uv "\$home/.local/bin/uv"
cp -f $RUNTIME/.sky_wheel_hash "\$home/.sky/wheels/current_sky_wheel_hash"
[ -e "\$home/sky-user-env" ] || ln -sfn $JOB_PYTHON "\$home/sky-user-env"
[ -e "\$tmp/skypilot-runtime" ] || ln -sfn $RUNTIME "\$tmp/skypilot-runtime"
[ -e "\$tmp/.sky/skylet_pid" ] || echo 0 >"\$tmp/.sky/skylet_pid"
exit 0
END
  chmod 755 "$SLURM/prolog.sh"
  touch "$SLURM/log/prolog.log"
  chmod 666 "$SLURM/log/prolog.log"
}

configure_ssh() {
  local key variables="SLURM_CONF=$SLURM_CONF" name
  for key in hostkey id; do
    [ -s "$SSH/$key" ] || ssh-keygen -q -t ed25519 -N '' -C local_slurm -f "$SSH/$key"
  done
  install -m 644 "$SSH/id.pub" "$SSH/authorized_keys"
  for name in SSL_CERT_FILE SSL_CERT_DIR UV_INDEX_URL UV_DEFAULT_INDEX UV_FIND_LINKS UV_OFFLINE \
    HTTPS_PROXY HTTP_PROXY NO_PROXY; do
    [ -z "${!name:-}" ] || variables+=" $name=${!name}"
  done
  cat >"$SSH/sshd_config" <<END
ListenAddress 127.0.0.1:$SSH_PORT
HostKey $SSH/hostkey
PidFile $SSH/sshd.pid
AuthorizedKeysFile $SSH/authorized_keys
AllowUsers $JOB_USER
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
UseDNS no
MaxSessions 200
MaxStartups 200:30:400
Subsystem sftp internal-sftp
SetEnv $variables
END
  cat >"$HOME_DIR/.slurm/config" <<END
Host $CLUSTER
    HostName 127.0.0.1
    Port $SSH_PORT
    User $JOB_USER
    IdentityFile $SSH/id
    IdentitiesOnly yes
END
}

configure_sky() {
  cat >"$HOME_DIR/.sky/config.yaml" <<END
allowed_clouds: [slurm]
slurm:
  provision_timeout: 120
  cluster_configs:
    $CLUSTER:
      tmpdir: $DIR/tmp
END
  # the two tables that SkyPilot would download, for the accelerators of the pool
  local tables entry
  tables=$HOME_DIR/.sky/catalogs/$("$PYTHON" -c 'from sky.skylet.constants import CATALOG_SCHEMA_VERSION as v; print(v)')/common
  mkdir -p "$tables"
  { echo 'AcceleratorName,Clouds'
    for entry in $POOL; do cut -d: -f2 <<<"$entry"; done | sort -u | sed "s/.*/&,\"['Slurm']\"/"; } >"$tables/accelerators.csv"
  printf '%s\n' 'GPU,MemoryGB,Manufacturer' H100,80,NVIDIA H200,141,NVIDIA >"$tables/metadata.csv"
  # an empty PYTHONDONTWRITEBYTECODE counts as none: without bytecode each query takes seconds longer
  cat >"$DIR/env" <<END
HOME=$HOME_DIR
SLURM_CONF=$SLURM_CONF
PATH=$(dirname "$PYTHON"):$VENV/bin:$PATH
PYTHONDONTWRITEBYTECODE=
OMP_NUM_THREADS=1
OPENBLAS_NUM_THREADS=1
NUMEXPR_NUM_THREADS=1
SKYPILOT_DISABLE_USAGE_COLLECTION=1
DO_NOT_TRACK=1
SKYPILOT_SKIP_CLOUD_IDENTITY_CHECK=1
SKYPILOT_API_SERVER_LOCAL_PORT=$API_PORT
SKYPILOT_API_SERVER_ENDPOINT=http://127.0.0.1:$API_PORT
END
}

# SkyPilot's own wheel, built by SkyPilot, installed once for all clusters.
install_runtime() {
  local hash wheel
  read -r hash wheel < <(in_sky "$PYTHON" -c '
from sky.backends.wheel_utils import build_sky_wheel
folder, digest = build_sky_wheel()
print(digest, next(folder.glob("*.whl")))' 2>"$DIR/wheel.log" | tail -n 1) || true
  [ -f "${wheel:-}" ] || { say "SkyPilot cannot build its wheel; see $DIR/wheel.log"; exit 1; }
  if [ "$(cat "$RUNTIME/.sky_wheel_hash" 2>/dev/null)" != "$hash" ]; then
    rm -rf "$RUNTIME"
    "$DIR/uv/bin/uv" venv --quiet --seed --python "$RUNTIME_PYTHON" "$RUNTIME"
    VIRTUAL_ENV=$RUNTIME "$DIR/uv/bin/uv" pip install --quiet --compile-bytecode "$wheel[slurm,remote]"
    echo "$hash" >"$RUNTIME/.sky_wheel_hash"
  fi
  [ -x "$JOB_PYTHON/bin/pip" ] ||
    "$DIR/uv/bin/uv" venv --quiet --seed --system-site-packages --python "$RUNTIME_PYTHON" "$JOB_PYTHON"
}

nodes_ready() { [ "$(sinfo -h -N -o %t 2>/dev/null | grep -cE '^(idle|mix|alloc)$')" = "$(nodes | wc -l)" ]; }

start_daemons() {
  mkdir -p /run/sshd
  local munge=$SLURM/munge node
  alive "$munge/munged.pid" || munged --key-file="$munge/munge.key" --socket="$munge/munge.socket" \
    --pid-file="$munge/munged.pid" --log-file="$munge/munged.log" --seed-file="$munge/munged.seed" --force
  alive "$SLURM/run/slurmctld.pid" || slurmctld -f "$SLURM_CONF"
  for node in $(nodes); do
    alive "$SLURM/run/slurmd-$node.pid" || slurmd -N "$node" -f "$SLURM_CONF" 2>>"$SLURM/log/slurmd-$node.log"
  done
  alive "$SSH/sshd.pid" || /usr/sbin/sshd -f "$SSH/sshd_config" -E "$SSH/sshd.log"
  wait_until 150 nodes_ready || { say "the nodes do not come up; see $SLURM/log"; exit 1; }
}

up() {
  check_machine
  mkdir -p "$DIR"
  install_packages
  install_client
  make_folders
  hosts $(nodes)
  configure_slurm
  write_prolog
  configure_ssh
  configure_sky
  install_runtime
  start_daemons
  in_sky "$PYTHON" -c 'import sky; sky.api_start()' >"$DIR/api_start.log" 2>&1 ||
    { say "the API server does not start; see $DIR/api_start.log"; exit 1; }
}

no_jobs() { [ -z "$(squeue -h 2>/dev/null)" ]; }

down() {
  [ -d "$DIR" ] || return 0
  local python node session
  for python in "$DIR/client/bin/python" "$VENV/bin/python"; do
    [ -f "$DIR/env" ] && [ -x "$python" ] || continue
    in_sky "$python" -c 'import sky; sky.api_stop()' >/dev/null 2>&1 || true
    break
  done
  if alive "$SLURM/run/slurmctld.pid"; then
    scancel --user="$JOB_USER" 2>/dev/null || true
    wait_until 75 no_jobs || true
  fi
  for node in $(nodes); do stop "$SLURM/run/slurmd-$node.pid"; done
  # SkyPilot's ssh keeps its connections for minutes: end their sessions with the listener
  if alive "$SSH/sshd.pid"; then
    for session in $(pgrep -P "$(cat "$SSH/sshd.pid")"); do kill "$session" 2>/dev/null || true; done
  fi
  stop "$SLURM/run/slurmctld.pid"
  stop "$SSH/sshd.pid"
  stop "$SLURM/munge/munged.pid"
  if [ "$(home_of_jobs)" = "$CLUSTER_HOME" ]; then # or else the user and the names are another cluster's
    pkill -KILL -u "$JOB_USER" || true
    hosts
  fi
}

case $2 in up) up ;; down) down ;; *) usage ;; esac
