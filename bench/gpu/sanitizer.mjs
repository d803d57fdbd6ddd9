// Stage `sanitizer`: memcheck, racecheck, initcheck and synccheck of compute-sanitizer over tiny.ts. What could not be
// checked is "unavailable", never "ok": a tool passes only if it says that it found nothing and every case ran under it.
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, renameSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
const option = (name) => (process.argv.includes(`--${name}`) ? process.argv[process.argv.indexOf(`--${name}`) + 1] : undefined)
const tool = ['compute-sanitizer', '/usr/local/cuda/bin/compute-sanitizer'].find((t) => (t.startsWith('/') ? existsSync(t) : !spawnSync(t, ['--version']).error))
if (!tool) {
  console.log('there is no compute-sanitizer')
  process.exit(3)
}
const limit = 1000 * Number(option('seconds') ?? 60)
const rows = []
await Promise.all(['memcheck', 'racecheck', 'initcheck', 'synccheck'].map((name) => {
  const args = ['--tool', name, '--error-exitcode', '99', '--target-processes', 'all', process.execPath, '--import', 'tsx', 'bench/gpu/tiny.ts', ...(process.argv.includes('--quick') ? ['--quick'] : [])]
  const start = Date.now()
  const child = spawn(tool, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] })
  const timer = setTimeout(() => child.kill('SIGKILL'), limit)
  let out = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => { out += data })
  return new Promise((resolve) => child.on('close', (code, signal) => {
    clearTimeout(timer)
    const found = /(?:ERROR|RACECHECK) SUMMARY: (\d+)/.exec(out)?.[1]
    const done = /(\d+) runs of \d+ cases are done/.exec(out)?.[1]
    const status = found !== undefined && Number(found) > 0 ? 'failed' : found === '0' && done && code === 0 ? 'ok' : 'unavailable'
    const first = out.split('\n').find((line) => /^=========\s+\S/.test(line) && !/COMPUTE-SANITIZER/.test(line)) ?? out.trim().split('\n').at(-1) ?? ''
    rows.push({ id: name, status, ...(status !== 'ok' && { reason: signal ? 'the time limit of the stage' : first.trim().slice(0, 300), tail: out.slice(-2000) }), runs: Number(done ?? 0), seconds: (Date.now() - start) / 1000 })
    const to = option('to')
    if (to) {
      writeFileSync(`${to}.part`, JSON.stringify({ rows }))
      renameSync(`${to}.part`, to)
    }
    resolve()
  }))
}))
console.log(rows.map((r) => `${r.id} ${r.status}`).join(' · '))
process.exit(rows.some((r) => r.status === 'failed') ? 1 : rows.some((r) => r.status === 'ok') ? 0 : 3)
