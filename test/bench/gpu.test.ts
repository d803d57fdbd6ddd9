// bench/gpu/all.sh where there is no GPU: every stage says why it cannot run, the script ends well and its result is valid.
// On the addon whose CUDA kernels run on the CPU the stages really run, at tiny sizes. No time is checked.
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { z } from 'zod'
import { Random } from '../../lib/ops/random.js'
import { scope } from '../../lib/tensor/scope.js'
import { streams } from '../../bench/gpu/inputs.js'
import { emulated } from '../cuda/emulated.js'
import { temporaryFolder } from '../support/tiny.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const json = (path: string): any => JSON.parse(readFileSync(path, 'utf8'))
const schema = z.fromJSONSchema(json(join(root, 'bench', 'gpu', 'schema.json')))
const has = (tool: string): boolean => !spawnSync(tool, ['--version']).error

/** Runs the script; its result and the lines of its table. */
function all(env: Record<string, string>): { stages: Record<string, any>; lines: string[] } {
  const out = temporaryFolder('gpu')
  const { status, stdout, stderr } = spawnSync('bash', [join(root, 'bench', 'gpu', 'all.sh'), '--quick', '--name', 'A "test"\\', '--out', out], { encoding: 'utf8', env: { ...process.env, ...env } })
  assert.is(status, 0, stderr)
  const [file, ...more] = readdirSync(out)
  assert.match(file!, /^gpu-a-test-\d{4}-\d\d-\d\d\.json$/)
  assert.equal(more, [])
  assert.is(stdout.trim().split('\n').at(-1), join(out, file!))
  const result = json(join(out, file!))
  assert.ok(schema.parse(result))
  return { stages: result.stages, lines: stdout.trim().split('\n').slice(0, -1) }
}

const unix = process.platform !== 'win32' && has('bash') && has('timeout') ? test : test.skip

unix('without a GPU every stage is unavailable and says why; without Node as well', () => {
  const addon = process.env.MT_ADDON ?? join(root, 'build', 'Release', 'mtransllama.node')
  if (existsSync(addon)) {
    const { stages, lines } = all({ MT_ADDON: addon, MT_PEERS_DEVICE: 'cuda' })
    const { devices } = stages.build.result.devices.cuda
    assert.ok(stages.machine.result.node.startsWith('v'))
    if (!devices.length) for (const name of ['build', 'ceilings', 'tests', 'sanitizer', 'kernels', 'node']) {
      assert.is(stages[name].status, 'unavailable', name)
      assert.ok(stages[name].reason.length > 10, name)
    }
    assert.ok(lines.length <= 60)
  }
  const { stages } = all({ MT_NODE: '/nowhere/node' })
  for (const name of ['build', 'ceilings', 'tests', 'sanitizer', 'kernels', 'node', 'table']) assert.equal([stages[name].status, stages[name].reason], ['unavailable', '/nowhere/node does not run'])
})

;(emulated ? unix : test.skip)('on the emulator the stages run: kernels, whole models, tests, the table', () => {
  const { stages, lines } = all({ MT_ADDON: emulated!, MT_PEERS_DEVICE: 'cuda' })
  for (const name of ['build', 'ceilings', 'tests', 'kernels', 'node', 'table']) assert.is(stages[name].status, 'ok', `${name}: ${stages[name].reason}`)
  assert.ok(stages.kernels.result.emulated)
  const wanted = json(join(root, 'bench', 'gpu', 'shapes.json')).quick.flatMap((item: any) => (item.passes ?? ['forward', 'backward']).map((pass: string) => `${item.id} ${pass}`))
  assert.equal(stages.kernels.result.rows.map((r: any) => r.id), wanted)
  for (const row of stages.kernels.result.rows) {
    assert.is(row.status, 'ok', `${row.id}: ${row.reason}`)
    for (const { at, rms } of row.digest) assert.ok(rms > 0 && at.every(Number.isFinite), row.id)
  }
  assert.ok(lines[0]!.includes('EMULATED') && lines.length <= 60)
})

test('shapes.json: ids are not used twice, tiny forms of every kind, and streams of inputs the peers know', () => {
  const { items, quick } = json(join(root, 'bench', 'gpu', 'shapes.json'))
  for (const list of [items, quick]) assert.is(new Set(list.map((i: any) => i.id)).size, list.length)
  assert.equal([...new Set(quick.map((i: any) => i.kind))].sort(), [...new Set(items.map((i: any) => i.kind))].sort())
  const [, listed] = /^STREAMS = (\[.*\])/m.exec(readFileSync(join(root, 'bench', 'peers', 'common.py'), 'utf8'))!
  assert.equal(JSON.parse(listed!), [...streams])
})

test('the stage of tests names files that there are', () => {
  const named = [...readFileSync(join(root, 'bench', 'gpu', 'tests.mjs'), 'utf8').matchAll(/\['(test\/\w+)', String\.raw`\^([\w-]+)\\\.test/g)].map(([, folder, name]) => `${folder}/${name}.test.ts`)
  assert.ok(named.length >= 5)
  for (const file of named) assert.ok(existsSync(join(root, file)), file)
})

;(has('python3') ? test : test.skip)('the peers draw the numbers that the addon draws', () => {
  const libraries = ['python', ...(spawnSync('python3', ['-c', 'import numpy']).status === 0 ? ['numpy'] : [])]
  for (const [seed, stream, count] of [[7, 3, 9], [3698885304, 0, 1030]] as const) {
    const draw = (kind: 'normal' | 'uniform'): number[] => scope(() => {
      const r = new Random(seed)
      for (let i = 0; i < stream; i++) r.uniform([1])
      return [...(kind === 'normal' ? r.normal([count]) : r.uniform([count], -3, 5)).dataBlocking() as Float32Array]
    })
    for (const library of libraries) {
      const { status, stdout, stderr } = spawnSync('python3', [join(root, 'bench', 'peers', 'common.py'), `${seed}`, `${stream}`, `${count}`, library], { encoding: 'utf8' })
      assert.is(status, 0, stderr)
      const given = JSON.parse(stdout)
      assert.equal(given.uniform, draw('uniform'), library)
      // log, sin and cos of another library may round otherwise.
      draw('normal').forEach((x, i) => assert.ok(Math.abs(x - given.normal[i]) <= 2 ** -22 * Math.max(1, Math.abs(x)), `${library}: number ${i} is ${given.normal[i]}, not ${x}`))
    }
  }
})

test.run()
