/**
 * `npm run bench:full-size -- [write] [options]`: a checkpoint of the hub's form and size is written where there is
 * none, then asked and trained in processes of their own, and bench/results/full-size/<machine>-<date>.json says how
 * long that took and how much memory.
 */
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { homedir, tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Command } from 'commander'
import { Bar } from '../../lib/cli/common.js'
import { InputError, invalid } from '../../lib/errors.js'
import { WEIGHTS, type WeightsChoice } from '../../lib/session/budget.js'
import { threads } from '../../lib/tensor/runtime.js'
import { commit, machine, slug, softwareVersions } from '../machine.js'
import { writeCheckpoint, type StoredDtype } from './checkpoint.js'
import { AskRun, FullSize, TrainRun } from './record.js'

const here = fileURLToPath(new URL('.', import.meta.url))

/** Where checkpoints are kept for the next run. */
const FOLDER = process.env.MT_FULL_SIZE ?? join(homedir(), '.cache', 'mtransllama', 'full-size')

async function write(folder: string, dtype: StoredDtype): Promise<void> {
  const gigabytes = (n: number): number => Number((n / 1e9).toFixed(1))
  let bar: Bar | undefined
  try {
    await writeCheckpoint(folder, {
      dtype,
      onProgress(bytes, total) {
        bar ??= new Bar(`writing ${dtype}`, gigabytes(total), 'GB')
        bar.update(gigabytes(bytes))
      },
    })
  } finally {
    bar?.stop()
  }
}

/** The last line of a child's output, parsed. */
function child(task: string, folder: string, weights: WeightsChoice): Promise<unknown> {
  const scratch = mkdtempSync(join(tmpdir(), 'mt-full-size-'))
  return new Promise((settle, reject) => {
    const args = ['--import', 'tsx', join(here, 'child.ts'), task, folder, weights, scratch]
    const process_ = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
    let out = ''
    process_.stdout.on('data', (text) => (out += text))
    process_.on('error', reject)
    process_.on('close', (code, signal) => {
      rmSync(scratch, { recursive: true, force: true })
      if (code === 0) settle(JSON.parse(out.trim().split('\n').at(-1)!))
      else reject(new InputError(`${task} on ${folder}: ended by ${signal ?? `status ${code}`}.`))
    })
  })
}

const bytesIn = (folder: string): number =>
  readdirSync(folder)
    .filter((name) => name.endsWith('.safetensors'))
    .reduce((n, name) => n + statSync(join(folder, name)).size, 0)

const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(1)} GB`

async function run(
  what: string | undefined,
  o: { stored: string; weights: string; folder: string; only?: string; out?: string },
): Promise<void> {
  if (what !== undefined && what !== 'write') throw invalid('argument', 'write or nothing', what)
  const stored: StoredDtype[] =
    o.stored === 'all' ? ['float32', 'bfloat16'] : [o.stored === 'float32' ? 'float32' : 'bfloat16']
  if (!['all', ...stored].includes(o.stored)) throw invalid('--stored', 'all, float32 or bfloat16', o.stored)
  const forms = o.weights.split(',') as WeightsChoice[]
  for (const form of forms) if (!WEIGHTS.includes(form)) throw invalid('--weights', WEIGHTS.join(', '), form)
  const tasks = o.only === undefined ? (['ask', 'train'] as const) : [known(o.only)]
  const file = o.out ?? resolve(here, `../results/full-size/${slug(machine().cpu)}-${today().slice(0, 10)}.json`)
  for (const dtype of stored) {
    const folder = join(o.folder, dtype)
    await write(folder, dtype)
    if (what === 'write') continue
    for (const weights of forms)
      for (const task of tasks) {
        console.log(`${task}, ${dtype}, --weights ${weights}`)
        const found = await child(task, folder, weights)
        const at = commit()
        const one =
          task === 'ask'
            ? { ask: { ...AskRun.parse(found), commit: at.commit } }
            : { train: { ...TrainRun.parse(found), commit: at.commit } }
        console.log(`  ${told(one)}`)
        add(file, { stored: dtype, weights, fileBytes: bytesIn(folder), ...one })
      }
  }
  if (what !== 'write') console.log(file)
}

const today = (): string => new Date().toISOString()

function known(task: string): 'ask' | 'train' {
  if (task !== 'ask' && task !== 'train') throw invalid('--only', 'ask or train', task)
  return task
}

function told({ ask, train }: Partial<FullSize['runs'][number]>): string {
  if (ask)
    return `opened in ${ask.loadSeconds.toFixed(0)} s, ${ask.tokens} tokens, ${ask.totalSeconds.toFixed(0)} s in all, peak ${gigabytes(ask.peakBytes)}`
  const { stepSeconds, reached, tensors, peakBytes } = train!
  return `steps of ${stepSeconds.map((s) => s.toFixed(1)).join(', ')} s, ${reached} of ${tensors} tensors reached, peak ${gigabytes(peakBytes)}`
}

/** Adds a run to the file of results. Runs of other checkpoints, forms and tasks stay: each takes minutes. */
function add(file: string, run: FullSize['runs'][number]): void {
  const before = existsSync(file) ? FullSize.parse(JSON.parse(readFileSync(file, 'utf8'))) : undefined
  // Each run keeps what it was measured with.
  const earlier = (before?.runs ?? []).map((r) => ({ isa: before!.machine.isa, ...r }))
  const { isa } = machine()
  const same = (r: FullSize['runs'][number]): boolean =>
    r.stored === run.stored && r.weights === run.weights && r.isa === isa
  const result = FullSize.parse({
    schema: 1,
    machine: machine(),
    versions: softwareVersions(),
    ...commit(),
    date: today(),
    threads: threads(),
    runs: [...earlier.filter((r) => !same(r)), { ...earlier.find(same), ...run, isa }],
  } satisfies FullSize)
  mkdirSync(join(file, '..'), { recursive: true })
  writeFileSync(file, `${JSON.stringify(result, null, 2)}\n`)
}

new Command('bench:full-size')
  .description('opens, asks and trains a model of 7.9 billion parameters, and measures time and memory')
  .argument('[what]', 'write: the checkpoints alone')
  .option('--stored <dtype>', 'what the checkpoint holds: float32 (31.7 GB), bfloat16 (15.8 GB) or all', 'all')
  .option('--weights <forms>', `how matrices are held, with commas between: ${WEIGHTS.join(', ')}`, 'auto')
  .option('--folder <dir>', 'where the checkpoints are kept; also MT_FULL_SIZE', FOLDER)
  .option('--only <task>', 'ask or train')
  .option('--out <file>', 'the file of the result; runs of other checkpoints in it stay')
  .action(run)
  .parseAsync()
  .catch((error: unknown) => {
    console.error(error instanceof InputError ? error.message : error)
    process.exitCode = 1
  })
