/**
 * CUDA graphs: operator calls that are captured once and replayed as a whole, on the current contents of their tensors.
 */
import { native, type NativeGraph } from '../native.js'
import { deviceId, type Device } from './device.js'
import { scope } from './scope.js'

/**
 * Calls of operators on one CUDA device. Replaying runs the same calls on the same memory: new inputs are written into
 * the tensors that were read while recording, and results are read from those that were made. Numbers that are not
 * tensors (a scale, a learning rate) keep their captured values.
 */
export class Graph {
  #graph: NativeGraph | undefined

  private constructor(graph: NativeGraph) {
    this.#graph = graph
  }

  /**
   * Records what `f` calls; nothing of it runs before the first {@link replay}. `f` must not wait, upload or read.
   * Tensors that it returns belong to the caller and are filled by every replay.
   *
   * @param options `shared`: the graph shares one memory pool with all other such graphs of this thread and device, so
   *   that its results are overwritten when another of them is replayed
   */
  static capture<R>(device: Device, f: () => R, { shared = false } = {}): { graph: Graph; result: R } {
    const id = deviceId(device)
    native().beginCapture(id, shared)
    let result: R
    try {
      result = scope(f)
    } catch (error) {
      native().releaseGraph(native().endCapture(id))
      throw error
    }
    return { graph: new Graph(native().endCapture(id)), result }
  }

  /** Queues everything that was recorded. */
  replay(): void {
    native().replay(this.#graph!)
  }

  /** Bytes of its memory pool, once it was captured; a shared pool counts once. */
  get memory(): number {
    return native().graphMemory(this.#graph!)
  }

  /** Frees its memory, with that of the tensors that were made during capture. */
  dispose(): void {
    if (this.#graph) native().releaseGraph(this.#graph)
    this.#graph = undefined
  }
}
