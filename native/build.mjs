// Builds the addon if its sources are newer than it: with CMake where cmake is found, else with node-gyp.
// Nothing is downloaded. MT_BUILD=gyp or MT_BUILD=cmake chooses; --force builds in any case.
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { cpus } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const require = createRequire(import.meta.url)
const addon = join(root, 'build', 'Release', 'mtransllama.node')

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

function build() {
  const sources = ['native', 'CMakeLists.txt', 'binding.gyp'].map((f) => newest(join(root, f)))
  if (!process.argv.includes('--force') && existsSync(addon) && statSync(addon).mtimeMs > Math.max(...sources)) return 0
  const cmake = process.env.MT_BUILD ? process.env.MT_BUILD === 'cmake' : has('cmake')
  const jobs = Math.max(1, cpus().length)
  const [file, args] = cmake
    ? [script('cmake-js', 'cmake-js'), ['compile', '--log-level', 'warn', '--parallel', String(jobs), `--CDMT_CUDA=${process.env.MT_CUDA ?? 'OFF'}`]]
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
