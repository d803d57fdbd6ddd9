// npm run bench: every suite runs at its smallest size and its result fits the schema; peers are compared before they
// are timed; the committed page is what the committed result gives. No time is checked.
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { z } from 'zod'
import { Bench, compared } from '../../bench/bench.js'
import { svgs } from '../../bench/charts.js'
import { ratios, tableSix } from '../../bench/compare.js'
import { asked, goals } from '../../bench/goals.js'
import { difference, inTurn, own, ratio, spread, type Contender } from '../../bench/harness.js'
import { openOpponents, type Peer, type PeerCase } from '../../bench/opponents.js'
import { benchJsonSchema, Result, type Row } from '../../bench/record.js'
import { Footnotes, line } from '../../bench/table.js'
import { newest, page } from '../../scripts/docs/benchmarks.js'
import { native } from '../../lib/native.js'
import type { ChromeTrace } from '../../lib/tensor/profile.js'
import { threads } from '../../lib/tensor/runtime.js'
import { readAsFloat32, readHeader } from '../../lib/files/safetensors.js'
import { emulated } from '../cuda/emulated.js'
import { bytes, settled } from '../support/memory.js'
import { temporaryFolder } from '../support/tiny.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const read = (path: string): string => readFileSync(join(root, path), 'utf8')
const schema = z.fromJSONSchema(JSON.parse(read('bench/schema.json')))

function bench(
  args: string[],
  env: Record<string, string> = {},
): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, ['--import', 'tsx', join(root, 'bench', 'main.ts'), ...args], {
    encoding: 'utf8',
    cwd: root,
    env: { ...process.env, ...env },
  })
}

test('bench/schema.json is what the code says', () =>
  assert.equal(JSON.parse(read('bench/schema.json')), benchJsonSchema()))

test('every suite runs at its smallest size; the result fits the schema and makes a page', async () => {
  const out = join(temporaryFolder('bench'), 'new', 'result.json')
  const { status, stdout, stderr } = bench(['--quick', '--peers', 'none', '--out', out])
  assert.is(status, 0, `${stdout.slice(-2000)}${stderr}`)
  const json: unknown = JSON.parse(readFileSync(out, 'utf8'))
  assert.ok(schema.parse(json))
  const result = Result.parse(json)
  assert.equal(result.failures, [])
  assert.equal(
    [...new Set(result.rows.map((r) => r.suite))],
    ['attention', 'swap', 'lora', 'block', 'qformer', 'step', 'decode', 'load', 'calls'],
  )
  const keys = result.rows.map((r) => `${r.id} ${r.pass} ${r.dtype}`)
  assert.is(new Set(keys).size, keys.length, 'no case twice')
  for (const r of result.rows) {
    assert.ok(r.us.p10 <= r.us.median && r.us.median <= r.us.p90, r.id)
    assert.is(r.floorUs !== undefined, r.bound !== 'none', r.id)
    // Other ways through the project give the same results.
    for (const p of r.peers) assert.is(p.unavailable, undefined, `${r.id}: ${p.name}`)
  }
  for (const suite of ['swap', 'lora'])
    assert.ok(
      result.rows
        .filter((r) => r.suite === suite)
        .every((r) => r.peers.some((p) => p.ratio! > 0 && p.difference! <= p.limit!)),
    )
  const names = result.ceilings.map((c) => c.name)
  for (const name of ['float32', 'read', 'readSmallPages', 'copy'] as const) assert.ok(names.includes(name))
  const charts = await svgs(result)
  assert.ok(charts.has('ratios') && charts.has('shares'))
  const text = page({ result, file: 'result.json' }, charts.keys())
  for (const r of result.rows) assert.ok(text.includes(r.id), r.id)
  assert.not.match(text, /undefined|NaN|\[object/)
})

;(emulated ? test : test.skip)('on the emulator the same suites run on a CUDA device', () => {
  const out = join(temporaryFolder('bench'), 'result.json')
  const { status, stdout, stderr } = bench(['--quick', '--device', 'cuda', '--dtype', 'bfloat16', '--out', out], {
    MT_ADDON: emulated!,
  })
  assert.is(status, 0, `${stdout.slice(-2000)}${stderr}`)
  const result = Result.parse(JSON.parse(readFileSync(out, 'utf8')))
  assert.equal([result.failures, result.ceilings, result.goals], [[], [], []])
  assert.match(result.device, /^cuda:0, /)
  assert.is(new Set(result.rows.map((r) => r.suite)).size, 9)
  assert.ok(result.rows.every((r) => r.floorUs === undefined && r.peers.every((p) => p.kind === 'own')))
})

test('docs/benchmarks.md and its charts are what the committed result gives', async () => {
  const found = newest()!
  assert.ok(schema.parse(JSON.parse(read(`bench/results/${found.file}`))))
  const charts = await svgs(found.result)
  assert.is(read('docs/benchmarks.md'), page(found, charts.keys()))
  assert.equal(
    readdirSync(join(root, 'docs', 'benchmarks')).sort(),
    [...charts.keys()].map((name) => `${name}.svg`).sort(),
  )
  for (const [name, svg] of charts) assert.is(read(`docs/benchmarks/${name}.svg`), svg, name)
})

test('--profile: the table and the trace name the same operators as often, and the result is written too', () => {
  const folder = temporaryFolder('bench')
  const [trace, out] = [join(folder, 'trace.json'), join(folder, 'result.json')]
  const { status, stdout, stderr } = bench([
    'lora',
    '--quick',
    '--peers',
    'none',
    '--dtype',
    'float32',
    '--profile',
    trace,
    '--out',
    out,
  ])
  assert.is(status, 0, `${stdout.slice(-2000)}${stderr}`)
  assert.equal(Result.parse(JSON.parse(readFileSync(out, 'utf8'))).suites, ['lora'])
  const counted = new Map<string, number>()
  for (const e of (JSON.parse(readFileSync(trace, 'utf8')) as ChromeTrace).traceEvents)
    if (e.ph === 'X') counted.set(e.name, (counted.get(e.name) ?? 0) + 1)
  for (const name of ['lora_forward', 'lora_backward', 'linear_forward']) assert.ok(counted.has(name), name)
  const lines = stdout.split('\n')
  const [head, sum] = [lines.findIndex((l) => l.startsWith('operator ')), lines.findIndex((l) => l.startsWith('all '))]
  assert.equal(
    new Map(
      lines
        .slice(head + 1, sum)
        .map((l) => l.split(/ +/))
        .map(([name, n]) => [name!, Number(n)]),
    ),
    counted,
  )
  assert.ok(lines.includes(`trace, for chrome://tracing or ui.perfetto.dev: ${trace}`))
})

test('a wrong option is one sentence', () => {
  for (const [args, say] of [
    [['atention'], /suite: expected attention.*did you mean attention\?/],
    [['--dtype', 'float64'], /--dtype: expected float32, bfloat16, mixed or all/],
    [['--clock', 'sun'], /--clock: expected wall or cpu/],
    [['--threads', '0'], /--threads: expected a whole number/],
    [['--profile', root], /--profile: expected a file that can be written/],
  ] as [string[], RegExp][]) {
    const { status, stderr } = bench(args)
    assert.is(status, 1)
    assert.match(stderr, say)
    assert.is(stderr.trim().split('\n').length, 1, stderr)
  }
})

// ---- peers ----

/** Attention in space and in time by the formula, in float64. */
async function naive({ sizes: { T, L, heads }, tensors }: PeerCase): Promise<Record<string, Float32Array>> {
  const header = await readHeader(tensors)
  const [q, k, v] = await Promise.all(['q', 'k', 'v'].map((name) => readAsFloat32(header, name)))
  const [tokens, D] = [T * L, heads * 64]
  const among = (sees: (i: number, j: number) => boolean): Float32Array => {
    const y = new Float32Array(tokens * D)
    for (let h = 0; h < heads; h++)
      for (let i = 0; i < tokens; i++) {
        const keys = Array.from({ length: tokens }, (_, j) => j).filter((j) => sees(i, j))
        const e = keys.map((j) =>
          Math.exp(
            Array.from({ length: 64 }, (_, d) => q![i * D + h * 64 + d]! * k![j * D + h * 64 + d]!).reduce(
              (a, b) => a + b,
            ) / 8,
          ),
        )
        const sum = e.reduce((a, b) => a + b)
        for (let d = 0; d < 64; d++)
          y[i * D + h * 64 + d] = keys.reduce((s, j, n) => s + (e[n]! / sum) * v![j * D + h * 64 + d]!, 0)
      }
    return y
  }
  return {
    space: among((i, j) => Math.floor(i / L) === Math.floor(j / L)),
    time: among((i, j) => i % L === j % L),
    joint: among(() => true),
  }
}

function fake(
  name: string,
  change: (outputs: Record<string, Float32Array>) => Record<string, Float32Array>,
): Peer & { log: string[] } {
  const log: string[] = []
  return {
    name,
    version: '1',
    details: {},
    log,
    async prepare(c) {
      log.push(`prepare ${c.id}`)
      return c.kind === 'core' && c.pass === 'forward'
        ? { outputs: change(await naive(c)) }
        : { unavailable: 'it knows forward alone' }
    },
    sample: async (c) => (log.push(`sample ${c.id}`), [7, 5, 6]),
    peak: async () => undefined,
    forget: async (c) => void log.push(`forget ${c.id}`),
    close: async () => {},
  }
}

test('a peer gets a ratio where its results equal ours; otherwise the reason is given', async () => {
  const right = fake('right', (o) => o)
  const wrong = fake('wrong', (o) =>
    Object.fromEntries(Object.entries(o).map(([name, y]) => [name, y.map((x, i) => (i === 0 ? x : 1.001 * x))])),
  )
  const silent = fake('silent', () => ({}))
  const suite = new Bench({
    device: 'cpu',
    dtypes: ['float32'],
    threads: 1,
    selection: 'quick',
    opponents: { peers: [right, wrong, silent], missing: [] },
  })
  suite.suite = 'attention'
  const start = await settled()
  await (await import('../../bench/suites/attention.js')).run(suite)
  assert.is(await bytes(), start)
  suite.files.dispose()
  const rows = suite.rows.filter((r) => r.sizes.K === 0)
  assert.is(rows.length, 4)
  for (const row of rows) {
    const [a, b, c] = row.peers
    if (row.pass === 'forward') {
      assert.ok(a!.difference! < 1e-6 && a!.us!.median === 6 && Math.abs(a!.ratio! - 6 / row.us.median) < 1e-12, row.id)
      assert.is(b!.ratio, undefined)
      assert.match(b!.unavailable!, /differs from ours by \d\.\de-[34], more than 0\.0001: no ratio is given/)
      assert.is(c!.difference, null)
      assert.match(c!.unavailable!, /no ratio/)
    } else for (const p of row.peers) assert.equal([p.ratio, p.unavailable], [undefined, 'it knows forward alone'])
  }
  assert.is(right.log.filter((l) => l.startsWith('forget')).length, 2)
  assert.not(wrong.log.some((l) => l.startsWith('sample')))
  assert.ok(suite.rows.filter((r) => r.sizes.K !== 0).every((r) => r.peers.length === 0))
})

test('the reason for a missing ratio is printed once, below the lines that refer to it', () => {
  const notes = new Footnotes()
  const without = (name: string, unavailable: string): Row['peers'][number] => ({ name, kind: 'peer', unavailable })
  const long = `it cannot ${'x'.repeat(100)}`
  assert.match(
    line(
      row('a', 1, { peers: [without('p', long), { name: 'r', kind: 'peer', ratio: 2 }, without('q', 'no')] }),
      notes,
    ),
    /p \[1\] · r ×2\.00 · q \[2\]$/,
  )
  assert.match(line(row('b', 1, { peers: [without('q', long)] }), notes), /q \[1\]$/)
  assert.equal(notes.take(), [`[1] ${long}`, '[2] no'])
  assert.match(line(row('c', 1, { peers: [without('q', 'no')] }), notes), /q \[1\]$/)
  assert.equal(notes.take(), ['[1] no'])
})

test('limits: 1e-4 in float32, more where bfloat16 is involved, gradients most', () => {
  const [y, near] = [new Float32Array([1, 2]), new Float32Array([1, 2.01])]
  assert.match(compared({ y: near }, { y }, ['float32', 'float32']).unavailable!, /differs/)
  assert.is(compared({ y: near }, { y }, ['float32', 'bfloat16']).unavailable, undefined)
  const far = new Float32Array([1, 2.09])
  assert.match(compared({ y: far }, { y }, ['bfloat16']).unavailable!, /its y differs/)
  assert.is(compared({ dx: far }, { dx: y }, ['bfloat16']).unavailable, undefined)
  const [small, off] = [new Float32Array([1e-3]), new Float32Array([2e-3])]
  assert.is(
    compared({ dx: y, dw: off }, { dx: y, dw: small }, ['mixed', 'float32']).unavailable,
    undefined,
    'gradients together',
  )
  assert.match(compared({ dx: y, dw: off }, { dx: y, dw: small }, ['float32']).unavailable!, /its dw differs/)
  assert.match(compared({ dx: y }, { dx: y, dw: small }, ['bfloat16']).unavailable!, /its gradient differs/)
  assert.is(compared({ y: new Float32Array([NaN, 2]) }, { y }, ['float32']).difference, null)
  assert.match(compared({ y: new Float32Array([NaN, 2]) }, { y }, ['float32']).unavailable!, /no ratio/)
})

test('without peers all are absent, by wish or by name', async () => {
  assert.equal(await openOpponents(1, ['none']), { peers: [], missing: [] })
})

// ---- the harness ----

test('contenders take turns, ratios are paired by round, and p10 and p90 lie around the median', async () => {
  const turns: string[] = []
  const steady = (name: string, us: number[]): Contender => ({ name, sample: () => (turns.push(name), [us.shift()!]) })
  const [a, b] = await inTurn([steady('a', [1, 2, 4]), steady('b', [3, 6, 12])], { rounds: 3, ms: 1 }, (round) =>
    turns.push(`${round}`),
  )
  assert.equal(turns, ['a', 'b', '0', 'a', 'b', '1', 'a', 'b', '2'])
  assert.is(ratio(b!.rounds, a!.rounds), 3)
  assert.equal(spread([5, 1, 4, 2, 3]), { median: 3, p10: 1.4, p90: 4.6, samples: 5 })
  assert.is(difference([[3, 4]], [[3, 4]]), 0)
  assert.is(difference([[0], [0]], [[3], [4]]), 1)
  assert.is(difference([[1]], [[1, 2]]), Infinity)
})

test('a contender that takes far longer than ours runs once; out of time, the rounds end after two', async () => {
  const asked = { ours: 0, slow: 0 }
  const slow: Contender = {
    name: 'slow',
    sample: () => new Promise((resolve) => setTimeout(() => resolve([++asked.slow]), 2010)),
  }
  const [a, b] = await inTurn([{ name: 'ours', sample: () => [++asked.ours] }, slow], { rounds: 4, ms: 1, seconds: 1 })
  assert.equal(asked, { ours: 2, slow: 1 })
  assert.equal([a!.rounds.length, b!.rounds.length, ratio(b!.rounds, a!.rounds)], [2, 1, 1])
})

test('our own side rotates its inputs, and gives threads back', () => {
  const before = threads()
  const seen: number[] = []
  const calls = [0, 1, 2].map((i) => () => void seen.push(10 * threads() + i))
  const sampled = own('x', calls, { count: before + 1 }).sample(0)
  assert.ok((sampled as number[]).every((us) => us >= 0))
  assert.is(threads(), before)
  assert.ok((own('x', calls, { clock: 'cpu' }).sample(0) as number[]).every((us) => us > 0))
  assert.equal(
    seen.slice(0, 4),
    [0, 1, 2, 0].map((i) => 10 * (before + 1) + i),
  )
})

test('ceilings are rates; an unknown name is refused', () => {
  for (const name of ['float32', 'read', 'readSmallPages', 'copy'] as const)
    assert.ok(native().instruments.ceiling(name) > 0, name)
  assert.ok(native().instruments.ceiling('bfloat16') >= 0)
  assert.throws(
    () => native().instruments.ceiling('write' as 'read'),
    /ceiling: name: expected float32, .* but got "write"/,
  )
  assert.throws(() => native().instruments.ceiling(1 as never), /ceiling/)
})

// ---- what rows say ----

const row = (id: string, median: number, more: Partial<Row> = {}): Row => ({
  id,
  suite: 'x',
  sizes: { T: 8, K: 0, L: 32, D: 768 },
  dtype: 'float32',
  pass: 'forward',
  threads: 1,
  cpu: 'best',
  us: { median, p10: median, p90: median, samples: 1 },
  flops: 0,
  bytes: 0,
  bound: 'none',
  peakBytes: 1,
  peers: [],
  ...more,
})

test("goals: reached, missed and not measured; of a peer's variants the fastest counts; AVX2 by its own rows", () => {
  const peers = [
    { name: 'onnxruntime', kind: 'peer' as const, ratio: 1.3 },
    { name: 'onnxruntime MHA', kind: 'peer' as const, ratio: 1.05 },
    { name: 'torch', kind: 'peer' as const, ratio: 1.5 },
  ]
  const found = goals([
    row('factorized block T=8 K=0', 1, { peers }),
    row('factorized block T=8 K=0', 1, { cpu: 'avx2', peers: [{ name: 'torch', kind: 'peer', ratio: 1.3 }] }),
    row('factorized core T=8 K=0', 2),
    row('joint core T=8 K=0', 8),
  ])
  const of = (text: string, cpu = 'best') => found.find((g) => g.goal.includes(text) && g.cpu === cpu)!
  assert.equal(
    [of('block forward, T=8: against ONNX').measured, of('block forward, T=8: against ONNX').reached],
    [1.05, false],
  )
  assert.is(of('block forward, T=8: against PyTorch').reached, true)
  assert.equal(
    [
      of('block forward, T=8: against PyTorch', 'avx2').reached,
      of('block forward, T=8: against PyTorch', 'avx2').target,
    ],
    [true, 1.4 * 0.9],
  )
  assert.equal(
    [
      of('own joint core over own factorized core, T=8').measured,
      of('own joint core over own factorized core, T=8').reached,
    ],
    [4, true],
  )
  assert.equal([of('Q-Former forward (').measured, of('Q-Former forward (').reached], [undefined, undefined])
})

test('goals for bfloat16 weights: activations may be in either, the better one counts and is named', () => {
  const id = 'GEMM 100×4096→11008'
  const [only] = goals([row(id, 1, { dtype: 'mixed', share: 0.5 })]).filter((g) => g.goal.includes('100 tokens, 11008'))
  assert.equal([only!.measured, only!.reached, only!.from], [50, false, `${id}, activations in float32`])
  const [both] = goals([
    row(id, 1, { dtype: 'mixed', share: 0.5 }),
    row(id, 1, { dtype: 'bfloat16', share: 0.9 }),
    row(id, 1, { share: 0.95 }),
  ]).filter((g) => g.goal.includes('100 tokens, 11008'))
  assert.equal([both!.measured, both!.reached, both!.from], [90, true, `${id}, activations in bfloat16`])
})

test('what a missed target asks for: the share of its floor, of its own row', () => {
  const id = 'factorized block T=8 K=0'
  const rows = [
    row(id, 1, { share: 0.8, peers: [{ name: 'torch', kind: 'peer', ratio: 1.2 }] }),
    row(id, 1, { cpu: 'avx2', share: 0.9, peers: [{ name: 'torch', kind: 'peer', ratio: 1 }] }),
  ]
  const found = goals(rows)
    .filter((g) => g.goal === 'factorized block forward, T=8: against PyTorch')
    .map((g) => asked(g, rows)!)
  assert.equal(
    found.map((a) => a.share),
    [0.8, 0.9],
  )
  assert.equal(
    found.map((a) => a.asked.toFixed(3)),
    [((0.8 * 1.4) / 1.2).toFixed(3), (0.9 * 1.26).toFixed(3)],
  )
  assert.is(asked(goals(rows).find((g) => g.unit === '%')!, rows), undefined)
})

test('ratios: joint over factorized, beside the counts', () => {
  const [only, ...more] = ratios([
    row('factorized core T=8 K=0', 2),
    row('joint core T=8 K=0', 8),
    row('factorized block T=8 K=0', 4),
    row('joint block T=8 K=0', 2),
  ])
  assert.equal(more, [])
  assert.equal([only!.core, only!.block, only!.scores, only!.tokens], [4, 0.5, 6.4, [256, 32]])
  assert.is(tableSix(8).models.at(-1)!.visualTokens, 32)
})

test.run()
