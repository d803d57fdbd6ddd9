// Weights files while a process uses them: cut short, written to, renamed; tensors that are read from them; and
// MT_MEMORY_LIMIT in words.
import { closeSync, mkdtempSync, openSync, rmSync, truncateSync, writeFileSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { native } from '../../lib/native.js'
import { LEVELS } from '../support/levels.js'
import { type Ended, run } from './child.js'

const folder = mkdtempSync(join(tmpdir(), 'mt-files-'))
test.after(() => rmSync(folder, { recursive: true, force: true }))

function lines({ status, signal, stdout, stderr }: Ended): string[] {
  assert.is(signal, null, `killed by ${signal}: ${stderr}`)
  assert.is(status, 0, stderr)
  return stdout.trim().split('\n')
}

/** A sparse file of more than 64 MiB, which is mapped. */
function large(name: string): string {
  const path = join(folder, name)
  writeFileSync(path, new Uint8Array(4096).fill(1))
  truncateSync(path, 80 << 20)
  return path
}

/** Runs `change` between two uses of a mapped [1024, 1024] float32 at `offset`; prints what each use says. */
const uses = (path: string, offset: number, change: string): Promise<Ended> =>
  run(`
    const fs = await import('node:fs')
    const path = ${JSON.stringify(path)}
    const t = new m.Tensor(m.native().mapped(m.native().map(path), ${offset}, [1024, 1024], 'float32'), [1024, 1024], 'float32')
    const use = async () => {
      const y = m.linear(m.full([2, 1024], 1), t)
      console.log(await y.data().then((d) => 'sum ' + d[0], (e) => e.message))
    }
    if (${offset} === 0) await use()
    ${change}
    await use()
    await use()
    console.log(await t.data().then(() => 'read', (e) => e.message))
    console.log((await m.scale(m.full([2], 3), 2).data())[1])
  `)

const refusal = (operator: string, what: string): RegExp =>
  new RegExp(
    `^${operator}: the weights file ".*" ${what} while the model was in use; open the model again, and put new weights beside the old, then rename$`,
  )

test('a mapped file that is cut short: an error at the next use, not the end of the process', async () => {
  // Known by its size before anything is read.
  const known = lines(await uses(large('known'), 0, 'fs.truncateSync(path, 1 << 20)'))
  assert.match(known[0]!, /^sum /)
  for (const line of known.slice(1, 3)) assert.match(line, refusal('linear_forward', 'was cut short'))
  assert.match(known[3]!, refusal('read', 'was cut short'))
  assert.is(known[4], '6', 'the process goes on')
})

test('a mapped file that is cut while an operator reads it: the same', async () => {
  // The operator begins before the file is cut: products long enough, on pages that were never read.
  const out = lines(
    await run(
      `
      const fs = await import('node:fs')
      const path = ${JSON.stringify(large('during'))}
      const t = new m.Tensor(m.native().mapped(m.native().map(path), 0, [19 << 10, 1024], 'float32'), [19 << 10, 1024], 'float32')
      const x = m.full([512, 1024], 1)
      await m.sync()
      const y = m.linear(x, t)
      setTimeout(() => fs.truncateSync(path, 4096), 30)
      console.log(await y.data().then(() => 'done', (e) => e.message))
      console.log(await m.linear(x, t).data().then(() => 'done', (e) => e.message))`,
      { MT_THREADS: '1', MT_MEMORY_LIMIT: '160M' }, // nothing is packed
    ),
  )
  assert.ok(out[0] === 'done' || refusal('linear_forward', 'was cut short').test(out[0]!), out[0])
  assert.match(out[1]!, refusal('linear_forward', 'was cut short'))
})

test('a mapped file that is written over in place: an error; one that another took the name of: none', async () => {
  const over = lines(
    await uses(
      large('over'),
      0,
      `await new Promise((f) => setTimeout(f, 20)); const f = fs.openSync(path, 'r+'); fs.writeSync(f, new Uint8Array(64).fill(9), 0, 64, 0); fs.closeSync(f)`,
    ),
  )
  for (const line of over.slice(1, 3)) assert.match(line, refusal('linear_forward', 'was written to'))
  const renamed = lines(
    await uses(large('renamed'), 0, `fs.writeFileSync(path + '.new', 'x'); fs.renameSync(path + '.new', path)`),
  )
  assert.is(renamed[1], renamed[0])
  assert.is(renamed[3], 'read')
})

test('a pack takes the place of the pages that it was made of', async () => {
  const path = large('packed')
  const out = lines(
    await run(`
      const fs = await import('node:fs')
      const path = ${JSON.stringify(path)}
      const resident = () => {
        const map = fs.readFileSync('/proc/self/smaps', 'utf8').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m).find((part) => part.includes(path))
        return Number(/^Rss: +(\\d+) kB/m.exec(map)[1])
      }
      if (process.platform !== 'linux') { console.log('elsewhere'); process.exit() }
      const t = new m.Tensor(m.native().mapped(m.native().map(path), 0, [16 << 10, 1024], 'float32'), [16 << 10, 1024], 'float32')
      let y
      for (let i = 0; i < 64; i++) y = await m.linear(m.full([8, 1024], 1), t).data()
      console.log(resident())
      const z = await m.linear(m.full([8, 1024], 1), t).data()
      console.log(y.every((v, i) => v === z[i]), m.memory().packed === 64 << 20, m.memory().mapped === 80 << 20)
      console.log(resident())
      await t.data()
      console.log(resident() > 60_000)`),
  )
  if (out[0] === 'elsewhere') return
  assert.ok(Number(out[0]) < 1024, `${out[0]} kB of the file are in memory`)
  assert.is(out[1], 'true true true')
  assert.ok(Number(out[2]) < 1024, `${out[2]} kB of the file are in memory`)
  assert.is(out[3], 'true', 'they are read again when they are used')
})

test('a mapped weight is packed when that pays, and no bit of a product depends on it', async () => {
  const [n, k] = [70, 650]
  const path = large('bits')
  const numbers = Float32Array.from({ length: n * k }, (_, i) => Math.sin(i) / (1 + (i % 7)))
  const file = openSync(path, 'r+')
  writeSync(file, new Uint8Array(numbers.buffer), 0, 4 * n * k, 0)
  const upper = new Uint16Array(numbers.buffer).filter((_, i) => i % 2)
  writeSync(file, new Uint8Array(upper.buffer), 0, 2 * n * k, 1 << 20)
  closeSync(file)
  for (const MT_CPU of ['', ...LEVELS]) {
    const out = lines(
      await run(
        `
        const map = m.native().map(${JSON.stringify(path)})
        const draw = (shape, f) => m.tensor(Float32Array.from({ length: shape[0] * shape[1] }, (_, i) => f(i * 0.7)), shape)
        const answers = async (w, rows, narrow) => {
          const as = (t) => (narrow ? m.cast(t, 'bfloat16') : t)
          const x = draw([rows, ${k}], Math.sin).requireGrad()
          const y = m.linear(as(x), w)
          m.backward(y, as(draw([rows, ${n}], Math.cos)))
          const all = [...(await m.cast(y.detach(), 'float32').data()), ...(await x.grad.data())].join()
          y.dispose()
          await m.sync()
          return all
        }
        for (const dtype of ['float32', 'bfloat16'])
          for (const rows of [1, 16, 17, 70, 300])
            for (const narrow of [false, true]) {
              const at = dtype === 'float32' ? 0 : 1 << 20
              const mapped = new m.Tensor(m.native().mapped(map, at, [${n}, ${k}], dtype), [${n}, ${k}], dtype)
              const held = m.copy(mapped).freeze()
              const expected = await answers(held, rows, narrow)
              held.dispose()
              await m.sync()
              const start = m.memory().packed
              const after = async (turns) => {
                for (let i = 0; i < turns; i++)
                  if ((await answers(mapped, rows, narrow)) !== expected) console.log('turn', i, dtype, rows, narrow)
                return m.memory().packed > start
              }
              const soon = await after(3)
              if (soon !== (dtype === 'bfloat16' && rows > 16)) console.log('packed', soon, dtype, rows)
              // A turn asks twice.
              const late = rows <= 16 && (await after(29))
              if (late !== rows <= 16) console.log('packed late', late, dtype, rows)
              mapped.dispose()
              await m.sync()
            }
        console.log('done')`,
        { MT_CPU },
      ),
    )
    assert.equal(out, ['done'], `MT_CPU=${MT_CPU}`)
  }
})

test('tensors that are read from a file: as stored, and converted piece by piece', () => {
  const n = native()
  const wide = Float32Array.from({ length: 20_000_000 }, (_, i) => Math.sin(i) / (1 + (i % 97))) // more than two pieces
  const path = join(folder, 'numbers')
  writeFileSync(path, Buffer.concat([Buffer.alloc(12), Buffer.from(wide.buffer, wide.byteOffset, wide.byteLength)]))
  const file = n.openFile(path)
  const load = (dtype: string, offset = 12, count = wide.length) => {
    const t = n.load(file, offset, [count], 'float32', dtype, true, true)
    const data = n.readBlocking(t)
    n.release(t)
    return data
  }
  assert.is(Buffer.compare(Buffer.from(load('float32')), Buffer.from(wide.buffer, wide.byteOffset, wide.byteLength)), 0)
  const bits = new Uint32Array(wide.buffer, wide.byteOffset, wide.length)
  const narrow = new Uint16Array(load('bfloat16'))
  assert.ok(
    narrow.every((x, i) => x === (bits[i]! + 0x7fff + ((bits[i]! >>> 16) & 1)) >>> 16),
    'nearest, ties to even',
  )
  assert.throws(
    () => load('float32', 12, wide.length + 1),
    /load: bytes 12 to 80000016 lie outside the file's 80000012\./,
  )
  assert.throws(() => load('float32', -4), /lie outside/)
  truncateSync(path, 1 << 20)
  assert.throws(() => load('float32'), /load: the weights file ".*numbers" was cut short/)
  assert.throws(() => n.openFile(folder), /openFile: cannot map ".*": it is empty or not a regular file\./)
  assert.throws(() => n.openFile(join(folder, 'none')), /openFile: cannot open ".*none": No such file or directory\./)
})

test('MT_MEMORY_LIMIT in bytes and units; what is no number is said', async () => {
  const limit = async (text: string): Promise<string> =>
    lines(
      await run(`try { console.log(m.memory().limit) } catch (e) { console.log(e.message) }`, {
        MT_MEMORY_LIMIT: text,
      }),
    )[0]!
  const expected = { '123456': 123456, '2G': 2 ** 31, '1.5 GiB': 1.5 * 2 ** 30, '300MB': 300 * 2 ** 20, '1T': 2 ** 40 }
  for (const [text, bytes] of Object.entries(expected)) assert.is(await limit(text), String(bytes), text)
  for (const text of ['plenty', '8X', '-1', '1GBB'])
    assert.match(await limit(text), /MT_MEMORY_LIMIT: expected bytes, as 8589934592 or 8G, but got "/, text)
})

test.run()
