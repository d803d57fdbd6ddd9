// Training runs that are followed: lines as they are written, whole ones alone, a log that begins anew, and nothing
// outside of the folder.
import { appendFileSync, mkdirSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type Lines, Runs } from '../../lib/server/folders.js'
import { temporaryFolder } from '../support/tiny.js'
import { refusal, serve, until } from './support.js'

const folder = temporaryFolder('runs')
const log = (run: string): string => join(folder, run, 'metrics.jsonl')
for (const run of ['first', 'second run', 'none yet']) mkdirSync(join(folder, run))
const line = (step: number): string => `${JSON.stringify({ kind: 'step', step, loss: 1 / step })}\n`
writeFileSync(log('first'), line(1) + line(2))
writeFileSync(log('second run'), '')
utimesSync(log('first'), 1000, 1000)

/** Follows a run until stopped, and keeps what comes. */
function following(run: string, from = 0) {
  const stop = new AbortController()
  const got: Lines[] = []
  const ended = (async () => {
    for await (const lines of new Runs(folder, 5).follow(run, from, stop.signal)) got.push(lines)
  })()
  return {
    got,
    steps: () => got.flatMap((l) => l.lines.map((x) => (x as { step: number }).step)),
    async stop() {
      stop.abort()
      await ended
    },
  }
}

test('runs are listed, the latest first; a folder that is a run itself is one', async () => {
  const runs = await new Runs(folder).list()
  assert.equal(
    runs.map((r) => r.name),
    ['second run', 'first'],
  )
  assert.equal(
    (await new Runs(join(folder, 'first')).list()).map((r) => r.name),
    ['first'],
  )
})

test('what is there comes at once, further lines when they are whole', async () => {
  const run = following('first')
  await until(() => run.got.length === 1)
  assert.equal(run.steps(), [1, 2])
  appendFileSync(log('first'), line(3) + line(4).slice(0, 9))
  await until(() => run.steps().length === 3)
  appendFileSync(log('first'), line(4).slice(9))
  await until(() => run.steps().length === 4)
  appendFileSync(log('first'), `no JSON\n${line(5)}`)
  await until(() => run.steps().length === 5)
  assert.equal(run.steps(), [1, 2, 3, 4, 5])
  assert.not.ok(run.got.some((l) => l.reset))
  const { next } = run.got.at(-1)!
  await run.stop()
  const later = following('first', next)
  await until(() => later.got.length === 1)
  assert.equal(later.got, [{ lines: [], next, reset: false }])
  appendFileSync(log('first'), line(6))
  await until(() => later.steps().length === 1)
  await later.stop()
})

test('a log that begins anew, or is longer than a piece', async () => {
  const run = following('first')
  await until(() => run.steps().length === 6)
  writeFileSync(log('first'), line(1))
  await until(() => run.got.at(-1)!.reset)
  assert.equal(run.got.at(-1)!.lines.length, 1)
  const many = Array.from({ length: 60_000 }, (_, i) => line(i + 2)).join('')
  appendFileSync(log('first'), many)
  await until(() => run.steps().at(-1) === 60_001)
  assert.is(run.steps().length, 6 + 60_001)
  rmSync(log('first'))
  writeFileSync(log('first'), line(1) + line(2))
  await until(() => run.steps().at(-1) === 2)
  await run.stop()
})

test('over HTTP: events as they come; names alone, no paths and no links that lead out', async () => {
  const outside = temporaryFolder('outside')
  writeFileSync(join(outside, 'metrics.jsonl'), line(1))
  symlinkSync(outside, join(folder, 'link'))
  const server = await serve({ runs: folder, interval: 5 })
  const { runs } = (await (await fetch(`${server.url}/api/runs`)).json()) as { runs: { name: string }[] }
  assert.equal(runs.map((r) => r.name).sort(), ['first', 'second run'])
  const stop = new AbortController()
  const response = await fetch(`${server.url}/api/runs/${encodeURIComponent('second run')}`, { signal: stop.signal })
  assert.match(response.headers.get('content-type')!, /^text\/event-stream/)
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader()
  let text = ''
  const read = async (pattern: RegExp): Promise<void> => {
    while (!pattern.test(text)) text += (await reader.read()).value ?? ''
  }
  await read(/data: .*"next":0/)
  appendFileSync(log('second run'), line(7))
  await read(/"step":7/)
  stop.abort()
  await reader.cancel().catch(() => {})
  for (const name of ['link', 'none yet', '..%2foutside', '%2e%2e', 'first%2fmetrics.jsonl', 'constructor']) {
    const refused = await refusal(await fetch(`${server.url}/api/runs/${name}`))
    assert.is(refused.status, 404, name)
  }
  assert.is((await refusal(await fetch(`${server.url}/api/runs/first?from=-1`))).status, 400)
  await server.close() // which ends what is still followed
  const without = await serve()
  assert.is((await refusal(await fetch(`${without.url}/api/runs/first`))).status, 404)
  await without.close()
})

test.run()
