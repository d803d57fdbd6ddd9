// A model that is loaded, used and disposed fifty times leaves nothing behind: neither tensors nor memory of the
// process.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { spawnSync } from 'node:child_process'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { tinyCheckpoint, writeTiny } from '../oracle/tiny.js'

test('50 times load, compute, dispose: memory() is equal and RSS flat', () => {
  const folder = mkdtempSync(join(tmpdir(), 'mt-leak-'))
  try {
    writeTiny(folder, tinyCheckpoint('instructblip', 11))
    const lib = (name: string): string => JSON.stringify(new URL(`../../lib/${name}.ts`, import.meta.url).href)
    const code = `
      const { loadImageModel } = await import(${lib('session/checkpoint')})
      const { memory, sync } = await import(${lib('tensor/runtime')})
      const { scope } = await import(${lib('tensor/scope')})
      const { noGrad } = await import(${lib('tensor/tape')})
      const { Random } = await import(${lib('ops/random')})
      const { vitForward } = await import(${lib('models/vit')})
      const rss = [], bytes = []
      for (let i = 0; i < 60; i++) {
        const model = await loadImageModel(${JSON.stringify(folder)}, { trained: i % 2 === 1 })
        const size = model.config.vision.imageSize
        await scope(() => noGrad(async () => (await vitForward(model.vision, new Random(i).normal([2, 3, size, size])).data()).length))
        model.dispose()
        await sync()
        globalThis.gc()
        if (i >= 10) rss.push(process.memoryUsage().rss), bytes.push(memory().bytes, memory().tensors)
      }
      console.log(JSON.stringify({ rss, bytes }))`
    const { status, stdout, stderr } = spawnSync(
      process.execPath,
      ['--expose-gc', '--import', 'tsx', '--input-type=module', '-e', code],
      { encoding: 'utf8', timeout: 240_000, cwd: fileURLToPath(new URL('../..', import.meta.url)) },
    )
    assert.is(status, 0, stderr)
    const { rss, bytes } = JSON.parse(stdout) as { rss: number[]; bytes: number[] }
    assert.is(rss.length, 50)
    assert.ok(
      bytes.every((n) => n === 0),
      `bytes and tensors after each: ${bytes}`,
    )
    const mean = (list: number[]): number => list.reduce((a, b) => a + b, 0) / list.length / 2 ** 20
    const growth = mean(rss.slice(-10)) - mean(rss.slice(0, 10))
    assert.ok(growth < 8, `RSS grew by ${growth.toFixed(1)} MiB over 50 rounds`)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})

test.run()
