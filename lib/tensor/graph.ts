/** CUDA graphs: operator calls recorded once and launched again as a whole, on what their tensors then hold. */
import { native, type NativeGraph } from '../native.js'
import { deviceId, type Device } from './device.js'
import { scope } from './scope.js'

/**
 * Calls of operators on one CUDA device. Replaying runs the same calls on the same memory: new inputs are written into the
 * tensors that were read while recording, and results are read from those that were made. Numbers that are no tensors
 * (a scale, a learning rate) stay as they were.
 */
export class Graph {
  #graph: NativeGraph | undefined

  private constructor(graph: NativeGraph) {
    this.#graph = graph
  }

  /**
   * Records what `f` calls; nothing of it runs before the first {@link replay}. `f` must not wait, upload or read. Tensors
   * that it returns belong to the caller and are filled by every replay.
   */
  static capture<R>(device: Device, f: () => R): { graph: Graph; result: R } {
    const id = deviceId(device)
    native().beginCapture(id)
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

  /** Lets its memory go, with that of the tensors that were made while recording. */
  dispose(): void {
    if (this.#graph) native().releaseGraph(this.#graph)
    this.#graph = undefined
  }
}
