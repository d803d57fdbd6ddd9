// The whole native model, frames and texts to loss, gradients and answers, against the float64 oracle, on random tiny
// checkpoints with awkward sizes: what the golden files prove, proven where they are absent. Limits: docs/model.md#numerics.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { generate } from '../../lib/session/generate.js'
import { logits } from '../../lib/models/decoder.js'
import { answerTokens } from '../../lib/models/image-model.js'
import { narrow } from '../../lib/ops/views.js'
import { scope } from '../../lib/tensor/scope.js'
import { backward, noGrad } from '../../lib/tensor/tape.js'
import type { Tensor } from '../../lib/tensor/tensor.js'
import { type NdArray, array, clone, dot, map, norm } from '../oracle/array.js'
import { directional } from '../oracle/differences.js'
import { type Adapter as OracleAdapter, type Batch, type Json, features, forward, greedyIds } from '../oracle/model.js'
import { random } from '../oracle/random.js'
import { type Tiny, type TinyInputOptions, type TinyKind, tinyInputs } from '../oracle/tiny.js'
import { bytes, settled } from '../support/memory.js'
import {
  type Both,
  bothAdapters,
  errorOf,
  float32,
  isQuantised,
  nativeName,
  openTiny,
  qformerText,
  read,
  textRows,
} from '../support/tiny.js'

const [FORWARD, GRADIENT] = [1e-5, 1e-4]
const worst = { forward: 0, gradient: 0 }
let start = 0
test.before(async () => void (start = await settled()))

interface Case {
  name: string
  /** As a golden case writes it. */
  config: Json
  inputs?: TinyInputOptions
  masks?: OracleAdapter['masks']
}

const small = { lora: { r: 3, alpha: 5 }, t_max: 6 }
// Windows that leave pairs out at five queries, seven text tokens and three frames.
const windows = { spatial_windows: [3, 2, 1], temporal_windows: [1, 1, 0] }
const dar = (rest: Json = {}): Json => ({ router_hidden: 9, ...windows, ...rest })

/** Bit sets in which each row keeps itself under every mask, and about half of everything else. */
function randomMasks(n: number, seed: number): NdArray {
  const rng = random(seed)
  const out = array([n, n])
  for (let q = 0; q < n; q++) for (let k = 0; k < n; k++) out.data[q * n + k] = q === k ? 255 : rng.integer(0, 256)
  return out
}

const instructblip: Case[] = [
  { name: 'defaults but for the sizes', config: { ...small, dar: dar() } },
  { name: 'windows as they are by default', config: small },
  { name: 'score', config: { ...small, dar: dar({ mode: 'score' }) } },
  { name: 'routing off', config: { ...small, dar: dar({ mode: 'off' }) } },
  { name: 'modality masks', config: { ...small, dar: dar({ spatial_masks: 'modality' }) } },
  { name: 'modality masks, score', config: { ...small, dar: dar({ spatial_masks: 'modality', mode: 'score' }) } },
  {
    name: 'masks of the caller',
    config: { ...small, dar: dar() },
    masks: { spatial: randomMasks(12, 5), temporal: randomMasks(3, 6) },
  },
  {
    name: 'masks of the caller, score',
    config: { ...small, dar: dar({ mode: 'score' }) },
    masks: { spatial: randomMasks(12, 7), temporal: randomMasks(3, 8) },
  },
  {
    name: 'six choices',
    config: {
      ...small,
      dar: { router_hidden: 5, choices: 6, spatial_windows: [4, 3, 2, 1, 0], temporal_windows: [3, 2, 1, 1, 0] },
    },
    inputs: { frames: 5 },
  },
  { name: 'gated', config: { ...small, dar: dar(), temporal: { residual: 'gated' } } },
  { name: 'gated, score', config: { ...small, dar: dar({ mode: 'score' }), temporal: { residual: 'gated' } } },
  { name: 'fresh temporal weights', config: { ...small, dar: dar(), temporal: { weights: 'fresh' } } },
  {
    name: 'fresh and gated',
    config: { ...small, dar: dar({ mode: 'score' }), temporal: { weights: 'fresh', residual: 'gated' } },
  },
  {
    name: 'no temporal attention, concat',
    config: { ...small, dar: dar(), temporal: { attention: 'none' }, aggregate: 'concat' },
  },
  {
    name: 'no temporal attention, mean, score',
    config: { ...small, dar: dar({ mode: 'score' }), temporal: { attention: 'none' } },
  },
  { name: 'joint', config: { ...small, temporal: { attention: 'joint' }, dar: { mode: 'off' } } },
  {
    name: 'joint without fusion, concat',
    config: { ...small, fusion: false, temporal: { attention: 'joint' }, dar: { mode: 'off' }, aggregate: 'concat' },
  },
  { name: 'no fusion', config: { ...small, fusion: false, dar: dar() } },
  { name: 'one frame', config: { ...small, dar: dar() }, inputs: { frames: 1 } },
  {
    name: 'one video, five frames, one text token',
    config: { ...small, dar: dar({ mode: 'score' }) },
    inputs: { videos: 1, frames: 5, qformerText: 1 },
  },
  {
    name: 'three videos, text padded on the left',
    config: { ...small, dar: dar() },
    inputs: { videos: 3, frames: 2, padding: 'left' },
  },
]
/** Of both families over T5: every way in which visual tokens come about once. */
const overT5: Record<'instructblip-t5' | 'blip2-t5', Case[]> = {
  'instructblip-t5': [
    { name: 'defaults but for the sizes', config: { ...small, dar: dar() } },
    {
      name: 'concat, texts longer than the buckets',
      config: { ...small, dar: dar({ mode: 'score' }), temporal: { attention: 'none' }, aggregate: 'concat' },
      inputs: { text: 14 },
    },
  ],
  'blip2-t5': [
    {
      name: 'gated, no fusion',
      config: { ...small, fusion: false, dar: dar({ mode: 'score' }), temporal: { residual: 'gated' } },
    },
  ],
}
const blip2: Case[] = [
  { name: 'no fusion', config: { ...small, fusion: false, dar: dar() } },
  {
    name: 'no fusion, score, gated',
    config: { ...small, fusion: false, dar: dar({ mode: 'score' }), temporal: { residual: 'gated' } },
  },
  {
    name: 'no fusion, none and concat',
    config: { ...small, fusion: false, dar: dar(), temporal: { attention: 'none' }, aggregate: 'concat' },
    inputs: { padding: 'left' },
  },
  {
    name: 'no fusion, joint',
    config: { ...small, fusion: false, temporal: { attention: 'joint' }, dar: { mode: 'off' } },
  },
]

/** One key head serves all query heads, as in grouped-query LLaMA, and the head is the token table. */
function grouped({ config, tensors }: Tiny): Tiny {
  const text = { ...config['text_config'], num_key_value_heads: 1, tie_word_embeddings: true }
  const slim = new Map(
    [...tensors].map(([name, t]) => [
      name,
      /language.*[kv]_proj/.test(name) ? array([10, 30], t.data.subarray(0, 300)) : t,
    ]),
  )
  slim.delete('language_model.lm_head.weight')
  return { config: { ...config, text_config: text }, tensors: slim }
}

/**
 * Queries and keys of the Q-Former at half their size. As drawn, a chain of eight attentions that are almost a choice
 * of one key multiplies what rounding does to float32: rounding nothing but the named intermediates moves the visual
 * tokens by 7e-7, and every gradient by tens of times that.
 */
function calmer({ config, tensors }: Tiny): Tiny {
  return {
    config,
    tensors: new Map(
      [...tensors].map(([name, t]) => [name, /^qformer.*(query|key)\.weight$/.test(name) ? map(t, (x) => x / 2) : t]),
    ),
  }
}

const open = new Map<string, Promise<Both>>()
const opened = (kind: TinyKind): Promise<Both> => {
  if (!open.has(kind)) open.set(kind, openTiny(kind, 7, calmer))
  return open.get(kind)!
}

// ------------------------------------------------------------------------------------------------------------- forward

async function close(what: string, actual: Tensor, expected: NdArray): Promise<void> {
  const error = await errorOf(actual, expected)
  worst.forward = Math.max(worst.forward, error)
  assert.ok(error <= FORWARD, `${what}: relative error ${error}`)
}

/** Every named intermediate of the oracle that the native model shows as well, and how many those are. */
async function compareSeen(seen: Map<string, Tensor>, expected: Map<string, NdArray>): Promise<number> {
  let n = 0
  for (const [name, value] of expected) {
    const ours = seen.get(name.replace(/\.joint$/, '.spatial'))
    if (!ours) continue
    await close(name, ours, value)
    n++
  }
  return n
}

// ----------------------------------------------------------------------------------------------------------- gradients

/** Slopes that are tried: a ReLU may turn within a step, then a smaller one decides. */
const STEPS = [1e-7, 1e-8, 1e-6]

/**
 * The slopes of the oracle's loss against the native gradients, along directions in which every tensor counts alike
 * (each is divided by the norm of its gradient): √Σ(relative error)² of all tensors is then within the limit of one.
 * Only where it is not, each tensor is asked on its own. A gradient below a millionth of the whole is compared with the
 * whole.
 */
function compareGradients(
  oracle: Both['oracle'],
  batch: Batch,
  adapter: OracleAdapter,
  gradients: Map<string, Float64Array>,
): void {
  const total = norm([...gradients.values()].map(norm))
  assert.ok(total > 1e-3, `the gradient is alive: ${total}`)
  const error = (names: string[], seed: number): number => {
    const rng = random(seed)
    const directions = new Map(
      names.map((name): [string, Float64Array] => {
        const g = gradients.get(name)!
        const own = norm(g)
        return [name, g.map(() => rng.normal() / (own < 1e-6 * total ? total : own))]
      }),
    )
    const expected = [...directions].reduce((sum, [name, d]) => sum + dot(gradients.get(name)!, d), 0)
    const loss = ([s]: Float64Array): number => {
      const params = new Map(adapter.params)
      for (const [name, d] of directions) {
        const { shape, data } = params.get(name)!
        params.set(
          name,
          array(
            shape,
            data.map((x, i) => x + s! * d[i]!),
          ),
        )
      }
      return forward(oracle, batch, { ...adapter, params }).loss
    }
    let least = Infinity
    for (const h of STEPS) {
      least = Math.min(least, Math.abs(directional(loss, new Float64Array(1), [1], h) - expected))
      if (least <= GRADIENT / 2) break
    }
    return least
  }
  const names = [...adapter.params.keys()]
  for (const seed of [1, 2]) {
    const together = error(names, seed)
    worst.gradient = Math.max(worst.gradient, together)
    if (together <= GRADIENT) continue
    for (const name of names) {
      const alone = error([name], seed)
      assert.ok(alone <= GRADIENT, `${name}: slope off by ${alone} of the gradient`)
    }
  }
}

// --------------------------------------------------------------------------------------------------------------- cases

async function videoCase(model: Both, c: Case): Promise<void> {
  const batch = tinyInputs(model.config, 3, c.inputs)
  const frames = batch.pixelValues!.shape[1]!
  const adapter = bothAdapters(model, c.config, frames, 11, c.masks)
  try {
    const expected = new Map<string, NdArray>()
    const reference = forward(model.oracle, batch, adapter.oracle, (name, value) => (expected.set(name, value), value))
    const gradients = new Map<string, Float64Array>()
    await scope(async () => {
      const seen = new Map<string, Tensor>()
      const note = (name: string, value: Tensor): void => void seen.set(name, value)
      const vision = noGrad(() => model.native.features(float32(batch.pixelValues!), note))
      const text = textRows(batch, model.oracle.config.language)
      const visual = model.native.visualTokens(
        vision,
        adapter.native.fusion ? qformerText(batch) : undefined,
        adapter.native,
        { observe: note },
      )
      const hidden = model.native.hidden(visual, text, { observe: note })
      const loss = model.native.loss(hidden, text, 1 / answerTokens(text))
      await close('vision', vision, expected.get('vision')!)
      await close('visual tokens', visual, reference.visualTokens)
      await close(
        'logits',
        noGrad(() => logits(model.native.language, hidden.detach())),
        reference.logits,
      )
      await close('loss', loss, array([], [reference.loss]))
      assert.ok((await compareSeen(seen, expected)) >= 4 * 3, 'intermediates were compared')
      const alphas = [...expected.keys()].filter((name) => name.endsWith('alpha'))
      for (const name of alphas) assert.ok(seen.has(name), `${name} was compared`)

      backward(loss)
      for (const name of adapter.oracle.params.keys()) {
        const t = adapter.native.parameters.get(nativeName(name))!
        gradients.set(name, t.grad ? await read(t.grad) : new Float64Array(t.size))
      }
      await compareGreedy(model, visual.detach(), batch, reference.visualTokens)
    })
    compareGradients(model.oracle, { ...batch, features: features(model.oracle, batch) }, adapter.oracle, gradients)
  } finally {
    adapter.native.dispose()
  }
}

async function compareGreedy(model: Both, visual: Tensor, batch: Batch, reference: NdArray): Promise<void> {
  const steps = 6
  const expected = greedyIds(model.oracle, reference, batch, steps).data
  for (let r = 0; r < visual.dim(0); r++) {
    const ids: number[] = []
    for await (const id of generate(model.native, narrow(visual, 0, r, 1), promptOf(model, batch, r), {
      maxTokens: steps,
    }))
      ids.push(id)
    assert.equal(ids, [...expected.subarray(r * steps, (r + 1) * steps)], `greedy ids of video ${r}`)
  }
}

function promptOf({ oracle }: Both, { inputIds, attentionMask, labels }: Batch, r: number): number[] {
  const s = inputIds.shape[1]!
  const ids: number[] = []
  for (let i = r * s; i < (r + 1) * s; i++)
    if (attentionMask.data[i] && (oracle.config.language.t5 || labels.data[i] === -100)) ids.push(inputIds.data[i]!)
  return ids
}

for (const [kind, cases] of [['instructblip', instructblip], ['blip2', blip2], ...Object.entries(overT5)] as [
  TinyKind,
  Case[],
][]) {
  for (const c of cases) test(`${kind}: ${c.name}`, async () => videoCase(await opened(kind), c))
}

for (const [kind, [first]] of [
  ['instructblip', instructblip],
  ['blip2', blip2],
  ['instructblip-t5', overT5['instructblip-t5']],
] as const)
  for (const weights of ['int8', 'nf4'] as const)
    test(`${kind} with ${weights} weights, over the numbers that these stand for`, async () => {
      const model = await openTiny(kind, 7, calmer, weights)
      for (const [name, t] of model.native.weights)
        assert.is(t.dtype, isQuantised(name.replace(/(qkv|gate_up)_proj/, 'proj')) ? weights : 'float32', name)
      await videoCase(model, first!)
      model.native.dispose()
    })

test('instructblip over a LLaMA with grouped key heads and a tied output matrix', async () => {
  const model = await openTiny('instructblip', 9, (t) => calmer(grouped(t)))
  await videoCase(model, { name: 'grouped', config: { ...small, dar: dar() } })
  model.native.dispose()
})

test('blip2 over a T5 with a tied output matrix', async () => {
  const tied = ({ config, tensors }: Tiny): Tiny => ({
    config: { ...config, text_config: { ...config['text_config'], tie_word_embeddings: true } },
    tensors: new Map([...tensors].filter(([name]) => name !== 'language_model.lm_head.weight')),
  })
  const model = await openTiny('blip2-t5', 9, (t) => calmer(tied(t)))
  await videoCase(model, { name: 'tied', config: { ...small, fusion: false, dar: dar() } })
  model.native.dispose()
})

for (const kind of ['instructblip', 'blip2', 'instructblip-t5', 'blip2-t5'] as const) {
  // The oracle's T5 counts padding on the left as Hugging Face's does; ours is compared below.
  for (const padding of kind.endsWith('t5') ? (['right'] as const) : (['right', 'left'] as const)) {
    test(`${kind}: the image model, text padded on the ${padding}`, async () => {
      const model = await opened(kind)
      const batch = tinyInputs(model.config, 4, { frames: 0, videos: 3, padding })
      const expected = new Map<string, NdArray>()
      const reference = forward(model.oracle, batch, undefined, (name, value) => (expected.set(name, value), value))
      await scope(() =>
        noGrad(async () => {
          const seen = new Map<string, Tensor>()
          const note = (name: string, value: Tensor): void => void seen.set(name, value)
          const pixels = float32(batch.pixelValues!)
          const text = textRows(batch, model.oracle.config.language)
          const visual = model.native.visualTokens(
            model.native.features(pixels.view([3, 1, ...pixels.shape.slice(1)]), note),
            qformerText(batch),
            undefined,
            { observe: note },
          )
          const hidden = model.native.hidden(visual, text, { observe: note })
          await close('visual tokens', visual, reference.visualTokens)
          await close('logits', logits(model.native.language, hidden), reference.logits)
          await close('loss', model.native.loss(hidden, text, 1 / answerTokens(text)), array([], [reference.loss]))
          assert.ok((await compareSeen(seen, expected)) >= 12, 'intermediates were compared')
          await compareGreedy(model, visual, batch, reference.visualTokens)
        }),
      )
    })
  }

  test(`${kind}: padding is as if it were not there, on either side, whatever ids it has`, async () => {
    const model = await opened(kind)
    const adapter = bothAdapters(model, { ...small, fusion: kind.startsWith('instructblip'), dar: dar() }, 3, 11).native
    const loss = (batch: Batch): Promise<number> =>
      scope(() =>
        noGrad(() => {
          const visual = model.native.visualTokens(
            model.native.features(float32(batch.pixelValues!)),
            adapter.fusion ? qformerText(batch) : undefined,
            adapter,
          )
          const text = textRows(batch, model.oracle.config.language)
          return model.native.loss(model.native.hidden(visual, text), text, 1 / answerTokens(text)).item()
        }),
      )
    const near = (a: number, b: number): void =>
      assert.ok(Math.abs(a - b) <= FORWARD * Math.abs(b), `${a} against ${b}`)
    const [right, left] = (['right', 'left'] as const).map((padding) => tinyInputs(model.config, 3, { padding })) as [
      Batch,
      Batch,
    ]
    const padded = await loss(right)
    near(await loss(left), padded)
    // Other ids behind the masks change not one bit.
    const noisy: Batch = {
      ...right,
      inputIds: clone(right.inputIds),
      ...(right.qformerIds && { qformerIds: clone(right.qformerIds) }),
    }
    right.attentionMask.data.forEach((m, i) => {
      if (!m) noisy.inputIds.data[i] = 17
    })
    right.qformerMask?.data.forEach((m, i) => {
      if (!m) noisy.qformerIds!.data[i] = 23
    })
    assert.is(await loss(noisy), padded)
    // The second video alone, without the padding that the first one forced on it.
    const both = [await loss(cut(right, 0)), await loss(cut(right, 1))]
    const tokens = [0, 1].map((r) => cut(right, r).labels.data.filter((x) => x !== -100).length)
    near((both[0]! * tokens[0]! + both[1]! * tokens[1]!) / (tokens[0]! + tokens[1]!), padded)
    adapter.dispose()
  })
}

/** One video of a batch, without padding. */
function cut(batch: Batch, r: number): Batch {
  const row = (a: NdArray, mask: NdArray): NdArray => {
    const n = a.shape[1]!
    const kept = [...a.data.subarray(r * n, (r + 1) * n)].filter((_, i) => mask.data[r * n + i])
    return array([1, kept.length], kept)
  }
  const pixels = batch.pixelValues!
  const each = pixels.data.length / pixels.shape[0]!
  return {
    pixelValues: array([1, ...pixels.shape.slice(1)], pixels.data.subarray(r * each, (r + 1) * each)),
    inputIds: row(batch.inputIds, batch.attentionMask),
    attentionMask: row(batch.attentionMask, batch.attentionMask),
    // Of T5 the answers stand apart.
    labels:
      batch.labels.shape[1] === batch.inputIds.shape[1]
        ? row(batch.labels, batch.attentionMask)
        : row(
            batch.labels,
            map(batch.labels, (id) => Number(id !== -100)),
          ),
    ...(batch.qformerIds &&
      batch.qformerMask && {
        qformerIds: row(batch.qformerIds, batch.qformerMask),
        qformerMask: row(batch.qformerMask, batch.qformerMask),
      }),
  }
}

test('the same batch twice gives the same bits, gradients included', async () => {
  const model = await opened('instructblip')
  const batch = tinyInputs(model.config, 3)
  const adapter = bothAdapters(model, { ...small, dar: dar() }, 3, 11).native
  const run = (): Promise<Float32Array[]> =>
    scope(async () => {
      const text = textRows(batch)
      const visual = model.native.visualTokens(
        model.native.features(float32(batch.pixelValues!)),
        qformerText(batch),
        adapter,
      )
      backward(model.native.loss(model.native.hidden(visual, text), text))
      const out: Float32Array[] = []
      for (const t of adapter.parameters.values()) {
        if (t.grad) out.push((await t.grad.data()) as Float32Array)
        t.grad?.dispose()
        t.grad = undefined
      }
      return out
    })
  const [a, b] = [await run(), await run()]
  assert.ok(a.length > 30)
  assert.equal(a, b)
  adapter.dispose()
})

test('with the models freed, memory is as it was at the start', async () => {
  for (const model of open.values()) (await model).native.dispose()
  assert.is(await bytes(), start)
})

test.after(() =>
  console.log(
    `whole model: worst relative errors, forward ${worst.forward.toExponential(1)}, gradient ${worst.gradient.toExponential(1)}`,
  ),
)
test.run()
