/**
 * `npm run bench:scaling`: how long two ranks of this machine take for what they tell each other, by every MPI that is
 * installed, and for the steps of a small run beside those of one rank. Writes
 * bench/results/scaling/<machine>-<date>.json.
 */
import { execFile, execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { loadavg } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { countTrained, trainedParameters } from '../../lib/adapter/parameters.js'
import { planCheckpoint } from '../../lib/checkpoint/plan.js'
import { parseTrainConfig } from '../../lib/train/config.js'
import { configOf, jsonLines, makeWorld } from '../../test/support/world.js'
import { commit, machine, slug } from '../machine.js'
import { Scaling } from './record.js'

const here = fileURLToPath(new URL('.', import.meta.url))
const root = join(here, '..', '..')
const SIZES = [16, 4096, 65_536, 1 << 20, 10_000_000]
/** Of the adapter of the paper's model at its defaults. */
const PARAMETERS = 2_500_000
const COUNT = 30
/** Samples of a step by all ranks, and steps that count after some that warm up. */
const BATCH = 12
const [STEPS, WARM] = [25, 5]

/** The mpiruns that are installed, with what they need to run on a small machine. */
const found = [
  ['mpirun.openmpi', '--allow-run-as-root', '--oversubscribe', '--bind-to', 'none'],
  ['mpirun.mpich'],
].filter(([name]) => spawnSync(name!, ['--version']).status === 0)
if (!found.length) throw new Error('there is no mpirun here: install openmpi-bin or mpich')

const env = { ...process.env, MT_THREADS: '1' }
const two = (command: string[], ...args: string[]): string => {
  const [name, ...options] = command
  return execFileSync(name!, [...options, '-n', '2', process.execPath, ...args], {
    encoding: 'utf8',
    cwd: root,
    env,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
}

const result: Scaling = {
  format: 'mtransllama-scaling',
  version: 2,
  date: new Date().toISOString(),
  ...commit(),
  machine: machine(),
  load: loadavg()[0]!,
  exchanges: [],
  sums: [],
  steps: [],
}
for (const command of found) {
  const version = spawnSync(command[0]!, ['--version'], { encoding: 'utf8' }).stdout
  const mpi = `${/MPICH|HYDRA/.test(version) ? 'MPICH' : 'Open MPI'} ${/\d+\.\d+\.\d+/.exec(version)?.[0]}`
  const child = ['--import', 'tsx', join(here, 'child.ts'), SIZES.join(','), String(PARAMETERS), String(COUNT)]
  const { exchanges, sum } = JSON.parse(two(command, ...child))
  for (const e of exchanges) result.exchanges.push({ mpi, ranks: 2, ...e })
  result.sums.push({ mpi, ranks: 2, ...sum })
}

const world = await makeWorld()
/** Seconds of the steps of a run, or of several at the same time. */
async function steps(name: string, ranks: number, batch: number, runs = 1): Promise<void> {
  const perEpoch = Math.ceil(jsonLines(world.train).length / batch)
  const train = { batch, epochs: Math.ceil((STEPS + WARM) / perEpoch) }
  const names = Array.from({ length: runs }, (_, i) => `${name}-${i}`)
  const ended = names.map((name) => {
    const path = join(world.root, `${name}.json`)
    writeFileSync(path, JSON.stringify(configOf(world, name, { train, data: { val: undefined }, frames: 16 })))
    const command = [process.execPath, join(root, 'bin', 'mtransllama.mjs'), 'train', path, '--device', 'cpu']
    const [program, ...args] = ranks > 1 ? [...found[0]!, '-n', '2', ...command, '--parallel', 'mpi'] : command
    return promisify(execFile)(program!, args, { cwd: root, env })
  })
  await Promise.all(ended)
  const logs = names.map((name) =>
    jsonLines(join(world.root, name, 'metrics.jsonl'))
      .filter((line) => line.kind === 'step' && line.step > WARM)
      .map(({ time, seconds }) => ({ end: Date.parse(time) / 1000, seconds: seconds as number })),
  )
  // Those that ran alone, as one of the runs began sooner or ended later, are not counted.
  const [begin, end] = [
    Math.max(...logs.map(([first]) => first!.end - first!.seconds)),
    Math.min(...logs.map((log) => log.at(-1)!.end)),
  ]
  const both = logs.flat().filter((s) => s.end - s.seconds >= begin && s.end <= end)
  const seconds = both.map((s) => s.seconds)
  result.steps.push({ ranks, runs, batch, parameters, seconds })
}
const { config: model } = await planCheckpoint(world.model)
const { adapter } = parseTrainConfig(configOf(world, 'count', { frames: 16 }))
const parameters = countTrained(trainedParameters(model, adapter))
await steps('whole', 1, BATCH)
await steps('half', 1, BATCH / 2)
await steps('beside', 1, BATCH / 2, 2)
await steps('two', 2, BATCH)

const file = resolve(here, `../results/scaling/${slug(machine().cpu)}-${result.date.slice(0, 10)}.json`)
mkdirSync(dirname(file), { recursive: true })
writeFileSync(file, `${JSON.stringify(Scaling.parse(result), null, 1)}\n`)
console.log(`wrote ${file}`)
