#!/usr/bin/env bash
# Gets a fresh Debian 12/13 or Raspberry Pi OS ready:  setup.sh run | dev
#   run: what the agent and the demo need       dev: what the tests need on top
# System packages come by apt when we are root or may use sudo; else one line says what to install.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=${1:?usage: setup.sh run|dev}
python=${PYTHON:-python3}

say() { printf '==> %s\n' "$*"; }
have() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }
python_can() { "$python" -c "$1" >/dev/null 2>&1; }

apt_install() {
  # shellcheck disable=SC2086 # a list of words
  "${root[@]}" apt-get update -q && "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -q --no-install-recommends $missing
}

need=()   # nothing works without these
want=()   # without these something else takes their place, or tests are skipped
if ! have "$python"; then
  need+=(python3 python3-venv python3-dev)
else
  python_can 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "piagent needs Python 3.11 or newer, and '$python' is $("$python" --version 2>&1):" \
      "set PYTHON=/path/to/python3.11" >&2
    exit 1
  }
  python_can 'import ensurepip, venv' || need+=(python3-venv)
  python_can 'import os, sysconfig as s; os.stat(os.path.join(s.get_path("include"), "Python.h"))' \
    || need+=(python3-dev)
fi
have cc || need+=(build-essential)
have mosquitto || want+=(mosquitto)
have curl || want+=(curl)
if [ "$mode" = dev ]; then
  have ip || want+=(iproute2)
  have spin || want+=(spin)
  have bird || want+=(bird2)
  have dig || want+=(bind9-dnsutils)
  if [ "$(uname -m)" != aarch64 ]; then
    have qemu-aarch64-static || want+=(qemu-user-static)
    have aarch64-linux-gnu-gcc || want+=(gcc-aarch64-linux-gnu)
  fi
fi
missing="${need[*]} ${want[*]}"
missing=${missing# }
missing=${missing% }

if [ -n "$missing" ]; then
  cure="apt install $missing"
  if have apt-get && [ "$(id -u)" = 0 ]; then
    root=(env)
  elif have apt-get && have sudo && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    root=(sudo)
  else
    root=()
  fi
  have sudo && cure="sudo $cure"
  if [ ${#root[@]} -gt 0 ] && say "installing system packages: $missing" && apt_install; then
    case "$missing" in *mosquitto*)
      say "Debian's package also runs a broker on localhost:1883; piagent does not use it" \
        "(systemctl disable --now mosquitto)" ;;
    esac
    case "$missing" in *bird2*)
      say "Debian's package also runs a router without neighbours; the tests do not use it" \
        "(systemctl disable --now bird)" ;;
    esac
  elif [ ${#need[@]} -gt 0 ]; then
    echo "piagent needs system packages that only root can install: $cure" >&2
    exit 1
  else
    say "going on without what only root can install: $cure"
  fi
fi

if [ -e .venv ] && ! [ -w .venv ]; then
  echo "piagent cannot write to .venv, which somebody else made (with sudo?): sudo make clean" >&2
  exit 1
fi
# Without pip it was interrupted, or is of a Python that has been replaced.
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  say "creating .venv"
  "$python" -m venv --clear .venv
fi
extras=""
[ "$mode" = dev ] && extras="dev demo"
have mosquitto || extras="${extras:-demo}"
say "installing Python packages ($mode)"
.venv/bin/python - $extras <<'PY' >.venv/requirements.txt
import sys, tomllib
with open("pyproject.toml", "rb") as file:
    pyproject = tomllib.load(file)
project = pyproject["project"]
names = pyproject["build-system"]["requires"] + project["dependencies"]
for extra in sys.argv[1:]:
    names += project["optional-dependencies"][extra]
print("\n".join(names))
PY
.venv/bin/python -m pip --disable-pip-version-check install --progress-bar off \
  -r .venv/requirements.txt | sed -u '/already satisfied/d'
