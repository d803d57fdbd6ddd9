/**
 * `npm run bench:models -- [NAME...]`: opens each published model from files of its names, shapes and dtype that hold
 * nothing but 0 and take no place on the disk, asks it about four frames, and writes what that took to bench/results/models/<machine>-<date>.json.
 */
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Command } from 'commander'
import { InputError, invalid } from '../../lib/errors.js'
import { WEIGHTS, type WeightsChoice } from '../../lib/session/budget.js'
import { writeCheckpoint } from '../full-size/checkpoint.js'
import { AskRun } from '../full-size/record.js'
import { median } from '../harness.js'
import { commit, machine, slug } from '../machine.js'
import { configOf, models } from './list.js'
import { Models, type Tried } from './record.js'

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url))

/** Asks a model in a process of its own. */
async function ask(config: object, weights: WeightsChoice): Promise<Required<Tried>['asked']> {
  const folder = mkdtempSync(join(tmpdir(), 'mt-models-'))
  try {
    await writeCheckpoint(join(folder, 'model'), { dtype: 'float32', config, empty: true })
    mkdirSync(join(folder, 'clip'))
    const out = await new Promise<string>((settle, reject) => {
      const child = spawn(
        process.execPath,
        [
          ...['--import', 'tsx', here('../full-size/child.ts'), 'ask'],
          ...[join(folder, 'model'), weights, join(folder, 'clip')],
        ],
        // Quantised weights are not kept: nobody asks for zeros again.
        { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, MT_CACHE: join(folder, 'cache') } },
      )
      let [out, said] = ['', '']
      child.stdout.on('data', (text) => (out += text))
      child.stderr.on('data', (text) => (said += text))
      child.on('error', reject)
      child.on('close', (code, signal) => {
        if (code === 0) settle(out)
        else reject(new InputError(`ended by ${signal ?? `status ${code}`}: ${said.trim().slice(0, 400)}`))
      })
    })
    const run = AskRun.parse(JSON.parse(out.trim().split('\n').at(-1)!))
    const { loadSeconds, tokenSeconds, peakBytes, load } = run
    return { weights, loadSeconds, tokenSeconds: median(tokenSeconds), peakBytes, load }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

async function run(names: string[], { weights, out }: { weights: string; out?: string }): Promise<void> {
  const all = models().models
  const order = all.map((m) => m.name)
  for (const name of names) if (!order.includes(name)) throw invalid('NAME', order.join(', '), name)
  if (!(WEIGHTS as readonly string[]).includes(weights)) throw invalid('--weights', WEIGHTS.join(', '), weights)
  const date = new Date().toISOString()
  const file = out ?? resolve(here('../results/models'), `${slug(machine().cpu)}-${date.slice(0, 10)}.json`)
  for (const one of all) {
    const model = one.name
    if (names.length && !names.includes(model)) continue
    console.log(model)
    const tried: Tried = { model, commit: commit().commit }
    try {
      tried.asked = await ask(configOf(one), weights as WeightsChoice)
    } catch (error) {
      tried.failed = (error as Error).message
    }
    const { asked } = tried
    console.log(
      asked
        ? `  opened in ${asked.loadSeconds.toFixed(0)} s, ${asked.tokenSeconds.toFixed(2)} s a token, peak ${(asked.peakBytes / 1e9).toFixed(1)} GB`
        : `  ${tried.failed}`,
    )
    // Models of an earlier run stay: each takes minutes.
    const earlier = existsSync(file) ? Models.parse(JSON.parse(readFileSync(file, 'utf8'))).models : []
    const tries = [...earlier.filter((m) => m.model !== model), tried]
    tries.sort((a, b) => order.indexOf(a.model) - order.indexOf(b.model))
    mkdirSync(dirname(file), { recursive: true })
    const result = Models.parse({ schema: 1, machine: machine(), date, models: tries } satisfies Models)
    writeFileSync(file, `${JSON.stringify(result, null, 2)}\n`)
  }
  console.log(file)
}

if (process.argv[1] === fileURLToPath(import.meta.url))
  new Command('bench:models')
    .description('opens and asks every published model at its full size, all values 0')
    .argument('[names...]', 'of the hub; default: all')
    .option('--weights <form>', `how matrices are held: ${WEIGHTS.join(', ')}`, 'nf4')
    .option('--out <file>', 'the file of the result; other models in it stay')
    .action(run)
    .parseAsync()
    .catch((error: unknown) => {
      console.error(error instanceof InputError ? error.message : error)
      process.exitCode = 1
    })
