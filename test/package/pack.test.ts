// The package as its users get it: packed with an addon for this platform, installed in an empty folder without running
// a script, type-checked under the strictest settings, run; then compiled there by node-gyp (the clone's own addon was
// built by CMake where that is found). Takes the time of one build; MT_TEST_PACKAGE=0 leaves it out.
import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../lib/native.js'
import { jsonLines, makeWorld, missing } from '../support/world.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const work = mkdtempSync(join(tmpdir(), 'mt-pack-'))
const [source, app, tools] = ['source', 'app', 'tools'].map((name) => join(work, name)) as [string, string, string]
const installed = join(app, 'node_modules', 'mtransllama')
const command = join(app, 'node_modules', '.bin', process.platform === 'win32' ? 'mtransllama.cmd' : 'mtransllama')
/** Where the package has the addon for this platform. */
const prebuild = `prebuilds/${process.platform}-${process.arch}/mtransllama.node`
test.after(() => rmSync(work, { recursive: true, force: true }))

function run(cwd: string, command: string, args: string[], env: Record<string, string> = {}): string {
  const { status, stdout, stderr } = spawnSync(command, args, {
    cwd,
    encoding: 'utf8',
    env: { ...process.env, ...env },
    timeout: 570_000,
    shell: process.platform === 'win32',
  })
  assert.is(status, 0, `${command} ${args.join(' ')}\n${stdout.slice(-3000)}\n${stderr.slice(-3000)}`)
  return stdout.trim()
}

test('npm pack: what is compiled, what is needed to compile the addon, and nothing else', () => {
  const files = run(root, 'git', ['ls-files', '--cached', '--others', '--exclude-standard'])
    .split('\n')
    .filter((file) => existsSync(join(root, file)))
  for (const file of files) {
    mkdirSync(dirname(join(source, file)), { recursive: true })
    cpSync(join(root, file), join(source, file))
  }
  symlinkSync(join(root, 'node_modules'), join(source, 'node_modules'), 'junction')
  // What scripts/prebuild.mjs made, or this clone's own addon in its place.
  const brought = existsSync(join(root, prebuild)) ? join(root, prebuild) : addon().path
  mkdirSync(dirname(join(source, prebuild)), { recursive: true })
  cpSync(brought, join(source, prebuild))
  const [packed] = JSON.parse(
    run(source, 'npm', ['pack', '--json', '--pack-destination', work]).replace(/^[^[{]*/, ''),
  ) as [{ files: { path: string }[]; size: number }]
  const paths = packed.files.map((f) => f.path)
  for (const needed of [
    'package.json',
    'README.md',
    'bin/mtransllama.mjs',
    ...['index', 'tensor', 'checkpoint'].flatMap((name) => [`dist/public/${name}.js`, `dist/public/${name}.d.ts`]),
    'dist/cli/main.js',
    'dist/server/page/index.html',
    'dist/report/page/report.html',
    'dist/node-api/node_api.h',
    'dist/node-api/napi.h',
    'dist/node-api/LICENSE.node-addon-api.md',
    'dist/node-api/LICENSE.node-api-headers.md',
    prebuild,
    'scripts/build.mjs',
    'scripts/node-api.mjs',
    'native/exports.map',
    'native/binding/registry.cc',
    'CMakeLists.txt',
    'binding.gyp',
  ])
    assert.ok(paths.includes(needed), `${needed} is packed`)
  for (const path of paths) assert.not.match(path, /(^|\/)(lib|test|bench|examples|node_modules|build)\/|\.test\./)
  assert.ok(packed.size < 25_000_000, `${packed.size} bytes`)
  const rest = packed.size - gzipSync(readFileSync(brought)).length
  assert.ok(rest < 2 << 20, `${rest} bytes beside the addon`)
  dependencies(paths)
})

/** Checks that what is declared as a dependency is what packed code imports, no less and no more, and that no script runs. */
function dependencies(paths: readonly string[]): void {
  const { dependencies, scripts, gypfile } = JSON.parse(readFileSync(join(source, 'package.json'), 'utf8')) as {
    dependencies: Record<string, string>
    scripts: Record<string, string>
    gypfile: boolean
  }
  assert.is(gypfile, false, 'npm would run node-gyp')
  for (const script of ['preinstall', 'install', 'postinstall']) assert.is(scripts[script], undefined, script)
  const used = new Map<string, string>()
  for (const path of paths.filter((path) => /^dist\/.*\.(m?js|d\.ts)$/.test(path))) {
    const imports = readFileSync(join(source, path), 'utf8').matchAll(
      /^(?:import|export)\b[^'"]*?\bfrom ['"]([^'"]+)['"]|^import ['"]([^'"]+)['"]|(?:\bimport|\)\.resolve)\(['"]([^'"]+)['"]\)/gm,
    )
    for (const [, from, bare, called] of imports) {
      const name = /^(?:@[^/]+\/)?[^./@][^/]*/.exec((from ?? bare ?? called)!)?.[0]
      // Sources alone, which are not packed, are run through tsx.
      if (name && name !== 'tsx' && !name.startsWith('node:')) used.set(name, path)
    }
  }
  const names = Object.keys(dependencies)
  assert.equal(
    [...used].filter(([name]) => !names.includes(name)),
    [],
    'not declared',
  )
  assert.equal(
    names.filter((name) => !used.has(name)),
    [],
    'not imported',
  )
  // Programs of the package import nothing.
  for (const path of paths.filter((path) => /^(bin|scripts)\//.test(path)))
    for (const [, from] of readFileSync(join(source, path), 'utf8').matchAll(/^import\b[^'"]*['"]([^'"]+)['"]/gm))
      assert.match(from!, /^(node:|\.)/, path)
}

test('npm install without scripts: the addon that the package brings is loaded', () => {
  mkdirSync(app)
  writeFileSync(join(app, 'package.json'), JSON.stringify({ name: 'app', private: true, type: 'module' }))
  const tarball = readdirSync(work).find((f) => f.endsWith('.tgz'))!
  const options = ['--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund']
  run(app, 'npm', ['install', ...options, join(work, tarball)])
  assert.ok(existsSync(join(installed, prebuild)))
  assert.not(existsSync(join(installed, 'build')))
  for (const tool of ['cmake-js', 'node-addon-api', 'node-api-headers', 'tsx'])
    assert.not(existsSync(join(app, 'node_modules', tool)), tool)
  const { checks } = JSON.parse(run(app, command, ['doctor', '--json'], { MT_ADDON: '' })) as {
    checks: { name: string; status: string; found: string }[]
  }
  const found = checks.find((c) => c.name === 'addon')!
  assert.equal([found.status, found.found], ['ok', join(installed, ...prebuild.split('/'))])
})

test('ask answers there', async () => {
  const reason = (await missing('node-av/lib')) ?? (await missing('sharp'))
  if (reason) return console.error(`test/package: asking a clip: skipped: ${reason}`)
  const world = await makeWorld()
  const clip = join(dirname(world.val), jsonLines(world.val)[0]!['video'] as string)
  const ask = ['ask', '--model', world.model, '--video', clip, '--prompt', 'what moves ?']
  const answer = run(app, command, ask, { MT_ADDON: '' })
  assert.is(answer, run(root, process.execPath, [join(root, 'bin', 'mtransllama.mjs'), ...ask]), 'as the clone does')
  assert.ok(answer.length > 0)
})

const program = `
import { evaluate, InputError, openModel, parseTrainConfig, train } from 'mtransllama'
import type { Adapter, AdapterConfig, Model, Sample, TrainConfig } from 'mtransllama'
import { planCheckpoint, type ModelConfig } from 'mtransllama/checkpoint'
import { backward, linear, memory, Random, scope, sumDim, sync, tensor, type Tensor } from 'mtransllama/tensor'

const loss: number = await scope(async () => {
  const w: Tensor = new Random(1).normal([3, 2]).requireGrad('w')
  const y = sumDim(linear(tensor([1, 2]), w), 0)
  backward(y)
  const gradient: ArrayLike<number | bigint> = await w.grad!.data()
  console.log(Array.from(gradient, Number).join())
  w.grad!.dispose()
  return y.item()
})
{
  using one = tensor([1])
  console.log(one.shape)
}
await sync()
const refused: unknown = await openModel('/nowhere').catch((e: unknown) => e)
const unread: unknown = await planCheckpoint('/nowhere').catch((e: unknown) => e)
console.log(Number.isFinite(loss), memory().tensors, refused instanceof InputError, unread instanceof InputError)
export async function answer(folder: string, adapter: string, samples: Sample[]): Promise<string> {
  using model: Model = await openModel(folder, { adapter, device: 'auto', precision: 'bfloat16' })
  let text = ''
  for await (const piece of model.ask({ video: 'clip.mp4', prompt: 'what moves?' }, { maxTokens: 8 })) text += piece
  for await (const { prediction, correct } of evaluate(model, samples, { batch: 4 })) text += \`\${prediction} \${correct}\`
  await model.loadAdapter(adapter)
  const config: AdapterConfig | undefined = model.adapter?.config
  return text + String(config?.frames)
}
export type Public = [Adapter, ModelConfig, TrainConfig, typeof parseTrainConfig, typeof train]
`
const strict = {
  target: 'es2022',
  module: 'nodenext',
  lib: ['es2023', 'esnext.disposable'],
  types: ['node'],
  outDir: 'out',
  strict: true,
  skipLibCheck: false,
  noUncheckedIndexedAccess: true,
  exactOptionalPropertyTypes: true,
  verbatimModuleSyntax: true,
  noPropertyAccessFromIndexSignature: true,
}

test('a program over the public names passes strict nodenext, libraries checked too, and runs', () => {
  writeFileSync(join(app, 'use.ts'), program)
  writeFileSync(join(app, 'tsconfig.json'), JSON.stringify({ compilerOptions: strict, include: ['use.ts'] }))
  cpSync(join(root, 'node_modules', '@types', 'node'), join(app, 'node_modules', '@types', 'node'), { recursive: true })
  cpSync(join(root, 'node_modules', 'undici-types'), join(app, 'node_modules', 'undici-types'), { recursive: true })
  run(app, process.execPath, [join(root, 'node_modules', 'typescript', 'bin', 'tsc'), '-p', '.'])
  assert.equal(run(app, process.execPath, [join('out', 'use.js')]).split('\n'), [
    '1,2,1,2,1,2',
    '[ 1 ]',
    'true 0 true true',
  ])
})

test('importing it loads no addon and starts no thread', () => {
  writeFileSync(
    join(app, 'alone.mjs'),
    `import { existsSync, readdirSync } from 'node:fs'
     const threads = () => (existsSync('/proc/self/task') ? readdirSync('/proc/self/task').length : 0)
     const addons = () => process.report.getReport().sharedObjects.filter((f) => f.endsWith('.node'))
     const before = threads()
     await import('mtransllama')
     await import('mtransllama/checkpoint')
     const { memory } = await import('mtransllama/tensor')
     console.log(threads() - before, addons().length)
     memory()
     console.log(addons().length)`,
  )
  assert.equal(run(app, process.execPath, ['alone.mjs']).split('\n'), ['0 0', '1'])
})

test('beside the three sub-paths nothing can be imported, and each has names of its own', () => {
  const paths = ['', '/tensor', '/checkpoint', '/dist/native.js', '/dist/session/model.js', '/lib/native.ts', '/public']
  writeFileSync(
    join(app, 'paths.mjs'),
    `const all = []
     for (const path of ${JSON.stringify(paths)})
       all.push(await import('mtransllama' + path).then((names) => Object.keys(names), (error) => error.code))
     console.log(JSON.stringify(all))`,
  )
  const [main, tensors, checkpoint, ...others] = JSON.parse(run(app, process.execPath, ['paths.mjs'])) as string[][]
  assert.equal(others, new Array(4).fill('ERR_PACKAGE_PATH_NOT_EXPORTED'))
  for (const [names, own] of [
    [main, 'openModel'],
    [tensors, 'attention'],
    [checkpoint, 'planCheckpoint'],
  ] as const)
    assert.equal(
      [main, tensors, checkpoint].map((all) => all!.includes(own)),
      [main, tensors, checkpoint].map((all) => all === names),
      own,
    )
  assert.ok(main!.length <= 25, `${main}`)
  for (const gone of [
    'loadModel',
    'openBundle',
    'openVideoModel',
    'loadAdapter',
    'ask',
    'videoCost',
    'ceiling',
    'fragments',
  ])
    assert.not([...main!, ...tensors!, ...checkpoint!].includes(gone), gone)
})

test('the command works where it is installed', () => {
  assert.match(run(app, command, ['--version']), /^\d+\.\d+\.\d+/)
  assert.match(run(app, command, ['--help']), /train/)
  assert.match(run(app, command, ['doctor']), /Training would work here/)
})

test('build compiles the addon from source, with node-gyp where there is no cmake, and it is used from then on', () => {
  mkdirSync(tools)
  // A cmake that cannot be run, found before any other.
  writeFileSync(join(tools, 'cmake'), '#!/bin/sh\nexit 127\n')
  chmodSync(join(tools, 'cmake'), 0o755)
  const env = { PATH: `${tools}${delimiter}${process.env.PATH}`, MT_BUILD: '', MT_ADDON: '' }
  const own = join(installed, 'build', 'Release', 'mtransllama.node')
  assert.ok(run(app, 'npm', ['exec', '--no', '--', 'mtransllama', 'build', '--cpu'], env).endsWith(own))
  assert.not(existsSync(join(installed, 'build', 'CMakeCache.txt')), 'by node-gyp')
  assert.match(run(app, command, ['doctor'], env), /Training would work here/)
})

test('in a clone the command runs what is compiled, unless the sources are newer', () => {
  const main = join(source, 'dist', 'cli', 'main.js')
  const version = (): string => run(source, process.execPath, [join('bin', 'mtransllama.mjs'), '--version'])
  assert.ok(existsSync(main), 'left by npm pack')
  writeFileSync(main, "console.log('compiled')\n")
  assert.is(version(), 'compiled')
  const later = statSync(main).mtimeMs / 1000 + 60
  utimesSync(join(source, 'lib', 'cli', 'main.ts'), later, later)
  assert.match(version(), /^\d+\.\d+\.\d+/)
})

if (process.env.MT_TEST_PACKAGE !== '0') test.run()
