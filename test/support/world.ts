/**
 * A checkpoint folder and clips for whole runs: the random tiny InstructBLIP or BLIP-2 with the tokenizers of the tiny
 * world, and a few of its rendered clips. Its weights are random.
 */
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { renderClips } from '../../examples/tiny-world/render.js'
import { tokenizerFiles, writeTokenizerFiles } from '../../examples/tiny-world/tokenizer-files.js'
import { Adapter } from '../../lib/adapter/adapter.js'
import { parseAdapterConfig } from '../../lib/adapter/config.js'
import { saveAdapter } from '../../lib/adapter/save.js'
import { write } from '../../lib/ops/copy.js'
import { Random } from '../../lib/ops/random.js'
import type { Model } from '../../lib/session/model.js'
import { scope } from '../../lib/tensor/scope.js'
import { parseTrainConfig, type TrainConfig } from '../../lib/train/config.js'
import { tinyCheckpoint, type TinyKind, writeTiny } from '../oracle/tiny.js'
import { temporaryFolder } from './tiny.js'

/** Writes the checkpoint into `folder` and returns that. */
export async function writeCheckpoint(folder: string, kind: TinyKind = 'instructblip', seed = 7): Promise<string> {
  const tiny = tinyCheckpoint(kind, seed)
  writeTiny(folder, tiny)
  await writeTokenizerFiles(folder)
  const side = tiny.config['vision_config'].image_size as number
  const preprocessor = { ...tokenizerFiles()['preprocessor_config.json'], size: { height: side, width: side } }
  writeFileSync(join(folder, 'preprocessor_config.json'), JSON.stringify(preprocessor))
  if (kind.startsWith('blip2')) rmSync(join(folder, 'qformer_tokenizer'), { recursive: true })
  return folder
}

/** Saves an adapter of three frames, whose LoRA does something. */
export async function writeAdapter(model: Model, folder: string, seed: number): Promise<void> {
  const { model: image, fingerprint } = model.checkpoint
  const adapter = new Adapter(image.config, parseAdapterConfig({ frames: 3, lora: { r: 2 } }), { seed })
  scope(() => {
    const random = new Random(seed)
    for (const t of adapter.parameters.values()) write(t, random.normal(t.shape, 0, 0.5))
  })
  await saveAdapter(folder, adapter, { fingerprint, base: 'tiny' })
  adapter.dispose()
}

export interface World {
  root: string
  model: string
  /** Manifests. */
  train: string
  val: string
}

/** Why a package cannot be loaded here; undefined where it can. */
export const missing = (name: string): Promise<string | undefined> =>
  import(name).then(
    () => undefined,
    (error: Error) => `${name} cannot be loaded: ${error.message.split('\n')[0]}`,
  )

/**
 * A checkpoint with six clips to train on and two to validate with, in a folder that goes with the process. The clips
 * are folders of PNG files where FFmpeg is not installed; both need sharp.
 */
export async function makeWorld(): Promise<World> {
  const root = temporaryFolder('world')
  const model = await writeCheckpoint(join(root, 'model'))
  const set = { dir: join(root, 'clips'), seed: 1, pictures: (await missing('node-av/lib')) !== undefined }
  const train = await renderClips({ ...set, split: 'train', clips: 6 })
  const val = await renderClips({ ...set, split: 'val', clips: 2 })
  return { root, model, train, val }
}

/** What a configuration file of a short run without a report says; `more` changes or adds keys, one level deep in `train` and `data`. */
export function configOf(
  world: World,
  output: string,
  more: { train?: object; data?: object; [key: string]: unknown } = {},
): Record<string, unknown> {
  const { train, data, ...rest } = more
  return {
    model: world.model,
    output: join(world.root, output),
    data: { train: world.train, val: world.val, cache: join(world.root, 'features'), ...data },
    train: { batch: 4, epochs: 2, lr: 3e-3, seed: 5, report: false, ...train },
    frames: 3,
    lora: { r: 3, alpha: 6 },
    dar: { routerHidden: 8 },
    ...rest,
  }
}
export const trainConfig = (...args: Parameters<typeof configOf>): TrainConfig => parseTrainConfig(configOf(...args))

/** The lines of a file of JSON lines. */
export const jsonLines = (path: string): Record<string, any>[] =>
  readFileSync(path, 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
