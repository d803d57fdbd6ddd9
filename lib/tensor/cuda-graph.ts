/** CUDA graphs: operator calls recorded once and launched again as a whole, on what their tensors then hold. */
import { native, type NativeGraph } from '../native.js'
import { deviceId, type Device } from './device.js'
import { scope } from './scope.js'

/**
 * Calls of operators on one CUDA device. Replaying runs the same calls on the same memory: new inputs are written into
 * the tensors that were read while recording, and results are read from those that were made. Numbers that are no
 * tensors (a scale, a learning rate) stay as they were.
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
   * @param options `shared`: the graph computes in one memory with all other such graphs of this thread and device, so
   * what it
   *   made, or was the first to write to, is gone when another of them is replayed
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

  /** Bytes of the memory that it computes in, once it has been recorded; graphs that share one have it once. */
  get memory(): number {
    return native().graphMemory(this.#graph!)
  }

  /** Lets its memory go, with that of the tensors that were made while recording. */
  dispose(): void {
    if (this.#graph) native().releaseGraph(this.#graph)
    this.#graph = undefined
  }
}
