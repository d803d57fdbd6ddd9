// Failures of a GPU, simulated by the emulator: no device, an old driver, no memory, lost devices, bad data. Every failure
// is one sentence, the process survives, and unaffected work continues.
import { test as plain } from 'uvu'
import * as assert from 'uvu/assert'
import { emulated, lines } from './emulated.js'

const test = emulated ? plain : plain.skip
if (!emulated)
  console.error('test/cuda/faults: skipped, since build-emulated is not built (node scripts/build.mjs --cuda=emulated)')

/** Prints a promise's or a call's error message. */
const helpers = `
  const { tensor, zeros, add, scale, linear, embedding, sync, syncBlocking, memory, deviceMemory, scope, chooseDevice, devices, keep, Graph } = m
  const say = (f) => { try { console.log(f() ?? 'fine') } catch (e) { console.log(e.message) } }
  const later = async (p) => console.log(await Promise.resolve(p).then((x) => x ?? 'fine', (e) => e.message))
  const on = (data, shape = [data.length]) => tensor(data, shape, undefined, 'cuda:0')
`
/** A CPU tensor works, whatever happened to the GPU. */
const cpuWorks = `console.log((await add(tensor([1, 2]), tensor([3, 4])).data()).join())`

for (const [what, mode, reason] of [
  ['no driver', 'nodriver', 'no NVIDIA driver is installed'],
  [
    'a driver that is too old',
    'driver=12020',
    'the NVIDIA driver knows CUDA 12.2 at most, and this build needs 13.0; update the driver',
  ],
  ['no device', 'nodevice', 'no CUDA device was found'],
] as const)
  test(`${what}: devices() says why, auto takes the CPU, cuda refuses, the CPU works`, async () => {
    const out = await lines(
      `${helpers}
      console.log(devices().cuda.reason); console.log(devices().cuda.devices.length)
      console.log(Object.values(chooseDevice('auto')).join(': '))
      say(() => chooseDevice('cuda')); say(() => on([1]))
      ${cpuWorks}`,
      mode,
    )
    assert.equal(out.slice(0, 4), [reason, '0', `cpu: ${reason}`, `device: expected cpu, but got "cuda"; ${reason}.`])
    assert.match(out[4]!, new RegExp(`^transfer: cuda:0 does not exist: ${reason}\\.$`))
    assert.is(out[5], '4,6')
  })

test('a device number out of range, and words that are no device', async () => {
  const out = await lines(
    `${helpers}
    say(() => chooseDevice('cuda:2')); say(() => tensor([1], [1], undefined, 'cuda:7')); say(() => chooseDevice('gpu')); say(() => tensor([1]).to('cuda:x'))
    console.log(devices().cuda.devices.map((d) => d.device).join())
    for (const id of [64, 999]) { say(() => deviceMemory('cuda:' + id)); say(() => m.resetPeak('cuda:' + id)); say(() => Graph.capture('cuda:' + id, () => 0)); say(() => m.native().instruments.fragments(id)) }`,
    'devices=2',
  )
  assert.is(out[0], 'device: expected one of cpu, cuda:0, cuda:1, but got "cuda:2"; cuda:2 does not exist.')
  assert.is(out[1], 'transfer: cuda:7 does not exist: there are 2 devices, cuda:0 to cuda:1.')
  assert.match(out[2]!, /^device: expected cpu, cuda or cuda: and a number, but got "gpu"\.$/)
  assert.match(out[3]!, /^device: expected cpu, cuda or cuda: and a number, but got "cuda:x"\.$/)
  assert.is(out[4], 'cuda:0,cuda:1')
  for (const [i, line] of out.slice(5).entries())
    assert.match(line, new RegExp(`cuda:${i < 4 ? 64 : 999} does not exist: there are 2 devices`))
  assert.is(out.length, 13)
})

test('tensors of two devices in one call: one sentence, and moving one of them helps', async () => {
  const out = await lines(
    `${helpers}
    const a = on([1, 2]), b = tensor([3, 4])
    say(() => add(a, b)); say(() => linear(b.view([1, 2]), a.view([1, 2])))
    console.log((await add(a, b.to('cuda:0')).data()).join(), add(a, a).device, add(b, b).device)
    console.log((await a.to('cuda:1').to('cpu').data()).join()); say(() => add(a, a.to('cuda:1')))`,
    'devices=2',
  )
  assert.is(
    out[0],
    'add: argument 2: expected a tensor on cuda:0 like argument 1, but got one on cpu; move it with to().',
  )
  assert.is(
    out[1],
    'linear_forward: argument 2: expected a tensor on cpu like argument 1, but got one on cuda:0; move it with to().',
  )
  assert.equal(out.slice(2, 4), ['4,6 cuda:0 cpu', '1,2'])
  assert.is(
    out[4],
    'add: argument 2: expected a tensor on cuda:0 like argument 1, but got one on cuda:1; move it with to().',
  )
})

test('out of device memory: the operator and the bytes, memory returns, smaller work goes on', async () => {
  const out = await lines(
    `${helpers}
    const x = zeros([1 << 18], 'float32', 'cuda:0'); await sync()
    const before = deviceMemory('cuda:0').bytes
    await scope(async () => {
      let y = x
      const held = []
      for (let i = 0; i < 10; i++) held.push((y = scale(y, 2)))
      await later(sync()); await later(y.data())
    })
    await later(sync())
    console.log(deviceMemory('cuda:0').bytes === before, (await scale(x, 2).data()).length)`,
    `memory=${5 << 20}`,
  )
  assert.match(
    out[0]!,
    /^scale: out of memory on cuda:0: 1048576 bytes were asked for while tensors hold \d+ of its 5242880 bytes; use a smaller batch or fewer frames$/,
  )
  assert.match(
    out[1]!,
    /^read: an input has no data, because the operator that should have made it failed or never ran/,
  )
  assert.equal(out.slice(2), ['fine', 'true 262144'])
})

test('a single allocation, launch or copy that fails: named, and the next one works', async () => {
  for (const [mode, message] of [
    ['fail=launch:2', /^scale: cuda:0: launch: .*\(cudaError\w+\)$/],
    ['fail=memcpy:2', /^(transfer: )?cuda:0: .*: .*\(cudaError\w+\)$/],
  ] as const) {
    const out = await lines(
      `${helpers}
      const x = on([1, 2]); const y = scale(x, 2); const z = scale(y, 2); const w = on([5, 6])
      await later(sync()); await later(sync())
      console.log((await scale(on([3, 4]), 10).data()).join())`,
      mode,
    )
    assert.match(out[0]!, message, mode)
    assert.equal(out.slice(1), ['fine', '30,40'], mode)
  }
  // After the pool's first refusal the allocator waits for memory that is still to be freed.
  assert.equal(
    await lines(`${helpers} const x = on([1, 2]); console.log((await scale(x, 2).data()).join())`, 'fail=malloc:4'),
    ['2,4'],
  )
})

test('a kernel that faults: the device is lost, every later call says so, the process and the CPU live', async () => {
  const out = await lines(
    `${helpers}
    const x = on([1, 2]); const y = scale(x, 2)
    await later(y.data()); await later(sync()) // reported once, so that the CPU's work continues
    await later((async () => (await scale(x, 3).data()).join())())
    say(() => on([1])); say(() => deviceMemory('cuda:0')); console.log(devices().cuda.devices.length, devices().cuda.reason)
    say(() => chooseDevice('cuda')); x.dispose(); y.dispose()
    ${cpuWorks}`,
    'sticky=1',
  )
  assert.match(
    out[0]!,
    /^(scale: )?cuda:0 was lost: .*\(cudaErrorIllegalAddress\); its tensors are gone, start a new process to use it again$/,
  )
  assert.is(out[1], 'fine')
  for (const i of [2, 3, 4]) assert.match(out[i]!, /cuda:0 was lost: /, `line ${i}: ${out[i]}`)
  assert.match(out[5]!, /^0 cuda:0 was lost: /)
  assert.match(out[6]!, /^device: expected cpu, but got "cuda"; cuda:0 was lost/)
  assert.is(out.at(-1), '4,6')
})

test('MT_CUDA_SYNC=1 names the operator whose kernel faulted, also where streams run late', async () => {
  const code = `${helpers} const x = on([1, 2]); const y = add(scale(x, 2), x); await later(y.data())`
  assert.match((await lines(code, 'late,sticky=2', { MT_CUDA_SYNC: '1' }))[0]!, /^add: cuda:0 was lost: /)
})

test('streams that run late give the same results: nothing is read before it is there', async () => {
  const code = `${helpers}
    const x = on(Array.from({ length: 1000 }, (_, i) => i)); let y = x
    for (let i = 0; i < 20; i++) y = scope(() => add(scale(y, 0.5), x))
    const s = (await y.data()).reduce((a, b) => a + b, 0); console.log(s.toFixed(3), deviceMemory('cuda:0').bytes)`
  const [eager, late] = [await lines(code), await lines(code, 'late')]
  assert.is(late[0]!.split(' ')[0], eager[0]!.split(' ')[0])
})

test('an id outside the table is reported by the next await in the words of the CPU, and work goes on', async () => {
  const out = await lines(`${helpers}
    const table = on([1, 2, 3, 4, 5, 6], [3, 2]); const ids = tensor(Int32Array.of(1, 3), [2], 'int32', 'cuda:0')
    await later(embedding(ids, table).data()); await later(sync())
    const bad = embedding(tensor(Int32Array.of(-1), [1], 'int32', 'cuda:0'), table); await later(sync())
    console.log((await embedding(tensor(Int32Array.of(2), [1], 'int32', 'cuda:0'), table).data()).join())`)
  assert.match(
    out[0]!,
    /^embedding_forward: id 3 is outside the embedding's 3 rows; tokenizer and checkpoint do not belong together/,
  )
  assert.is(out[1], 'fine')
  assert.match(out[2]!, /^embedding_forward: id -1 is outside the embedding's 3 rows/)
  assert.is(out[3], '5,6')
})

test('graphs: recorded once, replayed on what the inputs then hold; memory returns', async () => {
  const code = `${helpers}
    const x = on([1, 2, 3]); await sync(); const before = deviceMemory('cuda:0').bytes
    const { graph, result } = Graph.capture('cuda:0', () => { let y = x; for (let i = 0; i < 5; i++) y = add(scale(y, 2), x); return y })
    const held = keep(result)
    graph.replay(); console.log((await held.data()).join())
    scope(() => m.write(x, on([10, 20, 30]))); graph.replay(); graph.replay(); console.log((await held.data()).join())
    held.dispose(); graph.dispose(); await sync(); console.log(deviceMemory('cuda:0').bytes === before)
    say(() => Graph.capture('cpu', () => x))
    await later((async () => { const g = Graph.capture('cuda:0', () => on([1])); await sync(); })()); await later(sync())
    console.log((await scale(x, 2).data()).join())`
  for (const modes of ['', 'late', 'order=random:3']) {
    const out = await lines(code, modes)
    assert.equal(out.slice(0, 3), ['63,126,189', '630,1260,1890', 'true'], modes)
    assert.is(out[3], 'beginCapture: device: expected a CUDA device, but got cpu; graphs are of CUDA alone.')
    assert.match(out[4]!, /an upload cannot be part of a captured graph; do it before or after/)
    assert.equal(out.slice(5), ['fine', '20,40,60'])
  }
})

test('a capture with a failed operator is no graph: the operator is named, memory returns, the next capture is whole', async () => {
  const out = await lines(
    `${helpers}
    const x = on([1, 2, 3]); await sync(); const before = deviceMemory('cuda:0').bytes
    const capture = () => Graph.capture('cuda:0', () => scale(scale(scale(x, 2), 2), 2))
    const spoilt = capture(); await later(sync())
    spoilt.graph.replay(); await later(spoilt.result.data()); await later(sync())
    spoilt.result.dispose(); spoilt.graph.dispose(); await sync(); console.log(deviceMemory('cuda:0').bytes === before)
    const { graph, result } = capture(); graph.replay(); console.log((await result.data()).join())`,
    'fail=launch:2',
  )
  assert.match(out[0]!, /^scale: cuda:0: launch: .*\(cudaErrorInvalidConfiguration\)$/)
  assert.is(out[1], 'replay: the graph was not captured, because one of its operators failed')
  assert.equal(out.slice(2), ['fine', 'true', '8,16,24'])
})

test('tensors that are freed while a capture begins or ends neither spoil it nor become part of it', async () => {
  const out = await lines(
    `${helpers}
    const x = on([1, 2, 3]), done = Array.from({ length: 400 }, () => on([1])); await sync()
    const before = deviceMemory('cuda:0').bytes
    const captures = Array.from({ length: 10 }, () => Graph.capture('cuda:0', () => scale(x, 2)))
    // The queue's thread is now busy with ten captures, whose begin and end take 5 ms each.
    for (const t of done) { t.dispose(); for (const end = performance.now() + 0.2; performance.now() < end;); }
    await later(sync())
    for (const { graph, result } of captures) { graph.replay(); graph.replay(); console.log((await result.data()).join()); result.dispose(); graph.dispose() }
    await later(sync()); console.log(before - deviceMemory('cuda:0').bytes >= 400 * 4)`,
    'slow',
  )
  assert.equal(out, ['fine', ...Array(10).fill('2,4,6'), 'fine', 'true'])
})

test('memory that the pool holds serves a capture, and an allocation that no freed piece of it is large enough for', async () => {
  const out = await lines(
    `${helpers}
    const x = zeros([1 << 18], 'float32', 'cuda:0') // 1 MiB of 8
    const steps = async () => { await scope(async () => { for (let i = 0; i < 6; i++) scale(x, 2); await sync() }) }
    await steps()
    const { graph, result } = Graph.capture('cuda:0', () => scale(scale(scale(x, 2), 2), 2)); await later(sync())
    graph.replay(); console.log((await result.data()).length); result.dispose(); graph.dispose()
    await steps()
    const large = zeros([1 << 20], 'float32', 'cuda:0'); await later(sync()); console.log((await large.data()).length)`,
    `memory=${8 << 20},pool`,
  )
  assert.equal(out, ['fine', String(1 << 18), 'fine', String(1 << 20)])
})

test('process.exit() with work queued: no call comes after the runtime is unloaded, and listeners of the exit still compute', async () => {
  const code = `${helpers}
    const small = on([5, 6]); console.log((await small.data()).join())
    const work = () => { let x = small; for (let i = 0; i < 20000; i++) { const y = scale(x, 1); x.dispose(); x = y } }`
  assert.equal(await lines(`${code}; work(); process.exit(0)`, 'slow'), ['5,6'])
  assert.equal(
    await lines(
      `${code}; const y = scale(small, 2); await sync(); work(); process.on('exit', () => console.log(scale(y, 2).dataBlocking().join())); process.exit(0)`,
      'slow',
    ),
    ['5,6', '20,24'],
  )
})

test('two worker threads on one device: each has its own results', async () => {
  const piece = `
    const { tensor, scale, add } = m
    let x = tensor(Float32Array.from({ length: 5000 }, (_, i) => i % 7 + seed), [5000], undefined, 'cuda:0')
    for (let i = 0; i < 50; i++) x = add(scale(x, 0.5), x, 0.25)
    const sum = (await x.data()).reduce((a, b) => a + b, 0)`
  const code = `
    import { Worker } from 'node:worker_threads'
    const { prelude } = await import(${JSON.stringify(new URL('../native/child.ts', import.meta.url).href)})
    const loader = ${JSON.stringify(`(await import(${JSON.stringify(import.meta.resolve('tsx/esm/api'))})).register()\n`)}
    const start = (seed) => new Promise((ok, bad) => {
      const code = loader + prelude + 'import { parentPort } from "node:worker_threads"; const seed = ' + seed + ';' + ${JSON.stringify(piece)} + ';parentPort.postMessage(sum)'
      new Worker(new URL('data:text/javascript,' + encodeURIComponent(code))).once('message', ok).once('error', bad)
    })
    const alone = [await start(1), await start(2)]
    const both = await Promise.all([start(1), start(2), start(1)])
    console.log(JSON.stringify(alone) + JSON.stringify(both)); process.exit(0)`
  const [a, b] = JSON.parse(`[${(await lines(code))[0]!.replace('][', '],[')}]`) as number[][]
  assert.equal(b, [a![0], a![1], a![0]])
  assert.is.not(a![0], a![1])
})

plain.run()
