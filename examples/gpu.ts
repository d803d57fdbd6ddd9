// The same calls on a GPU: devices, bfloat16, a graph that is recorded once and replayed. npx tsx examples/gpu.ts
// [auto|cpu|cuda]
import {
  attention,
  cast,
  chooseDevice,
  Graph,
  keep,
  linear,
  Random,
  scope,
  sync,
  write,
  type DeviceChoice,
} from '../lib/public/tensor.js' // in your project: from 'mtransllama/tensor'

const { device, reason } = chooseDevice((process.argv[2] ?? 'auto') as DeviceChoice)
console.log(`computing on ${device}: ${reason}`)
const [B, T, L, D, heads] = [1, 4, 32, 768, 12]
await scope(async () => {
  const random = new Random(1, device)
  const make = (...shape: number[]) => cast(random.normal(shape, 0, shape[1]! ** -0.5), 'bfloat16')
  const [x, w] = [make(B, T, L, D), make(D, D)]
  // Results lie where inputs do; nothing here names the device again.
  const block = () => {
    const y = linear(x, w)
    return keep(attention(attention(y, y, y, { heads, over: 2 }), y, y, { heads, over: 1 }))
  }
  const { graph, result } = device === 'cpu' ? { graph: undefined, result: block() } : Graph.capture(device, block)
  graph?.replay()
  const before = await cast(result, 'float32').data()
  write(x, make(B, T, L, D)) // new numbers in the same place
  graph?.replay()
  const after = await cast(graph ? result : block(), 'float32').data()
  console.log('first frame:', before.slice(0, 3), 'then', after.slice(0, 3))
  graph?.dispose()
})
await sync()
