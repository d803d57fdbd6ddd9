// The emulator's null device: calls are checked and counted, nothing is computed, and tensors have no memory.
import { test as plain } from 'uvu'
import * as assert from 'uvu/assert'
import { emulated, lines } from './emulated.js'

const test = emulated ? plain : plain.skip
if (!emulated) console.error('test/cuda/null: skipped, since build-emulated is not built')

const counts = 'const counts = () => { m.syncBlocking(); return m.native().devices().counts }\n'

test('it has the size of an H100, and tensors larger than this machine take no memory', async () => {
  const [device, sum, grown] = await lines(
    `
    const { name, multiprocessors, memory } = m.native().devices().devices[0]
    console.log(name, multiprocessors, memory / 2 ** 30)
    const before = process.memoryUsage().rss
    const a = m.full([16, 2 ** 30], 3, 'float32', 'cuda:0') // 64 GiB
    console.log((await m.scale(a.view([2 ** 20]), 2).data()).reduce((x, y) => x + y))
    console.log(process.memoryUsage().rss - before < 2 ** 26, m.deviceMemory('cuda:0').bytes >= 2 ** 36)`,
    'null',
  )
  assert.is(device, 'Null CUDA device 132 80')
  assert.is(sum, '0', 'what is read is 0, since nothing was computed')
  assert.is(grown, 'true true')
})

test('launches, copies, fills, allocations and nodes of a graph are counted as on the emulator that computes', async () => {
  const code = `${counts}
    const seen = []
    const x = m.full([4, 6], 1, 'float32', 'cuda:0'), y = m.empty([4, 6], 'float32', 'cuda:0')
    const work = () => { m.native().ops.scale(x.handle, 2, y.handle); return m.add(y, m.add(x, y)) }
    seen.push(counts())
    m.scope(work)
    seen.push(counts())
    const { graph, result } = m.Graph.capture('cuda:0', work)
    seen.push(counts())
    for (let i = 0; i < 5; i++) graph.replay()
    seen.push(counts())
    graph.dispose()
    const keys = ['launches', 'copies', 'fills', 'mallocs', 'graphs', 'nodes', 'replays']
    console.log(JSON.stringify(seen.slice(1).map((c, i) => Object.fromEntries(keys.map((k) => [k, c[k] - seen[i][k]])))))
    console.log(seen.at(-1)['ops/elementwise.cu'] >= 6)`
  for (const modes of ['null', '']) {
    const [steps, files] = await lines(code, modes)
    const [eager, captured, replayed] = JSON.parse(steps!)
    assert.is(eager.launches, 3)
    assert.is(eager.nodes, 0)
    assert.equal([captured.launches, captured.graphs, captured.nodes, captured.replays], [3, 1, 3, 0])
    assert.equal([replayed.launches, replayed.graphs, replayed.nodes, replayed.replays], [0, 0, 0, 5])
    assert.is(files, 'true', 'by source file as well')
  }
})

test('what a device refuses is refused here too', async () => {
  const [memory, foreign] = await lines(
    `
    const big = m.full([2 ** 20], 1, 'float32', 'cuda:0')
    console.log(await m.sync().then(() => 'fine', (e) => e.message))
    console.log(await m.native().read(big.handle).then(() => 'fine', (e) => e.message))`,
    'null,memory=1000000',
  )
  assert.match(memory!, /^fill: out of memory on cuda:0: 4194304 bytes were asked for/)
  assert.match(foreign!, /an input has no data/)
})

plain.run()
