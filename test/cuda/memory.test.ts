// Memory of a CUDA device (MT_ADDON: the emulator's addon) does not count for JavaScript's garbage collector.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { full } from '../../lib/ops/copy.js'
import { devices } from '../../lib/tensor/device.js'
import { scope } from '../../lib/tensor/scope.js'
import { memory } from '../../lib/tensor/runtime.js'
import { empty } from '../../lib/tensor/tensor.js'
import { settled } from '../support/memory.js'

const { cuda } = devices()
const device = cuda.devices[0]?.device

if (!device) test.skip(`memory of CUDA: ${cuda.reason}`, () => {})
else
  test('V8 is told of no memory of a device', async () => {
    await settled()
    const { reports, external } = memory()
    scope(() => {
      for (let i = 0; i < 400; i++) {
        const t = empty([8 << 20], 'uint8', device)
        for (let j = 0; j < 3; j++) t.view([1 << 20], [1], j)
      }
      full([1 << 20], 1, 'float32', device).detach()
    })
    assert.equal([memory().reports, memory().external], [reports, external])
  })

test.run()
