// Cases for the peers, with inputs and weights by seed.
import { join } from 'node:path'
import type { PeerCase } from '../../bench/peers/client.js'
import { writeSafetensors } from '../../lib/files/safetensors.js'
import { random } from '../oracle/random.js'
import { temporaryFolder } from '../support/tiny.js'

export type Tensors = Record<string, { shape: number[]; data: Float32Array }>

/** Names and shapes of a case's tensors (bench/peers/README.md). */
export function shapesOf({
  kind,
  pass,
  form,
  sizes: { B, T, L, K, D, KV = 0, DV = 0, layers = 0, rank },
}: Omit<PeerCase, 'tensors'>): [string, number[]][] {
  const linear = (name: string, from = D, to = D): [string, number[]][] => [
    [`${name}.weight`, [to, from]],
    [`${name}.bias`, [to]],
  ]
  const norm = (name: string): [string, number[]][] => [
    [`${name}.weight`, [D]],
    [`${name}.bias`, [D]],
  ]
  const lora = (name: string, from = D): [string, number[]][] =>
    rank
      ? [
          [`${name}.q.A`, [rank, D]],
          [`${name}.q.B`, [D, rank]],
          [`${name}.v.A`, [rank, from]],
          [`${name}.v.B`, [D, rank]],
        ]
      : []
  const x = [B, T, L, D]
  const dy: [string, number[]][] = pass === 'forward' ? [] : [['dy', x]]
  const both = form === 'factorized'
  if (kind === 'linear')
    return [
      ['x', [B, DV]],
      ['weight', [D, DV]],
    ]
  if (kind === 'core') return [['q', x], ['k', x], ['v', x], ...dy]
  if (kind === 'block') {
    const frozen = ['query', 'key', 'value', 'dense'].flatMap((n) => linear(n))
    return [['x', x], ...frozen, ...norm('norm'), ...lora('lora.space'), ...(both ? lora('lora.time') : []), ...dy]
  }
  const attention = (at: string, from = D): [string, number[]][] => [
    ...linear(`${at}.attention.query`),
    ...linear(`${at}.attention.key`, from),
    ...linear(`${at}.attention.value`, from),
    ...linear(`${at}.output.dense`),
    ...norm(`${at}.output.LayerNorm`),
  ]
  const feed = (at: string, kind: string): [string, number[]][] => [
    ...linear(`${at}.intermediate${kind}.dense`, D, 4 * D),
    ...linear(`${at}.output${kind}.dense`, 4 * D, D),
    ...norm(`${at}.output${kind}.LayerNorm`),
  ]
  return [
    ['queries', x],
    ['image', [B, T, KV, DV]],
    ...(K ? [['text', [B, K, D]] as [string, number[]]] : []),
    ...norm('qformer.embeddings.layernorm'),
    ...dy,
    ...Array.from({ length: layers }, (_, m) => {
      const at = `qformer.encoder.layer.${m}`
      const low = `lora.layer.${m}`
      return [
        ...attention(`${at}.attention`),
        ...feed(at, '_query'),
        ...(K ? feed(at, '') : []),
        ...lora(`${low}.space`),
        ...(both ? lora(`${low}.time`) : []),
        ...(m % 2 === 0 ? [...attention(`${at}.crossattention`, DV), ...lora(`${low}.cross`, DV)] : []),
      ]
    }).flat(),
  ]
}

/** Numbers of a size that keeps every layer's outputs near 1, and no bias, norm or LoRA without effect. */
export function draw(shapes: [string, number[]][], seed: number): Tensors {
  const r = random(seed)
  return Object.fromEntries(
    shapes.map(([name, shape]) => {
      const matrix = shape.length === 2
      const [centre, spread] = /norm\.weight$/i.test(name)
        ? [1, 0.2]
        : matrix
          ? [0, 1 / Math.sqrt(shape[1]!)]
          : /bias$/.test(name)
            ? [0, 0.2]
            : [0, 1]
      return [
        name,
        {
          shape,
          data: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => centre + spread * r.normal()),
        },
      ]
    }),
  )
}

const folder = temporaryFolder('peers')

/** The case with its tensors in a file. */
export async function write(c: Omit<PeerCase, 'tensors'>, tensors: Tensors): Promise<PeerCase> {
  const path = join(folder, `${c.id.replaceAll(/\W+/g, '-')}.safetensors`)
  await writeSafetensors(
    path,
    Object.entries(tensors).map(([name, t]) => ({ name, dtype: 'F32', ...t })),
  )
  return { ...c, tensors: path }
}
