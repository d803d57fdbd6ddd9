/**
 * The tiny world with InstructBlipVideo of transformers and LoRA of PEFT, beside this project's model on the same
 * checkpoint, clips, samples and steps; writes docs/tiny-world/peer.json. Python is the one of python.ts.
 *
 *     npx tsx bench/peers/tiny-world.ts CLIPS FEATURES
 *
 * CLIPS: the sets that examples/tiny-world/sets.ts renders; FEATURES: a folder for features. MT_THREADS: threads of both.
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { argv, env, execPath } from 'node:process'
import { fileURLToPath } from 'node:url'
import { readManifest, type Sample } from '../../lib/data/manifest.js'
import { checkAdapterConfig } from '../../lib/adapter/config.js'
import { predictSamples } from '../../lib/eval/evaluate.js'
import { loadAdapter } from '../../lib/adapter/save.js'
import { countTrained } from '../../lib/adapter/parameters.js'
import { configOf, recipeSettings, overlaid } from '../../lib/reproduce/recipes.js'
import { TINY_MODEL } from '../../lib/reproduce/study.js'
import { encode } from '../../lib/session/encode.js'
import { Features } from '../../lib/session/features.js'
import { openModel } from '../../lib/session/model.js'
import { batchesOf } from '../../lib/train/batches.js'
import type { TrainConfig } from '../../lib/train/config.js'
import { train } from '../../lib/train/loop.js'
import { rateFactor } from '../../lib/train/schedule.js'
import { pythons, torchEnvironment } from './python.js'
import type { Peer, PeerRow } from '../../lib/reproduce/study-page.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const [, script, clips, cache, ours, output] = argv as [string, string, string, string, string?, string?]
const manifest = (set: string): string => join(clips, set, 'manifest.jsonl')
const SEED = 0
const RATE = 4e-3

async function configFor(variant: string, folder: string): Promise<TrainConfig> {
  const settings = overlaid(await recipeSettings(['tiny-world', variant]), { train: { seed: SEED, report: false } })
  return configOf(settings, { model: TINY_MODEL, output: folder, train: manifest('train'), cache }, variant)
}

const median = (values: number[]): number => values.sort((a, b) => a - b)[Math.floor(values.length / 2)]!
const share = (right: readonly boolean[]): number => (100 * right.filter(Boolean).length) / right.length
/** Accuracy by task and in all, in percent. */
function accuracy(test: readonly Sample[], right: readonly boolean[]): Record<string, number> {
  const tasks = [...new Set(test.map((s) => s.task!))]
  return {
    ...Object.fromEntries(tasks.map((t) => [t, share(right.filter((_, i) => test[i]!.task === t))])),
    all: share(right),
  }
}

/** Trains and asks ours, in a process of its own. */
async function own(variant: string, file: string): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'mt-tiny-peer-'))
  try {
    using model = await openModel(TINY_MODEL)
    const config = await configFor(variant, folder)
    const times: number[] = []
    let trained = 0
    await train(config, {
      model,
      onStart: ({ adapter }) => void (trained = countTrained(adapter.trained())),
      onStep: (e) => void times.push(e.seconds),
    })
    const adapter = await loadAdapter(join(folder, 'last'), model.checkpoint)
    const test = await readManifest(manifest('test'))
    const { frames } = config.adapter
    const features = new Features(model.checkpoint, { frames, sampling: config.data.sampling, cache })
    const right: boolean[] = []
    for await (const p of predictSamples(model.checkpoint, features, test, { adapter })) right.push(p.correct)
    adapter.dispose()
    const peak = 1024 * Number(/VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))![1])
    const row: PeerRow = {
      name: variant,
      trained,
      accuracy: accuracy(test, right),
      stepSeconds: median(times),
      peakBytes: peak,
    }
    writeFileSync(file, JSON.stringify(row))
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** The request of tiny_world.py: every id, every feature, the order of samples and the rates of all steps. */
async function request(folder: string): Promise<{ path: string; test: Sample[]; steps: number }> {
  using model = await openModel(TINY_MODEL)
  const { checkpoint } = model
  const config = await configFor('without-mqt', folder)
  const adapter = checkAdapterConfig(config.adapter, checkpoint.model.config)
  const samples = { train: await readManifest(manifest('train')), test: await readManifest(manifest('test')) }
  const features = new Features(checkpoint, { frames: adapter.frames, sampling: config.data.sampling, cache })
  const videos = [...new Set([...samples.train, ...samples.test].map((s) => s.video))]
  const parts: Uint8Array[] = []
  for (const video of videos) {
    const data = await features.of({ video })
    parts.push(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
  }
  writeFileSync(join(folder, 'features.bin'), Buffer.concat(parts))
  const ids = (s: Sample, answer?: string): ReturnType<typeof encode> => encode(checkpoint, adapter, s, answer)
  const of = (s: Sample): object => {
    const { qformer, prompt, answer } = ids(s)
    return { clip: videos.indexOf(s.video), text: qformer, prompt, answer }
  }
  const place = new Map(samples.train.map((s, i) => [s.id, i]))
  const batches = Array.from({ length: config.train.epochs }, (_, e) =>
    batchesOf(samples.train, config.train, e + 1, checkpoint, adapter).map((b) =>
      b.flat().map((s) => place.get(s.id)!),
    ),
  ).flat()
  const used = new Set(samples.train.flatMap((s) => [...ids(s).prompt, ...ids(s).answer]))
  const free = Array.from({ length: checkpoint.model.config.language.vocabSize }, (_, i) => i).filter((i) => i > 2)
  const { warmup, schedule } = config.train
  const path = join(folder, 'request.json')
  writeFileSync(
    path,
    JSON.stringify({
      ...{ folder: TINY_MODEL, dtype: 'float32', seed: SEED, lr: RATE, lora: adapter.lora },
      threads: Number(env.MT_THREADS ?? 1),
      features: join(folder, 'features.bin'),
      shape: [videos.length, ...features.shape],
      videoToken: free.find((id) => !used.has(id)),
      factors: batches.map((_, step) => rateFactor(step, batches.length, warmup, schedule)),
      batches,
      train: samples.train.map(of),
      test: samples.test.map((s) => ({ ...of(s), choices: s.choices!.map((c) => ids(s, c).answer) })),
    }),
  )
  return { path, test: samples.test, steps: batches.length }
}

/** What tiny_world.py prints. */
interface Printed {
  chosen: number[]
  stepSeconds: number
  trained: number
  peakBytes: number
  versions: Record<string, string>
}

async function main(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'mt-tiny-peer-'))
  try {
    const { path, test, steps } = await request(folder)
    const threads = Number(env.MT_THREADS ?? 1)
    const printed = execFileSync(pythons()[0]!, [join(root, 'bench/peers/tiny_world.py'), path], {
      encoding: 'utf8',
      env: { ...torchEnvironment(threads), HF_HUB_OFFLINE: '1' },
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const { chosen, versions, ...rest } = JSON.parse(printed) as Printed
    const right = test.map((s, i) => s.choices![chosen[i]!] === s.answer)
    const { stepSeconds, trained, peakBytes } = rest
    const rows: PeerRow[] = [
      { name: 'transformers, PEFT', trained, accuracy: accuracy(test, right), stepSeconds, peakBytes },
    ]
    for (const variant of ['without-mqt', 'full']) {
      const file = join(folder, `${variant}.json`)
      execFileSync(execPath, ['--import', 'tsx', script, clips, cache, variant, file], { cwd: root, stdio: 'inherit' })
      rows.push(JSON.parse(readFileSync(file, 'utf8')) as PeerRow)
    }
    const peer: Peer = { threads, steps, versions, rows }
    mkdirSync(join(root, 'docs/tiny-world'), { recursive: true })
    writeFileSync(join(root, 'docs/tiny-world/peer.json'), `${JSON.stringify(peer, null, 2)}\n`)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

await (ours === undefined ? main() : own(ours, output!))
