// NaN in, NaN out, on the CPU.
import { test } from 'uvu'
import { attentionKeepsNaN, rowsKeepNaN } from './not-a-number.js'

for (const dtype of ['float32', 'bfloat16'] as const) {
  test(`rows, ${dtype}`, () => rowsKeepNaN('cpu', dtype))
  test(`attention, ${dtype}`, () => attentionKeepsNaN('cpu', dtype))
}

test.run()
