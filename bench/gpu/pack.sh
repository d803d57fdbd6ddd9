#!/usr/bin/env bash
# Makes what a bare machine with a GPU lacks, for a visit of a few minutes: .gpu/kit.tar.xz with Node, the packages that the
# stages read, the addon for that GPU with what ptxas said of its kernels, and golden cases where they are at hand. It travels
# with the checkout (.gpu/ is ignored by git; together under 48 MiB), and bench/gpu/visit.sh unpacks it there. Needs no GPU;
# nvcc and cmake for the addon. Prints the commands of the visit.
#
#   bench/gpu/pack.sh [--archs LIST] [--golden DIR] [--no-addon] [--no-golden] [--no-sharp] [--quick]
#
#   --archs LIST   the GPU's architecture, default 90-real      --no-addon   compiled there instead (minutes)
#   --golden DIR   default ../shared/golden                     --no-sharp   7 MiB less, without the test of training runs
#   --quick        packs fast and larger: for rehearsals
set -euo pipefail
here=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
archs=90-real addon=1 media=1 golden=../shared/golden preset=9e,dict=160MiB
while [ $# -gt 0 ]; do
  case $1 in
    --archs) archs=${2:?--archs needs a list}; shift 2 ;;
    --golden) golden=$(cd "$here" && realpath "${2:?--golden needs a folder}"); shift 2 ;;
    --no-addon) addon=''; shift ;;
    --no-golden) golden=''; shift ;;
    --no-sharp) media=''; shift ;;
    --quick) preset=1; shift ;;
    -h | --help) sed -n '2,12s/^# \{0,1\}//p' bench/gpu/pack.sh; exit 0 ;;
    *) echo "pack.sh: $1 is no option; see --help" >&2; exit 2 ;;
  esac
done
say() { printf 'pack.sh: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

[ -d node_modules/tsx ] || die 'node_modules is missing; run "npm ci" first'
[ "$(uname -sm)" = 'Linux x86_64' ] || die "the machine with the GPU is Linux on x86-64, this one is $(uname -sm); pack on one like it"
node=$(realpath "$(command -v "${MT_NODE:-node}")") || die 'there is no Node'
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
# What is unpacked lies in build-gpu/ there, which .gitignore names.
kit=$stage/build-gpu/kit
mkdir -p "$kit" "$stage/node_modules" .gpu

# ---- Node, without its symbols where that leaves a Node that runs ----

cp "$node" "$kit/node"
if command -v strip >/dev/null && strip "$kit/node" && "$kit/node" -e 0; then :; else cp "$node" "$kit/node"; fi

# ---- packages: those that lib, bench/gpu and the tests of the stages import, with what these need ----

"$node" - tsx uvu commander zod yaml cli-progress @huggingface/tokenizers node-addon-api node-api-headers ${media:+sharp} >"$stage/packages" <<'JS'
const { existsSync, readFileSync } = require('node:fs')
const { packages } = JSON.parse(readFileSync('package-lock.json', 'utf8'))
const found = new Set()
// As Node looks for a package, from the inside out.
function place(name, from) {
  for (let at = from; ; at = at.slice(0, Math.max(0, at.lastIndexOf('/node_modules/')))) {
    const path = `${at ? `${at}/` : ''}node_modules/${name}`
    if (packages[path]) return path
    if (!at) return undefined
  }
}
function add(name, from, optional) {
  const path = place(name, from)
  if (!path || found.has(path)) return
  if (!existsSync(path)) {
    if (optional) return
    throw new Error(`${path} is not installed`)
  }
  found.add(path)
  const { dependencies = {}, optionalDependencies = {} } = packages[path]
  for (const d of Object.keys(dependencies)) add(d, path, false)
  for (const d of Object.keys(optionalDependencies)) add(d, path, true)
}
for (const name of process.argv.slice(2)) add(name, '', false)
console.log([...found].join('\n'))
JS
# esbuild's own program is a second copy of that of its platform's package, zod has each module twice and an older zod,
# sharp its sources, yaml a copy for browsers; maps, types and sources are read by nobody.
tar -cf - --exclude=node_modules/esbuild/bin --exclude='node_modules/zod/*.cjs' --exclude=node_modules/zod/v3 --exclude=node_modules/sharp/src --exclude=node_modules/yaml/browser --exclude='*.map' --exclude='*.ts' --exclude='*.mts' --exclude='*.cts' --exclude='*.md' -T "$stage/packages" | tar -xf - -C "$stage"

# ---- the addon, and what it asks of the C library ----

if [ -n "$addon" ] && ! { command -v nvcc && command -v cmake; } >/dev/null; then
  say 'there is no nvcc or no cmake here: the addon will be compiled there'
  addon=''
fi
if [ -n "$addon" ]; then
  file=build-gpu/Release/mtransllama.node
  say "the addon for $archs (minutes, unless build-gpu has it)"
  nice "$node" scripts/build.mjs --cuda=on --archs="$archs" --out=build-gpu >.gpu/build.log 2>&1 || { grep -m 3 -iE '\berror\b' .gpu/build.log >&2; die 'the addon was not built, see .gpu/build.log; --no-addon leaves that to the machine there'; }
  "$node" -e '
    const { built, architectures } = require(require("node:path").resolve(process.argv[1])).devices()
    if (!built || !architectures) throw new Error("it holds no CUDA kernels")' "$file" || die "$file does not load here"
  if command -v objdump >/dev/null; then
    symbols=$(objdump -T "$file" | grep -oE '(GLIBC|GLIBCXX|CXXABI)_[0-9.]+' | sort -Vu)
    for most in GLIBC_2.39 GLIBCXX_3.4.33 CXXABI_1.3.15; do # Ubuntu 24.04's
      is=$(grep "^${most%_*}_" <<<"$symbols" | tail -n 1)
      [ "$(printf '%s\n%s\n' "$is" "$most" | sort -V | tail -n 1)" = "$most" ] || say "WARNING: the addon needs $is, Ubuntu 24.04 has $most: there it will be compiled anew"
    done
    say "the addon needs $(for name in GLIBC GLIBCXX; do grep "^${name}_" <<<"$symbols" | tail -n 1; done | paste -sd ' ')"
  else say 'WARNING: without objdump it is not known which C library the addon needs'
  fi
  { echo "$file"; find build-gpu/CMakeFiles -name '*.ptxas'; } | tar -cf - -T - | tar -xf - -C "$stage"
  if command -v strip >/dev/null; then strip --strip-unneeded "$stage/$file"; fi
fi
if [ -n "$golden" ] && [ -d "$golden/cases" ]; then cp -rL "$golden" "$kit/golden"; chmod -R u+w "$kit/golden"
elif [ -n "$golden" ]; then say "no golden cases in $golden: they are left out"; fi

# ---- packed ----

rm "$stage/packages"
commit=$(git describe --always --dirty --abbrev=40)
echo "$commit" >.gpu/commit
(cd "$stage" && find . -type f -exec sha256sum {} + | sort | sha256sum | cut -c1-16) >.gpu/id
cp .gpu/id "$kit/id"
rm -f .gpu/before.json .gpu/kit.tar.xz
say 'packing (minutes)'
archive() { tar -C "$stage" --owner=0 --group=0 -cf - "$@"; }
{
  archive --exclude=build-gpu/kit/golden node_modules build-gpu | nice xz -T0 --x86 --lzma2=preset="$preset"
  # Goldens are float32: a byte is told by its place in a number rather than by the bytes before it.
  [ ! -d "$kit/golden" ] || archive build-gpu/kit/golden | nice xz -T0 --lzma2=preset="$preset",lc=2,lp=2
} >.gpu/kit.tar.xz
bytes() { tr '\n' '\0' | xargs -0 stat -c %s 2>/dev/null | awk '{ s += $1 } END { print s + 0 }'; }
tree=$(git ls-files -co --exclude-standard | bytes)
carried=$(stat -c %s .gpu/kit.tar.xz)
mib() { awk "BEGIN { printf \"%.1f MiB\", $1 / 1048576 }"; }
say "tree $(mib "$tree") and kit $(mib "$carried"), together $(mib $((tree + carried)))"
[ $((tree + carried)) -lt $((48 << 20)) ] || [ "$preset" = 1 ] || die 'over 48 MiB: --no-golden saves 10, --no-sharp 7'
case $commit in *-dirty) say 'WARNING: the checkout has changes that no commit has; the result will say so' ;; esac
cat <<'TEXT'
Carry the checkout with .gpu/ to the machine with the GPU. There, in its root, run one after the other:

  bash bench/gpu/visit.sh check       is it right? at most 4.5 minutes
  bash bench/gpu/visit.sh measure     how fast is it? at most 4.5 minutes
  bash bench/gpu/visit.sh peers 240   PyTorch on the same shapes, for as many seconds as are left

or everything in one run of nine minutes:

  bash bench/gpu/visit.sh all

Bring back the gpu-*.json of the last command, which holds what those before it found, and gpu.log. On another machine
of the same kind go on from a result by putting it at .gpu/before.json.
TEXT
