// One training step of a model of full size on the null device: the stand-in checks the sizes and addresses of every
// product, and computes none. Run by test/cuda/cublaslt.test.ts.
import { inputsOf, randomModel, trainerOf } from '../../../bench/full-model.js'
import { scope } from '../../../lib/tensor/scope.js'
import { syncBlocking } from '../../../lib/tensor/runtime.js'

const model = randomModel('cuda:0', 'bfloat16')
await scope(async () => {
  const trainer = trainerOf(
    model,
    { frames: 8 },
    inputsOf(model, { B: 4, T: 8, text: 32, prompt: 64, answers: 16 }),
    false,
  )
  await trainer.step()
  syncBlocking()
  trainer.dispose()
})
model.dispose()
