// Stage `sanitizer`: compute-sanitizer over tiny.ts: memcheck first with all the time it needs, then racecheck,
// initcheck and synccheck at once with what is left. A check that did not run is "unavailable", never "ok": a tool
// passes only if it reports no error and every case ran under it. Warnings of racecheck are recorded and are not
// errors.
import { existsSync, renameSync, writeFileSync } from 'node:fs'
import { spawnSync } from 'node:child_process'
import { option, run } from './child.mjs'

const tool = ['compute-sanitizer', '/usr/local/cuda/bin/compute-sanitizer'].find((t) =>
  t.startsWith('/') ? existsSync(t) : !spawnSync(t, ['--version']).error,
)
if (!tool) {
  console.log('there is no compute-sanitizer')
  process.exit(3)
}
const end = Date.now() + 1000 * Number(option('seconds') ?? 120)
const quick = process.argv.includes('--quick') ? ['--quick'] : []
const rows = []

function save() {
  const to = option('to')
  if (!to) return
  writeFileSync(`${to}.part`, JSON.stringify({ rows }))
  renameSync(`${to}.part`, to)
}

/** Errors and warnings as the tool counts them at its end; undefined where it did not finish. */
function summary(out) {
  const race = /RACECHECK SUMMARY: \d+ hazards? displayed \((\d+) errors?, (\d+) warnings?\)/.exec(out)
  const errors = race?.[1] ?? /(?:ERROR|RACECHECK) SUMMARY: (\d+)/.exec(out)?.[1]
  return errors === undefined ? undefined : { errors: Number(errors), warnings: Number(race?.[2] ?? 0) }
}

async function check(name) {
  const limit = end - Date.now()
  if (limit < 5000)
    return void rows.push({ id: name, status: 'unavailable', reason: 'no time was left', runs: 0, seconds: 0 })
  const { code, out, late, seconds } = await run(
    tool,
    [
      '--tool',
      name,
      '--error-exitcode',
      '99',
      '--target-processes',
      'all',
      process.execPath,
      '--import',
      'tsx',
      'bench/gpu/tiny.ts',
      ...quick,
    ],
    { limit },
  )
  const found = summary(out)
  // A report's first line; until the tool's end there is no sum of them.
  const reports = out
    .split('\n')
    .filter((line) => /^========= (?!COMPUTE-SANITIZER|ERROR SUMMARY|RACECHECK SUMMARY|LEAK SUMMARY)\S/.test(line))
    .map((line) => line.slice(10).trim())
  const [, , all] = /(\d+) runs of (\d+) cases are done/.exec(out) ?? []
  const runs = Number([...out.matchAll(/^(\d+) runs? (?:of|so far)/gm)].at(-1)?.[1] ?? 0)
  // The exit code that was asked for comes with warnings as well.
  const clean = found?.errors === 0 && all !== undefined && (code === 0 || (code === 99 && found.warnings > 0))
  const status =
    found?.errors || (late && reports.some((line) => !/^Warning/.test(line))) ? 'failed' : clean ? 'ok' : 'unavailable'
  const why = late
    ? `the time limit of the stage, after ${runs} runs${reports.length ? `: ${reports[0]}` : ' without a report'}`
    : (reports[0] ?? out.trim().split('\n').at(-1) ?? '')
  rows.push({
    id: name,
    status,
    ...found,
    ...(status !== 'ok' && { reason: why.slice(0, 300) }),
    ...((status !== 'ok' || found.warnings) && { tail: out.slice(-3000) }),
    runs,
    seconds,
  })
  save()
}

await check('memcheck')
await Promise.all(['racecheck', 'initcheck', 'synccheck'].map(check))
save()
const failed = rows.find((r) => r.status === 'failed')
console.log(
  failed
    ? `${failed.id}: ${failed.reason}`
    : rows.map((r) => `${r.id} ${r.status}${r.warnings ? ` with ${r.warnings} warnings` : ''}`).join(' · '),
)
process.exit(failed ? 1 : rows.some((r) => r.status === 'ok') ? 0 : 3)
