// Stage `tests`: the tests of CUDA kernels on the device, some at a time, and the golden cases where --golden names
// them.
// --quick runs a few of them.
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism, tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { option, root, run } from './child.mjs'

const quick = process.argv.includes('--quick')
const golden = option('golden')
const end = Date.now() + 1000 * Number(option('seconds') ?? 1e6)

const rows = []
function save() {
  const to = option('to')
  if (!to) return
  writeFileSync(`${to}.part`, JSON.stringify({ rows }))
  renameSync(`${to}.part`, to)
}

const operators = [
  ...new Set(
    [...readFileSync(join(root, 'test', 'ops', 'cases.ts'), 'utf8').matchAll(/\bdefine\('(\w+)'/g)].map(
      ([, name]) => name,
    ),
  ),
]
const uvu = existsSync(join(root, 'node_modules', 'uvu'))
  ? ['--import', 'tsx', join(dirname(createRequire(import.meta.url).resolve('uvu')), '..', 'bin.js')]
  : undefined
const file = (folder, name, env) => ({ args: [folder, String.raw`^${name}\.test\.ts$`], env })
const cases = (name) => ({ id: `operators: ${name}`, ...file('test/cuda', 'operators', { MT_CASES: name }) })
// By default, large products in bfloat16 may be cuBLASLt's.
const own = ['linear', 'lora'].map((name) => ({
  id: `operators: ${name}, own kernels`,
  ...file('test/cuda', 'operators', { MT_CASES: name, MT_GEMM: 'own' }),
}))
const whole = { id: 'whole model', ...file('test/models', 'whole', { MT_TEST_DEVICE: 'cuda' }) }
const training = { id: 'training', ...file('test/cuda', 'training', { MT_EMULATED: 'none' }) }
const parity = golden
  ? [
      {
        id: 'golden cases',
        command: ['bin/mtransllama.mjs', 'parity', '--golden', quick ? few(golden) : golden, '--device', 'cuda'],
      },
    ]
  : []
const jobs = quick
  ? [cases('gelu'), ...parity]
  : [
      ...operators.map(cases),
      ...own,
      { id: 'attention at the edges of tiles', ...file('test/cuda', 'attention') },
      ...parity,
      { id: 'errors', ...file('test/cuda', 'errors') },
      training,
      whole,
    ]

async function work(job) {
  const left = end - Date.now()
  if (left < 1000) return void rows.push({ id: job.id, status: 'unavailable', reason: 'no time was left' })
  const args = job.command ?? (uvu && [...uvu, ...job.args, '--no-color'])
  if (!args)
    return void rows.push({
      id: job.id,
      status: 'unavailable',
      reason: 'the development dependencies (uvu) are not installed',
    })
  const { code, out, late, seconds } = await run(process.execPath, args, {
    limit: left,
    env: { ...process.env, ...job.env },
  })
  const count = (what) => Number(new RegExp(`${what}:\\s+(\\d+)`).exec(out)?.[1] ?? 0)
  const [, passed, failures] = /(\d+) passed, (\d+) failed/.exec(out) ?? []
  const counts = job.command
    ? { passed: Number(passed ?? 0), total: Number(passed ?? 0) + Number(failures ?? 0) }
    : { passed: count('Passed'), total: count('Total'), skipped: count('Skipped') }
  const ok = code === 0 && counts.passed === counts.total
  const skipped = ok && counts.total === 0
  const found = (pattern) =>
    out
      .split('\n')
      .find((line) => pattern.test(line))
      ?.trim()
  const why = late
    ? 'the time limit of the stage'
    : (found(/FAIL|Error:|relative error|is .* from the CPU/) ?? out.trim().split('\n').at(-1) ?? '').trim()
  const reason = skipped ? (found(/skipped, since/) ?? 'every test was skipped') : why
  rows.push({
    id: job.id,
    status: skipped ? 'unavailable' : ok ? 'ok' : 'failed',
    ...((skipped || !ok) && { reason: reason.slice(0, 300) }),
    ...(!ok && { tail: out.slice(-3000) }),
    ...counts,
    seconds,
  })
  save()
}

/** A few golden cases: the small ones of operators, one whole model, and what they refer to, as links. */
function few(folder) {
  const some = mkdtempSync(join(tmpdir(), 'mt-golden-'))
  process.on('exit', () => rmSync(some, { recursive: true, force: true }))
  mkdirSync(join(some, 'cases'))
  for (const name of readdirSync(folder)) if (name !== 'cases') symlinkSync(resolve(folder, name), join(some, name))
  for (const name of readdirSync(join(folder, 'cases')))
    if (/^(mtrans_(inputs|params)|op_(lora|rope|swiglu|router|attn_self_n7)|mtrans_factorized_score)/.test(name))
      symlinkSync(resolve(folder, 'cases', name), join(some, 'cases', name))
  return some
}

if (!golden) rows.push({ id: 'golden cases', status: 'unavailable', reason: 'no folder was given; --golden DIR' })
save()
// The tests' oracle is bound by the CPU, not by the GPU.
await Promise.all(
  Array.from({ length: Math.max(1, Math.min(8, Math.floor(availableParallelism() / 2))) }, async () => {
    for (let job; (job = jobs.shift()); ) await work(job)
  }),
)
const failed = rows.filter((r) => r.status === 'failed')
save()
console.log(
  failed.length
    ? `${failed[0].id}: ${failed[0].reason} (${failed.length} of ${rows.length} failed)`
    : `${rows.reduce((n, r) => n + (r.passed ?? 0), 0)} tests passed`,
)
process.exit(failed.length ? 1 : rows.some((r) => r.status === 'ok') ? 0 : 3)
