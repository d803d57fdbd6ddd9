// How attention is divided into blocks, by the functions that the launches call (native/kernels/cuda/attention_plan.h).
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test as plain } from 'uvu'
import * as assert from 'uvu/assert'

const root = fileURLToPath(new URL('../..', import.meta.url))
const there = spawnSync('g++', ['--version']).status === 0
if (!there) console.error('test/cuda/attention-plan: skipped, since there is no g++')
const test = there ? plain : plain.skip

const names = [
  'units',
  'nq',
  'nk',
  'd',
  'masks',
  'beside',
  'warps',
  'rows',
  'blocks',
  'splits',
  'span',
  'bytes',
  'grid',
  'stages',
] as const
type Plan = Record<(typeof names)[number], number>

/** Plans on a device of 132 multiprocessors with 227 KiB of shared memory for a block. */
function plans(): Plan[] {
  const folder = mkdtempSync(join(tmpdir(), 'mt-plan-'))
  try {
    const program = join(folder, 'plan')
    const built = spawnSync('g++', ['-std=c++20', '-Inative', 'test/cuda/attention-plan.cc', '-o', program], {
      cwd: root,
      encoding: 'utf8',
    })
    assert.is(built.status, 0, built.stderr)
    return spawnSync(program, { encoding: 'utf8' })
      .stdout.trim()
      .split('\n')
      .map((line) => {
        const values = line.split(' ').map(Number)
        return Object.fromEntries(names.map((name, i) => [name, values[i]])) as Plan
      })
  } finally {
    rmSync(folder, { recursive: true })
  }
}

test('decoding keeps tensor cores at every number of keys, and fills what the card has', () => {
  const all = plans()
  const plain = all.filter((p) => !p.masks)
  assert.ok(all.length > 1000)
  for (const p of all.filter((p) => p.beside))
    assert.ok(
      p.bytes <= 227 << 10 && p.span * p.splits >= p.nk && p.span * (p.splits - 1) < p.nk && p.rows % 16 === 0,
      JSON.stringify(p),
    )
  for (const p of plain) {
    assert.ok(p.beside >= 1, `without masks, any number of keys fits: ${JSON.stringify(p)}`)
    // Units share a block only where every multiprocessor still gets one.
    if (p.beside > 1) assert.ok(p.grid >= 132, JSON.stringify(p))
    assert.ok(p.splits === 1 || (p.nq <= 16 && p.grid <= 132 && p.span >= 48), JSON.stringify(p))
  }
  const of = (units: number, nk: number, d: number): Plan =>
    plain.find((p) => p.units === units && p.nq === 1 && p.nk === nk && p.d === d)!
  for (const d of [64, 80, 96, 128]) {
    // One sample of LLaMA-7B: 32 heads, each with four blocks as soon as there are enough keys.
    assert.equal(
      [97, 160, 193, 1000].map((nk) => of(32, nk, d).grid),
      [32, 64, 96, 128],
    )
    assert.equal(
      [97, 160, 193, 1000].map((nk) => of(128, nk, d).splits),
      [1, 1, 1, 1],
    )
  }
  assert.is(of(1, 4096, 128).splits, 64)
  // Mode attention needs all keys in shared memory, which may not hold them.
  assert.ok(all.some((p) => p.masks && !p.beside) && all.some((p) => p.masks && p.nk === 257 && p.d === 64 && p.beside))
})

test('a block that is alone on its multiprocessor fetches the next keys while it computes', () => {
  const all = plans()
  const of = (nq: number, nk: number, d: number, masks = 0): Plan =>
    all.find((p) => p.units === 128 && p.nq === nq && p.nk === nk && p.d === d && p.masks === masks)!
  assert.equal(
    [of(200, 257, 64), of(200, 1000, 64), of(200, 4096, 128)].map((p) => p.stages),
    [2, 2, 2],
  )
  assert.is(of(200, 160, 64).stages, 1, 'there is no second segment')
  assert.is(of(40, 257, 64).stages, 1, 'a block of few warps has neighbours')
  assert.is(of(200, 257, 64, 1).stages, 1, 'mode attention holds all keys')
})

plain.run()
