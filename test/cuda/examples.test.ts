// The programs of examples/gpu on a CUDA device (MT_ADDON: the emulator's addon).
import { suite } from 'uvu'
import { devices } from '../../lib/public/tensor.js'
import { checkPrograms } from '../examples/gpu-programs.js'

const test = suite('examples/gpu on CUDA')
const { cuda } = devices()
if (cuda.devices.length) checkPrograms(test, cuda.devices[0]!.device)
else console.error(`test/cuda/examples: skipped, since ${cuda.reason}`)
test.run()
