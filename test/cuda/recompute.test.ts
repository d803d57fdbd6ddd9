// train.recompute on a CUDA device (MT_ADDON: the emulator's addon): the bits of steps without it, captured as a graph or
// launched operator by operator.
import { test as plain } from 'uvu'
import { devices } from '../../lib/tensor/device.js'
import { sameBits } from '../support/recompute.js'
import { makeWorld } from '../support/world.js'

const { cuda } = devices()
const test = cuda.devices.length ? plain : plain.skip
if (!cuda.devices.length) console.error(`test/cuda/recompute: skipped, since ${cuda.reason}`)

// The third step of a shape is captured.
for (const precision of ['float32', 'bfloat16'] as const)
  test(`layers that are computed again give the same bits in ${precision}, captured or not`, async () =>
    sameBits(await makeWorld(), { device: 'cuda:0', precision, batches: [[2], [2], [2]] }))

plain.run()
