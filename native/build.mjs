// Builds the addon if its sources are newer than it: with CMake where cmake is found, else with node-gyp (CPU alone).
// Nothing is downloaded. --cuda=auto|on|off|emulated (or MT_CUDA) says whether CUDA kernels are built; emulated ones, for
// tests, go into build-emulated; --out=FOLDER chooses another. --archs=LIST (as CMake has them; "release" for all) says for which devices; without it,
// for the device of this machine, or as PTX 8.0 where there is none. MT_BUILD=gyp or cmake chooses; --force builds anyway.
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { cpus } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const require = createRequire(import.meta.url)
const option = (name) => process.argv.findLast((a) => a.startsWith(`--${name}=`))?.slice(name.length + 3)
const cuda = (option('cuda') ?? process.env.MT_CUDA ?? 'off').toUpperCase()
const folder = option('out') ?? (cuda === 'EMULATED' ? 'build-emulated' : 'build')
const addon = join(root, folder, 'Release', 'mtransllama.node')

/** When the newest of the addon's sources was written. */
function newest(path) {
  const s = statSync(path)
  return s.isDirectory() ? Math.max(0, ...readdirSync(path).map((f) => newest(join(path, f)))) : s.mtimeMs
}

function has(tool) {
  return spawnSync(tool, ['--version'], { stdio: 'ignore', shell: process.platform === 'win32' }).status === 0
}

/** The script behind a package's command, if the package is installed. */
function script(pkg, name) {
  try {
    const path = require.resolve(`${pkg}/package.json`, { paths: [root] })
    const { bin } = require(path)
    return join(dirname(path), typeof bin === 'string' ? bin : bin[name])
  } catch {
    return undefined
  }
}

/** node-gyp's header folder: Node's own headers where they are installed, so that it need not fetch them. */
function headers() {
  const prefix = dirname(dirname(process.execPath))
  return existsSync(join(prefix, 'include', 'node', 'node_api.h')) ? [`--nodedir=${prefix}`] : []
}

const released = '80-real;90-real;100-real;120-real;80-virtual'

/** The architectures to compile kernels for. */
function architectures() {
  const asked = option('archs') ?? process.env.MT_CUDA_ARCHS
  if (asked) return asked === 'release' ? released : asked
  const { status, stdout } = spawnSync('nvidia-smi', ['--query-gpu=compute_cap', '--format=csv,noheader'], { encoding: 'utf8' })
  const found = status === 0 ? [...new Set(stdout.match(/\d+\.\d/g))].map((c) => `${c.replace('.', '')}-real`) : []
  return found.length ? found.join(';') : '80-virtual'
}

function build() {
  const sources = ['native', 'CMakeLists.txt', 'binding.gyp'].map((f) => newest(join(root, f)))
  if (!process.argv.includes('--force') && existsSync(addon) && statSync(addon).mtimeMs > Math.max(...sources)) return 0
  const cmake = process.env.MT_BUILD ? process.env.MT_BUILD === 'cmake' : has('cmake')
  const jobs = Math.max(1, cpus().length)
  if (!cmake && (cuda === 'ON' || cuda === 'EMULATED')) {
    console.error(`mtransllama: CUDA kernels are built with CMake, and ${process.env.MT_BUILD ? `MT_BUILD=${process.env.MT_BUILD} asks for another` : 'cmake was not found'}; install cmake 3.25 or newer.`)
    return 1
  }
  const [file, args] = cmake
    ? [script('cmake-js', 'cmake-js'), ['compile', '--log-level', 'warn', '--parallel', String(jobs), '-O', folder, `--CDMT_CUDA=${cuda}`, ...(cuda === 'ON' || cuda === 'AUTO' ? [`--CDCMAKE_CUDA_ARCHITECTURES=${architectures()}`] : [])]]
    : [script('node-gyp', 'node-gyp') ?? process.env.npm_config_node_gyp, ['rebuild', '--silent', '--jobs', String(jobs), ...headers()]]
  if (!file) {
    console.error(`mtransllama: ${cmake ? 'cmake-js' : 'node-gyp'} is not installed; run "npm install", or "npm install node-gyp" where there is no cmake.`)
    return 1
  }
  console.error(`mtransllama: building the native addon with ${cmake ? 'CMake' : 'node-gyp'} (about a minute)`)
  const { status } = spawnSync(process.execPath, [file, ...args], { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] })
  if (status !== 0) console.error('mtransllama: the addon was not built. It needs a C++20 compiler (g++ 10 or newer, clang 12 or newer), make and python3 or cmake.')
  return status ?? 1
}

process.exitCode = build()
