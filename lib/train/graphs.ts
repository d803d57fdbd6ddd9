/** Forward and backward of a micro-batch; on a CUDA device as a graph, captured once for each shape of the inputs. */
import type { Adapter } from '../adapter/adapter.js'
import type { ImageModel, DeviceText, QFormerText } from '../models/image-model.js'
import { accumulate } from '../ops/adamw.js'
import { fill, write, zeros } from '../ops/copy.js'
import { roundUp } from '../shape.js'
import { deviceMemory } from '../tensor/runtime.js'
import { Graph } from '../tensor/cuda-graph.js'
import { keep } from '../tensor/scope.js'
import { backward } from '../tensor/tape.js'
import { empty, type Tensor } from '../tensor/tensor.js'
import { itemSize } from '../tensor/dtype.js'
import type { Recompute } from './config.js'
import type { AdamW, GradientOf } from './optimizer.js'

/** A micro-batch as tensors on the device of the model. */
export interface StepInputs {
  /** E_v [B,T,K_V,D_v] */
  features: Tensor
  qformer: QFormerText | undefined
  text: DeviceText
  /** Factor of the summed loss: one float32 number, shape []. */
  factor: Tensor
}

/** The same with every tensor replaced. */
function mapped({ features, qformer, text, factor }: StepInputs, f: (t: Tensor, role: string) => Tensor): StepInputs {
  const { indices, targets } = text.answers!
  return {
    features: f(features, 'features'),
    qformer: qformer && { ids: f(qformer.ids, 'qformer ids'), mask: f(qformer.mask, 'qformer mask') },
    text: {
      ids: f(text.ids, 'ids'),
      mask: f(text.mask, 'mask'),
      ...(text.positions && { positions: f(text.positions, 'positions') }),
      ...(text.decoder && { decoder: f(text.decoder, 'decoder ids') }),
      answers: { indices: f(indices, 'indices'), targets: f(targets, 'targets') },
    },
    factor: f(factor, 'factor'),
  }
}

/**
 * The loss, summed over the answer tokens; its gradients, times the factor, are added to those of the adapter.
 *
 * @param recompute the layers that the backward pass computes again: the same bits, for less memory and more time
 */
export function forwardBackward(
  model: ImageModel,
  adapter: Adapter,
  { features, qformer, text, factor }: StepInputs,
  recompute: Recompute = 'none',
): Tensor {
  const visual = model.visualTokens(features, qformer, adapter, { recompute: recompute === 'all' })
  const loss = model.loss(model.hidden(visual, text, { recompute: recompute !== 'none' }), text)
  backward(loss, factor)
  return loss
}

interface Captured {
  graph: Graph
  /** The buffers that replays read. */
  inputs: ReadonlySet<string>
  /** What replays write; gradients by parameter. Overwritten when another graph is replayed. */
  loss: Tensor
  gradients: Map<string, Tensor>
}

/** A shape is captured when it occurs for this time. Capturing costs about a step, so the shape has to recur first. */
const CAPTURED_AT = 3

/**
 * Graphs of recurring shapes. A new shape runs operator by operator; when it occurs for the third time it is captured,
 * and then replayed. Both run the same kernels in the same order and give the same bits. A step of one micro-batch is
 * one graph, optimiser included; with several, the gradients of all graphs are summed in one buffer. One graph runs at
 * a time, so all share one memory pool and one set of input buffers. Beyond `bytes`, the least recently used graphs are
 * dropped.
 */
export class StepGraphs {
  readonly #sights = new Map<string, number>()
  readonly #graphs = new Map<string, Captured>() // in order of use, the latest last
  /** Input buffers, by role, dtype and shape. */
  readonly #inputs = new Map<string, Tensor>()
  /** Captured in this step, which may still fail. */
  readonly #fresh = new Set<string>()
  readonly #report: Tensor
  /**
   * The gradients that `run` adds to: one buffer, as tensors by parameter; and the parameters that have one in this
   * step.
   */
  #sums: { buffer: Tensor; of: Map<string, Tensor> } | undefined
  readonly #given = new Set<string>()
  /** The gradients of the last call. */
  #gradients: ReadonlyMap<string, Tensor> | undefined
  readonly #limit: number
  readonly #recompute: Recompute

  /** @param options `bytes`: default a quarter of the device's memory; `recompute`: see {@link forwardBackward} */
  constructor(
    readonly model: ImageModel,
    readonly adapter: Adapter,
    readonly optimizer: AdamW,
    { bytes, recompute = 'none' }: { bytes?: number | undefined; recompute?: Recompute | undefined } = {},
  ) {
    this.#recompute = recompute
    this.#limit = bytes ?? deviceMemory(model.device).limit / 4
    // written here: written in a graph, it would lie in the shared pool
    this.#report = keep(zeros([4], 'float32', model.device))
  }

  /** Gradients of the step: of the last {@link step}, or since {@link begin}. */
  readonly gradient: GradientOf = (p) => (this.#gradients ? this.#gradients.get(p.name) : p.tensor.grad)

  /**
   * A step of one micro-batch, after {@link AdamW.prepare}: {@link forwardBackward} and {@link AdamW.update}, whose
   * report it returns.
   */
  step(inputs: StepInputs): Tensor {
    const captured = this.#replay('step', inputs)
    this.#gradients = captured?.gradients
    return captured ? this.#report : this.optimizer.update(this.#forwardBackward(inputs).view([1]))
  }

  #forwardBackward(inputs: StepInputs): Tensor {
    return forwardBackward(this.model, this.adapter, inputs, this.#recompute)
  }

  /** Begins a step of several micro-batches. */
  begin(): void {
    if (!this.#sums) {
      const offsets = new Map<string, number>()
      let size = 0
      for (const [name, p] of this.adapter.parameters) {
        offsets.set(name, size)
        size += roundUp(p.size, 64) // aligned as separate tensors are
      }
      const buffer = keep(zeros([size], 'float32', this.model.device))
      this.#sums = {
        buffer,
        of: new Map(
          [...this.adapter.parameters].map(([name, p]) => [
            name,
            keep(buffer.view(p.shape, undefined, offsets.get(name)!)),
          ]),
        ),
      }
    } else fill(this.#sums.buffer, 0)
    this.#given.clear()
    this.#gradients = new Map()
  }

  /** {@link forwardBackward} of one of several micro-batches. The loss it returns is overwritten by the next call. */
  run(inputs: StepInputs): Tensor {
    const captured = this.#replay('run', inputs)
    const loss = captured?.loss ?? this.#forwardBackward(inputs)
    const gradients =
      captured?.gradients ??
      new Map([...this.adapter.parameters].flatMap(([name, p]) => (p.grad ? [[name, p.grad]] : [])))
    const names = [...gradients.keys()]
    accumulate(
      names.map((n) => this.#sums!.of.get(n)!),
      [...gradients.values()],
    )
    for (const n of names) this.#given.add(n)
    this.#gradients = new Map([...this.#given].map((n) => [n, this.#sums!.of.get(n)!]))
    if (!captured) this.optimizer.zeroGrad()
    return loss
  }

  /** The step ended without a failure. */
  succeeded(): void {
    this.#fresh.clear()
  }
  /** The step failed: graphs captured in it are dropped, and their shapes count as new. */
  failed(): void {
    for (const key of this.#fresh) {
      this.#evict(key)
      this.#sights.delete(key)
    }
    this.#fresh.clear()
    this.#gradients = undefined
  }

  /** Replays the graph of these inputs' shape; undefined where it has none. */
  #replay(what: 'step' | 'run', inputs: StepInputs): Captured | undefined {
    const roles: string[] = [what]
    mapped(inputs, (t, role) => (roles.push(`${role} ${t.dtype}[${t.shape}]`), t))
    const key = roles.join('; ')
    let captured = this.#graphs.get(key)
    if (!captured) {
      const sights = (this.#sights.get(key) ?? 0) + 1
      this.#sights.set(key, sights)
      if (sights < CAPTURED_AT) return undefined
      this.#makeRoom()
    }
    const mine = mapped(inputs, (t, role) => this.#input(t, role))
    captured ??= this.#capture(key, what, mine)
    this.#graphs.delete(key)
    this.#graphs.set(key, captured)
    captured.graph.replay()
    return captured
  }

  /** The buffer of an input, filled with its values. */
  #input(t: Tensor, role: string): Tensor {
    const key = `${role} ${t.dtype}[${t.shape}]`
    const buffer = this.#inputs.get(key) ?? keep(empty(t.shape, t.dtype, this.model.device))
    this.#inputs.set(key, buffer)
    write(buffer, t)
    return buffer
  }

  #capture(key: string, what: 'step' | 'run', inputs: StepInputs): Captured {
    const { adapter, optimizer } = this
    this.#fresh.add(key)
    try {
      const { graph, result: loss } = Graph.capture(
        this.model.device,
        () => {
          const loss = this.#forwardBackward(inputs).detach()
          if (what === 'step') optimizer.update(loss.view([1]), undefined, this.#report)
          return keep(loss)
        },
        { shared: true },
      )
      const gradients = new Map([...adapter.parameters].flatMap(([name, p]) => (p.grad ? [[name, p.grad]] : [])))
      for (const p of adapter.parameters.values()) p.grad = undefined
      return { graph, inputs: new Set(key.split('; ').slice(1)), loss, gradients }
    } finally {
      optimizer.zeroGrad()
    }
  }

  /** Bytes of the graphs' memory pool and of their input buffers. */
  get bytes(): number {
    const memory = Math.max(0, ...[...this.#graphs.values()].map(({ graph }) => graph.memory))
    return [...this.#inputs.values()].reduce((sum, t) => sum + t.size * itemSize(t.dtype), memory)
  }
  /** The number of shapes that have a graph. */
  get size(): number {
    return this.#graphs.size
  }

  #makeRoom(): void {
    for (const key of this.#graphs.keys()) {
      if (this.bytes <= this.#limit) return
      this.#evict(key)
    }
  }

  #evict(key: string): void {
    const captured = this.#graphs.get(key)
    if (!captured) return
    this.#graphs.delete(key)
    this.#sights.set(key, 1) // counted as seen once, so that an evicted shape is not captured again at once
    for (const t of [captured.loss, ...captured.gradients.values()]) t.dispose()
    captured.graph.dispose()
    const used = new Set([...this.#graphs.values()].flatMap(({ inputs }) => [...inputs]))
    for (const [key, t] of this.#inputs) {
      if (used.has(key)) continue
      t.dispose()
      this.#inputs.delete(key)
    }
  }

  dispose(): void {
    for (const key of this.#graphs.keys()) this.#evict(key)
    for (const t of this.#inputs.values()) t.dispose()
    this.#inputs.clear()
    this.#gradients = undefined
    this.#report.dispose()
    for (const t of this.#sums?.of.values() ?? []) t.dispose()
    this.#sums?.buffer.dispose()
    this.#sums = undefined
  }
}
