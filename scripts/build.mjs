// Builds the addon if its sources are newer than it: with CMake where cmake is found, else with node-gyp (CPU alone).
// Nothing is downloaded.
//   --cuda=auto|on|off|emulated (or MT_CUDA)  CUDA kernels: where nvcc is found (the default); always; never; compiled
//                 for the CPU, for tests, into build-emulated
//   --archs=LIST  architectures, as CMake writes them; "release": all. Default: this machine's, else PTX 8.0, which
//                 later devices can translate
//   --out=FOLDER  instead of build
//   --toolchain=FILE  CMake's description of another platform's compilers
//   --sanitize    with the address and undefined-behaviour sanitizers, for test/native/sanitize.mjs
//   --force       even if nothing changed
//   MT_BUILD=gyp|cmake  which of the two
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { cpus } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { released } from './architectures.mjs'
import { nodeApi } from './node-api.mjs'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const require = createRequire(import.meta.url)
const option = (name) => process.argv.findLast((a) => a.startsWith(`--${name}=`))?.slice(name.length + 3)
// An empty variable is as good as none.
const given = {
  cuda: option('cuda') ?? (process.env.MT_CUDA || undefined),
  archs: option('archs') ?? (process.env.MT_CUDA_ARCHS || undefined),
}
const folder = option('out') ?? (given.cuda?.toLowerCase() === 'emulated' ? 'build-emulated' : 'build')
/** What was asked for when the folder was built: it stays so until something else is asked for. */
const stamp = resolve(root, folder, 'options.json')
const before = existsSync(stamp) ? JSON.parse(readFileSync(stamp, 'utf8')) : {}
const asked = (given.cuda ?? before.cuda ?? 'auto').toUpperCase()
const addon = resolve(root, folder, 'Release', 'mtransllama.node')

/** When the newest of the addon's sources was written. */
function newest(path) {
  const s = statSync(path)
  return s.isDirectory() ? Math.max(0, ...readdirSync(path).map((f) => newest(join(path, f)))) : s.mtimeMs
}

function has(tool) {
  return spawnSync(tool, ['--version'], { stdio: 'ignore', shell: process.platform === 'win32' }).status === 0
}

/** node-gyp's script: the installed package's, or npm's own, which npm names to what it runs. */
function nodeGyp() {
  try {
    const path = require.resolve('node-gyp/package.json', { paths: [root] })
    return join(dirname(path), require(path).bin['node-gyp'])
  } catch {
    return process.env.npm_config_node_gyp
  }
}

/** node-gyp's header folder: Node's own headers where they are installed, so that it need not fetch them. */
function headers() {
  const prefix = dirname(dirname(process.execPath))
  return existsSync(join(prefix, 'include', 'node', 'node_api.h')) ? [`--nodedir=${prefix}`] : []
}

/**
 * CMake's options for a build with nvcc. What ptxas says of each kernel is kept beside the object, for
 * scripts/resources.mjs.
 */
const withCuda = () => [
  `-DCMAKE_CUDA_ARCHITECTURES=${architectures()}`,
  `-DCMAKE_CUDA_COMPILER_LAUNCHER=${process.execPath};${join(root, 'scripts', 'ptxas.mjs')}`,
]

/** The architectures to compile kernels for. */
function architectures() {
  const list = given.archs ?? before.archs
  if (list) return list === 'release' ? released : list
  const { status, stdout } = spawnSync('nvidia-smi', ['--query-gpu=compute_cap', '--format=csv,noheader'], {
    encoding: 'utf8',
  })
  const found = status === 0 ? [...new Set(stdout.match(/\d+\.\d/g))].map((c) => `${c.replace('.', '')}-real`) : []
  return found.length ? found.join(';') : '80-virtual'
}

function build() {
  const sources = ['native', 'CMakeLists.txt', 'binding.gyp'].map((f) => newest(join(root, f)))
  const same =
    (given.cuda === undefined || given.cuda.toUpperCase() === before.cuda) &&
    (given.archs === undefined || given.archs === before.archs)
  if (!process.argv.includes('--force') && same && existsSync(addon) && statSync(addon).mtimeMs > Math.max(...sources))
    return 0
  const cmake = process.env.MT_BUILD ? process.env.MT_BUILD === 'cmake' : has('cmake')
  const jobs = Math.max(1, cpus().length)
  const without = cmake
    ? has(process.env.CUDACXX ?? 'nvcc')
      ? ''
      : 'nvcc was not found'
    : 'they are built with cmake 3.25 or newer, which was not found'
  if (!cmake && (asked === 'ON' || asked === 'EMULATED')) {
    console.error(`mtransllama: CUDA kernels cannot be built: ${without}.`)
    return 1
  }
  if (asked === 'AUTO' && without)
    console.error(`mtransllama: the CPU backend alone is built, without CUDA kernels: ${without}`)
  const cuda = asked === 'AUTO' ? (without ? 'OFF' : 'AUTO') : asked
  const gyp = cmake ? undefined : nodeGyp()
  if (!cmake && !gyp) {
    console.error('mtransllama: neither cmake nor node-gyp was found; install cmake, or run "npm install node-gyp".')
    return 1
  }
  console.error(
    `mtransllama: building the native addon with ${cmake ? 'CMake' : 'node-gyp'} (${cuda === 'OFF' ? 'about a minute' : 'one or two minutes'})`,
  )
  const status = cmake ? withCmake(cuda, jobs, same) : withGyp(gyp, jobs)
  if (status !== 0)
    console.error(
      'mtransllama: the addon was not built. It needs a C++20 compiler (g++ 11 or newer, clang 14 or newer), make and python3 or cmake.',
    )
  return status
}

/** Keeps what was asked for, from when the folder is configured on: a build that was interrupted goes on. */
function record() {
  const archs = given.archs ?? before.archs
  writeFileSync(stamp, `${JSON.stringify({ cuda: asked, ...(archs && { archs }) })}\n`)
}

/** Runs a program in the package's folder; its exit status. */
const run = (command, args) =>
  spawnSync(command, args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] }).status ?? 1

/** `same`: what an earlier build left is used again. */
function withCmake(cuda, jobs, same) {
  const out = resolve(root, folder)
  const fresh = !same || !existsSync(join(out, 'CMakeCache.txt'))
  if (fresh) rmSync(out, { recursive: true, force: true })
  const toolchain = option('toolchain')
  const configured = run('cmake', [
    '-S',
    root,
    '-B',
    out,
    ...(fresh && process.platform !== 'win32' && has('ninja') ? ['-G', 'Ninja'] : []),
    '-DCMAKE_BUILD_TYPE=Release',
    `-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=${join(out, 'Release')}`,
    `-DMT_NODE_API=${nodeApi().join(';').replaceAll('\\', '/')}`,
    `-DMT_CUDA=${cuda}`,
    `-DMT_SANITIZE=${process.argv.includes('--sanitize') ? 'ON' : 'OFF'}`,
    '--log-level=NOTICE',
    ...(toolchain ? [`-DCMAKE_TOOLCHAIN_FILE=${resolve(toolchain)}`] : []),
    ...(cuda === 'ON' || cuda === 'AUTO' ? withCuda() : []),
  ])
  if (configured !== 0) return configured
  record()
  // An addon that was cut off or replaced is newer than what it is made of; linking it again costs a second.
  rmSync(addon, { force: true })
  return run('cmake', ['--build', out, '--config', 'Release', '--parallel', String(jobs)])
}

function withGyp(gyp, jobs) {
  const status = run(process.execPath, [gyp, 'rebuild', '--silent', '--jobs', String(jobs), ...headers()])
  if (status === 0) record()
  return status
}

process.exitCode = build()
