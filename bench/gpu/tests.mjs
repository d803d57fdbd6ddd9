// Stage `tests`: the tests of CUDA kernels on the device, some at a time, and the golden cases where --golden names them.
// --quick runs a few of them.
import { spawn } from 'node:child_process'
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
const option = (name) => (process.argv.includes(`--${name}`) ? process.argv[process.argv.indexOf(`--${name}`) + 1] : undefined)
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

const operators = [...new Set([...readFileSync(join(root, 'test', 'ops', 'cases.ts'), 'utf8').matchAll(/\bdefine\('(\w+)'/g)].map(([, name]) => name))]
const uvu = existsSync(join(root, 'node_modules', 'uvu')) ? ['--import', 'tsx', join(dirname(createRequire(import.meta.url).resolve('uvu')), '..', 'bin.js')] : undefined
const jobs = quick
  ? [{ id: 'operators: gelu', args: ['test/cuda', String.raw`^operators\.test\.ts$`], env: { MT_CASES: 'gelu' } }]
  : [
      { id: 'fragments of the tensor cores', args: ['test/cuda', String.raw`^fragments\.test\.ts$`] },
      ...operators.map((name) => ({ id: `operators: ${name}`, args: ['test/cuda', String.raw`^operators\.test\.ts$`], env: { MT_CASES: name } })),
      { id: 'attention at the edges of tiles', args: ['test/cuda', String.raw`^attention\.test\.ts$`] },
      { id: 'errors', args: ['test/cuda', String.raw`^errors\.test\.ts$`] },
      { id: 'training', args: ['test/cuda', String.raw`^training\.test\.ts$`], env: { MT_EMULATED: 'none' } },
      { id: 'whole model', args: ['test/models', String.raw`^whole\.test\.ts$`], env: { MT_TEST_DEVICE: 'cuda' } },
    ]

function run(job) {
  const start = Date.now()
  const left = end - start
  if (left < 1000) return void rows.push({ id: job.id, status: 'unavailable', reason: 'no time was left' })
  const args = job.command ?? (uvu && [...uvu, ...job.args, '--no-color'])
  if (!args) return void rows.push({ id: job.id, status: 'unavailable', reason: 'the development dependencies (uvu) are not installed' })
  const child = spawn(process.execPath, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...job.env } })
  const timer = setTimeout(() => child.kill('SIGKILL'), left)
  let out = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => { out += data })
  return new Promise((resolve) =>
    child.on('close', (code, signal) => {
      clearTimeout(timer)
      const count = (what) => Number(new RegExp(`${what}:\\s+(\\d+)`).exec(out)?.[1] ?? 0)
      const [, cases, failures] = /(\d+) passed, (\d+) failed/.exec(out) ?? []
      const counts = job.command ? { passed: Number(cases ?? 0), total: Number(cases ?? 0) + Number(failures ?? 0) } : { passed: count('Passed'), total: count('Total'), skipped: count('Skipped') }
      const ok = code === 0 && counts.passed === counts.total
      const skipped = ok && counts.total === 0
      const why = signal ? 'the time limit of the stage' : (out.split('\n').find((line) => /FAIL|Error:|relative error|is .* from the CPU/.test(line)) ?? out.trim().split('\n').at(-1) ?? '').trim().slice(0, 300)
      rows.push({ id: job.id, status: skipped ? 'unavailable' : ok ? 'ok' : 'failed', ...(skipped ? { reason: 'every test was skipped' } : ok ? {} : { reason: why, tail: out.slice(-2000) }), ...counts, seconds: (Date.now() - start) / 1000 })
      save()
      resolve()
    }),
  )
}

if (golden) jobs.push({ id: 'golden cases', command: ['bin/mtransllama.mjs', 'parity', '--golden', golden, '--device', 'cuda'] })
else rows.push({ id: 'golden cases', status: 'unavailable', reason: 'no folder was given; --golden DIR' })
save()
// The oracle of the tests needs the processors more than the kernels need the GPU.
await Promise.all(Array.from({ length: Math.max(1, Math.min(8, Math.floor(availableParallelism() / 2))) }, async () => {
  for (let job; (job = jobs.shift()); ) await run(job)
}))
const failed = rows.filter((r) => r.status === 'failed')
save()
console.log(failed.length ? `${failed[0].id}: ${failed[0].reason} (${failed.length} of ${rows.length} failed)` : `${rows.reduce((n, r) => n + (r.passed ?? 0), 0)} tests passed`)
process.exit(failed.length ? 1 : rows.some((r) => r.status === 'ok') ? 0 : 3)
