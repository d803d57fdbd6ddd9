// How the CPU's matrix products are divided into tasks, from sizes alone: kernels/cpu/matmul_plan.cc, compiled alone.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test as plain } from 'uvu'
import * as assert from 'uvu/assert'

const root = fileURLToPath(new URL('../..', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'mt-matmul-plan-'))
const program = join(folder, 'plan')
const there = spawnSync('g++', ['--version']).status === 0
if (!there) console.error('test/native/matmul-plan: skipped, since there is no g++')
const test = there ? plain : plain.skip
plain.after(() => rmSync(folder, { recursive: true }))

interface Asked {
  m: number
  n: number
  k: number
  threads?: number
  tile?: [rows: number, columns: number, ofPairs?: number]
  dots?: boolean
  dtypes?: [left: string, right: string, result: string]
  packed?: boolean
  left?: [row: number, column: number]
}

/** The printed plan, and `ok` or the rule that it breaks. */
function plans(asked: Asked[]): { plan: string; kept: string }[] {
  const input = asked.map(
    ({
      m,
      n,
      k,
      threads = 4,
      tile = [14, 32],
      dots = false,
      dtypes = Array(3).fill('float32'),
      packed = false,
      left,
    }) =>
      [
        ...tile.slice(0, 2),
        tile[2] ?? 0,
        Number(dots),
        threads,
        m,
        n,
        k,
        ...dtypes,
        Number(packed),
        ...(left ?? [k, 1]),
      ].join(' '),
  )
  const { status, stdout, stderr } = spawnSync(program, { input: input.join('\n'), encoding: 'utf8' })
  assert.is(status, 0, stderr)
  const lines = stdout.trim().split('\n')
  assert.is(lines.length, 2 * asked.length)
  return asked.map((_, i) => ({ plan: lines[2 * i]!, kept: lines[2 * i + 1]! }))
}

test('compiles by itself', () => {
  const sources = ['test/native/matmul-plan/plan.cc', 'native/kernels/cpu/matmul_plan.cc']
  const { status, stderr } = spawnSync(
    'g++',
    ['-std=c++20', '-Wall', '-Wextra', '-Inative', ...sources, '-o', program],
    { cwd: root, encoding: 'utf8' },
  )
  assert.is(status, 0, stderr)
  assert.is(stderr, '')
})

test('every row and panel once, tiles of the machine, blocks of the cache: sizes of all kinds', () => {
  const sizes = [1, 2, 13, 14, 15, 47, 97, 257, 1000, 5000]
  const bf16: Asked['dtypes'] = ['bfloat16', 'bfloat16', 'bfloat16']
  const asked = sizes.flatMap((m) =>
    sizes.flatMap((k) =>
      [1, 33, 4096].flatMap((n): Asked[] => [
        { m, n, k },
        { m, n, k, threads: 1, packed: true },
        { m, n, k, threads: 64, tile: [6, 16], packed: true },
        { m, n, k, left: [1, m] },
        { m, n, k, dots: true, dtypes: bf16, packed: true },
        { m, n, k, tile: [14, 32, 32], dots: true, dtypes: bf16, packed: true },
        { m, n, k, tile: [14, 32, 32], dots: true, dtypes: bf16, left: [1, m] },
        { m, n, k, tile: [4, 8], dtypes: bf16, packed: true },
        { m, n, k, dtypes: ['float32', 'float16', 'bfloat16'], packed: true },
      ]),
    ),
  )
  const found = plans(asked)
  asked.forEach((a, i) => assert.is(found[i]!.kept, 'ok', `${JSON.stringify(a)}: ${found[i]!.plan}`))
})

test('plans of products that the models have', () => {
  const bf16: Asked['dtypes'] = ['bfloat16', 'bfloat16', 'bfloat16']
  const found = plans([
    { m: 1, n: 4096, k: 4096 },
    { m: 100, n: 4096, k: 4096, packed: true },
    { m: 1000, n: 4096, k: 4096 },
    { m: 1000, n: 768, k: 768, dots: true, dtypes: bf16, packed: true },
    { m: 768, n: 768, k: 1000, left: [1, 768] },
  ])
  assert.equal(
    found.map((f) => f.plan),
    [
      'dot products',
      [
        'float32, left factor copied by rows',
        '1 x 100 rows, strips of 13, 8 of 8 in a task',
        '128 panels, 5 in a task',
        '4096 words along k, 316 at a time',
        'panel by panel',
      ].join('; '),
      [
        'float32, left factor copied by rows',
        '1 x 1000 rows, strips of 14, 36 of 72 in a task',
        '128 panels, 8 in a task',
        '4096 words along k, 316 at a time',
      ].join('; '),
      [
        'bfloat16 in pairs, left factor lies',
        '1 x 1000 rows, strips of 14, 9 of 72 in a task',
        '24 panels, 8 in a task',
        '384 words along k, 192 at a time',
        'sums narrowed',
      ].join('; '),
      [
        'float32, left factor packed in strips',
        '1 x 768 rows, strips of 14, 7 of 55 in a task',
        '24 panels, 8 in a task',
        '1000 words along k, 250 at a time',
      ].join('; '),
    ],
  )
})

plain.run()
