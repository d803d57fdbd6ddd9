// npm run test:full [-- OPERATOR...]: every size of full-cases.ts on the addon whose kernels run on the CPU, compared with
// the CPU twins and, forward, with float64. MT_EMULATOR sets the order in which threads run. Pieces of the list run in
// processes of their own, two at a time. Results go into docs/kernels-full.json, which docs/kernels.md shows; exits with 1
// where a case fails.
import { execFileSync, spawn } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { devices } from '../../lib/tensor/device.js'
import { scope } from '../../lib/tensor/scope.js'
import { type OpCase, errors, evaluate, roundedInputs } from '../ops/support.js'
import { distances, limits, narrowLimit } from './compare.js'
import { type Precision, casesOf, operators, sizes, unseen } from './full-cases.js'

interface Worst {
  error: number
  case: string
}
interface Failure {
  case: string
  what: string
  error: number | null
  limit: number | null
}
interface Part {
  cases: number
  forward: Worst | null
  gradient: Worst | null
  float64: Worst | null
  failures: Failure[]
  seconds: number
}
interface Entry extends Part {
  operator: string
  dtype: Precision
  order: string
  date: string
  commit: string
}

const root = fileURLToPath(new URL('../..', import.meta.url))
const file = fileURLToPath(new URL('../../docs/kernels-full.json', import.meta.url))
const order = /order=([^,]+)/.exec(process.env.MT_EMULATOR ?? '')?.[1] ?? 'forward'
const pieceSize = 250

const none = (): Part => ({ cases: 0, forward: null, gradient: null, float64: null, failures: [], seconds: 0 })
const worse = (a: Worst | null, b: Worst | null): Worst | null => (!a || (b && !(b.error <= a.error)) ? b : a)
const together = (a: Part, b: Part): Part => ({
  cases: a.cases + b.cases,
  forward: worse(a.forward, b.forward),
  gradient: worse(a.gradient, b.gradient),
  float64: worse(a.float64, b.float64),
  failures: [...a.failures, ...b.failures],
  seconds: a.seconds + b.seconds,
})

// ---- one piece ----

function check(c: OpCase, dtype: Precision, part: Part): void {
  const narrow = dtype === 'bfloat16' && !c.narrow
  const given = narrow ? roundedInputs(c) : c.inputs()
  const mine = evaluate(c, { device: 'cuda:0', narrow }, given)
  const found = distances(mine, evaluate(c, { narrow }, given), dtype === 'float32' ? 1e-3 : 1e-2)
  for (const d of found) {
    const { what, gradient, error } = d
    const limit = dtype === 'bfloat16' ? narrowLimit(d) : gradient ? limits.float32.gradient : limits.float32.forward
    const kind = gradient ? 'gradient' : 'forward'
    part[kind] = worse(part[kind], { error, case: c.name })
    if (!(error <= limit)) part.failures.push({ case: c.name, what, error, limit })
  }
  part.cases++
  if (unseen.has(c.name)) return
  const { forward } = errors({ ...c, differentiable: [] }, { ...mine, gradients: {} }, 64, given)
  part.float64 = worse(part.float64, { error: forward, case: c.name })
  if (!(forward <= limits[dtype].forward))
    part.failures.push({ case: c.name, what: 'output, against float64', error: forward, limit: limits[dtype].forward })
}

function work(operator: string, dtype: Precision, piece: number, pieces: number): Part {
  if (!devices().cuda.emulated) throw new Error('the addon has no emulated kernels')
  const part = none()
  const began = Date.now()
  const list = casesOf(operator, dtype).filter((_, i) => i % pieces === piece)
  for (const c of list)
    try {
      scope(() => check(c, dtype, part))
    } catch (e) {
      // A device may stay failed: further cases would show nothing new.
      part.failures.push({
        case: c.name,
        what: `${(e as Error).message}; ${list.length - part.cases - 1} cases were left out after it`,
        error: null,
        limit: null,
      })
      break
    }
  return { ...part, seconds: Math.round((Date.now() - began) / 1000) }
}

// ---- all of them ----

const git = (...args: string[]): string => execFileSync('git', args, { cwd: root, encoding: 'utf8' }).trim()

function piece(operator: string, dtype: Precision, at: number, of: number): Promise<Part> {
  const addon = fileURLToPath(new URL('../../build-emulated/Release/mtransllama.node', import.meta.url))
  const child = spawn(
    process.execPath,
    ['--import', 'tsx', fileURLToPath(import.meta.url), '--piece', operator, dtype, String(at), String(of)],
    { cwd: root, stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, MT_ADDON: addon } },
  )
  let out = ''
  child.stdout.on('data', (data) => (out += data))
  return new Promise((resolve) =>
    child.on('close', (code, signal) => {
      resolve(
        code === 0
          ? (JSON.parse(out) as Part)
          : {
              ...none(),
              failures: [
                { case: `piece ${at} of ${of}`, what: `ended with ${signal ?? code}`, error: null, limit: null },
              ],
            },
      )
    }),
  )
}

async function main(wanted: string[]): Promise<void> {
  const unknown = wanted.filter((o) => !operators.includes(o))
  if (unknown.length) throw new Error(`expected some of ${operators.join(' ')}, but got ${unknown.join(' ')}`)
  execFileSync(process.execPath, ['scripts/build.mjs', '--cuda=emulated'], { cwd: root, stdio: 'inherit' })
  const commit = git('rev-parse', '--short=10', 'HEAD') + (git('status', '--porcelain', 'native') ? ', changed' : '')
  const date = new Date().toISOString().slice(0, 10)
  const dtypes = ['float32', 'bfloat16'] as const
  const jobs = operators
    .filter((o) => !wanted.length || wanted.includes(o))
    .flatMap((operator) =>
      dtypes.flatMap((dtype) => {
        const n = casesOf(operator, dtype).length
        const of = Math.ceil(n / pieceSize)
        return Array.from({ length: of }, (_, at) => ({ operator, dtype, at, of }))
      }),
    )
  const parts = new Map<string, { part: Part; left: number }>()
  let failed = false
  const one = async (): Promise<void> => {
    for (let job = jobs.shift(); job; job = jobs.shift()) {
      const { operator, dtype, at, of } = job
      const key = `${operator} ${dtype}`
      const state = parts.get(key) ?? { part: none(), left: of }
      parts.set(key, state)
      const result = await piece(operator, dtype, at, of)
      state.part = together(state.part, result)
      for (const f of result.failures)
        console.error(`${key}: ${f.case}: ${f.what}${f.error === null ? '' : ` is ${f.error}, not ${f.limit}`}`)
      failed ||= result.failures.length > 0
      if (--state.left) continue
      const { part } = state
      console.log(
        `${key}: ${part.cases} cases in ${part.seconds} s, ${part.failures.length} failures; forward ${part.forward?.error.toExponential(1)}, gradients ${part.gradient?.error.toExponential(1) ?? 'none'}`,
      )
      save({ operator, dtype, ...part, order, date, commit })
    }
  }
  await Promise.all([one(), one()])
  process.exitCode = failed ? 1 : 0
}

/** Replaces an operator's last results in the same order of threads. */
function save(entry: Entry): void {
  const before = existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as { results: Entry[] }).results : []
  const key = (e: Entry): string => `${e.operator} ${e.dtype === 'float32' ? 0 : 1} ${e.order}`
  const results = [...before.filter((e) => key(e) !== key(entry)), entry].sort((a, b) => (key(a) < key(b) ? -1 : 1))
  writeFileSync(file, `${JSON.stringify({ sizes, limits, results }, null, 1)}\n`)
}

const [mode, operator, dtype, at, of] = process.argv.slice(2)
if (mode === '--piece') console.log(JSON.stringify(work(operator!, dtype as Precision, Number(at), Number(of))))
else await main(process.argv.slice(2))
