#!/usr/bin/env bash
# A visit to a bare machine with a GPU, from the kit that bench/gpu/pack.sh made; in the root of the checkout:
#
#   bench/gpu/visit.sh check [SECONDS]     the addon, the probe, tests, golden cases, sanitizers    (270 s at most)
#   bench/gpu/visit.sh measure [SECONDS]   ceilings, whole models, kernels                          (270 s at most)
#   bench/gpu/visit.sh peers [SECONDS]     PyTorch on the same shapes, the table                    (240 s at most)
#   bench/gpu/visit.sh all [SECONDS]       everything in one run                                    (540 s at most)
#
# Each takes over what those before it found, here or in .gpu/before.json. Writes gpu-NAME-DATE.json, gpu.log and facts.txt
# into $OUT, else .gpu/out. MT_ADDON names another addon, MT_BUILD_THERE=1 leaves the carried one alone, QUICK=1: tiny sizes.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
mode=${1:-} stages=''
case $mode in
  check) most=270 stages=build,probe,tests,sanitizer ;;
  measure) most=270 stages=ceilings,node,kernels ;;
  peers) most=240 stages=peers ;;
  all) most=540 ;;
  *) sed -n '2,11s/^# \{0,1\}//p' bench/gpu/visit.sh; exit 2 ;;
esac
seconds=${2:-$most}
out=${OUT:-$PWD/.gpu/out}
mkdir -p "$out"
kit=$PWD/build-gpu/kit
began=$SECONDS

# The machine reads PyTorch from its disk for the first time: that shall be over before anything is timed.
case $mode in check | all) (python3 -c 'import torch, triton, transformers, peft, torch._inductor' >/dev/null 2>&1 </dev/null &) ;; esac
if ! cmp -s .gpu/id "$kit/id"; then
  rm -rf build-gpu
  # Two archives, one behind the other.
  tar -xJif .gpu/kit.tar.xz 2>/dev/null || python3 -c 'import tarfile; tarfile.open(".gpu/kit.tar.xz", ignore_zeros=True).extractall(".")' || { echo 'visit.sh: .gpu/kit.tar.xz could not be unpacked; make it with bench/gpu/pack.sh' >&2; exit 1; }
fi
export MT_NODE=$kit/node MT_COMMIT
MT_COMMIT=$(cat .gpu/commit)
{
  date -u; echo "commit $MT_COMMIT"; uname -a; grep PRETTY_NAME /etc/os-release; ldd --version 2>&1 | head -n 1
  nvidia-smi; nvcc --version; c++ --version; cmake --version; command -v ninja make xz compute-sanitizer ncu nsys python3 nvcc cmake
  nproc; free -g; df -h . /tmp; "$MT_NODE" --version; python3 --version
  python3 -c 'import importlib.metadata as m; print("\n".join(sorted(f"{d.name} {d.version}" for d in m.distributions() if d.name.lower().startswith(("nvidia", "torch", "triton", "transformers", "peft")))))'
} >"$out/facts.txt" 2>&1

# The carried addon where it finds the device; else the one that an earlier command compiled here; else it is compiled now.
if [ -z "${MT_ADDON:-}" ]; then
  addons=(build-gpu/Release/mtransllama.node build/Release/mtransllama.node)
  [ -z "${MT_BUILD_THERE:-}" ] || addons=(build/Release/mtransllama.node)
  for addon in "${addons[@]}"; do
    [ -f "$addon" ] || continue
    if said=$("$MT_NODE" -e '
        const found = require(process.argv[1]).devices(), bad = found.devices.find((d) => d.failure)
        if (!found.devices.length || bad) throw new Error(bad?.failure ?? found.reason)
        console.log(JSON.stringify(found))' "$PWD/$addon" 2>&1); then
      export MT_ADDON=$PWD/$addon
      echo "$addon: $said" | tee -a "$out/facts.txt"
      break
    fi
    echo "$addon cannot be used here: $(grep -m 1 Error: <<<"$said")" | tee -a "$out/facts.txt"
  done
  if [ -z "${MT_ADDON:-}" ]; then case $stages in '' | build*) ;; *) stages=build,$stages ;; esac; fi
fi
echo "visit.sh: ready after $((SECONDS - began)) s"

args=(--out "$out" --seconds "$seconds" --logs "$out/gpu.log" ${stages:+--stages "$stages"} ${QUICK:+--quick})
[ ! -d "$kit/golden" ] || args+=(--golden "$kit/golden")
for before in "$kit/before.json" .gpu/before.json; do
  if [ "$mode" != all ] && [ -f "$before" ]; then args+=(--from "$before"); break; fi
done
bash bench/gpu/all.sh "${args[@]}" | tee "$kit/printed"
code=${PIPESTATUS[0]}
result=$(tail -n 1 "$kit/printed")
[ ! -f "$result" ] || cp "$result" "$kit/before.json"
exit "$code"
