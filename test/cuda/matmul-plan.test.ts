// How matrix products are divided among blocks, and whether cuBLASLt computes them, from sizes alone:
// kernels/cuda/matmul_plan.cc, compiled alone, for a device of 132 multiprocessors.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test as plain } from 'uvu'
import * as assert from 'uvu/assert'

const root = fileURLToPath(new URL('../..', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'mt-plan-'))
const program = join(folder, 'plan')
const there = spawnSync('g++', ['--version']).status === 0
if (!there) console.error('test/cuda/matmul-plan: skipped, since there is no g++')
const test = there ? plain : plain.skip

const usual = [2, 3, 4, 7] // blocks of each tile on a multiprocessor of sm_90, by registers and shared memory
type Extra = 'plain' | 'bias' | 'low-rank' | 'gelu'
interface Asked {
  m: number
  n: number
  k: number
  extra?: Extra
  processors?: number
  held?: number[]
}
interface Planned {
  tile: string
  pieces: number
  time: number
  way: string
}

function plans(asked: Asked[]): Planned[] {
  const input = asked
    .map(({ m, n, k, extra = 'plain', processors = 132, held = usual }) =>
      [processors, ...held, m, n, k, extra].join(' '),
    )
    .join('\n')
  const { status, stdout, stderr } = spawnSync(program, { input, encoding: 'utf8' })
  assert.is(status, 0, stderr)
  return stdout
    .trim()
    .split('\n')
    .map((line) => {
      const [, tile, pieces, time, way] = /^(\S+) in (\d+) pieces?, (\S+) us, (\S+)$/.exec(line)!
      return { tile: tile!, pieces: Number(pieces), time: Number(time), way: way! }
    })
}

test('compiles without CUDA', () => {
  const { status, stderr } = spawnSync(
    'g++',
    [
      '-std=c++20',
      '-Wall',
      '-Wextra',
      '-Inative',
      'test/cuda/matmul-plan/plan.cc',
      'native/kernels/cuda/matmul_plan.cc',
      '-o',
      program,
    ],
    { cwd: root, encoding: 'utf8' },
  )
  assert.is(status, 0, stderr)
})

// m, n, k; the tile and its pieces.
const table: [string, number, number, number, string, number][] = [
  ['LLaMA-7B, out', 384, 4096, 4096, '64x128', 1],
  ['LLaMA-7B, down', 384, 4096, 11008, '64x128', 2],
  ['LLaMA-7B, gradient through q, k and v', 384, 4096, 12288, '64x128', 2],
  ['LLaMA-7B, q, k and v', 384, 12288, 4096, '64x128', 1],
  ['LLaMA-7B, gate and up', 384, 22016, 4096, '128x128', 1],
  ['LLaMA-7B, the head', 384, 32000, 4096, '128x128', 1],
  ['a few rows of LLaMA-7B', 16, 4096, 4096, '16x128', 8],
  ['Q-Former, 32 frames', 2048, 768, 768, '64x128', 1],
  ['Q-Former, 16 frames', 1024, 768, 768, '64x32', 1],
  ['Q-Former, down', 2048, 768, 3072, '64x128', 1],
  ['ViT-g, 32 frames', 8224, 4224, 1408, '128x128', 1],
  ['down to a rank of 16', 2048, 16, 768, '64x32', 1],
  ['gradient of A', 16, 768, 2048, '16x128', 6],
  ['gradient of B', 768, 16, 2048, '64x32', 6],
]
test('the table of tiles and pieces', () => {
  const found = plans(table.map(([, m, n, k]) => ({ m, n, k })))
  assert.equal(
    found.map(({ tile, pieces }, i) => [table[i]![0], tile, pieces]),
    table.map(([name, , , , tile, pieces]) => [name, tile, pieces]),
  )
})

test('a block that is alone on its multiprocessor is slow: 96 blocks of 128x128 are not what 384 rows become', () => {
  for (const k of [4096, 11008]) {
    const [one] = plans([{ m: 384, n: 4096, k, held: [1, 1, 1, 1] }])
    const [best] = plans([{ m: 384, n: 4096, k }])
    assert.is(one!.tile, '128x128')
    assert.ok(Math.abs(one!.time - (128 * 128 * k) / 1.8e6 / 0.65) < 0.01 || one!.pieces > 1, `${one!.time}`)
    assert.ok(best!.time < 0.8 * one!.time, `${best!.time} and ${one!.time}`)
  }
})

test('what decides: no plan beats the rate of the machine, more multiprocessors are hardly slower, empty sums cost nothing', () => {
  const asked = [1, 9, 40, 384, 1000, 8224].flatMap((m) =>
    [8, 100, 768, 4096].flatMap((n) => [1, 33, 768, 11008].map((k) => ({ m, n, k }))),
  )
  const [few, many] = [plans(asked), plans(asked.map((a) => ({ ...a, processors: 264 })))]
  asked.forEach(({ m, n, k }, i) => {
    const what = `${m} ${n} ${k}`
    assert.ok(few[i]!.time >= (m * n * k) / 1.8e6 / 132 - 1e-6, what)
    assert.ok(many[i]!.time <= few[i]!.time / 0.9 + 1e-6, what) // a split that gains less than a tenth is not used
    assert.ok(few[i]!.pieces <= 32 && few[i]!.pieces <= Math.max(1, Math.ceil(k / 32)), what)
  })
  assert.equal(
    plans([{ m: 384, n: 4096, k: 0 }]).map(({ pieces, time }) => [pieces, time]),
    [[1, 0]],
  )
})

test('cuBLASLt computes what is plain, and the rest where its rate makes up for a launch more', () => {
  const ways = (list: [number, number, number, Extra][]): string[] =>
    plans(list.map(([m, n, k, extra]) => ({ m, n, k, extra }))).map(({ way }) => way)
  assert.equal(
    ways([
      [384, 4096, 4096, 'plain'],
      [16, 64, 64, 'plain'],
      [8224, 4224, 1408, 'bias'],
      [64, 64, 64, 'bias'],
    ]),
    ['direct', 'direct', 'direct', 'own'],
  )
  // Low-rank updates of the Q-Former: of the image's keys and values, of its own.
  assert.equal(
    ways([
      [8224, 768, 1408, 'low-rank'],
      [2048, 768, 768, 'low-rank'],
    ]),
    ['onto', 'own'],
  )
  assert.equal(
    ways([
      [8224, 6144, 1408, 'gelu'],
      [2048, 3072, 768, 'gelu'],
    ]),
    ['sums', 'own'],
  )
})

plain.after(() => rmSync(folder, { recursive: true, force: true }))
plain.run()
