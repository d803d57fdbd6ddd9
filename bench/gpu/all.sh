#!/usr/bin/env bash
# One full run on a machine with a GPU: builds, checks, times, compares; at most nine minutes, no network. Every stage runs
# under a time limit, a stage that fails or cannot run is recorded and never stops the rest, and the result is written anew
# every ten seconds and after each stage: DIR/gpu-NAME-DATE.json (bench/gpu/schema.json). The last thing printed is a table.
# Ends with 0 whenever the result was written. See bench/gpu/README.md.
#
#   bench/gpu/all.sh [--out DIR] [--name NAME] [--quick] [--golden DIR] [--archs LIST]
#                    [--stages LIST] [--from FILE] [--seconds N] [--logs FILE]
set -u
export LC_ALL=C
here=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
from_here() { case $1 in /*) printf '%s' "$1" ;; *) printf '%s/%s' "$here" "$1" ;; esac; }

order='machine build probe tests sanitizer ceilings node kernels peers table'
out=bench/results name='' quick='' golden='' archs='' only='' from='' logs='' budget=540
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=$(from_here "${2:?--out needs a folder}"); shift 2 ;;
    --name) name=${2:?--name needs a name}; shift 2 ;;
    --golden) golden=$(from_here "${2:?--golden needs a folder}"); shift 2 ;;
    --archs) archs=${2:?--archs needs a list}; shift 2 ;;
    --stages) only=,${2:?--stages needs names with commas between them},; shift 2 ;;
    --from) from=$(from_here "${2:?--from needs a result}"); shift 2 ;;
    --seconds) budget=${2:?--seconds needs a number}; shift 2 ;;
    --logs) logs=$(from_here "${2:?--logs needs a file}"); shift 2 ;;
    --quick) quick=--quick; shift ;;
    -h | --help) sed -n '2,8s/^# \{0,1\}//p' bench/gpu/all.sh; exit 0 ;;
    *) echo "all.sh: $1 is no option; see --help" >&2; exit 2 ;;
  esac
done
case $budget in '' | *[!0-9]*) echo "all.sh: --seconds: expected a whole number, but got \"$budget\"" >&2; exit 2 ;; esac
for s in ${only//,/ }; do
  case " $order " in *" $s "*) ;; *) echo "all.sh: --stages: $s is no stage; there are ${order// /, }" >&2; exit 2 ;; esac
done

started=$(date +%s)
elapsed() { echo $(($(date +%s) - started)); }
left() { echo $((budget - $(elapsed))); }
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

# ---- Node: MT_NODE, else the PATH's ----

node=${MT_NODE:-$(command -v node || true)}
nodeMissing=''
if [ -z "$node" ]; then nodeMissing='there is no Node, neither MT_NODE nor one in the PATH; bench/gpu/pack.sh makes a kit with one'
elif ! "$node" --version >/dev/null 2>&1; then nodeMissing="$node does not run"; fi
# What stages start by its name is the same Node.
mkdir -p "$work/bin"
[ -n "$nodeMissing" ] || { ln -s "$(realpath "$node")" "$work/bin/node" && PATH=$work/bin:$PATH; }
python=$(command -v python3 || command -v python || true)

# ---- what every stage finds in its environment ----

# Our kernels are loaded when the process starts, not by their first call, which may be one that a graph records. PyTorch's
# are far too many for that.
export CUDA_MODULE_LOADING=EAGER
# cuBLASLt as Python's packages bring it lies on no path of the system's. Theirs come last.
if [ -n "$python" ]; then
  libraries=$("$python" -c 'import glob, nvidia; print(":".join(sorted({d for p in nvidia.__path__ for d in glob.glob(p + "/*/lib")})))' 2>/dev/null)
  [ -z "$libraries" ] || export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$libraries"
fi

# ---- stages ----

result=''
# What is known so far, written whole.
merge() {
  local stage sep=''
  {
    printf '{"schema":1,"name":%s,"date":%s,"quick":%s,"seconds":%s,"stages":{' "$(quoted "$name")" "$(quoted "$date")" "$([ -n "$quick" ] && echo true || echo false)" "$(elapsed)"
    for stage in $order; do
      printf '%s\n"%s":{%s,"result":' "$sep" "$stage" "$(cat "$work/$stage.status")"
      if [ -s "$work/$stage.json" ]; then cat "$work/$stage.json"; else printf null; fi
      printf '}'
      sep=,
    done
    printf '\n}}\n'
  } >"$work/merged" && mv "$work/merged" "$result.part" && mv "$result.part" "$result"
}
status() { # stage, status, seconds, reason
  { printf '"status":"%s","seconds":%s' "$2" "$3"; [ -z "$4" ] || printf ',"reason":%s' "$(quoted "$4")"; } >"$work/$1.status"
}
note() {
  status "$@"
  merge
  printf '%-10s %-11s %4s s  %s\n' "$1" "$2" "$3" "$4" >&2
}
# Who stops this script stops the stage that runs, and finds its rows so far in the result.
running='' beat=''
stopped() {
  trap '' TERM INT HUP
  [ -z "$beat" ] || kill "$beat" 2>/dev/null
  if [ -n "$running" ]; then kill -TERM -- "-$running" 2>/dev/null; wait "$running" 2>/dev/null; fi
  merge
  exit 143
}
trap stopped TERM INT HUP
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
  rm -f "$work/$which.json"
  status "$which" failed 0 'was stopped before it ended'
  # timeout is the leader of a process group, so that all of a stage can be stopped at once.
  timeout -k 5 "$limit" "$@" --to "$work/$which.json" --seconds "$((limit > 15 ? limit - 10 : limit))" >"$work/$which.out" 2>"$work/$which.err" </dev/null &
  running=$!
  (while sleep "${MT_MERGE_SECONDS:-10}"; do merge; done) >/dev/null 2>&1 </dev/null &
  beat=$!
  wait "$running"
  code=$?
  running=''
  kill "$beat" 2>/dev/null
  wait "$beat" 2>/dev/null
  beat=''
  reason=$(grep -v '^[[:space:]]*$' "$work/$which.out" | tail -n 1)
  [ -n "$reason" ] || reason=$(grep -v '^[[:space:]]*$' "$work/$which.err" | grep -E 'Error|error' | head -n 1)
  case $code in
    0) note "$which" ok "$(($(date +%s) - begin))" "$reason" ;;
    3) note "$which" unavailable "$(($(date +%s) - begin))" "$reason" ;;
    124 | 137) note "$which" failed "$(($(date +%s) - begin))" "the time limit of $limit s" ;;
    *) note "$which" failed "$(($(date +%s) - begin))" "${reason:-ended with $code}" ;;
  esac
  [ -z "$logs" ] || { printf '\n==== %s\n' "$which"; tail -c 20000 "$work/$which.out"; printf '\n---- stderr\n'; tail -c 60000 "$work/$which.err"; } >>"$logs"
}
# The same for what needs Node, and for what needs a device as well. What --stages leaves out is what --from's result has of it.
noDevice=''
wanted() { case ${only:-,$1,} in *,"$1",*) ;; *) return 1 ;; esac; }
nodeStage() {
  if ! wanted "$1"; then return; fi
  if [ -n "$nodeMissing" ]; then note "$1" unavailable 0 "$nodeMissing"; else stage "$1" "$2" "$node" "${@:3}" ${quick:+"$quick"}; fi
}
deviceStage() {
  if wanted "$1" && [ -z "$nodeMissing" ] && [ -n "$noDevice" ]; then note "$1" unavailable 0 "$noDevice"; else nodeStage "$@"; fi
}
# The last line that a stage printed, or that it failed.
said() { grep -v '^[[:space:]]*$' "$work/$1.out" 2>/dev/null | tail -n 1 | grep . || echo "$1 failed"; }

# ---- the machine ----

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
  line cublas printf '%s' "$(tr ':' '\n' <<<"${LD_LIBRARY_PATH:-}" | sed 's|$|/libcublasLt.so.13|' | while read -r f; do [ ! -f "$f" ] || { echo "$f"; break; }; done)"
  # Where the tree came without its history, MT_COMMIT is what "git describe --always --dirty --abbrev=40" said where it came from.
  if [ -n "${MT_COMMIT:-}" ]; then
    line commit printf '%s' "${MT_COMMIT%-dirty}"
    printf '"changed":%s}' "$(case $MT_COMMIT in *-dirty) echo true ;; *) echo false ;; esac)"
  else
    line commit git rev-parse HEAD
    printf '"changed":%s}' "$(git rev-parse HEAD >/dev/null 2>&1 && { [ -n "$(git status --porcelain 2>/dev/null)" ] && echo true || echo false; } || echo null)"
  fi
}
if [ -z "$name" ]; then
  name=$(has nvidia-smi && nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1)
  name=${name:-no-device}
fi
name=$(printf '%s' "$name" | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9._-')
date=$(date -u +%Y-%m-%dT%H:%M:%SZ)
result=$out/gpu-$name-${date%%T*}.json
facts >"$work/machine.json"
for s in $order; do
  status "$s" unavailable 0 "$(if wanted "$s"; then echo 'was not reached'; else echo 'was not asked for'; fi)"
done
# What an earlier run of other stages found. Times of another GPU are not taken over.
if [ -n "$from" ] && [ -z "$nodeMissing" ]; then
  "$node" -e '
    const fs = require("node:fs"), [file, folder, only] = process.argv.slice(1)
    const gpus = (machine) => (machine?.gpus ?? "").split(",")[0]
    const { stages } = JSON.parse(fs.readFileSync(file, "utf8")), here = JSON.parse(fs.readFileSync(`${folder}/machine.json`, "utf8"))
    const other = gpus(stages.machine?.result) !== gpus(here)
    for (const [stage, { result, ...status }] of Object.entries(stages)) {
      if (stage === "machine" || stage === "table" || only.includes(`,${stage},`)) continue
      if (other && ["ceilings", "node", "kernels", "peers"].includes(stage)) Object.assign(status, { status: "unavailable", reason: `was measured on another device: ${gpus(stages.machine?.result) || "none"}` })
      else if (result) fs.writeFileSync(`${folder}/${stage}.json`, JSON.stringify(result))
      fs.writeFileSync(`${folder}/${stage}.status`, JSON.stringify(status).slice(1, -1))
    }' "$from" "$work" "${only:-,}" || echo "all.sh: $from could not be read" >&2
fi
note machine ok 0 ''

# ---- what is known first: is it right? ----

tsx=(--import tsx)
nodeStage build "${MT_LIMIT_BUILD:-150}" bench/gpu/build.mjs ${archs:+--archs "$archs"}
if wanted build && [ -z "$nodeMissing" ] && ! grep -q '"status":"ok"' "$work/build.status"; then noDevice=$(said build); fi
deviceStage probe "${MT_LIMIT_PROBE:-30}" "${tsx[@]}" bench/gpu/probe.ts
# Where lanes hold other elements than the kernels think, nothing that follows means anything.
if [ -z "$noDevice" ] && grep -q '"status":"failed"' "$work/probe.status"; then noDevice="the probe of the tensor cores failed: $(said probe)"; fi
deviceStage tests "${MT_LIMIT_TESTS:-100}" bench/gpu/tests.mjs ${golden:+--golden "$golden"}
deviceStage sanitizer "${MT_LIMIT_SANITIZER:-120}" bench/gpu/sanitizer.mjs

# ---- how fast? What has no substitute comes first, and the peers take the time that is left ----

deviceStage ceilings "${MT_LIMIT_CEILINGS:-40}" "${tsx[@]}" bench/gpu/ceilings.ts ${python:+--python "$python"}
deviceStage node "${MT_LIMIT_NODE:-100}" "${tsx[@]}" bench/gpu/step.ts
deviceStage kernels "${MT_LIMIT_KERNELS:-110}" "${tsx[@]}" bench/gpu/kernels.ts --ceilings "$work/ceilings.json"
if ! wanted peers; then :
elif [ -z "$python" ]; then note peers unavailable 0 'there is no python3'
else stage peers "${MT_LIMIT_PEERS:-$budget}" env -u CUDA_MODULE_LOADING "$python" bench/peers/run.py ${quick:+"$quick"}; fi

# ---- the table ----

if [ -n "$nodeMissing" ]; then note table unavailable 0 "$nodeMissing"
else
  only=''
  stage table 15 "$node" "${tsx[@]}" bench/gpu/table.mjs --result "$result"
  cat "$work/table.err"
fi
echo "$result"
[ -s "$result" ]
