#!/usr/bin/env bash
# A visit rehearsed where there is no GPU: an empty root with what such a machine has (a compiler, cmake, Python, xz; no Node,
# no npm, no network), the kit of pack.sh unpacked in it, and every stage run at tiny sizes on the addon whose kernels run on
# the CPU; then what is measured at full sizes, where nothing is computed (MT_EMULATOR=null). nvidia-smi and
# compute-sanitizer are stand-ins. Prints a table; ends with 1 where a stage is neither ok nor unavailable for want of a
# device. Needs root, debootstrap and the emulated addon (node scripts/build.mjs --cuda=emulated).
#
#   bench/gpu/rehearse.sh [--root DIR] [--golden DIR] [--packages DIR] [--keep-kit]
#
#   --root DIR       the root, made if it is not there, default /var/tmp/mtransllama-rehearsal
#   --packages DIR   site-packages with PyTorch for that root's Python (pip install --target DIR torch): peers run on the CPU
#   --keep-kit       takes the kit in .gpu as it is
set -euo pipefail
here=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=/var/tmp/mtransllama-rehearsal packages='' keep='' golden=()
from_here() { case $1 in /*) printf '%s' "$1" ;; *) printf '%s/%s' "$here" "$1" ;; esac; }
while [ $# -gt 0 ]; do
  case $1 in
    --root) root=$(from_here "${2:?--root needs a folder}"); shift 2 ;;
    --golden) golden=(--golden "$(from_here "${2:?--golden needs a folder}")"); shift 2 ;;
    --packages) packages=$(from_here "${2:?--packages needs a folder}"); shift 2 ;;
    --keep-kit) keep=1; shift ;;
    -h | --help) sed -n '2,13s/^# \{0,1\}//p' bench/gpu/rehearse.sh; exit 0 ;;
    *) echo "rehearse.sh: $1 is no option; see --help" >&2; exit 2 ;;
  esac
done
die() { echo "rehearse.sh: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || die 'chroot needs root'
command -v debootstrap >/dev/null || die 'debootstrap is not installed'
emulated=build-emulated/Release/mtransllama.node
[ -f "$emulated" ] || die "$emulated is not there; run: node scripts/build.mjs --cuda=emulated"
node=$(realpath "$(command -v node)")
start=$(date +%s)

# ---- the root ----

if [ ! -f "$root/.whole" ]; then
  rm -rf "$root"
  debootstrap --variant=minbase --include=g++,cmake,make,python3,xz-utils "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$root" >/dev/null || die 'debootstrap failed'
  touch "$root/.whole"
fi
[ ! -e "$root/usr/bin/node" ] && [ ! -e "$root/usr/local/bin/node" ] || die "$root has a Node"
[ -n "$keep" ] || bench/gpu/pack.sh "${golden[@]}"
visit=$root/visit
rm -rf "$visit"
mkdir "$visit"
git ls-files -co --exclude-standard | grep -v '^.gpu/' | tar -cf - -T - | tar -xf - -C "$visit"
cp -r .gpu "$visit/.gpu"
rm -rf "$visit/.gpu/out"
mkdir "$visit/stand-ins"
cp "$emulated" "$visit/stand-ins/emulated.node"
cat >"$visit/stand-ins/nvidia-smi" <<'SH'
#!/bin/sh
case "$*" in
  *compute_cap\ --format*) echo 9.0 ;;
  *query-gpu=name\ --format*) echo 'Stand-in' ;;
  *clocks.sm*) echo '1980 MHz, 2619 MHz, 0x0000000000000000, 300.00 W, 40' ;;
  *) echo 'Stand-in, 0, 1 MiB, 9.0, 1980 MHz, 2619 MHz, 700.00 W, Enabled, Disabled' ;;
esac
SH
cat >"$visit/stand-ins/compute-sanitizer" <<'SH'
#!/bin/sh
[ "$1" != --version ] || { echo 'Version stand-in'; exit; }
tool=$2
while [ "$1" != --import ]; do program=$1; shift; done
"$program" "$@" || exit
if [ "$tool" = racecheck ]; then echo '========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)'; else echo '========= ERROR SUMMARY: 0 errors'; fi
SH
chmod +x "$visit"/stand-ins/*

# ---- the visit, without a network ----

mount --bind /proc "$root/proc"
mount --bind /dev "$root/dev"
undo() { umount -l "$root/proc" "$root/dev" || true; [ -z "$packages" ] || umount -l "$root/mnt" || true; [ ! -e "$root/usr/bin/xz.away" ] || mv "$root/usr/bin/xz.away" "$root/usr/bin/xz"; }
trap undo EXIT
[ -z "$packages" ] || mount --bind -o ro "$packages" "$root/mnt"
inside() { # environment and a command line
  unshare --net chroot "$root" env -i HOME=/root LANG=C.UTF-8 PATH=/visit/stand-ins:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONPATH=/mnt PYTHONDONTWRITEBYTECODE=1 MT_PEERS_DEVICE="$([ -n "$packages" ] && echo cpu || echo cuda)" "${@:1:$#-1}" sh -c "cd /visit && ${*: -1}"
}
summary=()
checked() { # title, a command that ends well
  local title=$1 begin code=0
  begin=$(date +%s)
  "${@:2}" >"$visit/log" 2>&1 || code=$?
  summary+=("$(printf '| %s | %s | %s | %s |' "$title" "$([ $code = 0 ] && echo ok || echo failed)" "$(($(date +%s) - begin))" "$([ $code = 0 ] || tail -n 1 "$visit/log")")")
  [ $code = 0 ] || { bad=1; cp "$visit/log" ".gpu/${title//[^a-z]/-}.log"; }
}
bad=''
# The carried addon finds no device here, so that it would be compiled there, for which this root has no nvcc.
mv "$root/usr/bin/xz" "$root/usr/bin/xz.away"
checked 'without xz; carried addon without a device' inside QUICK=1 OUT=/visit/alone 'bash bench/gpu/visit.sh check && { ! test -f build-gpu/Release/mtransllama.node || grep -q "cannot be used here" alone/facts.txt; } && ! grep -q "\"status\":\"failed\"" alone/gpu-*.json'
mv "$root/usr/bin/xz.away" "$root/usr/bin/xz"
checked 'compiled there, CPU alone' inside 'build-gpu/kit/node scripts/build.mjs --cuda=off --out=build-there && test -f build-there/Release/mtransllama.node'
for part in check measure peers; do
  checked "visit.sh $part" inside QUICK=1 OUT=/visit/out MT_ADDON=/visit/stand-ins/emulated.node MT_LIMIT_SANITIZER=600 MT_LIMIT_TESTS=600 MT_LIMIT_NODE=600 MT_LIMIT_KERNELS=600 MT_LIMIT_CEILINGS=600 MT_LIMIT_PEERS=600 "bash bench/gpu/visit.sh $part 1800"
done
checked 'full sizes, nothing computed' inside OUT=/visit/null MT_EMULATOR=null MT_ADDON=/visit/stand-ins/emulated.node MT_LIMIT_NODE=600 MT_LIMIT_KERNELS=600 MT_LIMIT_CEILINGS=600 'bash bench/gpu/visit.sh measure 1800 && ! grep -q "\"status\":\"failed\"" null/gpu-*.json'
checked 'training runs without FFmpeg' inside MT_ADDON=/visit/stand-ins/emulated.node MT_EMULATED=none MT_THREADS=1 'build-gpu/kit/node --import tsx test/cuda/training.test.ts && ! test -e node_modules/node-av'

# ---- the table ----

result=$(ls "$visit"/out/gpu-*.json) || die "no result was written: $(tail -n 3 "$visit/log")"
{
  echo '| stage | status | s | |'
  echo '| --- | --- | --- | --- |'
  "$node" -e '
    const { stages } = JSON.parse(require("node:fs").readFileSync(process.argv[1], "utf8"))
    for (const [stage, { status, seconds, reason = "", result }] of Object.entries(stages)) {
      const rows = result?.rows ?? [], fine = rows.filter((r) => r.status === "ok").length
      console.log(`| ${stage} | ${status} | ${seconds} | ${rows.length ? `${fine} of ${rows.length} rows; ` : ""}${reason.slice(0, 110).replaceAll("|", "/")} |`)
    }' "$result"
  printf '%s\n' "${summary[@]}"
} | tee .gpu/rehearsal.md
"$node" -e '
  const { stages } = JSON.parse(require("node:fs").readFileSync(process.argv[1], "utf8"))
  const device = /needs a (CUDA )?device|graphs need a CUDA device|CUDA device|cublaslt|was not asked for/
  const bad = Object.entries(stages).filter(([, s]) => s.status === "failed" || (s.status === "unavailable" && !device.test(s.reason ?? "") && !/^torch: No module/.test(s.reason ?? "")))
  if (bad.length) { console.error(`rehearse.sh: ${bad.map(([name, s]) => `${name} is ${s.status}: ${s.reason}`).join("; ")}`); process.exit(1) }' "$result" || bad=1
bytes() { tr '\n' '\0' | xargs -0 stat -c %s | awk '{ s += $1 } END { printf "%.1f MiB", s / 1048576 }'; }
echo "Tree $(git ls-files -co --exclude-standard | bytes), kit $(echo .gpu/kit.tar.xz | bytes); $(du -sm --exclude=./proc --exclude=./dev "$visit" | cut -f1) MiB unpacked; $(nproc) cores, $(($(date +%s) - start)) s in all." | tee -a .gpu/rehearsal.md
[ -z "$bad" ]
