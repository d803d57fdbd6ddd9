/**
 * `npm run bench:whole -- [options]`: InstructBLIP over four frames, with LoRA on its Q-Former, by this project and by
 * transformers with PEFT, at a size that fits twice. Every measurement is a process of its own; rounds go through all
 * contenders in turn. Writes bench/results/peers/<machine>-<date>.json.
 */
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Command } from 'commander'
import { parseModelConfig } from '../../lib/checkpoint/config.js'
import { countParts, expectedTensors } from '../../lib/checkpoint/names.js'
import { InputError, invalid } from '../../lib/errors.js'
import { threads as threadsOf } from '../../lib/tensor/runtime.js'
import { hubConfig, writeCheckpoint } from '../full-size/checkpoint.js'
import { commit, load, machine, slug, softwareVersions } from '../machine.js'
import { pythons, torchEnvironment } from '../peers/python.js'
import { Asked, CONTENDERS, Peers, Trained, type ContenderName, type PeersRun, type Request } from './record.js'

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url))

type Dtype = Request['dtype']
type Config = Record<'vision_config' | 'qformer_config' | 'text_config', object> & { video_token_index: number }

/** config.json: the hub's Q-Former, fewer layers of the image tower, a smaller language model. */
export function middleSize(dtype: Dtype): Config {
  const config = hubConfig(dtype) as Config
  return {
    ...config,
    vision_config: { ...config.vision_config, num_hidden_layers: 6 },
    text_config: {
      ...config.text_config,
      hidden_size: 2048,
      intermediate_size: 5504,
      num_hidden_layers: 8,
      num_attention_heads: 16,
    },
  }
}

/** Sizes that say only whether everything runs. */
export function tinySize(dtype: Dtype): Config {
  const config = hubConfig(dtype) as Config
  const layers = { num_hidden_layers: 2, num_attention_heads: 2, hidden_size: 32, intermediate_size: 64 }
  return {
    ...config,
    vision_config: { ...config.vision_config, ...layers },
    qformer_config: { ...config.qformer_config, ...layers, encoder_hidden_size: 32 },
    text_config: { ...config.text_config, ...layers },
  }
}

const LORA = { r: 16, alpha: 16 }
const FRAMES = 4
/** Ours by their adapters. The last computes what the peer computes: no attention over time, no routing. */
const ADAPTERS: Partial<Record<ContenderName, object>> = {
  mtransllama: { frames: FRAMES, lora: LORA },
  concat: { frames: FRAMES, lora: LORA, aggregate: 'concat' },
  same: {
    frames: FRAMES,
    lora: LORA,
    aggregate: 'concat',
    temporal: { attention: 'none' },
    dar: { mode: 'off' },
  },
}

const BATCH = 2
const [TEXT, PROMPT, ANSWER, TOKENS, STEPS] = [32, 32, 8, 17, 3]

/** Ids from a formula, away from the special ones at both ends of a vocabulary. */
const ids = (count: number, seed: number): number[] =>
  Array.from({ length: count }, (_, i) => 1000 + ((i * 7919 + seed * 104729) % 25000))

/** Pixels of two clips, of the scale that preprocessing gives. */
function writePixels(path: string, imageSize: number): void {
  const pixels = Float32Array.from({ length: BATCH * FRAMES * 3 * imageSize ** 2 }, (_, i) =>
    Math.sin(i * 0.37 + Math.floor(i / imageSize) * 0.11 + Math.floor(i / (3 * imageSize ** 2))),
  )
  writeFileSync(path, new Uint8Array(pixels.buffer))
}

/** The last line of a process's output, parsed. */
function answerOf(command: string, args: string[], env: NodeJS.ProcessEnv): Promise<unknown> {
  return new Promise((settle, reject) => {
    const child = spawn(command, args, { env, stdio: ['ignore', 'pipe', 'pipe'] })
    let [out, errors] = ['', '']
    child.stdout.on('data', (text) => (out += text))
    child.stderr.on('data', (text) => (errors += text))
    child.on('error', reject)
    child.on('close', (code, signal) => {
      if (code === 0) settle(JSON.parse(out.trim().split('\n').at(-1)!))
      else {
        const lines = errors.trim().split('\n')
        const reason = lines.findLast((line) => /error/i.test(line)) ?? lines.at(-1)
        reject(new InputError(`${args.at(-2)}: ended by ${signal ?? `status ${code}`}: ${reason}`))
      }
    })
  })
}

/** The Python that has what the peer needs, or why there is none. */
export function findPython(): { python: string } | { reason: string } {
  const reasons: string[] = []
  for (const python of pythons()) {
    const { status, stderr, error } = spawnSync(python, ['-c', 'import torch, transformers, peft'], {
      encoding: 'utf8',
    })
    if (status === 0) return { python }
    reasons.push(`${python}: ${error?.message ?? stderr.trim().split('\n').at(-1)}`)
  }
  return { reason: `${reasons.join('; ')} (npm run bench:peers installs it where pip has it)` }
}

interface Options {
  dtype: Dtype
  threads: number
  clock?: Request['clock']
  rounds: number
  contenders: readonly ContenderName[]
  /** Where the checkpoint is, or is written. */
  folder: string
  config?: Config
  /** Of ours and of the peer. */
  say?: (text: string) => void
  /** Called after every sample: an interrupted run leaves its results. */
  save?: (run: PeersRun) => void
}

/** The rounds of a dtype. */
export async function measure(options: Options): Promise<PeersRun> {
  const { dtype, threads, clock = 'wall', rounds, folder, config = middleSize(dtype), say = () => {} } = options
  await writeCheckpoint(folder, { dtype, config })
  const parsed = parseModelConfig(config)
  const { imageSize } = parsed.vision
  const scratch = mkdtempSync(join(tmpdir(), 'mtransllama-whole-'))
  const found = findPython()
  const missing = 'reason' in found ? [{ name: 'transformers', reason: found.reason }] : []
  const before = load()
  let versions = softwareVersions()
  const samples: PeersRun['samples'] = []
  const { language } = parsed
  const result = (): PeersRun => ({
    ...{ dtype, machine: machine(), versions, ...commit(), date: new Date().toISOString(), threads, clock },
    load: { before, after: load() },
    sizes: {
      ...{ batch: BATCH, frames: FRAMES, text: TEXT, prompt: PROMPT, answer: ANSWER },
      parameters: countParts(expectedTensors(parsed)).reduce((n, part) => n + part.parameters, 0),
      fileBytes: readdirSync(folder)
        .filter((name) => name.endsWith('.safetensors'))
        .reduce((n, name) => n + statSync(join(folder, name)).size, 0),
      model: `image tower of ${parsed.vision.layers} layers, Q-Former of ${parsed.qformer.layers}, language model of ${language.layers} layers of ${language.hiddenSize}`,
    },
    samples,
    missing,
  })
  try {
    const pixels = join(scratch, 'pixels')
    writePixels(pixels, imageSize)
    const clips = Array.from({ length: BATCH }, (_, b) => b)
    for (let round = 0; round < rounds; round++)
      for (const contender of options.contenders) {
        const adapter = ADAPTERS[contender]
        // Compiling takes minutes and changes the steps alone: once will do.
        const tasks = contender === 'compiled' ? (['train'] as const) : (['ask', 'train'] as const)
        if ((!adapter && 'reason' in found) || (contender === 'compiled' && round > 0)) continue
        const sample: PeersRun['samples'][number] = { contender, round }
        for (const task of tasks) {
          const request: Request = {
            ...{ task, folder, dtype, threads, clock, pixels, imageSize, frames: FRAMES, lora: LORA, lr: 1e-3 },
            text: clips.map((b) => ids(TEXT, b)),
            prompt: clips.map((b) => ids(PROMPT, 10 + b)),
            answer: clips.map((b) => ids(ANSWER, 20 + b)),
            tokens: TOKENS,
            steps: STEPS,
            videoToken: config.video_token_index,
            compile: contender === 'compiled',
            adapter: { ...adapter },
          }
          const path = join(scratch, 'request.json')
          writeFileSync(path, JSON.stringify(request))
          const answer = adapter
            ? await answerOf(process.execPath, ['--import', 'tsx', here('child.ts'), path], process.env)
            : await answerOf(
                (found as { python: string }).python,
                [here('../peers/instructblip.py'), path],
                torchEnvironment(threads),
              )
          const { versions: theirs, ...rest } = task === 'ask' ? Asked.parse(answer) : Trained.parse(answer)
          versions = { ...versions, ...theirs }
          if ('answer' in rest) sample.ask = rest
          else sample.train = rest
          say(`${round + 1} ${contender} ${told(rest)}`)
        }
        samples.push(sample)
        options.save?.(result())
      }
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
  return result()
}

const list = (values: readonly number[], digits: number): string => values.map((x) => x.toFixed(digits)).join(', ')

function told(found: Omit<Asked, 'versions'> | Omit<Trained, 'versions'>): string {
  const shared = `open ${found.loadSeconds.toFixed(2)} s, features ${found.featureSeconds.toFixed(2)} s, `
  const peak = `, peak ${(found.peakBytes / 1e9).toFixed(2)} GB`
  if ('answer' in found)
    return `ask: ${shared}first token ${found.firstTokenSeconds.toFixed(2)} s, then ${list(found.tokenSeconds.slice(0, 6), 3)} s${peak}; ${found.answer.slice(0, 6)}`
  return `train: ${shared}steps of ${list(found.stepSeconds, 2)} s, losses ${list(found.losses, 4)}${peak}`
}

async function run(o: {
  dtype: string
  threads?: string
  clock: string
  rounds: string
  contenders: string
  folder: string
  out?: string
  tiny?: boolean
  add?: boolean
}): Promise<void> {
  const { dtype } = o
  if (dtype !== 'float32' && dtype !== 'bfloat16') throw invalid('--dtype', 'float32 or bfloat16', dtype)
  const { clock } = o
  if (clock !== 'wall' && clock !== 'cpu') throw invalid('--clock', 'wall or cpu', clock)
  const contenders = o.contenders.split(',') as ContenderName[]
  for (const name of contenders)
    if (!CONTENDERS.includes(name)) throw invalid('--contenders', CONTENDERS.join(', '), name)
  const threads = o.threads === undefined ? threadsOf() : Number(o.threads)
  const rounds = Number(o.rounds)
  for (const [name, n] of Object.entries({ threads, rounds }))
    if (!Number.isInteger(n) || n < 1) throw invalid(`--${name}`, 'a whole number of at least 1', n)
  const file =
    o.out ?? resolve(here('../results/peers'), `${slug(machine().cpu)}-${new Date().toISOString().slice(0, 10)}.json`)
  const earlier = existsSync(file) ? Peers.parse(JSON.parse(readFileSync(file, 'utf8'))).runs : []
  mkdirSync(dirname(file), { recursive: true })
  const { missing } = await measure({
    ...{ dtype, threads, clock, rounds, contenders, say: console.log },
    folder: join(o.folder, `${o.tiny ? 'tiny-' : ''}${dtype}`),
    ...(o.tiny && { config: tinySize(dtype) }),
    save(found) {
      const before = o.add ? earlier.find((r) => r.dtype === dtype) : undefined
      const others = before?.samples.filter((s) => !contenders.includes(s.contender)) ?? []
      const run = {
        ...found,
        versions: { ...before?.versions, ...found.versions },
        samples: [...others, ...found.samples],
      }
      const all = Peers.parse({ schema: 1, runs: [...earlier.filter((r) => r.dtype !== dtype), run] })
      writeFileSync(file, `${JSON.stringify(all, null, 1)}\n`)
    },
  })
  for (const { name, reason } of missing)
    console.error(`MISSING: ${name}, so there is nothing to compare with: ${reason}`)
  console.log(file)
}

if (process.argv[1] === here('main.ts'))
  new Command('bench:whole')
    .description('the whole model beside transformers with PEFT: load, first token, tokens, steps, memory')
    .option('--dtype <dtype>', 'of weights and activations: float32 or bfloat16', 'float32')
    .option('--threads <n>', 'of both sides; default: all')
    .option('--clock <clock>', 'wall, or cpu: time of the process, for a busy machine and one thread', 'wall')
    .option('--rounds <n>', 'through all contenders', '3')
    .option('--contenders <names>', CONTENDERS.join(', '), 'mtransllama,concat,same,transformers')
    .option('--folder <dir>', 'where the checkpoint is kept', join(tmpdir(), 'mtransllama-whole'))
    .option('--out <file>', 'the file of the result; a run of another dtype in it stays')
    .option('--add', 'keep what other contenders gave in an earlier run')
    .option('--tiny', 'sizes that say only whether everything runs')
    .action(run)
    .parseAsync()
    .catch((error: unknown) => {
      console.error(error instanceof InputError ? error.message : error)
      process.exitCode = 1
    })
