/** siluMul in bfloat16 against float64, on what MT_CPU leaves: prints what is off by more than rounding. */
import { siluMul } from '../../lib/ops/silu-mul.js'
import { scope } from '../../lib/tensor/scope.js'
import { backward } from '../../lib/tensor/tape.js'
import { array } from '../oracle/array.js'
import { draw, numbers } from './frozen.js'
import { upload, widen } from './support.js'

const wrong: string[] = []
scope(() => {
  // Lengths with tails, and longer than what is widened at a time; gates where e^−x leaves float32, or is next to it.
  for (const n of [1, 15, 33, 2500]) {
    const [gate, up, dy] = (['gate', 'up', 'dy'] as const).map((name) => draw(name, [n], 'bfloat16'))
    const far = [-1e30, -1e4, -89, -88, -87, 88, 1e4, 0]
    const bits = Uint16Array.from(gate!.data as Uint16Array)
    bits.set(new Uint16Array(new Float32Array(far.slice(0, n)).buffer).filter((_, i) => i % 2))
    const g = { ...gate!, data: bits, wide: array([n], widen(bits, 'bfloat16')) }
    const [a, b] = [upload(g), upload(up!)]
    a.requiresGrad = b.requiresGrad = true
    const y = siluMul(a, b)
    backward(y, upload(dy!))
    const [G, U, D] = [g.wide.data, up!.wide.data, dy!.wide.data]
    const sigma = (x: number): number => 1 / (1 + Math.exp(-x))
    const exact: Record<string, [Float32Array, (i: number) => number]> = {
      y: [numbers(y), (i) => G[i]! * sigma(G[i]!) * U[i]!],
      dgate: [numbers(a.grad!), (i) => D[i]! * U[i]! * sigma(G[i]!) * (1 + G[i]! * (1 - sigma(G[i]!)))],
      dup: [numbers(b.grad!), (i) => D[i]! * G[i]! * sigma(G[i]!)],
    }
    for (const [name, [got, want]] of Object.entries(exact))
      got.forEach((x, i) => {
        if (!(Math.abs(x - want(i)) <= 1.001 * 2 ** -8 * Math.abs(want(i)) + 1e-6))
          wrong.push(`${name} of gate ${G[i]} at ${i} of ${n}: ${x}, expected ${want(i)}`)
      })
  }
})
console.log(JSON.stringify(wrong))
