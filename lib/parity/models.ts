/** Golden cases of kinds image and mtrans: the whole model, forward, backward and some steps of training. */
import { join } from 'node:path'
import { Adapter } from '../adapter/adapter.js'
import { generate } from '../session/generate.js'
import { logits, type DecoderConfig } from '../models/decoder.js'
import { loadImageModel } from '../session/checkpoint.js'
import { adapterConfigFromGolden } from './adapter-config.js'
import { answerTokens, type ImageModel, type QFormerText, type TextRows } from '../models/image-model.js'
import { narrow } from '../ops/views.js'
import { keep, scope } from '../tensor/scope.js'
import { backward, noGrad } from '../tensor/tape.js'
import { tensor, type Tensor } from '../tensor/tensor.js'
import { AdamW } from '../train/optimizer.js'
import { GoldenCase, relativeError, type Score } from './golden.js'
import { IGNORE } from '../ops/cross-entropy.js'

/** The texts; of an encoder and a decoder, labels are what the decoder is to say, and it reads them shifted. */
function textRows(c: GoldenCase, language: DecoderConfig): TextRows {
  const { shape, data } = c.get('in.input_ids')
  const { startId } = language
  const labels = Int32Array.from(c.get('in.labels').data)
  const text = {
    rows: shape[0]!,
    ids: Int32Array.from(data),
    mask: Uint8Array.from(c.get('in.attention_mask').data),
    labels,
  }
  if (startId === undefined) return text
  const A = labels.length / text.rows
  const pad = language.padId ?? 0
  const decoder = labels.map((_, i) => (i % A === 0 ? startId : labels[i - 1] === IGNORE ? pad : labels[i - 1]!))
  return { ...text, decoder }
}

function qformerText(c: GoldenCase): QFormerText | undefined {
  return c.has('in.qformer_ids')
    ? {
        ids: c.tensor('in.qformer_ids'),
        mask: tensor(Uint8Array.from(c.get('in.qformer_mask').data), c.get('in.qformer_mask').shape, 'uint8', c.device),
      }
    : undefined
}

/** Collects observed tensors under the goldens' names. */
class Seen {
  readonly tensors = new Map<string, Tensor>()
  readonly note = (name: string, value: Tensor): void => void this.tensors.set(name, value)
}

async function greedy(model: ImageModel, visual: Tensor, text: TextRows, c: GoldenCase, score: Score): Promise<void> {
  if (!c.has('out.greedy_ids')) return
  const {
    shape: [rows, steps],
    data,
  } = c.get('out.greedy_ids') as { shape: [number, number]; data: Float64Array }
  const S = text.ids.length / rows
  for (let r = 0; r < rows; r++) {
    const prompt: number[] = []
    for (let i = r * S; i < (r + 1) * S; i++)
      if (text.mask[i] && (text.decoder || text.labels![i] === IGNORE)) prompt.push(text.ids[i]!)
    const ids: number[] = []
    for await (const id of generate(model, narrow(visual, 0, r, 1).detach(), prompt, { maxTokens: steps })) ids.push(id)
    const expected = [...data.subarray(r * steps, (r + 1) * steps)]
    if (`${ids}` !== `${expected}`) score.faults.push(`greedy ids of sample ${r}: expected ${expected}, but got ${ids}`)
  }
}

export async function imageCase(c: GoldenCase, score: Score): Promise<void> {
  const model = await loadImageModel(join(c.folder, c.config.base), { device: c.device })
  try {
    const text = textRows(c, model.config.language)
    await scope(() =>
      noGrad(async () => {
        const seen = new Seen()
        const pixels = c.tensor('in.pixel_values')
        const features = model.features(pixels.view([pixels.dim(0), 1, ...pixels.shape.slice(1)]), seen.note)
        const visual = model.visualTokens(features, qformerText(c), undefined, { observe: seen.note })
        const hidden = model.hidden(visual, text, { observe: seen.note })
        const layers = model.config.qformer.layers
        seen.note('vision.last_hidden_state', features)
        seen.note('visual_tokens', visual)
        seen.note('logits', logits(model.language, hidden))
        seen.note('loss', model.loss(hidden, text, 1 / answerTokens(text)))
        seen.note('qformer.hidden.0', seen.tensors.get('embeddings')!)
        for (let m = 0; m < layers; m++) seen.note(`qformer.hidden.${m + 1}`, seen.tensors.get(`layer.${m}.ffn`)!)
        seen.note('qformer.last_hidden_state', seen.tensors.get(`layer.${layers - 1}.ffn`)!)
        await compareOutputs(c, seen, score)
        await greedy(model, visual, text, c, score)
      }),
    )
    if (c.has('grad.visual_tokens')) await visualGradient(model, text, c, score)
  } finally {
    model.dispose()
  }
}

/** The gradient of the loss with respect to the visual tokens, where padding does not change what is computed. */
async function visualGradient(model: ImageModel, text: TextRows, c: GoldenCase, score: Score): Promise<void> {
  if (c.has('unpadded.loss')) return
  await scope(async () => {
    const visual = c.tensor('out.visual_tokens').requireGrad()
    const loss = model.loss(model.hidden(visual, text), text, 1 / answerTokens(text))
    backward(loss)
    await score.compare('gradient', c, 'grad.visual_tokens', visual.grad!)
    visual.grad!.dispose()
  })
}

/**
 * Every out.* of the file; what Hugging Face's own forward gives with padded positions is informative only. Where a
 * case has unpadded.*, what its samples give by themselves, padding changes what Hugging Face's T5 computes, and ours
 * not.
 */
async function compareOutputs(c: GoldenCase, seen: Seen, score: Score): Promise<void> {
  const unpadded = c.names('unpadded.').map((name) => name.slice('unpadded.'.length))
  for (const name of c.names('out.')) {
    const key = name.slice('out.'.length)
    if (key === 'greedy_ids' || key === 'losses' || key.endsWith('_padded_positions')) continue
    if (unpadded.length && key.startsWith('lm.')) continue
    const ours = seen.tensors.get(key) ?? seen.tensors.get(key.replace(/\.joint$/, '.spatial'))
    if (ours && unpadded.includes(key)) await compareUnpadded(c, key, ours, score)
    else if (ours) await score.compare('forward', c, name, ours)
    else score.faults.push(`${name}: nothing of that name was computed`)
  }
}

/** Rows of answer tokens alone: what stands behind an answer is 0 in the file. */
async function compareUnpadded(c: GoldenCase, key: string, ours: Tensor, score: Score): Promise<void> {
  const expected = c.get(`unpadded.${key}`).data
  const actual = Float64Array.from((await ours.data()) as Float32Array)
  const width = ours.rank === 3 ? ours.dim(2) : 0
  c.get('in.labels').data.forEach((label, i) => {
    if (width && label === IGNORE) actual.fill(0, i * width, (i + 1) * width)
  })
  score.note('forward', `unpadded.${key}`, relativeError(actual, expected))
}

export async function videoCase(c: GoldenCase, score: Score): Promise<void> {
  const [inputs, params] = await Promise.all(
    [c.config.inputs, c.config.params].map((file: string) => GoldenCase.read(c.folder, file, c.device)),
  )
  const model = await loadImageModel(join(c.folder, c.config.base), { device: c.device })
  const config = adapterConfigFromGolden(c.config.config, c.config.T)
  const masks = (name: string) =>
    c.has(name) ? { size: c.get(name).shape[0]!, bits: Uint8Array.from(c.get(name).data) } : undefined
  const values = new Map((c.config.trained as string[]).map((n) => [n, params!.tensor(n)]))
  const adapter = new Adapter(model.config, config, {
    values,
    device: c.device,
    masks: { spatial: masks('in.spatial_masks'), temporal: masks('in.temporal_masks') },
  })
  const ours = [...adapter.parameters.keys()]
  if (`${[...ours].sort()}` !== `${[...values.keys()].sort()}`)
    score.faults.push(
      `trained parameters: expected ${[...values.keys()].filter((n) => !ours.includes(n))}, which we lack, or without ${ours.filter((n) => !values.has(n))}`,
    )
  const { train } = c.config.config
  const optimizer = new AdamW(
    adapter.trained().map((p) => ({ ...p, tensor: adapter.parameters.get(p.name)! })),
    { lr: train.lr, betas: train.betas, eps: train.eps, weightDecay: train.weight_decay },
  )
  try {
    const features = await scope(() => noGrad(() => keep(model.features(inputs!.tensor('in.pixel_values')))))
    const text = textRows(inputs!, model.config.language)
    const forward = (seen?: Seen) => {
      const visual = model.visualTokens(features, config.fusion ? qformerText(inputs!) : undefined, adapter, {
        observe: seen?.note,
      })
      const hidden = model.hidden(visual, text)
      return { visual, hidden, loss: model.loss(hidden, text, 1 / answerTokens(text)) }
    }
    await scope(async () => {
      const seen = new Seen()
      const { visual, hidden, loss } = forward(seen)
      seen.note('vision', features)
      seen.note('visual_tokens', visual)
      seen.note(
        'logits',
        noGrad(() => logits(model.language, hidden.detach())),
      )
      seen.note('loss', loss)
      await compareOutputs(c, seen, score)
      const inside = ['embeddings', 'visual_tokens'].filter((n) => c.has(`dout.${n}`))
      const douts = backward(
        loss,
        undefined,
        inside.map((n) => seen.tensors.get(n)!),
      )
      for (const [i, n] of inside.entries()) await score.compare('gradient', c, `dout.${n}`, douts[i]!)
      await compareGradients(c, adapter, score)
      await noGrad(() => greedy(model, visual.detach(), text, c, score))
    })
    await trainSteps(c, adapter, optimizer, values, () => forward().loss, score)
    features.dispose()
  } finally {
    optimizer.dispose()
    adapter.dispose()
    model.dispose()
  }
}

const norm = (a: ArrayLike<number>): number => Math.sqrt(Array.from(a).reduce((s, x) => s + x * x, 0))

/** Tensor by tensor; those that are zero or noise in exact arithmetic against the norm of all. */
async function compareGradients(c: GoldenCase, adapter: Adapter, score: Score): Promise<void> {
  const total = norm(c.names('grad.').map((n) => norm(c.get(n).data)))
  const tiny = new Set<string>([...(c.config.zero_gradients ?? []), ...(c.config.noise_gradients ?? [])])
  for (const [name, parameter] of adapter.parameters) {
    const reference = c.get(`grad.${name}`).data
    const actual = parameter.grad ? ((await parameter.grad.data()) as Float32Array) : new Float32Array(reference.length)
    const error = tiny.has(name)
      ? norm(Array.from(reference, (x, i) => x - actual[i]!)) / total
      : relativeError(actual, reference)
    score.note('gradient', `grad.${name}`, error)
  }
}

/** AdamW steps on the same batch: the losses, and the displacement of the parameters. */
async function trainSteps(
  c: GoldenCase,
  adapter: Adapter,
  optimizer: AdamW,
  start: Map<string, Tensor>,
  loss: () => Tensor,
  score: Score,
): Promise<void> {
  const before = new Map<string, Float32Array>()
  for (const [name, t] of start) before.set(name, (await t.data()) as Float32Array)
  const losses: number[] = []
  // The gradients of the first step are computed already.
  for (let step = 0; step <= c.config.config.train.steps; step++) {
    await scope(async () => {
      const l = loss()
      losses.push(await l.item())
      if (step === c.config.config.train.steps) return
      optimizer.zeroGrad()
      backward(l)
      await optimizer.step()
    })
  }
  score.note('forward', 'out.losses', relativeError(losses, c.get('out.losses').data))
  const tiny = new Set<string>([...(c.config.zero_gradients ?? []), ...(c.config.noise_gradients ?? [])])
  for (const [name, t] of adapter.parameters) {
    if (tiny.has(name) || !c.has(`after.${name}`)) continue
    const was = before.get(name)!
    const moved = Array.from((await t.data()) as Float32Array, (x, i) => x - was[i]!)
    score.note(
      'update',
      `after.${name}`,
      relativeError(
        moved,
        Array.from(c.get(`after.${name}`).data, (x, i) => x - was[i]!),
      ),
    )
  }
}
