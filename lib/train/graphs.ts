/** Forward and backward of a micro-batch; on a CUDA device as a graph, captured once for each shape of the inputs. */
import type { Adapter } from '../adapter/adapter.js'
import type { ImageModel, PlacedText, QFormerText } from '../models/mtransllama.js'
import { copy, write } from '../ops/copy.js'
import { add } from '../ops/elementwise.js'
import { Graph } from '../tensor/graph.js'
import { keep, scope } from '../tensor/scope.js'
import { backward, noGrad } from '../tensor/tape.js'
import type { Tensor } from '../tensor/tensor.js'

/** What a micro-batch is to the model, where the model computes. */
export interface StepInputs {
  /** E_v [B,T,K_V,D_v] */
  features: Tensor
  qformer: QFormerText | undefined
  text: PlacedText
  /** What the summed loss is multiplied by: one float32 number, shape []. */
  factor: Tensor
}

const tensors = ({ features, qformer, text, factor }: StepInputs): Tensor[] => [
  features, ...(qformer ? [qformer.ids, qformer.mask] : []), text.ids, text.mask, text.positions, text.answers!.places, text.answers!.targets, factor,
]

/** The loss, summed over the answer tokens; its gradients, times the factor, are added to those of the adapter. */
export function forwardBackward(model: ImageModel, adapter: Adapter, { features, qformer, text, factor }: StepInputs): Tensor {
  const visual = model.visualTokens(features, qformer, adapter)
  const loss = model.loss(model.hidden(visual, text), text)
  backward(loss, factor)
  return loss
}

interface Captured {
  graph: Graph
  /** What replays read, in the order of {@link tensors}. */
  inputs: Tensor[]
  loss: Tensor
  /** What replays write, by parameter. */
  gradients: Map<string, Tensor>
}

/**
 * Graphs of the last few shapes. A shape that is new runs operator by operator; seen again, it is captured and from then on
 * replayed. Same kernels, same order: the same bits either way.
 */
export class StepGraphs {
  readonly #seen = new Set<string>()
  readonly #graphs = new Map<string, Captured>() // the one used last stands last

  /** @param limit most graphs held at a time; each has memory of its own */
  constructor(
    readonly model: ImageModel,
    readonly adapter: Adapter,
    readonly limit = 8,
  ) {}

  /** {@link forwardBackward}. The loss it returns is overwritten by the next call. */
  run(inputs: StepInputs): Tensor {
    const given = tensors(inputs)
    const key = given.map((t) => `${t.dtype}[${t.shape}]`).join(' ')
    let captured = this.#graphs.get(key)
    if (!captured) {
      if (!this.#seen.has(key)) {
        this.#seen.add(key)
        return forwardBackward(this.model, this.adapter, inputs)
      }
      this.#evict(this.limit - 1)
      captured = this.#capture(inputs)
    }
    this.#graphs.delete(key)
    this.#graphs.set(key, captured)
    for (const [i, t] of captured.inputs.entries()) write(t, given[i]!)
    captured.graph.replay()
    for (const [name, g] of captured.gradients) {
      const parameter = this.adapter.parameters.get(name)!
      const before = parameter.grad
      // A copy: the next micro-batch writes over the graph's own.
      parameter.grad = noGrad(() => scope(() => keep(before ? add(before, g) : copy(g))))
      before?.dispose()
    }
    return captured.loss
  }

  #capture(inputs: StepInputs): Captured {
    const { adapter, model } = this
    const own = (t: Tensor): Tensor => keep(copy(t))
    const { features, qformer, text, factor } = inputs
    const mine: StepInputs = {
      features: own(features), qformer: qformer && { ids: own(qformer.ids), mask: own(qformer.mask) },
      text: { ids: own(text.ids), mask: own(text.mask), positions: own(text.positions), answers: { places: own(text.answers!.places), targets: own(text.answers!.targets) } },
      factor: own(factor),
    }
    // Gradients so far are no part of the graph.
    const before = new Map([...adapter.parameters].map(([name, p]) => [name, p.grad]))
    for (const p of adapter.parameters.values()) p.grad = undefined
    const gradients = new Map<string, Tensor>()
    try {
      const { graph, result: loss } = Graph.capture(model.device, () => keep(forwardBackward(model, adapter, mine).detach()))
      for (const [name, p] of adapter.parameters) if (p.grad) gradients.set(name, p.grad)
      return { graph, inputs: tensors(mine), loss, gradients }
    } catch (error) {
      for (const t of [...tensors(mine), ...gradients.values()]) t.dispose()
      throw error
    } finally {
      for (const [name, p] of adapter.parameters) p.grad = before.get(name)
    }
  }

  #evict(most: number): void {
    for (const [key, { graph, inputs, loss, gradients }] of this.#graphs) {
      if (this.#graphs.size <= most) return
      this.#graphs.delete(key)
      for (const t of [...inputs, loss, ...gradients.values()]) t.dispose()
      graph.dispose()
    }
  }

  dispose(): void {
    this.#evict(0)
  }
}
