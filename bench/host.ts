/**
 * `npm run bench:host [-- --before]`: the host's time for an eager training step, a replayed one and a decoded token of
 * a full-size model. The emulator's null device computes nothing, so that only JavaScript, the binding and the queue
 * are measured. Writes docs/kernels-host.json, which `npm run docs:kernels` shows as a table; `--before` writes its
 * first column.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { performance } from 'node:perf_hooks'
import { fileURLToPath } from 'node:url'
import { generate } from '../lib/session/generate.js'
import { native } from '../lib/native.js'
import { Random } from '../lib/ops/random.js'
import { cast } from '../lib/ops/copy.js'
import { devices } from '../lib/tensor/device.js'
import { scope } from '../lib/tensor/scope.js'
import { syncBlocking } from '../lib/tensor/runtime.js'
import { inputsOf, randomModel, type Sizes, trainerOf } from './full-model.js'
import { spread } from './harness.js'
import { commit, machine } from './machine.js'
import type { Spread } from './record.js'

/** Milliseconds by the wall clock, and CPU time of the JavaScript thread, which other load does not affect. */
interface Measured {
  name: string
  goalMs: number
  ms: Spread
  threadMs: number | null
  /** Of one of them. */
  launches: number
  mallocs: number
  /** Of each graph that was captured, on average. */
  nodes: number
}

const device = 'cuda:0'
const sizes: Sizes = { B: 4, T: 8, text: 32, prompt: 64, answers: 16 }
const root = fileURLToPath(new URL('..', import.meta.url))
const file = fileURLToPath(new URL('../docs/kernels-host.json', import.meta.url))

/** Milliseconds that this process's first thread spent on a processor; null where the system does not say. */
function threadMs(): number | null {
  const path = `/proc/self/task/${process.pid}/schedstat`
  return existsSync(path) ? Number(readFileSync(path, 'utf8').split(' ')[0]) / 1e6 : null
}
const counts = (): Record<string, number> => native().devices().counts!

/** `work` does `each` units of the measured work; the first `warm` runs are not counted. */
async function measure(
  name: string,
  goalMs: number,
  { warm, samples, each = 1 }: { warm: number; samples: number; each?: number },
  work: () => Promise<unknown>,
): Promise<Measured> {
  const first = counts()
  for (let i = 0; i < warm; i++) await work()
  syncBlocking()
  const before = counts()
  const [ms, own]: [number[], number[]] = [[], []]
  for (let i = 0; i < samples; i++) {
    const [start, thread] = [performance.now(), threadMs()]
    await work()
    syncBlocking()
    ms.push((performance.now() - start) / each)
    if (thread !== null) own.push((threadMs()! - thread) / each)
  }
  const after = counts()
  const per = (what: string): number => Math.round((after[what]! - before[what]!) / samples / each)
  const row = {
    name,
    goalMs,
    ms: spread(ms),
    threadMs: own.length ? spread(own).median : null,
    launches: per('launches'),
    mallocs: per('mallocs'),
    nodes: Math.round((after['nodes']! - first['nodes']!) / Math.max(1, after['graphs']! - first['graphs']!)),
  }
  console.log(
    `${name}: ${row.ms.median.toFixed(3)} ms (${row.ms.p10.toFixed(3)} to ${row.ms.p90.toFixed(3)}), thread ${row.threadMs?.toFixed(3)} ms, goal ${goalMs} ms; ${row.launches} launches, ${row.mallocs} allocations, ${row.nodes} nodes of a graph`,
  )
  return row
}

async function main(): Promise<void> {
  const model = randomModel(device, 'bfloat16')
  syncBlocking()
  const rows: Measured[] = []
  const config = { frames: sizes.T }
  await scope(async () => {
    const inputs = inputsOf(model, sizes)
    for (const graphs of [false, true]) {
      const trainer = trainerOf(model, config, inputs, graphs)
      rows.push(
        await measure(
          graphs ? 'replayed training step' : 'eager training step',
          graphs ? 1.5 : 40,
          { warm: 5, samples: graphs ? 200 : 30 },
          trainer.step,
        ),
      )
      trainer.dispose()
    }
  })
  await scope(async () => {
    const [visual, tokens] = [
      cast(
        new Random(9).normal([1, model.config.numQueryTokens, model.config.language.hiddenSize]).to(device),
        model.precision,
      ),
      128,
    ]
    const prompt = Array.from({ length: sizes.prompt }, (_, i) => 3 + i)
    rows.push(
      await measure('decoded token', 1, { warm: 2, samples: 10, each: tokens }, async () => {
        let made = 0
        for await (const _ of generate(model, visual, prompt, { maxTokens: tokens })) made++
        if (made !== tokens) throw new Error(`${made} tokens instead of ${tokens}`)
      }),
    )
  })
  model.dispose()
  const made = { date: new Date().toISOString().slice(0, 10), ...commit(), machine: machine(), rows }
  const known = existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as object) : {}
  const column = process.argv.includes('--before') ? 'before' : 'after'
  writeFileSync(file, `${JSON.stringify({ sizes, ...known, [column]: made }, null, 1)}\n`)
}

if (process.env.MT_EMULATOR === 'null' && devices().cuda.emulated) await main()
else {
  const built = spawnSync(process.execPath, ['scripts/build.mjs', '--cuda=emulated'], { cwd: root, stdio: 'inherit' })
  if (built.status !== 0) process.exit(1)
  const { status } = spawnSync(
    process.execPath,
    ['--import', 'tsx', fileURLToPath(import.meta.url), ...process.argv.slice(2)],
    {
      stdio: 'inherit',
      env: {
        ...process.env,
        MT_EMULATOR: 'null',
        MT_ADDON: fileURLToPath(new URL('../build-emulated/Release/mtransllama.node', import.meta.url)),
      },
    },
  )
  process.exitCode = status ?? 1
}
