/** The configuration of a training run: the adapter's keys beside those of model, data and training, read from YAML. */
import { existsSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { z } from 'zod'
import { AdapterKeys, completeAdapterConfig, type AdapterConfig } from '../adapter/config.js'
import { invalid } from '../errors.js'
import { isHubName } from '../files/hub.js'
import { readYaml } from '../files/yaml.js'
import { checkWith } from '../files/schema.js'
import { TIMEOUT, type Sampling } from '../data/frames.js'
import { GROUPS, type ParameterGroup } from '../adapter/parameters.js'
import { isBuiltIn } from '../adapter/masks.js'

const rate = z.number().positive()

/** The logs that a run may write. */
const LOGS = ['jsonl', 'tensorboard', 'csv'] as const
export type LogKind = (typeof LOGS)[number]

/** Layers whose intermediate results are not kept for the backward pass, but computed again. */
export const RECOMPUTE = ['none', 'language', 'all'] as const
export type Recompute = (typeof RECOMPUTE)[number]

const METRIC = /^(accuracy(:.+)?|valLoss|loss)$/

const Schema = z.strictObject({
  model: z
    .string()
    .min(1)
    .describe(
      'Checkpoint folder of the image model; where there is none of that name, OWNER/NAME of the Hugging Face hub.',
    ),
  output: z.string().min(1).describe('Folder that receives the adapter, the metrics and the state of the run.'),
  data: z.strictObject({
    train: z.string().min(1).describe('Manifest of the training samples.'),
    val: z.string().min(1).optional().describe('Manifest of the validation samples. Absent: no validation.'),
    sampling: z
      .enum(['uniform', 'fps', 'first'])
      .default('uniform')
      .describe('Which frames are taken: spread over the clip, at a fixed rate, or the first ones.'),
    fps: rate.optional().describe('With `sampling: fps`, and required there: frames per second.'),
    timeout: rate
      .default(TIMEOUT)
      .describe('Seconds that reading and decoding one clip may take before it counts as one that cannot be read.'),
    cache: z
      .string()
      .min(1)
      .optional()
      .describe('Folder of the cached image features. Default: `features` in the output folder.'),
  }),
  train: z
    .strictObject({
      batch: z.int().min(1).default(2).describe('Samples of a micro-batch.'),
      epochs: z.int().min(1).default(25).describe('Passes over the training samples.'),
      accumulation: z.int().min(1).default(1).describe('Micro-batches per optimiser step.'),
      recompute: z
        .enum(RECOMPUTE)
        .default('none')
        .describe(
          'Layers whose intermediate results are not kept for the backward pass but computed again: none, those of the language model, or those of the Q-Former too. Less memory, more time, the same bits.',
        ),
      lr: z
        .union([
          rate,
          z.strictObject(
            Object.fromEntries(GROUPS.map((group) => [group, rate.optional()])) as Record<
              ParameterGroup,
              z.ZodOptional<typeof rate>
            >,
          ),
        ])
        .default(1e-4)
        .describe('Learning rate: one number, or one for each group of parameters that is trained.'),
      betas: z
        .tuple([z.number().min(0).lt(1), z.number().min(0).lt(1)])
        .default([0.9, 0.95])
        .describe("AdamW's decay of the first and of the second moment."),
      eps: z.number().positive().default(1e-8).describe("AdamW's epsilon."),
      weightDecay: z
        .number()
        .min(0)
        .default(0.05)
        .describe('Decoupled weight decay of matrices; biases, norms, positions and gates have none.'),
      schedule: z
        .enum(['constant', 'linear', 'cosine'])
        .default('constant')
        .describe('Learning rate after warm-up: constant, or down to 0 in a line or in half a cosine.'),
      warmup: z.int().min(0).default(0).describe('Steps of linear warm-up.'),
      clip: z.number().min(0).default(0).describe('Largest global norm of the gradient; 0: no clipping.'),
      seed: z.int().min(0).default(0).describe('Seed of initial values and of the order of samples.'),
      maxBadSteps: z
        .int()
        .min(1)
        .default(5)
        .describe('Steps in a row whose loss or gradient is not finite before training stops.'),
      batching: z
        .enum(['shuffled', 'length'])
        .default('shuffled')
        .describe(
          'Which samples share a batch: any, or those whose texts are about as long, so that there is less padding. Both are drawn anew each epoch.',
        ),
      ema: z
        .number()
        .min(0)
        .lt(1)
        .default(0)
        .describe(
          'Decay of a moving average of the trained tensors, which is then validated and saved as the best; 0: none.',
        ),
      evalEvery: z
        .int()
        .min(0)
        .default(0)
        .describe('Steps between validations, beside that at the end of each epoch; 0: none.'),
      metric: z
        .string()
        .regex(METRIC, 'accuracy, accuracy:TASK, valLoss or loss')
        .optional()
        .describe(
          'What the best adapter is chosen by: `accuracy`, `accuracy:TASK`, `valLoss` (mean loss per answer token of the validation samples) or `loss` (that of training). Default: `accuracy`, or `loss` without validation.',
        ),
      patience: z
        .int()
        .min(0)
        .default(0)
        .describe('Validations in a row without a new best after which training ends; 0: it never ends early.'),
      saveEvery: z
        .int()
        .min(0)
        .default(0)
        .describe('Steps between saves, beside that at the end of each epoch; 0: none. A killed run loses no more.'),
      keepLast: z
        .int()
        .min(1)
        .default(1)
        .describe('Saves that are kept: `last`, and the ones before it as `step-N`; `--resume step-N` resumes one.'),
      maxSkipped: z
        .int()
        .min(0)
        .default(0)
        .describe('Samples that may be left out since their clip cannot be used; with more the run does not start.'),
      log: z
        .array(z.enum(LOGS))
        .default(['jsonl'])
        .describe('Logs in the output folder: `metrics.jsonl`, TensorBoard event files, `metrics.csv`.'),
      report: z
        .boolean()
        .default(true)
        .describe(
          'Whether the run records what its report shows, and writes `report.html` when it ends: up to 200 samples are answered once more by the best adapter and by the untrained model.',
        ),
    })
    .prefault({}),
  ...AdapterKeys,
})

type Parsed = z.output<typeof Schema>

/** The section `train` with nothing given. */
export const defaultTrain = (): Parsed['train'] => Schema.shape.train.parse({})

/** A training run's configuration, all defaults filled in: paths are absolute, the adapter's keys are in `adapter`. */
export interface TrainConfig {
  /** Folder of the frozen model, or its name on the hub. */
  model: string
  /** Folder that the run writes to. */
  output: string
  /** Manifests, the choice of frames, seconds that reading a clip may take, and the folder of cached features. */
  data: { train: string; val?: string | undefined; sampling: Sampling; timeout: number; cache: string }
  /** Batches, epochs, optimiser, saving and validation; docs/configuration.md has the keys. */
  train: Parsed['train']
  /** What is trained. */
  adapter: AdapterConfig
}

/** The JSON Schema of a configuration file. */
export function trainConfigJsonSchema(): Record<string, unknown> {
  const { $schema, ...rest } = z.toJSONSchema(Schema, { io: 'input' })
  return { $schema, title: 'Configuration of mtransllama train', ...rest }
}

/** Checks a configuration; an unknown key is an error that suggests the nearest. Paths are relative to `base`. */
export function parseTrainConfig(value: unknown, base = process.cwd(), where = 'configuration'): TrainConfig {
  const { model, output, data, train, ...adapter } = checkWith(Schema, value ?? {}, where)
  const at = (path: string): string => resolve(base, path)
  if ((data.sampling === 'fps') !== (data.fps !== undefined)) {
    throw invalid(
      `${where}: data.fps`,
      data.sampling === 'fps' ? 'frames per second, with data.sampling: fps' : 'nothing, unless data.sampling is fps',
      data.fps,
    )
  }
  const metric = train.metric
  if (data.val === undefined && metric !== undefined && metric !== 'loss')
    throw invalid(`${where}: train.metric`, 'loss, since data.val is not given', metric)
  return {
    model: existsSync(at(model)) || !isHubName(model) ? at(model) : model,
    output: at(output),
    data: {
      train: at(data.train),
      val: data.val === undefined ? undefined : at(data.val),
      sampling: data.sampling === 'fps' ? { kind: 'fps', fps: data.fps! } : { kind: data.sampling },
      timeout: data.timeout,
      cache: at(data.cache ?? `${output}/features`),
    },
    train,
    adapter: withPaths(completeAdapterConfig(adapter, where), at),
  }
}

/** A configuration as its file would say it, with defaults and absolute paths; {@link parseTrainConfig} reads it. */
export function plainConfig({ data, adapter, ...config }: TrainConfig): Record<string, unknown> {
  const { sampling, ...paths } = data
  const fps = sampling.kind === 'fps' ? { fps: sampling.fps } : {}
  return { ...config, data: { ...paths, sampling: sampling.kind, ...fps }, ...adapter }
}

/** Names of mask files are relative to the configuration, not to the working directory. */
function withPaths(adapter: AdapterConfig, at: (path: string) => string): AdapterConfig {
  const file = (masks: string): string => (isBuiltIn(masks) ? masks : at(masks))
  return {
    ...adapter,
    dar: {
      ...adapter.dar,
      spatialMasks: file(adapter.dar.spatialMasks),
      temporalMasks: file(adapter.dar.temporalMasks),
    },
  }
}

/** Reads a YAML (or JSON) file; paths in it are relative to it. */
export async function readTrainConfig(path: string): Promise<TrainConfig> {
  return parseTrainConfig(await readYaml(path, 'mtransllama init writes one'), dirname(resolve(path)), path)
}
