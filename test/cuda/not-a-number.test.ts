// NaN in, NaN out, on a CUDA device or the emulator (MT_ADDON names its addon).
import { test } from 'uvu'
import { devices } from '../../lib/tensor/device.js'
import { attentionKeepsNaN, rowsKeepNaN } from '../ops/not-a-number.js'

const { cuda } = devices()
const device = cuda.devices[0]?.device
if (!device) console.error(`test/cuda/not-a-number: skipped, no CUDA device: ${cuda.reason}`)

for (const dtype of ['float32', 'bfloat16'] as const) {
  ;(device ? test : test.skip)(`rows, ${dtype}`, () => rowsKeepNaN(device!, dtype))
  ;(device ? test : test.skip)(`attention, ${dtype}`, () => attentionKeepsNaN(device!, dtype))
}

test.run()
