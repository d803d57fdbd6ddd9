/**
 * Reverse-mode differentiation. An operator records its inputs and its backward function; `backward` walks the records
 * from the last to the first. Where nothing needs a gradient nothing is recorded, so frozen parts cost nothing.
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import { invalid } from '../errors.js'
import { native } from '../native.js'
import { keep, scope } from './scope.js'
import type { Precision } from './dtype.js'
import { type Backward, empty, type Node, type Tensor } from './tensor.js'

let recorded = 0
const disabled = new AsyncLocalStorage<boolean>()

/** Runs `f` without recording: evaluation, generation, frozen towers. */
export function noGrad<R>(f: () => R): R {
  return disabled.run(true, f)
}

/** Whether an operator on these inputs is recorded: one that is not need not save values for its backward. */
export function recording(inputs: Tensor[]): boolean {
  return inputs.some((t) => t.requiresGrad) && !disabled.getStore()
}

/**
 * Records that the operator of this name computed `outputs` from `inputs`. `backward` is called with one gradient per
 * output (a tensor of zeros where none came) and says which inputs' gradients are wanted; for those in `adds` see
 * {@link Backward}.
 */
export function recordAll(
  operator: string,
  outputs: Tensor[],
  inputs: Tensor[],
  backward: Backward,
  adds: readonly number[] = [],
): Tensor[] {
  if (!recording(inputs)) return outputs
  const node: Node = { operator, order: recorded++, inputs, outputs, backward, adds }
  for (const t of outputs) {
    t.requiresGrad = true
    t.node = node
  }
  return outputs
}

/** {@link recordAll} for the usual case of one output. */
export function record(
  operator: string,
  output: Tensor,
  inputs: Tensor[],
  backward: (dy: Tensor, needs: boolean[], residuals: (Tensor | undefined)[]) => (Tensor | undefined)[],
  adds: readonly number[] = [],
): Tensor {
  recordAll(operator, [output], inputs, ([dy], needs, residuals) => backward(dy!, needs, residuals), adds)
  return output
}

/** All nodes that `from` depends on, last first. */
function history(from: Tensor): Node[] {
  const seen = new Set<Node>()
  const open = from.node ? [from.node] : []
  while (open.length) {
    const node = open.pop()!
    if (seen.has(node)) continue
    seen.add(node)
    for (const t of node.inputs) if (t.node) open.push(t.node)
  }
  return [...seen].sort((a, b) => b.order - a.order)
}

function sum(a: Tensor, b: Tensor): Tensor {
  const y = empty(a.shape, a.dtype)
  native().ops.add(a.handle, b.handle, 1, y.handle)
  return y
}

/** The dtype of a gradient of `t`. */
const gradientDtype = (t: Tensor): Precision => (t.dtype === 'bfloat16' ? 'bfloat16' : 'float32')

/** A gradient of `t` filled with one value, on the device of `t`. */
function filled(t: Tensor, value: number): Tensor {
  const y = empty(t.shape, gradientDtype(t), t.device)
  native().ops.fill(value, y.handle)
  return y
}

/**
 * Throws, naming the operator, where its backward returned a gradient of another shape or dtype than its input's. Sums
 * over rows, a weight's gradient, are float32 whatever the weight is.
 */
function checkGradient(operator: string, input: number, t: Tensor, g: Tensor): void {
  const dtype = gradientDtype(t)
  if (
    (g.dtype === dtype || g.dtype === 'float32') &&
    g.shape.length === t.shape.length &&
    g.shape.every((n, i) => n === t.shape[i])
  )
    return
  throw new Error(
    `The backward of ${operator} is wrong: as gradient of input ${input} expected ${dtype} [${t.shape}], ` +
      `but got ${g.dtype} [${g.shape}].`,
  )
}

/** A contiguous handle of its own: backward functions may rely on the layout. */
function packed(t: Tensor): Tensor {
  if (t.isContiguous) return t.detach()
  const y = empty(t.shape, t.dtype)
  native().ops.copy(t.handle, y.handle)
  return y
}

/**
 * Adds ∂loss/∂leaf to `grad` of every leaf that requires a gradient. Contributions are summed in the order of the
 * records, so a rerun gives the same bits.
 *
 * @param loss one number, unless `seed` gives the gradient of each of its elements
 * @param wanted tensors inside the graph whose gradients are returned as well, in order
 */
export function backward(loss: Tensor, seed?: Tensor, wanted: Tensor[] = []): Tensor[] {
  if (!loss.requiresGrad)
    throw invalid(
      'backward',
      'a loss that depends on a parameter',
      `shape [${loss.shape}], computed from frozen tensors alone`,
    )
  if (!seed && loss.size !== 1)
    throw invalid(
      'backward',
      'a loss of one number',
      `shape [${loss.shape}]`,
      'give the gradient of its elements as seed',
    )
  if (seed && (seed.dtype !== loss.dtype || `${seed.shape}` !== `${loss.shape}`))
    throw invalid('seed', `the loss's dtype and shape, ${loss.dtype} [${loss.shape}]`, `${seed.dtype} [${seed.shape}]`)
  return scope(() =>
    noGrad(() => {
      const grads = new Map<Tensor, Tensor>([[loss, seed ? packed(seed) : filled(loss, 1)]])
      const found = new Map<Tensor, Tensor>()
      /** `contained`: `g` contains the gradient of `t` so far. */
      const give = (t: Tensor, g: Tensor, contained = false): void => {
        if (t.node) {
          const before = grads.get(t)
          grads.set(t, before && !contained ? sum(before, g) : g)
          before?.dispose()
          if (before && !contained) g.dispose()
        } else {
          const before = t.grad
          t.grad = keep(before ? sum(before, g) : g.detach())
          before?.dispose()
        }
      }
      if (!loss.node) give(loss, grads.get(loss)!)
      for (const node of history(loss)) {
        const dys = node.outputs.map((t) => grads.get(t))
        if (dys.every((g) => g === undefined)) continue
        const gradients = dys.map((g, i) => g ?? filled(node.outputs[i]!, 0))
        const needs = node.inputs.map((t) => t.requiresGrad)
        // A tensor that is an input twice gets what it has so far added once.
        const residuals = node.inputs.map((t, i) =>
          needs[i] && t.node && node.adds.includes(i) && node.inputs.indexOf(t) === i ? grads.get(t) : undefined,
        )
        const results = node.backward(gradients, needs, residuals)
        node.inputs.forEach((t, i) => {
          const g = results[i]
          // The same tensor may come back for several inputs; each holds a handle of its own.
          if (!needs[i] || !g) return
          checkGradient(node.operator, i, t, g)
          give(t, g.detach(), residuals[i] !== undefined)
        })
        node.outputs.forEach((t, i) => {
          grads.delete(t)
          if (wanted.includes(t)) found.set(t, gradients[i]!)
          else gradients[i]!.dispose()
        })
        for (const g of results) if (g && ![...found.values()].includes(g)) g.dispose()
      }
      return wanted.map((t) => found.get(t) ?? filled(t, 0))
    }),
  )
}

/**
 * Recomputation: computes `f(...inputs)` without saving intermediate results, and computes it again in the backward
 * pass. Saves memory, costs time, gives the same bits. Parameters that `f` uses without being `inputs` get their
 * gradients too.
 */
export function recompute(f: (...inputs: Tensor[]) => Tensor, inputs: Tensor[]): Tensor {
  if (disabled.getStore()) return f(...inputs)
  const result = noGrad(() => scope(() => f(...inputs)))
  // an f that returns its input still gets its own node
  const output = inputs.includes(result) ? result.detach() : result
  // Parameters inside f are not known here: record as if the output needed a gradient.
  const marker = empty([0])
  marker.requiresGrad = true
  return record('recompute', output, [...inputs, marker], (dy, needs) =>
    scope(() => {
      const copies = inputs.map((t, i) => Object.assign(t.detach(), { requiresGrad: needs[i] === true }))
      // Inputs are results of nodes, as they are without recomputation: what an operator may add a gradient to
      // (`adds`) is the same then, and so is every bit.
      const again = disabled.run(false, () =>
        f(...copies.map((t) => record('recompute', t.detach(), [t], (dy) => [dy]))),
      )
      if (again.requiresGrad) backward(again, dy)
      return [...copies.map((t) => (t.grad ? own(t) : undefined)), undefined]
    }),
  )
}

/**
 * Runs a layer of a model. Without a tape, all that it makes is freed when it ends, its result excepted; else that is
 * kept for the backward pass, or with `again` computed again there.
 */
export function runLayer(layer: (x: Tensor) => Tensor, x: Tensor, again = false): Tensor {
  if (disabled.getStore()) return scope(() => layer(x))
  return again ? recompute(layer, [x]) : layer(x)
}

/** Hands a leaf's gradient to the current scope. */
function own(t: Tensor): Tensor {
  const g = t.grad!.detach()
  t.grad!.dispose()
  t.grad = undefined
  return g
}
