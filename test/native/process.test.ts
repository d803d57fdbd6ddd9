// The addon in processes and threads that start and end: memory limits, worker threads, an exit with work in the queue.
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type Ended, prelude, run } from './child.js'

const loader = `(await import(${JSON.stringify(import.meta.resolve('tsx/esm/api'))})).register()\n`

function fine({ status, signal, stdout, stderr }: Ended): string {
  assert.is(signal, null, `killed by ${signal}: ${stderr}`)
  assert.is(status, 0, stderr)
  return stdout
}

test('out of memory: the next await rejects with the operator and the numbers, and the device goes on being usable', async () => {
  const out = fine(
    await run(
      `const { full, scale, linear, sync, tensor, memory, scope } = m
       await scope(async () => {
         const x = full([1 << 20], 1)            // 4 MiB of 16
         const big = scale(full([4 << 20], 1), 2) // the first part fits, the second does not
         const after = scale(big, 2)
         await sync().then(() => console.log('no error'), (e) => console.log(e.message))
         console.log((await scale(x, 3).data())[7])
         console.log((await after.data().catch((e) => e)).message)
       })
       console.log((await linear(tensor([1, 2], [1, 2]), tensor([3, 4], [1, 2])).data())[0])
       try { tensor(new Float32Array(8 << 20)) } catch (e) { console.log(e.message) }
       console.log(memory().limit)`,
      { MT_MEMORY_LIMIT: String((16 << 20) + 8192) },
    ),
  )
    .trim()
    .split('\n')
  assert.match(
    out[0]!,
    /^(fill|scale): out of memory: 16777216 bytes were asked for while \d+ of 16785408 bytes are in use; use a smaller batch or fewer frames, or raise MT_MEMORY_LIMIT/,
  )
  assert.is(out[1], '3')
  assert.match(out[2]!, /^read: an input has no data/)
  assert.is(out[3], '11')
  assert.match(out[4]!, /^upload: out of memory: 33554432 bytes/)
  assert.is(out[5], '16785408')
})

test('a process ends while work is queued: it finishes what is running and drops the rest', async () => {
  const start = performance.now()
  // Far more work than the time allows: 4,000 products of 1,024³.
  const queue =
    'const { full, linear } = m; const a = full([1024, 1024], 0.001); let x = a; for (let i = 0; i < 4000; i++) x = linear(x, a);'
  fine(await run(queue))
  fine(await run(`${queue} process.exit(0)`))
  const third = await run(`${queue} x.data(); setTimeout(() => { throw new Error('on purpose') }, 20)`)
  assert.is(third.signal, null)
  assert.is(third.status, 1)
  assert.match(third.stderr, /on purpose/)
  assert.ok(performance.now() - start < 100_000)
})

test('a promise keeps the process alive until it settles; none outstanding lets it end', async () => {
  assert.is(fine(await run(`m.full([4], 2).data().then((d) => console.log(d.join()))`)).trim(), '2,2,2,2')
  fine(await run(`globalThis.x = m.full([4], 2)`, {}, 30_000))
})

// A worker does not inherit the TypeScript loader, and the data: URL that it starts from resolves no package names.
const work = `
  const { parentPort, workerData } = await import('node:worker_threads')
  const { Random, linear, backward, scope } = m
  const random = new Random(workerData)
  const w = random.normal([96, 96], 0, 0.1).requireGrad()
  let digest = ''
  do {
    digest = await scope(async () => {
      let h = random.normal([64, 96])
      for (let i = 0; i < 6; i++) h = linear(h, w)
      backward(h, h.detach())
      const bytes = Buffer.from((await w.grad.data()).buffer)
      w.grad.dispose()
      w.grad = undefined
      return bytes.toString('base64')
    })
    parentPort.postMessage(digest)
  } while (workerData < 0)`

test('two worker threads compute at once, and the main thread too: the same bits as alone', async () => {
  const out = fine(
    await run(`
      import { Worker } from 'node:worker_threads'
      const code = ${JSON.stringify(loader + prelude + work)}
      const start = (seed) => new Promise((resolve, reject) => {
        const worker = new Worker(new URL('data:text/javascript,' + encodeURIComponent(code)), { workerData: seed })
        let last
        worker.on('message', (x) => (last = x)).on('error', reject).on('exit', () => resolve(last))
      })
      const alone = [await start(1), await start(2)]
      const sum = m.scope(() => m.scale(m.full([1 << 20], 1), 2))
      const together = await Promise.all([start(1), start(2), start(1), start(2)])
      console.log(alone[0] !== alone[1], alone[0].length > 1000, together.every((x, i) => x === alone[i % 2]), (await sum.data())[5])
      sum.dispose()
      await m.sync()
      console.log(m.memory().tensors)`),
  )
    .trim()
    .split('\n')
  assert.is(out[0], 'true true true 2')
  assert.is(out[1], '0', 'what the threads left behind is freed with them')
})

test('a worker is terminated in the middle of its work and started again, five times; memory comes back', async () => {
  const out = fine(
    await run(`
      import { Worker } from 'node:worker_threads'
      const code = ${JSON.stringify(loader + prelude + work)}
      for (let i = 0; i < 5; i++) {
        const worker = new Worker(new URL('data:text/javascript,' + encodeURIComponent(code)), { workerData: -1 - i })
        await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
        await new Promise((resolve) => setTimeout(resolve, 3 * i))
        await worker.terminate()
        const x = m.full([3], i)
        console.log((await x.data()).join())
        x.dispose()
      }
      await m.sync()
      console.log(m.memory().tensors)`),
  )
    .trim()
    .split('\n')
  assert.equal(out, ['0,0,0', '1,1,1', '2,2,2', '3,3,3', '4,4,4', '0'])
})

test('files: small ones are read, so that a later change does not matter; large ones are mapped, and outlive their name', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'mt-map-'))
  try {
    const [small, large] = [join(folder, 'small'), join(folder, 'large')]
    writeFileSync(small, new Uint8Array(1 << 20).fill(7))
    writeFileSync(large, new Uint8Array(16).fill(9))
    truncateSync(large, 65 << 20) // sparse
    const out = fine(
      await run(`
        import { truncateSync, unlinkSync } from 'node:fs'
        const n = m.native()
        const t = [${JSON.stringify(small)}, ${JSON.stringify(large)}].map((path) => n.mapped(n.map(path), 0, [16], 'uint8'))
        truncateSync(${JSON.stringify(small)}, 0)
        unlinkSync(${JSON.stringify(large)})
        for (const x of t) console.log(new Uint8Array(n.readBlocking(x)).join())
        n.release(t[0])
        for (const path of [${JSON.stringify(small)}, ${JSON.stringify(folder)}, '/dev/null', ${JSON.stringify(join(folder, 'none'))}]) try { n.map(path); console.log('opened') } catch (e) { console.log(e.message) }`),
    )
      .trim()
      .split('\n')
    assert.equal(out.slice(0, 2), [Array(16).fill(7).join(), Array(16).fill(9).join()])
    for (const line of out.slice(2, 5))
      assert.match(line, /^map: cannot map ".*": it is empty or not a regular file\.$/)
    assert.match(out[5]!, /^map: cannot open ".*none": No such file or directory\.$/)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})

test.run()
