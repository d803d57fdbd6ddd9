// The programs of examples/gpu on the CPU; test/cuda/examples.test.ts has them on CUDA.
import { suite } from 'uvu'
import { checkPrograms } from './gpu-programs.js'

const test = suite('examples/gpu on the CPU')
checkPrograms(test, 'cpu')
test.run()
