// The opponents of the benchmarks on the CPU: those that are installed give what the oracle gives, those that are not
// are missing by name. Nothing is installed here, and no time is checked.
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Child } from '../../bench/peers/child.js'
import { openPeers, type Peer, type PeerCase } from '../../bench/peers/client.js'
import { graphOf } from '../../bench/peers/onnx-models.js'
import { model } from '../../bench/peers/onnx.js'
import { readHeader } from '../../lib/files/safetensors.js'
import { relativeError } from '../oracle/array.js'
import { draw, shapesOf, write, type Tensors } from './peer-cases.js'
import { reference, withEmbeddings } from './peer-reference.js'

type Case = Omit<PeerCase, 'tensors'>

const folder = fileURLToPath(new URL('../../bench/peers', import.meta.url))

const small = { B: 2, T: 3, L: 5, K: 0, heads: 2, D: 8, eps: 1e-6 }
const former = { layers: 3, KV: 6, DV: 7 }
const sizes: [PeerCase['kind'], PeerCase['sizes'][]][] = [
  ['core', [small]],
  ['block', [small, { ...small, rank: 2, scaling: 0.5 }]],
  [
    'qformer',
    [
      { ...small, ...former, K: 4, rank: 2, scaling: 0.5 },
      { ...small, ...former, K: 4 },
      { ...small, ...former },
    ],
  ],
  ['linear', [{ ...small, B: 6, D: 9, DV: 7 }]],
]
const cases: Case[] = sizes.flatMap(([kind, list]) =>
  list.flatMap((sizes) =>
    (['factorized', 'joint'] as const).flatMap((form) =>
      (['forward', 'forward+backward'] as const).map(
        (pass): Case => ({
          id: `${kind} ${form} ${pass} K=${sizes.K} r=${sizes.rank ?? 0}`,
          kind,
          pass,
          form,
          sizes,
          dtype: 'float32',
        }),
      ),
    ),
  ),
)

/** What a peer must be able to do, float32. */
const able: Record<string, (c: Case) => boolean> = {
  onnxruntime: (c) => c.pass === 'forward' && !c.sizes.rank,
  'onnxruntime MHA': (c) => c.pass === 'forward' && !c.sizes.rank,
  'tfjs-wasm': (c) => c.pass === 'forward' && !c.sizes.rank && c.kind !== 'qformer',
  torch: (c) => c.pass === 'forward' || (c.kind !== 'linear' && (c.kind !== 'qformer' || Boolean(c.sizes.rank))),
}

// Compiling a case takes seconds: one test below does it.
const { peers, missing } = await openPeers({ threads: 1, only: Object.keys(able) })
test.after(async () => void (await Promise.all(peers.map((peer) => peer.close()))))

test('every peer is there or missing with a reason', () => {
  assert.equal([...peers, ...missing].map(({ name }) => name).sort(), Object.keys(able).sort())
  for (const { name, reason } of missing) assert.ok(reason.length > 20, `${name}: ${reason}`)
  for (const { name, version, details } of peers)
    assert.ok(/^\d+\.\d+/.test(version) && Number(details.threads) >= 1, name)
})
for (const { name, reason } of missing) {
  console.error(`test/bench/peers.test.ts: SKIPPED, nothing of ${name} is tested: ${reason}`)
  test.skip(`${name} is missing`, () => {})
}

/** The case's file and what it should give. */
async function made(c: Case): Promise<{ full: PeerCase; wanted: Record<string, Float64Array> }> {
  const tensors: Tensors = draw(shapesOf(c), 1)
  const unseen = withEmbeddings(c, tensors)
  return { full: await write(c, tensors), wanted: reference(c, { ...tensors, ...unseen }) }
}

async function holds(peer: Peer, full: PeerCase, wanted: Record<string, Float64Array>, most: number): Promise<void> {
  const got = await peer.prepare(full)
  if ('unavailable' in got) return assert.unreachable(`${peer.name}, ${full.id}: ${got.unavailable}`)
  const names = Object.keys(got.outputs)
  for (const [name, values] of Object.entries(wanted)) {
    const error = names.includes(name) ? relativeError(got.outputs[name]!, values) : NaN
    assert.ok(error <= most, `${peer.name}, ${full.id}: ${name} differs by ${error}`)
  }
  assert.equal(
    names.filter((name) => !(name in wanted) && !['space', 'time', 'joint'].includes(name)),
    [],
    `${peer.name}, ${full.id}`,
  )
}

for (const c of cases)
  test(c.id, async () => {
    const doing = peers.filter(({ name }) => able[name]!(c))
    const { full, wanted } = doing.length ? await made(c) : { full: await write(c, draw(shapesOf(c), 1)), wanted: {} }
    for (const peer of peers) {
      if (doing.includes(peer)) await holds(peer, full, wanted, 1e-4)
      else {
        const got = await peer.prepare(full)
        assert.ok('unavailable' in got && got.unavailable.length > 10, peer.name)
      }
    }
  })

test('bfloat16: near float64, or unavailable', async () => {
  const { full, wanted } = await made({
    ...cases.find((c) => c.kind === 'block' && c.sizes.rank)!,
    id: 'bfloat16',
    dtype: 'bfloat16',
  })
  for (const peer of peers) {
    if (peer.name === 'torch') await holds(peer, full, wanted, 5e-2)
    else assert.ok('unavailable' in (await peer.prepare({ ...full, sizes: small })), peer.name)
  }
})

test('compiled by PyTorch: as in float64, forward and backward, or missing with a reason', async () => {
  const opened = await openPeers({ threads: 1, only: ['torch compile'] })
  for (const { reason } of opened.missing) assert.ok(reason.length > 20, reason)
  for (const peer of opened.peers) {
    const { full, wanted } = await made({
      ...cases.find((c) => c.kind === 'block' && c.sizes.rank && c.pass === 'forward+backward')!,
      id: 'compiled',
    })
    await holds(peer, full, wanted, 1e-4)
    await peer.close()
  }
})

test('a prepared case is sampled, by either clock, until it is forgotten', async () => {
  const full = await write({ ...cases[0]!, id: 'sampled' }, draw(shapesOf(cases[0]!), 1))
  for (const peer of peers) {
    await peer.prepare(full)
    for (const clock of ['wall', 'cpu'] as const) {
      const us = await peer.sample(full, 5, clock)
      assert.ok(us.length >= 1 && us.every((t) => Number.isFinite(t) && t >= 0), peer.name)
    }
    const bytes = await peer.peak(full)
    assert.ok(bytes === undefined || bytes >= 0, peer.name)
    assert.ok(!existsSync(`${full.tensors}.${peer.name.replaceAll(' ', '-')}`), 'outputs are left behind')
    await peer.forget(full)
    await peer.sample(full, 5).then(
      () => assert.unreachable(peer.name),
      (error) => assert.match(error.message, peer.name),
    )
  }
})

test('a file that is not a case is unavailable, and the peer goes on', async () => {
  const full = await write({ ...cases[0]!, id: 'after nonsense' }, draw(shapesOf(cases[0]!), 1))
  for (const peer of peers) {
    assert.ok('unavailable' in (await peer.prepare({ ...full, tensors: join(folder, 'README.md') })), peer.name)
    assert.ok('outputs' in (await peer.prepare(full)), peer.name)
  }
})

test('MT_PYTHON names the one python3 that is tried; unknown names and thread counts are refused', async () => {
  const before = process.env.MT_PYTHON
  process.env.MT_PYTHON = '/nowhere/python3'
  try {
    const { peers, missing } = await openPeers({ threads: 1, only: ['torch'] })
    assert.equal(peers, [])
    assert.match(missing[0]!.reason, /\/nowhere\/python3.*MT_PYTHON/)
  } finally {
    if (before === undefined) delete process.env.MT_PYTHON
    else process.env.MT_PYTHON = before
  }
  await openPeers({ threads: 1, only: ['caffe'] }).then(
    () => assert.unreachable(),
    (error) => assert.match(error.message, /onnxruntime.*caffe/),
  )
  await openPeers({ threads: 0 }).then(
    () => assert.unreachable(),
    (error) => assert.match(error.message, 'threads'),
  )
})

// ----------------------------------------------------------------------------------------------------------- processes

const program = (code: string): Child => new Child(process.execPath, ['-e', code], process.env, 60_000)

test('a process that dies, answers nonsense or not at all is unavailable from then on', async () => {
  for (const [code, reason] of [
    [
      'console.error("KernelError: no such kernel"); console.error("bye"); process.exit(3)',
      /exit status 3.*no such kernel/,
    ],
    ['console.log("hello")', /hello/],
    ['console.log("[1]")', /\[1\]/],
    ['process.kill(process.pid, "SIGKILL")', /SIGKILL/],
  ] as const) {
    const child = program(code)
    assert.match((await child.greeting).unavailable, reason)
    assert.match((await child.ask({ do: 'sample' }, 1000)).unavailable, reason)
    await child.close()
  }
  const silent = program('console.log("{}"); setInterval(() => {}, 1000)')
  assert.equal(await silent.greeting, {})
  assert.match((await silent.ask({}, 50)).unavailable, 'within 0.05 seconds')
  await silent.close()
  const nobody = new Child('/nowhere/program', [], process.env, 1000)
  assert.match((await nobody.greeting).unavailable, '/nowhere/program')
  await nobody.close()
})

test('answers come in the order of the questions; an answer without a question is nonsense', async () => {
  const echo = program(
    'console.log("{}"); require("readline").createInterface(process.stdin).on("line", (l) => console.log(l))',
  )
  const answers = await Promise.all([1, 2, 3].map((n) => echo.ask({ n }, 60_000)))
  assert.equal(answers, [{ n: 1 }, { n: 2 }, { n: 3 }])
  await echo.close()
  const talkative = program(
    'console.log("{}"); require("readline").createInterface(process.stdin).on("line", (l) => console.log(l + "\\n" + l))',
  )
  assert.equal(await talkative.ask({ n: 1 }, 60_000), { n: 1 })
  assert.match((await talkative.ask({ n: 2 }, 60_000)).unavailable, 'answered')
  await talkative.close()
})

test('a peer ends when its stdin does: none outlives the benchmark', () => {
  for (const [command, ...args] of [
    [process.execPath, '--import', 'tsx', join(folder, 'tfjs.ts')],
    ['python3', join(folder, 'torch_cpu.py')],
  ] as const) {
    const { status, error } = spawnSync(command, [...args, '1'], { input: '', timeout: 120_000 })
    if (!error || command !== 'python3') assert.is(status, 0, command)
  }
})

// -----------------------------------------------------------------------------------------------------------------
// ONNX

const protobuf = existsSync(join(folder, 'node_modules', 'protobufjs'))
if (!protobuf)
  console.error(
    'test/bench/peers.test.ts: SKIPPED, the writer of ONNX is not tested: protobufjs is missing (npm run bench:peers installs it)',
  )

;(protobuf ? test : test.skip)(
  "an ONNX model: every weight lies in the case's own file, every value is made before it is read",
  async () => {
    const c = cases.find((c) => c.kind === 'block' && c.pass === 'forward' && c.form === 'factorized' && !c.sizes.rank)!
    const tensors = draw(shapesOf(c), 1)
    const full = await write({ ...c, id: 'onnx' }, tensors)
    const header = await readHeader(full.tensors)
    const file = readFileSync(full.tensors)
    const Model = await model()
    for (const attention of ['plain', 'MHA'] as const) {
      const bytes = await graphOf(full, header, attention).encode()
      const { ir_version, opset_import, graph } = Model.toObject(Model.decode(bytes), { longs: Number, arrays: true })
      assert.is(ir_version, 9)
      assert.equal(opset_import, [
        { domain: '', version: 20 },
        { domain: 'com.microsoft', version: 1 },
      ])
      assert.equal(
        graph.input.map((v: any) => v.name),
        ['x'],
      )
      assert.equal(
        graph.output.map((v: any) => [v.name, v.type.tensor_type.shape.dim.map((d: any) => d.dim_value)]),
        [['y', [2, 3, 5, 8]]],
      )
      const known = new Set(['x', ...graph.initializer.map((t: any) => t.name)])
      for (const node of graph.node) {
        for (const name of node.input) assert.ok(known.has(name), `${node.name} reads ${name}`)
        known.add(node.output[0])
      }
      const outside = graph.initializer.filter((t: any) => t.data_location === 1)
      assert.equal(
        outside.map((t: any) => t.name).sort(),
        Object.keys(tensors)
          .filter((name) => name !== 'x')
          .sort(),
      )
      for (const { name, dims, external_data } of outside) {
        const { location, offset, length } = Object.fromEntries(external_data.map((e: any) => [e.key, e.value]))
        assert.is(location, basename(full.tensors))
        assert.equal(dims, tensors[name]!.shape)
        assert.equal(
          new Float32Array(new Uint8Array(file.subarray(Number(offset), Number(offset) + Number(length))).buffer),
          tensors[name]!.data,
        )
      }
      const count = (op: string): number => graph.node.filter((n: any) => n.op_type === op).length
      assert.equal(
        [count('LayerNormalization'), count('Softmax'), count('MultiHeadAttention')],
        attention === 'MHA' ? [2, 0, 2] : [2, 2, 0],
      )
      const [norm] = graph.node.filter((n: any) => n.op_type === 'LayerNormalization')
      assert.equal(
        norm.attribute.map((a: any) => [a.name, a.type]),
        [
          ['axis', 2],
          ['epsilon', 1],
        ],
      )
    }
  },
)

test('ONNX models have no gradients, no bfloat16 and no LoRA', async () => {
  const full = await write({ ...cases[0]!, id: 'refused' }, draw(shapesOf(cases[0]!), 1))
  const header = await readHeader(full.tensors)
  for (const change of [
    { pass: 'forward+backward' },
    { dtype: 'bfloat16' },
    { sizes: { ...small, rank: 2 } },
  ] as Partial<PeerCase>[])
    assert.throws(() => graphOf({ ...full, ...change }, header, 'plain'), /expected/)
})

test.run()
