// The oracle against the golden files: every forward value, greedy ids, and gradients along random directions.
import { existsSync, readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type NdArray, array, dot, norm, relativeError } from './array.js'
import { directional } from './differences.js'
import { type Json, type Batch, adapterConfig, features, forward, greedyIds, model, trainedShapes } from './model.js'
import { type OpCase, opCase } from './golden-ops.js'
import { random } from './random.js'
import { type Entry, readCheckpoint, readSafetensors } from './safetensors.js'

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')
const golden = process.env['MT_GOLDEN'] ?? join(root, '..', 'shared', 'golden')
const cases = join(golden, 'cases')

interface Case {
  name: string
  config: Json
  tensors: Map<string, Entry>
}
const read = (name: string): Case => {
  const { tensors, metadata } = readSafetensors(join(cases, `${name}.safetensors`))
  return { name, tensors, config: JSON.parse(metadata['config'] ?? '{}') as Json }
}

/** What a value in float64 may differ from the stored one: by the rounding of its storage. */
const limit = (dtype: string): number => (dtype === 'F64' ? 1e-10 : 1e-6)
const worst = { F64: 0, F32: 0, gradient: 0 }

function same(label: string, actual: NdArray, expected: Entry): void {
  assert.equal(actual.shape, expected.shape, `${label}: shape`)
  const error = relativeError(actual.data, expected.data)
  if (expected.dtype === 'I64' || expected.dtype === 'U8') return assert.is(error, 0, label)
  const kind = expected.dtype as 'F64' | 'F32'
  worst[kind] = Math.max(worst[kind], error)
  assert.ok(error <= limit(kind), `${label}: relative error ${error}`)
}

/**
 * The slope of f along random directions against the golden gradient, relative to max(||gradient||, floor).
 * A ReLU may turn within the step; then a smaller step decides.
 */
function sameGradient(
  label: string,
  f: (x: Float64Array) => number,
  x: NdArray,
  expected: NdArray,
  directions: number,
  floor = 0,
): void {
  const rng = random(label.length * 7919 + x.data.length)
  for (let n = 0; n < directions; n++) {
    const direction = x.data.map(() => rng.normal())
    let error = Infinity
    for (const h of [1e-5, 1e-6, 1e-7]) {
      if (error <= 1e-6) break
      error = Math.min(
        error,
        Math.abs(directional(f, x.data, direction, h) - dot(expected.data, direction)) /
          Math.max(norm(expected.data), floor, 1e-12),
      )
    }
    worst.gradient = Math.max(worst.gradient, error)
    assert.ok(error <= 1e-5, `${label}: slope along direction ${n} off by ${error} of the gradient`)
  }
}

const batchOf = (t: ReadonlyMap<string, Entry>): Batch => ({
  pixelValues: t.get('in.pixel_values')!,
  qformerIds: t.get('in.qformer_ids'),
  qformerMask: t.get('in.qformer_mask'),
  inputIds: t.get('in.input_ids')!,
  attentionMask: t.get('in.attention_mask')!,
  labels: t.get('in.labels')!,
})

const checkpoints = new Map<string, ReturnType<typeof model>>()
function checkpoint(base: string): ReturnType<typeof model> {
  let found = checkpoints.get(base)
  if (found === undefined) {
    const { tensors, config } = readCheckpoint(join(golden, base))
    checkpoints.set(base, (found = model(tensors, config)))
  }
  return found
}

/** Runs the model and compares every `out.*` that it names; returns the `out.*` that it did not. */
function compareForward(
  label: string,
  run: (tap: (name: string, value: NdArray) => NdArray) => void,
  tensors: ReadonlyMap<string, Entry>,
): string[] {
  const left = new Set([...tensors.keys()].filter((name) => name.startsWith('out.')))
  run((name, value) => {
    const expected = tensors.get(`out.${name}`)
    if (expected !== undefined && left.delete(`out.${name}`)) same(`${label} ${name}`, value, expected)
    return value
  })
  return [...left].sort()
}

function image({ name, config, tensors }: Case): void {
  const m = checkpoint(config['base'] as string)
  const batch = batchOf(tensors)
  let visual: NdArray | undefined
  const left = compareForward(name, (tap) => void (visual = forward(m, batch, undefined, tap).visualTokens), tensors)
  same(`${name} greedy_ids`, greedyIds(m, visual!, batch, 8), tensors.get('out.greedy_ids')!)
  assert.equal(
    left.filter((x) => !x.endsWith('_padded_positions')),
    ['out.greedy_ids'],
    `${name}: outputs that were not compared`,
  )
}

/**
 * Every case looks at the slope in all tensors together, and in each of its share alone: all of them with
 * MT_ORACLE_FULL=1, else every fourth.
 */
const share = process.env['MT_ORACLE_FULL'] === '1' ? 1 : 4
let turn = 0

function mtrans({ name, config, tensors }: Case): void {
  const m = checkpoint(config['base'] as string)
  const inputs = batchOf(readSafetensors(join(cases, config['inputs'] as string)).tensors)
  const adapter = adapterConfig(config['config'] as Json)
  const params = readSafetensors(join(cases, config['params'] as string)).tensors as Map<string, NdArray>
  const masks = { spatial: tensors.get('in.spatial_masks'), temporal: tensors.get('in.temporal_masks') }
  const trained = config['trained'] as string[]
  assert.equal([...trainedShapes(m.config, adapter).keys()].sort(), [...trained].sort(), `${name}: trained names`)
  for (const [p, shape] of trainedShapes(m.config, adapter))
    assert.equal(params.get(p)!.shape, shape, `${name}: shape of ${p}`)

  let visual: NdArray | undefined
  const left = compareForward(
    name,
    (tap) => void (visual = forward(m, inputs, { config: adapter, params, masks }, tap).visualTokens),
    tensors,
  )
  same(`${name} greedy_ids`, greedyIds(m, visual!, inputs, 8), tensors.get('out.greedy_ids')!)
  assert.equal(left, ['out.greedy_ids', 'out.losses'], `${name}: outputs that were not compared`)

  // The tower is frozen: its output is computed once.
  const batch: Batch = { ...inputs, features: features(m, inputs) }
  const loss = (at: ReadonlyMap<string, NdArray>): number =>
    forward(m, batch, { config: adapter, params: at, masks }).loss

  // The loss before the first step, and after the last one with the golden parameters of that time.
  const losses = tensors.get('out.losses')!.data
  assert.ok(Math.abs(loss(params) - losses[0]!) <= 1e-10, `${name}: first loss`)
  if (trained.every((p) => tensors.has(`after.${p}`))) {
    const after = new Map(trained.map((p) => [p, tensors.get(`after.${p}`)!]))
    assert.ok(Math.abs(loss(after) - losses.at(-1)!) <= 1e-6, `${name}: last loss`)
  }

  // Gradients. Those that vanish are measured by the total.
  const total = norm(trained.map((p) => norm(tensors.get(`grad.${p}`)!.data)))
  const small = new Set([...(config['zero_gradients'] as string[]), ...(config['noise_gradients'] as string[])])
  const offset = turn++
  for (const [i, p] of trained.entries()) {
    if ((i + offset) % share !== 0) continue
    const f = (x: Float64Array): number => loss(new Map(params).set(p, array(params.get(p)!.shape, x)))
    sameGradient(`${name} ${p}`, f, params.get(p)!, tensors.get(`grad.${p}`)!, 1, small.has(p) ? 1e-3 * total : 0)
  }
  const whole = (part: (p: string) => Float64Array): Float64Array =>
    Float64Array.from(trained.flatMap((p) => [...part(p)]))
  const together = whole((p) => params.get(p)!.data)
  const split = (x: Float64Array): number => {
    const at = new Map(params)
    let from = 0
    for (const p of trained) {
      const { shape, data } = params.get(p)!
      at.set(p, array(shape, x.subarray(from, (from += data.length))))
    }
    return loss(at)
  }
  sameGradient(
    `${name} all`,
    split,
    array([together.length], together),
    array(
      [together.length],
      whole((p) => tensors.get(`grad.${p}`)!.data),
    ),
    1,
  )
  for (const place of ['embeddings', 'visual_tokens']) {
    const expected = tensors.get(`dout.${place}`)
    if (expected === undefined) continue
    const f = (x: Float64Array): number =>
      forward(m, batch, { config: adapter, params, masks }, (n, value) => (n === place ? array(value.shape, x) : value))
        .loss
    sameGradient(`${name} d${place}`, f, tensors.get(`out.${place}`)!, expected, 2)
  }
}

function operator({ name, config, tensors }: Case): void {
  const { outputs, gradients }: OpCase = opCase(name, config, tensors)
  for (const [key, value] of outputs) same(`${name} ${key}`, value, tensors.get(key)!)
  for (const { key, x, f } of gradients) sameGradient(`${name} ${key}`, f, x, tensors.get(key)!, 3)
  const compared = new Set([...outputs.map(([key]) => key), ...gradients.map(({ key }) => key)])
  assert.equal(
    [...tensors.keys()].filter((key) => !key.startsWith('in.') && !compared.has(key)),
    [],
    `${name}: tensors that were not compared`,
  )
}

if (!existsSync(cases)) {
  console.warn(
    `SKIPPED: no golden files in ${golden} (set MT_GOLDEN to their folder); the oracle is not compared with them`,
  )
  test.skip('golden files are absent', () => {})
} else {
  const names = readdirSync(cases)
    .filter((f) => f.endsWith('.safetensors'))
    .map((f) => f.replace('.safetensors', ''))
    .sort()
  for (const name of names) {
    if (/^mtrans_(params|inputs)/.test(name)) continue
    test(name, () => {
      const c = read(name)
      const kind = c.config['kind'] as string
      if (kind === 'image') image(c)
      else if (kind === 'mtrans') mtrans(c)
      else if (kind === 'op') operator(c)
      else throw new Error(`a case of kind ${kind}`)
    })
  }
  test.after(() =>
    console.log(`worst relative errors: F64 ${worst.F64}, F32 ${worst.F32}, gradients ${worst.gradient}`),
  )
}
test.run()
