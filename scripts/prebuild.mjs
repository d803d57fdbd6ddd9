// Builds what the published package brings, prebuilds/PLATFORM/mtransllama.node: node scripts/prebuild.mjs [OPTION…]
//   --platform=NAME  linux-x64: the CPU's kernels, and CUDA kernels for every architecture of native/architectures.txt;
//                    linux-arm64: the CPU's; darwin-arm64, win32-x64: the CPU's, on such a machine. Default: this one
//   --cpu            without CUDA kernels
//   --work=FOLDER    for the libraries of Debian 11, default /var/tmp/mtransllama-prebuild
// Files for Linux ask for glibc 2.31 and for no libstdc++: they are compiled against Debian 11's libraries
// (scripts/prebuild/debian11.cmake). That needs debootstrap and its rights (root), dpkg-deb, cmake, GCC 12 or newer
// (g++-aarch64-linux-gnu for linux-arm64) and nvcc 12.8 or newer. An interrupted build goes on where it was.
import { spawnSync } from 'node:child_process'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
} from 'node:fs'
import { dirname, isAbsolute, join, relative, resolve } from 'node:path'
import { arch, argv, exit, platform } from 'node:process'
import { root } from './setup.mjs'

const option = (name) => argv.findLast((a) => a.startsWith(`--${name}=`))?.slice(name.length + 3)
const name = option('platform') ?? `${platform}-${arch}`
const LINUX = {
  'linux-x64': { debian: 'amd64', triple: 'x86_64-linux-gnu' },
  'linux-arm64': { debian: 'arm64', triple: 'aarch64-linux-gnu' },
}
/** Packages of Debian 11 that hold the headers and libraries to compile against. */
const PACKAGES = [
  ...['libc6', 'libc6-dev', 'linux-libc-dev', 'libcrypt1', 'libcrypt-dev'],
  ...['libgcc-s1', 'libgcc-10-dev', 'libstdc++6', 'libstdc++-10-dev'],
]

function die(message) {
  console.error(`prebuild.mjs: ${message}`)
  exit(1)
}
function run(command, args, env = {}) {
  const { status, error } = spawnSync(command, args, {
    cwd: root,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'inherit', 'inherit'],
  })
  if (error) die(`${command} could not be started (${error.message}).`)
  if (status !== 0) die(`"${command} ${args.join(' ')}" failed; see its output above.`)
}

/** The libraries of Debian 11 for that architecture, fetched and checked by debootstrap; the folder they lie in. */
function sysroot({ debian, triple }) {
  const folder = join(resolve(option('work') ?? '/var/tmp/mtransllama-prebuild'), debian)
  if (existsSync(folder)) return folder
  const [packages, part] = [`${folder}.packages`, `${folder}.part`]
  for (const left of [packages, part]) rmSync(left, { recursive: true, force: true })
  mkdirSync(dirname(folder), { recursive: true })
  run('debootstrap', [
    '--download-only',
    '--variant=minbase',
    `--arch=${debian}`,
    '--include=libstdc++-10-dev',
    'bullseye',
    packages,
  ])
  const archives = join(packages, 'var', 'cache', 'apt', 'archives')
  const files = readdirSync(archives)
  for (const one of PACKAGES) {
    const file = files.find((f) => f.startsWith(`${one}_`)) ?? die(`debootstrap fetched no ${one}.`)
    run('dpkg-deb', ['-x', join(archives, file), part])
  }
  // A link to /lib/… would lead out of the folder.
  for (const entry of readdirSync(part, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath ?? entry.path, entry.name)
    if (!entry.isSymbolicLink() || !isAbsolute(readlinkSync(path))) continue
    const target = join(part, readlinkSync(path))
    rmSync(path)
    symlinkSync(relative(dirname(path), target), path)
  }
  mkdirSync(join(part, 'gcc'))
  for (const library of ['libstdc++.a', 'libgcc_eh.a'])
    symlinkSync(join('..', 'usr', 'lib', 'gcc', triple, '10', library), join(part, 'gcc', library))
  rmSync(packages, { recursive: true })
  renameSync(part, folder)
  return folder
}

const out = `build-${name}`
const cuda = name === 'linux-x64' && !argv.includes('--cpu')
const build = [
  join(root, 'scripts', 'build.mjs'),
  `--out=${out}`,
  ...(cuda ? ['--cuda=on', '--archs=release'] : ['--cuda=off']),
]
if (name in LINUX) {
  const { triple } = LINUX[name]
  const toolchain = join(root, 'scripts', 'prebuild', 'debian11.cmake')
  run(process.execPath, [...build, `--toolchain=${toolchain}`], { MT_SYSROOT: sysroot(LINUX[name]), MT_TRIPLE: triple })
} else if (name === `${platform}-${arch}`) run(process.execPath, build)
else die(`${name} is compiled on such a machine alone, and this one is ${platform}-${arch}.`)
const file = join(root, 'prebuilds', name, 'mtransllama.node')
mkdirSync(dirname(file), { recursive: true })
copyFileSync(join(root, out, 'Release', 'mtransllama.node'), file)
console.log(`${relative(root, file)} is written`)
