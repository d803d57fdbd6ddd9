/** Results over several rows: the three ratios of docs/model.md#cost, and Table VI with numbers. */
import { parseAdapterConfig } from '../lib/adapter/config.js'
import { blockFlops, coreFlops, publishedModels, scoreProducts, trainedCount, videoCost } from './cost.js'
import { parseModelConfig } from '../lib/checkpoint/config.js'
import type { LlamaConfig } from '../lib/models/llama.js'
import type { Row } from './record.js'

export interface Ratios {
  T: number
  K: number
  pass: Row['pass']
  dtype: Row['dtype']
  /** joint over factorized: by count, and of the times where both were measured. */
  scores: number
  core: number | undefined
  blockFlops: number
  block: number | undefined
  /** Bytes that one call of the core allocates, joint and factorized. */
  memory: [number, number] | undefined
  /** Visual tokens for the language model: all frames' queries, or those of the video. */
  tokens: [number, number]
}

/** One line for every T, K, pass and dtype that has a core or a block in both forms. */
export function ratios(rows: readonly Row[]): Ratios[] {
  const mine = rows.filter((r) => /^(factorized|joint) (core|block) /.test(r.id) && r.cpu !== 'avx2')
  const keys = new Map(mine.map((r) => [`${r.sizes.T} ${r.sizes.K} ${r.pass} ${r.dtype}`, r]))
  return [...keys.values()]
    .map((r): Ratios => {
      const { T, K, L, D } = r.sizes as { T: number; K: number; L: number; D: number }
      const sizes = { frames: T, queries: L, text: K }
      const find = (what: string): Row | undefined =>
        mine.find(
          (x) =>
            x.id.startsWith(what) && x.sizes.T === T && x.sizes.K === K && x.pass === r.pass && x.dtype === r.dtype,
        )
      const over = (part: 'core' | 'block'): number | undefined => {
        const [joint, factorized] = [find(`joint ${part} `), find(`factorized ${part} `)]
        return joint && factorized && joint.us.median / factorized.us.median
      }
      const [joint, factorized] = [find('joint core '), find('factorized core ')]
      return {
        T,
        K,
        pass: r.pass,
        dtype: r.dtype,
        scores: scoreProducts('joint', sizes) / scoreProducts('factorized', sizes),
        core: over('core'),
        blockFlops:
          blockFlops('joint', sizes, D, r.pass as 'forward') / blockFlops('factorized', sizes, D, r.pass as 'forward'),
        block: over('block'),
        memory: joint && factorized && [joint.peakBytes!, factorized.peakBytes!],
        tokens: [T * L, L],
      }
    })
    .sort(
      (a, b) =>
        Number(a.dtype > b.dtype) - Number(a.dtype < b.dtype) ||
        Number(a.pass > b.pass) - Number(a.pass < b.pass) ||
        a.K - b.K ||
        a.T - b.T,
    )
}

export interface TableSix {
  frames: number
  /** Text tokens of the prompt that the language model reads besides. */
  prompt: number
  trained: number
  models: {
    name: string
    form: string
    videoPretraining: boolean
    trained: string
    languageFrozen: boolean
    projectionFrozen: boolean
    scores: number
    visualTokens: number
    languageTflops: number
    coreMflops: number
  }[]
}

/**
 * Table VI of the paper: its columns as printed, with the numbers that its formulas give for so many frames of 32
 * tokens.
 */
export function tableSix(frames: number, prompt = 64): TableSix {
  const full = parseModelConfig({
    model_type: 'instructblip',
    vision_config: {},
    text_config: { model_type: 'llama', vocab_size: 32001 },
  })
  const sizes = { frames, queries: full.numQueryTokens }
  return {
    frames,
    prompt,
    trained: trainedCount(full, parseAdapterConfig({})),
    models: publishedModels.map((m) => {
      const { scores, visualTokens, languageFlops } = videoCost(m, sizes, full.language as LlamaConfig, prompt)
      const { name, videoPretraining, trained, languageFrozen, projectionFrozen } = m
      return {
        name,
        form: m.form === 'joint' ? 's²f²' : 's² + f²',
        videoPretraining,
        trained,
        languageFrozen,
        projectionFrozen,
        scores,
        visualTokens,
        languageTflops: languageFlops / 1e12,
        coreMflops: coreFlops(m.form, sizes, full.qformer.hiddenSize) / 1e6,
      }
    }),
  }
}
