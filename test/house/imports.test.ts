// The arrows of the house, read from its import lines: every room imports from rooms below it alone.
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'

const root = fileURLToPath(new URL('../..', import.meta.url))

/**
 * What a room of lib may import besides itself. A file listed by its own name is a room: models/config knows the shape
 * of a checkpoint and nothing else, so that whoever reads files may know it too; models/load is where files become a
 * model.
 */
const below: Record<string, string[]> = {
  errors: [],
  native: ['errors'],
  files: ['errors'],
  json: ['errors', 'files'],
  schema: ['errors'],
  tensor: ['native', 'errors'],
  ops: ['tensor', 'native', 'errors'],
  nn: ['ops', 'tensor', 'errors'],
  'models/config': ['errors', 'json', 'files', 'schema'],
  models: ['nn', 'ops', 'tensor', 'errors', 'json', 'files', 'models/config'],
  weights: ['models/config', 'ops', 'tensor', 'native', 'errors', 'json', 'files'],
  'models/load': ['models', 'models/config', 'weights', 'tensor', 'errors'],
  text: ['models/config', 'errors', 'json', 'files'],
  // Of weights, the container format and the way to write a file whole: never tensors, never the addon.
  data: ['weights/safetensors', 'weights/atomic', 'errors', 'json', 'files', 'schema'],
  adapter: [
    'models',
    'models/config',
    'models/load',
    'weights',
    'nn',
    'ops',
    'tensor',
    'errors',
    'json',
    'files',
    'schema',
  ],
  eval: [
    'adapter',
    'models',
    'models/config',
    'models/load',
    'weights',
    'data',
    'text',
    'ops',
    'tensor',
    'errors',
    'json',
    'files',
    'schema',
  ],
  train: [
    'eval',
    'adapter',
    'models',
    'models/config',
    'models/load',
    'weights',
    'data',
    'text',
    'ops',
    'tensor',
    'errors',
    'json',
    'files',
    'schema',
  ],
  report: ['errors', 'json', 'files', 'schema'],
  cli: [
    'report',
    'train',
    'eval',
    'adapter',
    'models',
    'models/config',
    'models/load',
    'weights',
    'data',
    'text',
    'ops',
    'tensor',
    'errors',
    'json',
    'files',
    'schema',
  ],
}
below['index'] = Object.keys(below)

function* files(folder: string, ending: RegExp): Generator<string> {
  for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) yield* files(path, ending)
    else if (ending.test(entry.name)) yield path
  }
}

/** The project's own files that a TypeScript file imports. */
function imports(path: string): string[] {
  const found = readFileSync(join(root, path), 'utf8').matchAll(
    /(?:^|\n)(?:import|export)\b[^;'"]*?from '(\.[^']+)'|\bimport\('(\.[^']+)'\)/g,
  )
  return [...found].map(([, from, lazy]) => normalize(join(dirname(path), (from ?? lazy)!)).replace(/\.js$/, '.ts'))
}

function room(path: string): string {
  const name = relative('lib', path).replace(/\.ts$/, '')
  return name in below ? name : name.split('/')[0]!
}
function allowed(from: string, target: string): boolean {
  const [a, b] = [room(from), room(target)]
  return a === b || below[a]!.includes(b) || below[a]!.includes(relative('lib', target).replace(/\.ts$/, ''))
}

test('the table itself has no arrow up: each room comes after those it imports', () => {
  const order = Object.keys(below)
  for (const [name, others] of Object.entries(below))
    for (const other of others)
      assert.ok(
        order.indexOf(other.startsWith('weights/') ? 'weights' : other) < order.indexOf(name),
        `${name} before ${other}`,
      )
})

test('every room of lib is in the table, and imports what the table says', () => {
  const wrong: string[] = []
  let seen = 0
  for (const path of files('lib', /\.ts$/)) {
    if (!(room(path) in below)) wrong.push(`${path}: a room that this table does not know`)
    for (const target of imports(path)) {
      seen++
      if (!target.startsWith('lib/')) wrong.push(`${path} imports ${target}, outside lib`)
      else if (room(path) in below && !allowed(path, target))
        wrong.push(`${path} imports ${target}: ${room(path)} may import ${below[room(path)]!.join(', ')}`)
    }
  }
  assert.ok(seen > 100)
  assert.equal(wrong, [])
})

test('the oracle imports nothing of lib', () => {
  for (const path of files('test/oracle', /(?<!\.test)\.ts$/))
    for (const target of imports(path)) assert.ok(target.startsWith('test/oracle/'), `${path} imports ${target}`)
})

test('native: core knows no room, kernels core and the emulator alone, operators each other never, and N-API stays in binding', () => {
  const may: Record<string, RegExp> = {
    core: /^core\//,
    emulator: /^(core|emulator)\//,
    kernels: /^(core|kernels|emulator)\//,
    ops: /^(core|kernels)\//,
    binding: /^(core|kernels|ops|binding)\//,
  }
  let seen = 0
  for (const path of files('native', /\.(cc|h|cu)$/)) {
    const [, name, file] = /^native\/(\w+)\/(.*)$/.exec(path.replaceAll('\\', '/'))!
    const own = `${name}/${file!.replace(/\.\w+$/, '.h')}`
    for (const [, mark, header] of readFileSync(join(root, path), 'utf8').matchAll(
      /^\s*#include\s+(["<])([^">]+)[">]/gm,
    )) {
      seen++
      if (mark === '<')
        assert.ok(name === 'binding' || !/napi|node_api|uv\.h|v8/.test(header!), `${path} includes <${header}>`)
      else assert.ok(may[name!]!.test(header!) || header === own, `${path} includes "${header}"`)
    }
  }
  assert.ok(seen > 50)
})

test.run()
