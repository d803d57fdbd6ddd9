/** The configuration keys of the adapter, their defaults, and every check that needs more than one of them. */
import { z } from 'zod'
import { InputError, invalid } from '../errors.js'
import type { ModelConfig } from '../models/image-model.js'
import { checkWith } from '../files/schema.js'

const windows = z.array(z.int().min(0)).optional()

/** The keys as zod fields, so that a larger configuration can hold them beside its own. */
export const AdapterKeys = {
  frames: z.int().min(1).default(4).describe('Frames of each clip, T.'),
  text: z
    .strictObject({
      maxTokens: z
        .int()
        .min(2)
        .optional()
        .describe(
          'Most tokens of text that the Q-Former reads; longer texts are cut on the left. Default: 128, or the number of its positions where that is smaller.',
        ),
    })
    .prefault({}),
  fusion: z.boolean().default(true).describe('Whether the Q-Former reads the text (early fusion).'),
  lateText: z
    .enum(['prompt', 'drop'])
    .default('prompt')
    .describe('Without fusion: `prompt` puts the text in front of the prompt, `drop` leaves it out.'),
  modality: z
    .enum(['both', 'video', 'text'])
    .default('both')
    .describe(
      'What is given of a sample: clip and text; `video` leaves out the text beside the prompt, `text` shows blank frames in place of the clip.',
    ),
  aggregate: z
    .enum(['mean', 'concat'])
    .default('mean')
    .describe(
      "How the frames' query tokens become visual tokens: their mean, L of them, or all T·L one after another.",
    ),
  temporal: z
    .strictObject({
      attention: z
        .enum(['factorized', 'joint', 'none'])
        .default('factorized')
        .describe('Space and then time (s² + f²), one attention over all tokens of the video (s²f²), or space alone.'),
      residual: z
        .enum(['reuse', 'gated'])
        .default('reuse')
        .describe("The temporal block's output as it is, or behind a gate, one number per layer."),
      gateInit: z.number().default(0).describe('With `residual: gated`: the initial value of each gate.'),
      weights: z
        .enum(['reuse', 'fresh'])
        .default('reuse')
        .describe("The layer's frozen spatial weights again, or new weights, trained from a random start."),
      maxFrames: z
        .int()
        .min(1)
        .default(64)
        .describe('Rows of the table of frame positions; no clip may have more frames.'),
    })
    .prefault({}),
  dar: z
    .strictObject({
      mode: z
        .enum(['attention', 'score', 'off'])
        .default('attention')
        .describe('How masks route attention: a mixture of softmaxes, weighted scores, or no routing.'),
      choices: z.int().min(1).max(8).default(4).describe('Masks of the deepest layers, P.'),
      routerHidden: z.int().min(1).default(64).describe("Width of the router's hidden layer."),
      globalBias: z.number().default(4).describe("Initial value of the router's bias for plain attention, M_0."),
      spatialMasks: z
        .string()
        .min(1)
        .default('window')
        .describe('`window`, `modality`, or a safetensors file with a mask set, relative to this file.'),
      temporalMasks: z
        .string()
        .min(1)
        .default('window')
        .describe('`window`, or a safetensors file with a mask set, relative to this file.'),
      spatialWindows: windows.describe(
        'One window for each mask of `window` after M_0, in query indices and text positions. Default: 16, 8, 4, as many as needed.',
      ),
      temporalWindows: windows.describe(
        'One window for each mask of `window` after M_0, in frames. Default: 2, 1, 0, as many as needed.',
      ),
    })
    .prefault({}),
  lora: z
    .strictObject({
      r: z.int().min(1).default(16).describe('Rank of LoRA.'),
      alpha: z.number().positive().default(16).describe('Scale of LoRA: the update is multiplied by alpha/r.'),
    })
    .prefault({}),
}

const Schema = z.strictObject(AdapterKeys)
type Parsed = z.output<typeof Schema>

/** The configuration of an adapter, defaults filled in; docs/configuration.md has the keys. */
export type AdapterConfig = Omit<Parsed, 'dar'> & {
  dar: Omit<Parsed['dar'], 'spatialWindows' | 'temporalWindows'> & {
    spatialWindows: number[]
    temporalWindows: number[]
  }
}

/** An AdapterConfig that was checked against a model: every value is set. */
export type CheckedAdapterConfig = AdapterConfig & { text: { maxTokens: number } }

const SPATIAL_WINDOWS = [16, 8, 4]
const TEMPORAL_WINDOWS = [2, 1, 0]
const MAX_TOKENS = 128

/** Fills in defaults; an unknown key is an error that suggests the nearest known one. Messages begin with `where`. */
export function parseAdapterConfig(value: unknown = {}, where = 'adapter configuration'): AdapterConfig {
  return completeAdapterConfig(checkWith(Schema, value, where), where)
}

/** The second half of parseAdapterConfig, for a caller that has checked AdapterKeys as part of a larger schema. */
export function completeAdapterConfig(parsed: Parsed, where = 'adapter configuration'): AdapterConfig {
  const { dar } = parsed
  return {
    frames: parsed.frames,
    text: parsed.text,
    fusion: parsed.fusion,
    lateText: parsed.lateText,
    modality: parsed.modality,
    aggregate: parsed.aggregate,
    temporal: parsed.temporal,
    dar: {
      ...dar,
      spatialWindows: windowsFor('spatial', dar.spatialMasks, dar.spatialWindows, SPATIAL_WINDOWS, dar, where),
      temporalWindows: windowsFor('temporal', dar.temporalMasks, dar.temporalWindows, TEMPORAL_WINDOWS, dar, where),
    },
    lora: parsed.lora,
  }
}

/**
 * One window for every mask but M_0. With fewer choices the first of the standard windows are used; for more choices
 * they must be given.
 */
function windowsFor(
  axis: 'spatial' | 'temporal',
  masks: string,
  given: number[] | undefined,
  standard: number[],
  dar: Parsed['dar'],
  where: string,
): number[] {
  const wanted = dar.choices - 1
  if (masks !== 'window') return given ?? standard.slice(0, wanted)
  if (given === undefined && wanted <= standard.length) return standard.slice(0, wanted)
  if (given?.length === wanted) return given
  throw invalid(
    `${where}: dar.${axis}Windows`,
    `${wanted} windows, one less than dar.choices (${dar.choices})`,
    given ?? standard,
  )
}

// -------------------------------------------------------------------------------------------------------------- checks

/** The checks that need the model. Returns the configuration with every value set. */
export function checkAdapterConfig(
  adapter: AdapterConfig,
  model: ModelConfig,
  where = 'adapter configuration',
): CheckedAdapterConfig {
  const { temporal, dar, lora, frames } = adapter
  const { qformer, language, numQueryTokens } = model
  const at = (key: string) => `${where}: ${key}`

  if (frames > temporal.maxFrames) {
    throw invalid(
      at('frames'),
      `at most temporal.maxFrames (${temporal.maxFrames})`,
      frames,
      'raise temporal.maxFrames or take fewer frames',
    )
  }
  if (adapter.fusion && !qformer.hasText) {
    throw new InputError(
      `${at('fusion')}: the Q-Former of a ${model.family} checkpoint has no text path, so it cannot read the dialogue; ` +
        'set fusion: false (lateText: prompt then puts the dialogue in front of the prompt) or use an InstructBLIP checkpoint, ' +
        'also for the text path alone (qformer_text_from in config.json).',
    )
  }
  if (temporal.attention === 'joint' && dar.mode !== 'off') {
    throw invalid(
      at('dar.mode'),
      '"off" with temporal.attention: joint',
      dar.mode,
      'routing is defined for factorized attention and for none',
    )
  }
  if (temporal.attention !== 'factorized' && temporal.weights === 'fresh') {
    throw invalid(
      at('temporal.weights'),
      `"reuse" with temporal.attention: ${temporal.attention}`,
      temporal.weights,
      'there is no temporal block to give weights to',
    )
  }
  if (dar.temporalMasks === 'modality') {
    throw invalid(
      at('dar.temporalMasks'),
      'window or the name of a file',
      dar.temporalMasks,
      'frames are all of one modality',
    )
  }
  if (dar.spatialMasks === 'modality' && dar.choices > 4) {
    throw invalid(
      at('dar.choices'),
      'at most 4 with dar.spatialMasks: modality, which has that many masks',
      dar.choices,
    )
  }
  const most = Math.min(qformer.hiddenSize, qformer.encoderHiddenSize)
  if (lora.r > most) throw invalid(at('lora.r'), `at most ${most}, the narrower side of the matrices`, lora.r)

  const visual = visualTokens(adapter, numQueryTokens)
  if (visual >= language.maxPositions) {
    throw invalid(
      at('frames'),
      `fewer than ${language.maxPositions} visual tokens, the positions of the language model`,
      visual,
      `with aggregate: ${adapter.aggregate} they are ${adapter.aggregate === 'concat' ? `${frames} frames x ` : ''}${numQueryTokens}`,
    )
  }
  const { maxTokens } = adapter.text
  if (maxTokens !== undefined && maxTokens > qformer.maxPositions) {
    throw invalid(at('text.maxTokens'), `at most ${qformer.maxPositions}, the positions of this Q-Former`, maxTokens)
  }
  return { ...adapter, text: { maxTokens: maxTokens ?? Math.min(MAX_TOKENS, qformer.maxPositions) } }
}

/** Rows that the language model gets for a clip. */
export function visualTokens(adapter: Pick<AdapterConfig, 'aggregate' | 'frames'>, numQueryTokens: number): number {
  return adapter.aggregate === 'concat' ? adapter.frames * numQueryTokens : numQueryTokens
}

/** p_m of every layer: 1 + floor(m P / N), choices that grow with depth. */
export function masksPerLayer(layers: number, choices: number): number[] {
  return Array.from({ length: layers }, (_, m) => 1 + Math.floor((m * choices) / layers))
}
