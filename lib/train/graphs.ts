/** Forward and backward of a micro-batch; on a CUDA device as a graph, captured once for each shape of the inputs. */
import type { Adapter } from '../adapter/adapter.js'
import type { ImageModel, PlacedText, QFormerText } from '../models/mtransllama.js'
import { accumulate } from '../ops/adamw.js'
import { copy, fill, write, zeros } from '../ops/copy.js'
import { Graph } from '../tensor/graph.js'
import { keep } from '../tensor/scope.js'
import { backward } from '../tensor/tape.js'
import { empty, type Tensor } from '../tensor/tensor.js'
import type { AdamW, GradientOf } from './optimizer.js'

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
  /** What replays write; gradients by parameter. */
  loss: Tensor
  gradients: Map<string, Tensor>
}

/**
 * Graphs of the last few shapes. A shape that is new runs operator by operator; seen again, it is captured and from then on
 * replayed. Same kernels, same order: the same bits either way. A step of one micro-batch is one graph, optimiser and all;
 * of several, gradients of all graphs add up in one buffer.
 */
export class StepGraphs {
  readonly #seen = new Set<string>()
  readonly #graphs = new Map<string, Captured>() // the one used last stands last
  readonly #report: Tensor
  /** What `run` adds gradients to: one buffer, as tensors by parameter; and which of them the step has given a gradient. */
  #sums: { buffer: Tensor; of: Map<string, Tensor> } | undefined
  readonly #given = new Set<string>()
  /** Where the gradients of the last call are. */
  #gradients: ReadonlyMap<string, Tensor> | undefined

  /** @param limit most graphs held at a time; each has memory of its own */
  constructor(
    readonly model: ImageModel,
    readonly adapter: Adapter,
    readonly optimizer: AdamW,
    readonly limit = 8,
  ) {
    this.#report = keep(empty([4], 'float32', model.device))
  }

  /** Gradients of the step: of the last {@link step}, or since {@link begin}. */
  readonly gradient: GradientOf = (p) => (this.#gradients ? this.#gradients.get(p.name) : p.tensor.grad)

  /** A step of one micro-batch, prepared before: {@link forwardBackward} and {@link AdamW.update}, whose report it returns. */
  step(inputs: StepInputs): Tensor {
    const captured = this.#replay('step', inputs)
    this.#gradients = captured?.gradients
    return captured ? this.#report : this.optimizer.update(forwardBackward(this.model, this.adapter, inputs).view([1]))
  }

  /** Begins a step of several micro-batches. */
  begin(): void {
    if (!this.#sums) {
      const places = new Map<string, number>()
      let size = 0
      for (const [name, p] of this.adapter.parameters) {
        places.set(name, size)
        size += Math.ceil(p.size / 64) * 64 // aligned as tensors of their own are
      }
      const buffer = keep(zeros([size], 'float32', this.model.device))
      this.#sums = { buffer, of: new Map([...this.adapter.parameters].map(([name, p]) => [name, keep(buffer.view(p.shape, undefined, places.get(name)!))])) }
    } else fill(this.#sums.buffer, 0)
    this.#given.clear()
    this.#gradients = new Map()
  }

  /** {@link forwardBackward} of one of several micro-batches. The loss it returns is overwritten by the next call. */
  run(inputs: StepInputs): Tensor {
    const captured = this.#replay('run', inputs)
    const loss = captured?.loss ?? forwardBackward(this.model, this.adapter, inputs)
    const gradients = captured?.gradients ?? new Map([...this.adapter.parameters].flatMap(([name, p]) => (p.grad ? [[name, p.grad]] : [])))
    const names = [...gradients.keys()]
    accumulate(names.map((n) => this.#sums!.of.get(n)!), [...gradients.values()])
    for (const n of names) this.#given.add(n)
    this.#gradients = new Map([...this.#given].map((n) => [n, this.#sums!.of.get(n)!]))
    if (!captured) this.optimizer.zeroGrad()
    return loss
  }

  /** Replays the graph of such inputs; undefined where they are to be run operator by operator. */
  #replay(what: 'step' | 'run', inputs: StepInputs): Captured | undefined {
    const given = tensors(inputs)
    const key = `${what} ${given.map((t) => `${t.dtype}[${t.shape}]`).join(' ')}`
    let captured = this.#graphs.get(key)
    if (!captured) {
      if (!this.#seen.has(key)) {
        this.#seen.add(key)
        return undefined
      }
      this.#evict(this.limit - 1)
      captured = this.#capture(what, inputs)
    }
    this.#graphs.delete(key)
    this.#graphs.set(key, captured)
    for (const [i, t] of captured.inputs.entries()) write(t, given[i]!)
    captured.graph.replay()
    return captured
  }

  #capture(what: 'step' | 'run', inputs: StepInputs): Captured {
    const { adapter, model, optimizer } = this
    const own = (t: Tensor): Tensor => keep(copy(t))
    const { features, qformer, text, factor } = inputs
    const mine: StepInputs = {
      features: own(features), qformer: qformer && { ids: own(qformer.ids), mask: own(qformer.mask) },
      text: { ids: own(text.ids), mask: own(text.mask), positions: own(text.positions), answers: { places: own(text.answers!.places), targets: own(text.answers!.targets) } },
      factor: own(factor),
    }
    const gradients = new Map<string, Tensor>()
    try {
      const { graph, result: loss } = Graph.capture(model.device, () => {
        const loss = forwardBackward(model, adapter, mine).detach()
        if (what === 'step') optimizer.update(loss.view([1]), undefined, this.#report)
        return keep(loss)
      })
      for (const [name, p] of adapter.parameters) if (p.grad) gradients.set(name, p.grad)
      return { graph, inputs: tensors(mine), loss, gradients }
    } catch (error) {
      for (const t of [...tensors(mine), ...gradients.values()]) t.dispose()
      throw error
    } finally {
      for (const p of adapter.parameters.values()) p.grad = undefined
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

  /** Forgets all graphs, after something failed: what was captured with it is none. */
  forget(): void {
    this.#evict(0)
    this.#seen.clear()
    this.#gradients = undefined
  }

  dispose(): void {
    this.forget()
    this.#report.dispose()
    for (const t of this.#sums?.of.values() ?? []) t.dispose()
    this.#sums?.buffer.dispose()
    this.#sums = undefined
  }
}
