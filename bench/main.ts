/**
 * `npm run bench -- [suites] [options]`: times this project's operators and models on the CPU (or, through the same
 * operators, on a CUDA device) in turn with its peers, prints a table, and writes bench/results/<machine>-<date>.json.
 * bench/gpu measures the peak of a GPU.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { fileURLToPath } from 'node:url'
import { Command } from 'commander'
import { profilePath, writeProfile } from '../lib/cli/profile.js'
import { InputError, invalid, nearest } from '../lib/errors.js'
import { chooseDevice, devices, type DeviceChoice } from '../lib/tensor/device.js'
import { profile } from '../lib/tensor/profile.js'
import { Bench, cpuName, type Precision, type Selection } from './bench.js'
import { ratios } from './compare.js'
import { goals } from './goals.js'
import { commit, load, machine, slug, softwareVersions } from './machine.js'
import { openOpponents } from './opponents.js'
import { Result, type CeilingName } from './record.js'
import { figures, Footnotes, goalTable, heading, line } from './table.js'

const suites = ['attention', 'swap', 'lora', 'block', 'qformer', 'step', 'decode', 'load', 'calls'] as const
type Suite = (typeof suites)[number]
const ceilingNames: readonly CeilingName[] = ['float32', 'bfloat16', 'read', 'readSmallPages', 'copy']

interface Options {
  device: string
  dtype: string
  threads: string
  peers: string
  clock: string
  out?: string
  quick?: boolean
  sizes?: string
  avx2: boolean
  profile?: string
}

/** Environment that limits libraries to AVX2. ONNX Runtime ignores it. */
const avx2 = {
  MT_CPU: 'avx2',
  DNNL_MAX_CPU_ISA: 'AVX2',
  ONEDNN_MAX_CPU_ISA: 'AVX2',
  OPENBLAS_CORETYPE: 'Haswell',
  MT_PEERS_CORETYPE: 'Haswell',
  ATEN_CPU_CAPABILITY: 'avx2',
  MKL_ENABLE_INSTRUCTIONS: 'AVX2',
}

async function main(names: string[], options: Options): Promise<void> {
  const started = performance.now()
  const chosen = names.length ? names.map(known) : [...suites]
  const selection = options.quick ? 'quick' : sizes(options.sizes ?? (names.length ? 'all' : 'some'))
  const dtypes = options.dtype === 'all' ? (['float32', 'bfloat16', 'mixed'] as const) : [precision(options.dtype)]
  const threads = Number(options.threads)
  if (!Number.isInteger(threads) || threads < 1)
    throw invalid('--threads', 'a whole number of at least 1', options.threads)
  const { clock } = options
  if (clock !== 'wall' && clock !== 'cpu') throw invalid('--clock', 'wall or cpu', clock)
  const { device, reason } = chooseDevice(options.device as DeviceChoice)
  const opponents = await openOpponents(
    threads,
    device === 'cpu' ? (options.peers === 'all' ? undefined : options.peers.split(',')) : ['none'],
  )
  console.log(
    `on ${device} (${device === 'cpu' ? machine().cpu : reason}), ${threads} thread${threads === 1 ? '' : 's'}; peers: ${opponents.peers.map((p) => `${p.name} ${p.version}`).join(', ') || 'none'}`,
  )
  for (const { name, reason } of opponents.missing) console.log(`missing: ${name} (${reason})`)

  const notes = new Footnotes()
  const bench = new Bench({
    device,
    dtypes,
    threads,
    selection,
    opponents,
    clock,
    say: (row) => console.log(line(row, notes)),
  })
  const failures: Result['failures'] = []
  const before = load()
  let narrow: Result | undefined
  const about = { machine: machine(), versions: softwareVersions(), ...commit(), date: new Date().toISOString() }
  const deviceName =
    device === 'cpu' ? 'cpu' : `${device}, ${devices().cuda.devices.find((d) => d.device === device)?.name}`
  const out =
    options.out ??
    join(
      dirname(fileURLToPath(import.meta.url)),
      'results',
      `${slug(device === 'cpu' ? about.machine.cpu : deviceName)}-${about.date.slice(0, 10)}.json`,
    )
  /** Written after every suite, so that an interrupted run leaves its results. */
  const write = (done: Suite[]): Result => {
    const rows = [...bench.rows, ...(narrow?.rows ?? [])]
    const result = Result.parse({
      schema: 1,
      ...about,
      device: deviceName,
      peers: opponents.peers.map(({ name, version, details }) => ({ name, version, details })),
      missing: opponents.missing,
      seconds: (performance.now() - started) / 1000,
      clock,
      selection,
      suites: done,
      ceilings: [...bench.ceilings(), ...(narrow?.ceilings ?? [])],
      rows,
      goals: device === 'cpu' ? goals(rows) : [],
      failures: [...failures, ...(narrow?.failures ?? [])],
      load: { before, after: load() },
    } satisfies Result)
    mkdirSync(dirname(out), { recursive: true })
    writeFileSync(`${out}.part`, `${JSON.stringify(result, null, 1)}\n`)
    renameSync(`${out}.part`, out)
    return result
  }

  if (device === 'cpu')
    for (const name of ceilingNames)
      console.log(
        `ceiling ${name}: ${figures((bench.ceiling(name) ?? 0) / 1e9)} G${name.startsWith('read') || name === 'copy' ? 'B' : 'FLOP'}/s`,
      )
  for (const [i, suite] of chosen.entries()) {
    console.log(`\n${suite}\n${heading}`)
    bench.suite = suite
    const start = performance.now()
    try {
      await ((await import(`./suites/${suite}.ts`)) as { run(bench: Bench): void | Promise<void> }).run(bench)
    } catch (error) {
      failures.push({ suite, reason: (error as Error).message.split('\n')[0]! })
      console.error(`${suite} failed:`, error)
    }
    for (const note of notes.take()) console.log(note)
    console.log(`${suite}: ${((performance.now() - start) / 1000).toFixed(0)} s`)
    write(chosen.slice(0, i + 1))
  }
  for (const peer of opponents.peers) await peer.close()
  if (
    options.avx2 &&
    selection === 'some' &&
    device === 'cpu' &&
    cpuName() === 'best' &&
    /^(avx512|amx)/.test(about.machine.isa)
  ) {
    narrow = withAvx2(join(bench.files.folder, 'avx2.json'), options)
    if (!narrow) failures.push({ suite: 'avx2', reason: 'its process ended without a result' })
  }
  const result = write(chosen)
  summary(result)
  console.log(`\n${out}`)
  if (result.failures.length) process.exitCode = 1
}

/**
 * The whole run, with `--profile` under a profile: operators of this process, not of peers nor of the one with AVX2
 * alone.
 */
async function run(names: string[], options: Options): Promise<void> {
  if (options.profile === undefined) return main(names, options)
  const path = await profilePath(options.profile)
  const { profile: taken } = await profile(() => main(names, options))
  console.log(`\n${await writeProfile(path, taken)}`)
}

/** The goals' cases again in a process that has AVX2 alone. */
function withAvx2(out: string, { peers, threads, clock }: Options): Result | undefined {
  console.log('\nthe goals again with AVX2 alone')
  spawnSync(
    process.execPath,
    [
      '--import',
      'tsx',
      fileURLToPath(import.meta.url),
      'attention',
      'block',
      'qformer',
      '--sizes',
      'goals',
      '--dtype',
      'float32',
      '--peers',
      peers,
      '--threads',
      threads,
      '--clock',
      clock,
      '--out',
      out,
    ],
    { env: { ...process.env, ...avx2 }, stdio: ['ignore', 'inherit', 'inherit'] },
  )
  return existsSync(out) ? Result.parse(JSON.parse(readFileSync(out, 'utf8'))) : undefined
}

function summary({ rows, goals, selection }: Result): void {
  const all = ratios(rows).filter((r) => r.core ?? r.block)
  if (all.length)
    console.log(
      '\njoint over factorized: score products (by count), attention core (time), block flops (by count), block (time); visual tokens of all frames and of the model',
    )
  const two = (x: number | undefined): string => (x === undefined ? '–' : figures(x))
  for (const r of all)
    console.log(
      `T=${r.T} K=${r.K} ${r.dtype} ${r.pass}: ${two(r.scores)} · ${two(r.core)} · ${two(r.blockFlops)} · ${two(r.block)} · ${r.tokens.join(' → ')}`,
    )
  if (selection !== 'quick' && goals.some((g) => g.measured)) console.log(`\n${goalTable(goals)}`)
}

function known(name: string): Suite {
  const found = suites.find((s) => s === name)
  if (!found) throw invalid('suite', suites.join(', '), name, `did you mean ${nearest(name, suites) ?? 'attention'}?`)
  return found
}
function sizes(name: string): Selection {
  if (name !== 'all' && name !== 'some' && name !== 'goals') throw invalid('--sizes', 'all, some or goals', name)
  return name
}
function precision(name: string): Precision {
  if (name !== 'float32' && name !== 'bfloat16' && name !== 'mixed')
    throw invalid('--dtype', 'float32, bfloat16, mixed or all', name)
  return name
}

const program = new Command('bench')
  .description(
    'Times this project against its peers. Suites named: every size; none named: a selection of a few minutes.',
  )
  .argument('[suites...]', suites.join(', '))
  .option('--device <device>', 'cpu, cuda or cuda:NUMBER', 'cpu')
  .option('--dtype <dtype>', 'float32, bfloat16, mixed (float32 on matrices in bfloat16) or all', 'all')
  .option('--threads <n>', 'threads of this project and of its peers', '1')
  .option('--peers <names>', 'all, none, or names with commas between', 'all')
  .option('--clock <clock>', 'wall, or cpu: time of the processes, where the machine is busy', 'wall')
  .option('--out <file>', 'where the result goes; default bench/results/<machine>-<date>.json')
  .option('--quick', 'the smallest sizes: does everything run? Times mean nothing')
  .option(
    '--sizes <selection>',
    'all, some, or goals: only what those need; default all where suites are named, else some',
  )
  .option('--profile <file>', 'time and bytes by operator: a table, and a Chrome trace in the file')
  .option('--no-avx2', 'without the second process that has AVX2 alone')
  .action(run)

program.parseAsync().catch((error: unknown) => {
  console.error(error instanceof InputError ? `bench: ${error.message}` : error)
  process.exitCode = 1
})
