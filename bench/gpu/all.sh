#!/usr/bin/env bash
# One full run on a machine with a GPU: builds, checks, times, compares; at most nine minutes, no network. Every stage runs
# under a time limit, a stage that fails or cannot run is recorded and never stops the rest, and the result is written anew
# after each: DIR/gpu-NAME-DATE.json (bench/gpu/schema.json). The last thing printed is a table. Ends with 0 whenever the
# result was written. See bench/gpu/README.md.
#
#   bench/gpu/all.sh [--out DIR] [--name NAME] [--quick] [--golden DIR] [--archs LIST]
set -u
export LC_ALL=C
here=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
from() { case $1 in /*) printf '%s' "$1" ;; *) printf '%s/%s' "$here" "$1" ;; esac; }

out=bench/results name='' quick='' golden='' archs=''
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=$(from "${2:?--out needs a folder}"); shift 2 ;;
    --name) name=${2:?--name needs a name}; shift 2 ;;
    --golden) golden=$(from "${2:?--golden needs a folder}"); shift 2 ;;
    --archs) archs=${2:?--archs needs a list}; shift 2 ;;
    --quick) quick=--quick; shift ;;
    -h | --help) sed -n '2,7s/^# \{0,1\}//p' bench/gpu/all.sh; exit 0 ;;
    *) echo "all.sh: $1 is no option; see --help" >&2; exit 2 ;;
  esac
done

budget=540
started=$(date +%s)
left() { echo $((budget - ($(date +%s) - started))); }
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
mkdir -p "$out" || exit 1

# A line of text as a JSON string.
quoted() {
  local text=$1
  # Cut only where every byte is a character.
  if [ ${#text} -gt 600 ]; then text=$(printf '%s' "$text" | tr -cd '\12\40-\176' | cut -c1-600); fi
  text=$(printf '%s' "$text" | tr '\n\t' '  ' | tr -d '\000-\037\177' | sed 's/\\/\\\\/g; s/"/\\"/g')
  printf '"%s"' "$text"
}
has() { command -v "$1" >/dev/null 2>&1; }

# ---- Node: MT_NODE, else the PATH's, else the one packed beside this script ----

node=''
if [ -n "${MT_NODE:-}" ]; then node=$MT_NODE
elif has node; then node=$(command -v node)
elif [ -f bench/gpu/node.tar.xz ]; then
  mkdir -p "$work/node"
  if tar -xJf bench/gpu/node.tar.xz -C "$work/node" 2>/dev/null || python3 -c 'import sys, tarfile; tarfile.open(sys.argv[1], "r:xz").extractall(sys.argv[2])' bench/gpu/node.tar.xz "$work/node" 2>/dev/null; then
    node=$(find "$work/node" -type f -name node -perm -u+x | head -n 1)
  fi
fi
nodeMissing=''
if [ -z "$node" ]; then nodeMissing='there is no Node: neither MT_NODE, nor one in the PATH, nor bench/gpu/node.tar.xz'
elif ! "$node" --version >/dev/null 2>&1; then nodeMissing="$node does not run"; fi
# What stages start by its name is the same Node.
mkdir -p "$work/bin"
[ -n "$nodeMissing" ] || { ln -s "$(realpath "$node")" "$work/bin/node" && PATH=$work/bin:$PATH; }
python=$(command -v python3 || command -v python || true)

# ---- stages ----

stages=''
result=''
# What is known so far, written whole.
merge() {
  local stage sep=''
  {
    printf '{"schema":1,"name":%s,"date":%s,"quick":%s,"seconds":%s,"stages":{' "$(quoted "$name")" "$(quoted "$date")" "$([ -n "$quick" ] && echo true || echo false)" "$(($(date +%s) - started))"
    for stage in $stages; do
      printf '%s\n"%s":{%s,"result":' "$sep" "$stage" "$(cat "$work/$stage.status")"
      if [ -s "$work/$stage.json" ]; then cat "$work/$stage.json"; else printf null; fi
      printf '}'
      sep=,
    done
    printf '\n}}\n'
  } >"$work/merged" && mv "$work/merged" "$result.part" && mv "$result.part" "$result"
}
note() { # stage, status, seconds, reason
  stages="$stages $1"
  printf '"status":"%s","seconds":%s' "$2" "$3" >"$work/$1.status"
  [ -z "$4" ] || printf ',"reason":%s' "$(quoted "$4")" >>"$work/$1.status"
  merge
  printf '%-10s %-11s %4s s  %s\n' "$1" "$2" "$3" "$4" >&2
}
# stage NAME LIMIT COMMAND…: 0 is ok, 3 is unavailable, anything else failed; the last line printed says why.
stage() {
  local which=$1 limit=$2 begin code reason
  shift 2
  # The table has to be printed, whatever the others took.
  local most=$(($(left) - 15))
  [ "$which" != table ] || most=15
  [ "$limit" -le "$most" ] || limit=$most
  if [ "$limit" -lt 3 ]; then note "$which" unavailable 0 'no time was left'; return; fi
  begin=$(date +%s)
  timeout -k 5 "$limit" "$@" --to "$work/$which.json" --seconds "$((limit > 15 ? limit - 10 : limit))" >"$work/$which.out" 2>"$work/$which.err" </dev/null
  code=$?
  reason=$(grep -v '^[[:space:]]*$' "$work/$which.out" | tail -n 1)
  [ -n "$reason" ] || reason=$(grep -v '^[[:space:]]*$' "$work/$which.err" | grep -E 'Error|error' | head -n 1)
  case $code in
    0) note "$which" ok "$(($(date +%s) - begin))" "$reason" ;;
    3) note "$which" unavailable "$(($(date +%s) - begin))" "$reason" ;;
    124 | 137) note "$which" failed "$(($(date +%s) - begin))" "the time limit of $limit s" ;;
    *) note "$which" failed "$(($(date +%s) - begin))" "${reason:-ended with $code}" ;;
  esac
}
# The same for what needs Node, and for what needs a device as well.
noDevice=''
nodeStage() {
  if [ -n "$nodeMissing" ]; then note "$1" unavailable 0 "$nodeMissing"; else stage "$1" "$2" "$node" "${@:3}" ${quick:+"$quick"}; fi
}
deviceStage() {
  if [ -z "$nodeMissing" ] && [ -n "$noDevice" ]; then note "$1" unavailable 0 "$noDevice"; else nodeStage "$@"; fi
}

# ---- 0 the machine ----

facts() {
  local smi='' text
  line() { local value; value=$("${@:2}" 2>/dev/null | head -n 1); printf '"%s":%s,' "$1" "$([ -n "$value" ] && quoted "$value" || echo null)"; }
  printf '{'
  if has nvidia-smi; then smi=$(nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap,clocks.max.sm,clocks.max.mem,power.limit,ecc.mode.current,mig.mode.current --format=csv,noheader 2>&1 | head -n 8); fi
  printf '"gpus":%s,' "$([ -n "$smi" ] && quoted "$smi" || echo null)"
  text=$(has nvcc && nvcc --version | sed -n 's/.*release [0-9.]*, V//p'); line nvcc printf '%s' "$text"
  line sanitizer sh -c 'compute-sanitizer --version | sed -n "s/.*ersion //p"'
  line cpu sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo
  printf '"cores":%s,' "$(nproc 2>/dev/null || echo null)"
  line memory sed -n 's/^MemTotal: *//p' /proc/meminfo
  line system uname -srm
  line compiler sh -c 'c++ --version'
  line cmake cmake --version
  line node sh -c "[ -z '$nodeMissing' ] && '$node' --version"
  line python sh -c "'$python' --version"
  line commit git rev-parse HEAD
  printf '"changed":%s}' "$(git rev-parse HEAD >/dev/null 2>&1 && { [ -n "$(git status --porcelain 2>/dev/null)" ] && echo true || echo false; } || echo null)"
}
if [ -z "$name" ]; then
  name=$(has nvidia-smi && nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1)
  name=${name:-no-device}
fi
name=$(printf '%s' "$name" | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9._-')
date=$(date -u +%Y-%m-%dT%H:%M:%SZ)
result=$out/gpu-$name-${date%%T*}.json
facts >"$work/machine.json"
note machine ok 0 ''

# ---- 1 to 7 ----

nodeStage build 150 bench/gpu/build.mjs ${archs:+--archs "$archs"}
if [ -z "$nodeMissing" ] && ! grep -q '"status":"ok"' "$work/build.status"; then
  noDevice=$(grep -v '^[[:space:]]*$' "$work/build.out" | tail -n 1)
  noDevice=${noDevice:-the addon was not built}
fi
tsx=(--import tsx)
deviceStage ceilings 40 "${tsx[@]}" bench/gpu/ceilings.ts
deviceStage tests 100 bench/gpu/tests.mjs ${golden:+--golden "$golden"}
deviceStage sanitizer 45 bench/gpu/sanitizer.mjs
deviceStage kernels 80 "${tsx[@]}" bench/gpu/kernels.ts --ceilings "$work/ceilings.json"
if [ -z "$python" ]; then note peers unavailable 0 'there is no python3'
else stage peers "$(($(left) - 65))" "$python" bench/peers/run.py ${quick:+"$quick"}; fi # what the others left, and the next need not
deviceStage node 40 "${tsx[@]}" bench/gpu/step.ts

# ---- 8 the table ----

if [ -n "$nodeMissing" ]; then note table unavailable 0 "$nodeMissing"
else
  stage table 15 "$node" bench/gpu/table.mjs --result "$result"
  cat "$work/table.err"
fi
echo "$result"
[ -s "$result" ]
